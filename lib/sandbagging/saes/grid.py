"""Many tags from activations to folders: in groups that train together, and going on where a
killed call stopped.
"""

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from sandbagging import activations, metrics, provenance
from sandbagging.errors import UserError
from sandbagging.files import Folder, read_csv, write_csv, write_json
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.saes import checkpoints, folders, saving, training
from sandbagging.saes.evaluation import fvu_pair, held_out
from sandbagging.saes.recipes import Recipe, tag
from sandbagging.saes.tokens import input_scale, select_tokens, training_data

if TYPE_CHECKING:
    from sae_lens import SAE

# Seconds of a step relative to TopK's, for the time left; see
# tests/benchmarks/bench_sae_training.py.
RELATIVE_COST = {"topk": 1.0, "jumprelu": 1.2, "gated": 1.8}
FILES = ("cfg.json", "sae_weights.safetensors", "history.csv", "metrics.json")  # of a tag's folder


@dataclasses.dataclass(frozen=True)
class Trained:
    """What training a tag leaves: the SAE on raw activations, its history (tag, step, loss, fvu,
    l0), and its row of metrics.
    """

    sae: "SAE"
    history: pd.DataFrame
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Source:
    """Where SAEs are trained and judged: activations {layer: [row d_model]}, their table, each
    layer's input scale, and names.
    """

    resid: dict[int, Tensor]
    table: pd.DataFrame
    scale: dict[int, float]
    model_name: str
    dataset: str
    # The layer and a reconstruction x -> D(f(x)) in, loss recovered out; needs the model, so it
    # comes from outside.
    loss_recovered: Callable[[int, Callable[[Tensor], Tensor]], float] | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)  # added to every cfg.json


def input_scales(collected: Folder, layers: Sequence[int]) -> dict[int, float]:
    """Return the factor of each layer that brings its train tokens to a mean norm of sqrt(d_in)."""
    rows = select_tokens(read_csv(collected / "tokens.csv.gz"), "mixed")
    return {layer: input_scale(activations.load(collected, layer)[rows]) for layer in layers}


def train_to_files(
    model: Model,
    recipes: Sequence[Recipe],
    collected: Folder,
    questions: Sequence[Question],
    framing: str,
    dataset: str,
    *,
    into: Path,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Folder, pd.DataFrame, pd.DataFrame]:
    """Train one SAE for each recipe and write into/TAG; return the files, a row of metrics for each
    tag, and the histories (tag, step, loss, fvu, l0).

    `collected` holds tokens.csv.gz and a file of activations for each layer. Loss recovered is
    measured on the sandbag prompts of `questions`. `keep` holds what a killed call had done.
    """
    layers = sorted({recipe.layer for recipe in recipes})
    pack = metrics.prepare(model, questions, "sandbag", framing)
    source = Source(
        {layer: activations.load(collected, layer) for layer in layers},
        read_csv(collected / "tokens.csv.gz"),
        input_scales(collected, layers),
        model.name,
        dataset,
        loss_recovered=lambda layer, rebuild: metrics.loss_recovered(model, pack, layer, rebuild),
        metadata={"commit": provenance.commit()},
    )
    trained = train_tags(recipes, source, keep or into, progress=progress)
    tags = [one.metrics["tag"] for one in trained]
    if keep is not None:
        for name in tags:
            shutil.rmtree(into / name, ignore_errors=True)
            os.replace(keep / name, into / name)
    written = Folder.of(into, *(f"{name}/{file}" for name in tags for file in FILES))
    history = pd.concat([one.history for one in trained], ignore_index=True)
    return written, pd.DataFrame([one.metrics for one in trained]), history


def train_tags(
    recipes: Sequence[Recipe], source: Source, folder: Path, *, progress: Progress | None = None
) -> list[Trained]:
    """Train one SAE for each recipe on its condition's train tokens, judge it on test questions,
    and write folder/TAG.

    Tags that are there already are read back; a training that was cut off goes on from its
    checkpoint. Raises UserError for a layer without activations, and for a folder that other
    hyperparameters wrote.
    """
    missing = sorted({recipe.layer for recipe in recipes} - set(source.resid))
    if missing:
        have = ", ".join(map(str, sorted(source.resid)))
        raise UserError(
            f"There are no activations of layer {missing[0]} (collected: {have}); add it to "
            "`layers` of notebook 01."
        )
    rows = {
        condition: select_tokens(source.table, condition)
        for condition in {recipe.condition for recipe in recipes}
    }
    cost = [_cost(recipe, len(rows[recipe.condition])) for recipe in recipes]
    done, found = 0.0, {}
    for group in training.groups(recipes):

        def report(
            step: int, steps: int, before: float = done, group: Sequence[Recipe] = group
        ) -> None:
            of_group = sum(_cost(recipe, len(rows[recipe.condition])) for recipe in group)
            if progress is not None:
                progress(
                    f"train {len(recipes)} SAEs",
                    round(before + of_group * step / steps),
                    round(sum(cost)),
                )

        found |= _train_group(group, rows[group[0].condition], source, folder, report)
        report(1, 1)
        done += sum(_cost(recipe, len(rows[recipe.condition])) for recipe in group)
    return [found[tag(recipe)] for recipe in recipes]


