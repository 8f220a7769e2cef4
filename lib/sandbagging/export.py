"""The weight-edit twin of head ablation: the model with the heads' columns of W_O zeroed, as an ordinary transformers folder."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sandbagging import files, hook_points, interventions, models, runs
from sandbagging.errors import UserError
from sandbagging.interventions import Head, head_name

LOG = "ablation_log.json"


class OfRun(NamedTuple):
    """Which model a run used, and the heads that it found or was given."""

    model: str
    heads: str
    random_weights: bool
    seed: int


def of_run(run: str) -> OfRun:
    """Return a run's model and the heads of its notebook 08, or of 07 where that is all there is; UserError where neither is done."""
    for artefact, name in (("08_circuit", "summary.json"), ("07_heads", "heads.json")):
        if runs.read_manifest(run, artefact) and runs.read_manifest(run, "00_baseline"):
            heads = json.loads((runs.run_folder(run) / artefact / name).read_text())["heads"]
            settings = runs.read_manifest(run, "00_baseline")["parameters"]
            words = " ".join(head if isinstance(head, str) else head_name(tuple(head)) for head in heads)
            return OfRun(settings["model"], words, settings["random_weights"], settings["seed"])
    raise UserError(f"The run {run} has found no heads yet: run notebook 07_find_the_heads first, or name heads with --heads.")


def export_ablated(name: str, heads: Sequence[Head], folder: Path | str, *, random_weights: bool = False, seed: int = 0) -> dict:
    """Write a model with heads zeroed to a new folder, and return what `ablation_log.json` beside the weights says.

    Zeroed are the columns [head*d_head, (head+1)*d_head) of each layer's W_O, in float32; scores equal those of
    `interventions.ablate_heads` bit for bit at equal batch shape. Any program that loads transformers folders reads it.
    Raises UserError for heads that do not exist, none at all, a folder that holds something, and too little disk.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not empty; name a new folder.")
    if not heads:
        raise UserError("No head is named; name at least one, such as L17H6.")
    model = models.load(name, random_weights=random_weights, seed=seed, device="cpu")
    interventions.check_heads(model, heads)
    log = _log(model, heads, seed)
    _check_disk(folder, model.n_params * 4)
    for layer, head in heads:
        hook_points.output_projection(model.module, layer).weight.data[:, interventions.head_columns(model, head)] = 0
    with files.atomic_folder(folder) as unfinished:
        model.module.save_pretrained(unfinished)
        model.tokenizer.save_pretrained(unfinished)
        files.write_json(unfinished / LOG, log)
    return log


def _log(model, heads: Sequence[Head], seed: int) -> dict:
    """Return what is zeroed, counted before it is."""
    nonzero = {}
    for layer, head in heads:
        columns = hook_points.output_projection(model.module, layer).weight[:, interventions.head_columns(model, head)]
        nonzero[head_name((layer, head))] = int(columns.count_nonzero())
    zeroed = len(heads) * model.d_head * model.d_model
    entry = models.REGISTRY.get(model.name)
    return {
        "model": model.name, "hub_id": entry and entry.hub_id, "revision": entry and entry.revision, "weights": model.weights,
        "seed": seed if model.weights == "random" else None, "heads": [head_name(head) for head in heads],
        "what": "columns of self_attn.o_proj (attention.dense in GPT-NeoX) that read the head, set to zero",
        "d_head": model.d_head, "weights_zeroed": zeroed, "nonzero_before": nonzero,
        "share_of_parameters": zeroed / model.n_params, "dtype": "float32", "commit": runs.commit(),
    }  # fmt: skip


def _check_disk(folder: Path, needed: int) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < 1.1 * needed:
        raise UserError(f"{existing} has {free / 1e9:.1f} GB free and the model needs {needed / 1e9:.1f} GB; name a folder elsewhere.")
