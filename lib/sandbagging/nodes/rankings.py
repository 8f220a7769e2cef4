"""Every node scored by every route on some questions, and what is left of the gap on others when
only the best of each ranking are kept, or taken out.

1. Zero and mean replace a node on sandbag prompts; the mean is that of genuine prompts at the same
   position.
2. Patching, and the two estimates of it by gradients, need prompts that match token by token: they
   are asked in a framing of their own, as is the gap. Where it does not match, they are left out,
   and what is replaced on the way to the gap takes means.

Nothing is judged here: see `judgement`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sandbagging import metrics
from sandbagging.heads import patching
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.nodes import gaps as gaps_of
from sandbagging.nodes import gradients, ranking, sweep
from sandbagging.nodes.gaps import Gaps
from sandbagging.nodes.node import Node, all_nodes, alone
from sandbagging.nodes.ranking import INTEGRATED, MEAN, PATCH, SIZES, SLOPE, ZERO, Ranking
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question

METRIC = "logodds"


class Scored(NamedTuple):
    """What every route says of every node, and the gaps with and without the best of each."""

    nodes: list[Node]
    scores: dict[str, np.ndarray]  # route -> [node question], nats
    chance: dict[str, Ranking]  # "random 1" -> numbers drawn from 0 to 1
    gaps: Gaps  # on other questions
    why_not: str  # why there is no patching, or ""


def rankings(scored: Scored) -> dict[str, Ranking]:
    """Return {route: ranking}: mean scores over questions, and the rankings by chance."""
    by_route = {
        name: dict(zip(scored.nodes, map(float, values.mean(1)), strict=True))
        for name, values in scored.scores.items()
    }
    return by_route | scored.chance


def score(
    model: Model,
    train: Sequence[Question],
    test: Sequence[Question],
    framing: Framing,
    patch_framing: Framing,
    *,
    zero: Effects | None = None,
    layers: Sequence[int] = (),
    sizes: Sequence[int] = SIZES,
    n_random: int = 3,
    seed: int = 0,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Return the scores of every node of the model, or of some layers, by all routes on the
    questions `train`, and the gaps of the questions `test`.

    `zero` is a sweep of the same nodes on sandbag prompts that is there already, of whatever
    questions. Raises UserError for a layer that does not exist, ValueError for a sweep that lacks a
    node.
    """
    every = all_nodes(model, layers)
    scores = {
        ZERO: _swept(model, train, framing, every, ZERO, keep, progress)
        if zero is None
        else np.stack([zero.of([node], METRIC) for node in every]),
        MEAN: _swept(model, train, framing, every, MEAN, keep, progress),
    }
    why_not = _why_not(model, [*train, *test], patch_framing)
    if not why_not:
        scores |= _by_patching(model, train, patch_framing, every, progress)
    chance = ranking.at_random(every, n_random, seed)
    found = Scored(every, scores, chance, Gaps([], (), {}, {}, {}, {}), why_not)
    sets = ranking.sets_to_run(rankings(found), sizes)
    if why_not:
        gaps = gaps_of.by_means(model, test, framing, sets, train, progress=progress)
    else:
        gaps = gaps_of.by_patching(model, test, patch_framing, sets, progress=progress)
    return found._replace(gaps=gaps)


def _swept(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    every: Sequence[Node],
    replacement: str,
    keep: Path | None,
    progress: Progress | None,
) -> np.ndarray:
    """Return the effects [node question] of replacing each node on sandbag prompts."""
    effects = sweep.sweep_conditions(
        model,
        asked,
        ["sandbag"],
        framing,
        alone(every),
        replacement=replacement,
        names=[METRIC],
        label=f"nodes by {replacement}",
        keep=keep,
        progress=progress,
    )
    return effects["sandbag"].effect(METRIC)


def _by_patching(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    every: Sequence[Node],
    progress: Progress | None,
) -> dict[str, np.ndarray]:
    """Return {route: [node question]} of patching and of its two estimates by gradients."""
    patched = sweep.patch_sets(
        model, asked, framing, alone(every), names=[METRIC], progress=progress
    )
    # Question by question, since the gradient at a token that all share is that of their sum.
    slopes: dict[str, list[Mapping[Node, float]]] = {SLOPE: [], INTEGRATED: []}
    for done, question in enumerate(asked, start=1):
        slopes[SLOPE].append(gradients.attribution(model, [question], framing))
        slopes[INTEGRATED].append(gradients.integrated(model, [question], framing).scores)
        if progress:
            progress("gradients of nodes", done, len(asked))
    return {PATCH: patched.effect(METRIC)} | {
        name: np.array([[one[node] for one in by_question] for node in every])
        for name, by_question in slopes.items()
    }


def _why_not(model: Model, asked: Sequence[Question], framing: Framing) -> str:
    """Return why the questions' genuine and sandbag prompts cannot be patched, or ""."""
    genuine, sandbag = (metrics.prepare(model, asked, c, framing) for c in ("genuine", "sandbag"))
    if patching.match(genuine, sandbag):
        return ""
    return (
        "with this framing and tokenizer, genuine and sandbag prompts do not match token by token"
    )