def _cost(recipe: Recipe, n_tokens: int) -> float:
    """Return about how long a training takes, in steps of a TopK SAE of expansion 4."""
    return (
        training.total_steps(recipe, n_tokens)
        * RELATIVE_COST[recipe.architecture]
        * recipe.expansion
        / 4
    )


def _train_group(
    group: Sequence[Recipe],
    rows: Any,
    source: Source,
    folder: Path,
    report: Callable[[int, int], None],
) -> dict[str, Trained]:
    """Train the recipes of one group that have no folder yet, and return all of them by tag."""
    waiting = [recipe for recipe in group if not _finished(folder / tag(recipe), recipe)]
    if waiting:
        layer = group[0].layer
        started = time.perf_counter()
        tokens, scale = training_data(source.resid[layer][rows], source.scale[layer])
        checkpoint = folder / f".checkpoint-{tag(waiting[0])}.safetensors"
        trained = training.train_together(waiting, tokens, progress=report, checkpoint=checkpoint)
        seconds = (time.perf_counter() - started) / len(waiting)
        for recipe, (sae, history) in zip(waiting, trained, strict=True):
            _write(
                recipe,
                saving.fold_scaling(sae, scale),
                history,
                len(tokens),
                seconds,
                source,
                folder,
            )
        checkpoint.unlink(missing_ok=True)
    return {tag(recipe): _read(folder / tag(recipe), tag(recipe)) for recipe in group}


def _finished(folder: Path, recipe: Recipe) -> bool:
    """Return whether a tag's folder is complete; UserError if other hyperparameters wrote it."""
    path = folder / "metrics.json"  # written last
    if not path.exists():
        return False
    before, now = json.loads(path.read_text())["recipe"], dataclasses.asdict(recipe)
    if before != now:
        differ = checkpoints.difference([before], [now])
        raise UserError(
            f"{folder} was trained with other settings ({differ}); use those, or another folder."
        )
    return True


def _write(
    recipe: Recipe,
    sae: "SAE",
    history: pd.DataFrame,
    n_tokens: int,
    seconds: float,
    source: Source,
    folder: Path,
) -> None:
    """Judge an SAE and write its folder; metrics.json comes last.

    Held-out figures are over genuine, sandbag and neutral test prompts, the same for every tag;
    fvu_train and fvu_same (and fvu_last_train, fvu_last_same) are over train and test questions of
    the SAE's own condition.
    """
    name, layer = tag(recipe), recipe.layer
    resid, table, steps = source.resid[layer], source.table, training.total_steps(recipe, n_tokens)
    counts = {"n_tokens_train": n_tokens, "steps": steps, "input_scale": source.scale[layer]}
    described = saving.describe(
        recipe, model_name=source.model_name, dataset=source.dataset, **counts, **source.metadata
    )
    saving.save(sae, folder / name, described)
    recovered = (
        source.loss_recovered(layer, lambda x: sae.decode(sae.encode(x)))
        if source.loss_recovered
        else None
    )
    figures = {
        "tag": name,
        "layer": layer,
        "architecture": recipe.architecture,
        "condition": recipe.condition,
        "k": recipe.k,
        "expansion": recipe.expansion,
        **held_out(sae, resid, table, "mixed", "test", loss_recovered=recovered),
        **{
            f"{key}_train": value
            for key, value in fvu_pair(sae, resid, table, recipe.condition, "train").items()
        },
        **{
            f"{key}_same": value
            for key, value in fvu_pair(sae, resid, table, recipe.condition, "test").items()
        },
        **counts,
        "seconds": round(seconds, 2),
        "d_in": recipe.d_in,
        "d_sae": recipe.d_sae,
        "device": str(resid.device),
    }
    write_csv(folder / name / "history.csv", history)
    write_json(folder / name / "metrics.json", {**figures, "recipe": dataclasses.asdict(recipe)})


def _read(folder: Path, name: str) -> Trained:
    """Read back what training a tag left."""
    figures = json.loads((folder / "metrics.json").read_text())
    del figures["recipe"]
    return Trained(folders.load(folder), read_csv(folder / "history.csv").assign(tag=name), figures)
