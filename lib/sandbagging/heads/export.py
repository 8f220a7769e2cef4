"""The weight-edit twin of head ablation: the model with the heads' columns of W_O zeroed, as an
ordinary transformers folder.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from sandbagging import files, models, provenance
from sandbagging.errors import UserError
from sandbagging.heads import interventions
from sandbagging.heads.head import Head, check
from sandbagging.models import hook_points

LOG = "ablation_log.json"


def export_ablated(
    name: str,
    heads: Sequence[Head],
    folder: Path | str,
    *,
    adapter: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
) -> dict:
    """Write a model with heads zeroed to a new folder, and return what `ablation_log.json` beside
    the weights says.

    Zeroed are the columns [head*d_head, (head+1)*d_head) of each layer's W_O, in float32; scores
    equal those of `interventions.ablate_heads` bit for bit at equal batch shape. Adapters are
    merged first, so that any program which loads transformers folders reads it. Raises UserError
    for heads that do not exist, none at all, a folder that holds something, and too little disk.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not empty; name a new folder.")
    if not heads:
        raise UserError("No head is named; name at least one, such as L17H6.")
    model = models.load(
        name, adapter=adapter, random_weights=random_weights, seed=seed, device="cpu"
    )
    check(model, heads)
    log = _log(model, heads, seed)
    _check_disk(folder, model.n_params * 4)
    for layer, head in heads:
        hook_points.output_projection(model.module, layer).weight.data[
            :, interventions.head_columns(model, head)
        ] = 0
    with files.atomic_folder(folder) as unfinished:
        model.module.save_pretrained(unfinished)
        model.tokenizer.save_pretrained(unfinished)
        files.write_json(unfinished / LOG, log)
    return log


def _log(model: models.Model, heads: Sequence[Head], seed: int) -> dict:
    """Return what is zeroed, counted before it is."""
    nonzero = {}
    for layer, head in heads:
        columns = hook_points.output_projection(model.module, layer).weight[
            :, interventions.head_columns(model, head)
        ]
        nonzero[str(Head(layer, head))] = int(columns.count_nonzero())
    zeroed = len(heads) * model.d_head * model.d_model
    entry = models.entry(model.name)
    return {
        "model": model.name,
        "hub_id": entry and entry.hub_id,
        "revision": entry and entry.revision,
        "base": entry and entry.base,
        "adapter": model.adapter,
        "weights": model.weights,
        "seed": seed if model.weights == "random" else None,
        "heads": [str(Head(*head)) for head in heads],
        "what": "columns of self_attn.o_proj (attention.dense in GPT-NeoX) that read the head, "
        "set to zero",
        "d_head": model.d_head,
        "weights_zeroed": zeroed,
        "nonzero_before": nonzero,
        "share_of_parameters": zeroed / model.n_params,
        "dtype": "float32",
        "commit": provenance.commit(),
    }


def _check_disk(folder: Path, needed: int) -> None:
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < 1.1 * needed:
        raise UserError(
            f"{existing} has {free / 1e9:.1f} GB free and the model needs {needed / 1e9:.1f} GB; "
            "name a folder elsewhere."
        )
