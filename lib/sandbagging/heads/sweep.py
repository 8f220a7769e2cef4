"""What replacing heads does to each question: one set of heads at a time, many sets a batch.

An effect is m(condition, heads replaced) - m(condition), per question; in the sandbag condition it
is called restoration. Nothing is judged here: see `estimates`, `selection` and `circuits`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from sandbagging import files, metrics
from sandbagging.heads import interventions
from sandbagging.heads.head import Head, Heads, check
from sandbagging.models import Model, check_layers, hook_points, tree_attention
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.packing import Pack
from sandbagging.progress import Progress
from sandbagging.questions import Question

# batch x tokens of one forward pass. On a CPU, what a layer makes of 1536 tokens stays in the
# cache: larger batches are a fifth slower.
TOKENS_AT_ONCE = {"cpu": 1536, "cuda": 16384}


class Effects(NamedTuple):
    """What replacing sets of heads does to each question."""

    sets: list[Heads]
    question_ids: tuple[str, ...]
    baseline: dict[str, np.ndarray]  # metric -> [question]
    value: dict[str, np.ndarray]  # metric -> [set question], under replacement

    def effect(self, metric: str = metrics.CARD) -> np.ndarray:
        """Return [set question] changes of the metric; positive: the right answer comes back."""
        return self.value[metric] - self.baseline[metric]

    def of(self, heads: Iterable[Head], metric: str = metrics.CARD) -> np.ndarray:
        """Return the [question] changes under one of the sets."""
        return self.effect(metric)[self.sets.index(tuple(sorted(heads)))]


def all_heads(model: Model, layers: Sequence[int] = ()) -> list[Heads]:
    """Return every head of the model, or of some layers, as a set of one; raises UserError for a
    layer that does not exist.
    """
    check_layers(model, list(layers))
    return [
        (Head(layer, head),)
        for layer in sorted(set(layers)) or range(model.n_layers)
        for head in range(model.n_heads)
    ]


def ablate_sets(
    model: Model,
    pack: Pack,
    sets: Sequence[Heads],
    *,
    replacement: str = "zero",
    bank: Mapping[int, Tensor] | None = None,
    names: Sequence[str] = metrics.JUDGED,
    keep: Path | None = None,
    progress: Progress | None = None,
    label: str = "heads",
) -> Effects:
    """Return the effect of replacing each set of heads, one at a time, on the questions of a pack.

    1. One clean run keeps the residual stream at the input of every layer.
    2. Sets that begin at the same layer start there as one batch: nothing below is computed again.
    3. `keep` names a folder for what is finished: called again after an interruption, only the
       layers that are missing are run.

    Raises UserError for heads that do not exist.
    """
    return run_sets(
        model,
        pack,
        sets,
        lambda batch: interventions.ablate_each(model, batch, replacement, bank),
        names=names,
        keep=keep,
        progress=progress,
        label=label,
    )


def run_sets(
    model: Model,
    pack: Pack,
    sets: Sequence[Heads],
    edits_of: Callable[[list[Heads]], Mapping[HookPoint, Edit]],
    *,
    names: Sequence[str] = metrics.JUDGED,
    only: Tensor | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
    label: str = "heads",
) -> Effects:
    """Return what edits of sets of heads do to every question; `edits_of` gives the edits under
    which row i has set i edited.

    `only` names the tokens that the edits reach [token]: only these are run again. Otherwise as
    `ablate_sets`.
    """
    sets = [tuple(sorted(Head(*head) for head in heads)) for heads in sets]
    for heads in sets:
        check(model, heads)
    lowest = [min((layer for layer, _ in heads), default=0) for heads in sets]
    return run_from(
        model,
        pack,
        sets,
        lowest,
        edits_of,
        names=names,
        only=only,
        keep=keep,
        progress=progress,
        label=label,
    )


def run_from(
    model: Model,
    pack: Pack,
    sets: Sequence[tuple],
    lowest: Sequence[int],
    edits_of: Callable[[list[tuple]], Mapping[HookPoint, Edit]],
    *,
    names: Sequence[str] = metrics.JUDGED,
    only: Tensor | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
    label: str = "heads",
) -> Effects:
    """Return what `run_sets` does, for sets of any parts of the model: set i is edited from layer
    lowest[i] on, and nothing below is run again.
    """
    sets, lowest = list(sets), np.array(lowest)
    layers = sorted(set(lowest.tolist()))
    stem = label.replace(" ", "_")
    kept = {layer: keep / f"{stem}_L{layer:02d}.npz" for layer in layers} if keep else {}
    missing = [layer for layer in layers if not (layer in kept and kept[layer].exists())]
    clean = _clean(model, pack, missing, names, only)
    value = {name: np.empty((len(sets), len(pack.question_ids))) for name in names}
    done = 0
    for layer in layers:
        here = np.flatnonzero(lowest == layer)
        if layer not in missing:
            values = dict(np.load(kept[layer]))
        else:
            values = _run_layer(
                model,
                clean,
                layer,
                [sets[i] for i in here],
                edits_of,
                names,
                lambda n, done=done: progress and progress(label, done + n, len(sets)),
            )
            if keep:
                with files.atomic_path(kept[layer]) as path:
                    np.savez(path, **values)
        for name in names:
            value[name][here] = values[name]
        done += len(here)
        if progress:
            progress(label, done, len(sets))
    return Effects(sets, pack.question_ids, clean.baseline, value)


class _Clean(NamedTuple):
    """What a clean run leaves behind for the edited ones."""

    pack: Pack  # the tokens to run
    resid: dict[int, Tensor]  # layer -> the residual stream at its input, [1 token d_model]
    stored: tree_attention.KeysValues  # of the whole pack, where only a part is run
    baseline: dict[str, np.ndarray]


def _clean(
    model: Model, pack: Pack, layers: Sequence[int], names: Sequence[str], only: Tensor | None
) -> _Clean:
    points = {layer: HookPoint("resid_post", layer - 1) for layer in layers if layer > 0}
    stored: tree_attention.KeysValues = {}
    final, saved = hook_points.forward(
        model, pack, reads=list(points.values()), stored=stored, store=only is not None
    )
    part = pack if only is None else pack.part(only)
    resid = {
        layer: saved[point] if only is None else saved[point][:, only.to(model.device)]
        for layer, point in points.items()
    }
    return _Clean(
        part,
        resid,
        stored,
        {name: rows[0] for name, rows in _metrics(model, pack, final, names).items()},
    )


def _run_layer(
    model: Model,
    clean: _Clean,
    layer: int,
    sets: Sequence[Heads],
    edits_of: Callable,
    names: Sequence[str],
    progress: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """Return the metrics [set question] of sets that all begin at one layer, run in batches of
    TOKENS_AT_ONCE tokens.
    """
    size = max(1, TOKENS_AT_ONCE[model.device.type] // clean.pack.n_tokens)
    parts = []
    for begin in range(0, len(sets), size):
        batch = sets[begin : begin + size]
        start = None if layer == 0 else (layer, clean.resid[layer].expand(len(batch), -1, -1))
        final, _ = hook_points.forward(
            model,
            clean.pack,
            edits=edits_of(batch),
            start=start,
            batch=len(batch),
            stored=clean.stored,
        )
        parts.append(_metrics(model, clean.pack, final, names))
        progress(begin + len(batch))
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _metrics(
    model: Model, pack: Pack, final: Tensor, names: Sequence[str]
) -> dict[str, np.ndarray]:
    answers = metrics.answer_logprobs(model, pack, final)
    return {name: metrics.METRICS[name](answers).cpu().double().numpy() for name in names}


def without_question(asked: Sequence[Question]) -> list[Question]:
    """Return the questions with their text left out, for prompts that ask nothing."""
    return [replace(question, question="") for question in asked]


def sweep_conditions(
    model: Model,
    asked: Sequence[Question],
    conditions: Sequence[str],
    framing: str,
    sets: Sequence[Heads],
    *,
    replacement: str = "zero",
    drawn_from: Sequence[Question] = (),
    names: Sequence[str] = metrics.JUDGED,
    label: str = "heads",
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Effects]:
    """Return {condition: effects} of replacing each set of heads on the questions' prompts.

    Mean and resample draw on the tokens of the genuine prompts of the questions `drawn_from`, or of
    those that are asked. `keep` names a folder for what is finished, as in `ablate_sets`. Raises
    UserError for heads that do not exist.
    """
    bank = None
    if replacement != "zero":
        genuine = metrics.prepare(model, drawn_from or asked, "genuine", framing)
        bank = interventions.z_bank(model, [genuine], range(model.n_layers))
    effects = {}
    for condition in conditions:
        pack = metrics.prepare(model, asked, condition, framing)
        effects[condition] = ablate_sets(
            model,
            pack,
            sets,
            replacement=replacement,
            bank=bank,
            names=names,
            keep=keep,
            progress=progress,
            label=f"{label} {condition}",
        )
    return effects


def sweep_named_sets(
    model: Model,
    asked: Sequence[Question],
    condition: str,
    framing: str,
    named: Mapping[str, Sequence[Heads]],
    *,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Effects]:
    """Return {name: effects} of zeroing sets of heads that are named by what they have in common,
    such as how they were drawn.
    """
    pack = metrics.prepare(model, asked, condition, framing)
    return {
        name: ablate_sets(model, pack, sets, keep=keep, progress=progress, label=name)
        for name, sets in named.items()
    }


def compare_replacements(
    model: Model,
    asked: Sequence[Question],
    heads: Heads,
    framing: str,
    drawn_from: Sequence[Question],
    conditions: Sequence[str] = ("genuine", "neutral", "sandbag"),
) -> dict[str, Effects]:
    """Return the effects on sandbag prompts of replacing the heads by zero, a mean, another token.

    Named "zero", and "mean genuine" or "resample genuine" by the tokens that the value is made of:
    those of each condition's prompts of the questions `drawn_from`.
    """
    pack = metrics.prepare(model, asked, "sandbag", framing)
    layers = sorted({layer for layer, _ in heads})
    tokens = {c: metrics.prepare(model, drawn_from, c, framing) for c in conditions}
    banks = {c: interventions.z_bank(model, [of], layers) for c, of in tokens.items()}
    effects = {"zero": ablate_sets(model, pack, [heads])}
    for way in ("mean", "resample"):
        for name, bank in banks.items():
            found = ablate_sets(model, pack, [heads], replacement=way, bank=bank)
            effects[f"{way} {name}"] = found
    return effects


def scores_without_question(
    model: Model, asked: Sequence[Question], condition: str, framing: str
) -> dict[str, np.ndarray]:
    """Return {metric: [question]} of prompts that ask nothing: what form alone gives."""
    pack = metrics.prepare(model, without_question(asked), condition, framing)
    scores = metrics.measure(model, pack, metrics.JUDGED)
    return {name: values[0] for name, values in scores.items()}


def scores_by_two_routes(
    model: Model, asked: Sequence[Question], condition: str, framing: str, heads: Heads
) -> dict[str, np.ndarray]:
    """Return p_full without the heads [question] by two routes: "hook" zeroes z, "weights" W_O."""
    pack = metrics.prepare(model, asked, condition, framing)
    edits = interventions.ablate_heads(model, heads)
    by_hook = metrics.measure(model, pack, [metrics.CARD], edits=edits)
    with interventions.zeroed_weights(model, heads):
        by_weights = metrics.measure(model, pack, [metrics.CARD])
    return {"hook": by_hook[metrics.CARD][0], "weights": by_weights[metrics.CARD][0]}
