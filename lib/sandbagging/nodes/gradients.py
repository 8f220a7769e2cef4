"""Estimates of every node's patching effect by gradients: one backward pass in place of a run a
node.

Direction, as in patching: from the genuine run into the sandbag run. A score is in the metric's
unit per question; positive: the genuine value raises the metric of sandbag prompts.

1. `attribution`: the gradient in the sandbag run times (genuine value - sandbag value), summed over
   tokens (Nanda 2023, "Attribution patching"; Syed et al. 2023, arXiv:2310.10348).
2. `integrated`: the same with the gradient averaged over runs whose token embeddings lie between
   those of the two prompts (Hanna et al. 2024, arXiv:2403.17806, section 3, there on edges; here on
   the outputs of nodes).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sandbagging import metrics
from sandbagging.heads import patching
from sandbagging.models import Model, hook_points
from sandbagging.models.hook_points import EMBEDDING, HookPoint
from sandbagging.models.packing import Pack
from sandbagging.nodes.interventions import columns_of, point_of, points_of
from sandbagging.nodes.node import Node, all_nodes
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question

STEPS = 5  # as many as the paper takes
AT_ONCE = 10  # questions of one backward pass, which bounds its memory


class Integrated(NamedTuple):
    """Integrated gradients of every node, and how far they add up.

    By the completeness axiom (Sundararajan et al. 2017, arXiv:1703.01365, section 3) the score of
    the token embeddings, through which all difference comes, is the difference of the metric
    between genuine and sandbag prompts, up to the error of so few steps.
    """

    scores: dict[Node, float]
    embedding: float
    difference: float  # genuine - sandbag, mean over questions
    steps: int


def attribution(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    *,
    metric: str = "logodds",
    progress: Progress | None = None,
) -> dict[Node, float]:
    """Return the first-order estimate of each node's mean patching effect.

    Raises UserError where genuine and sandbag prompts do not match token by token.
    """
    return _averaged(model, asked, framing, (0.0,), metric, progress).scores


def integrated(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    *,
    steps: int = STEPS,
    metric: str = "logodds",
    progress: Progress | None = None,
) -> Integrated:
    """Return integrated gradients of each node, at `steps` midpoints of the straight line from the
    sandbag prompt's embeddings (0) to the genuine ones (1).

    The paper takes the right ends k / steps; midpoints (k - 1/2) / steps err less. Raises UserError
    as `attribution`.
    """
    at = [(k + 0.5) / steps for k in range(steps)]
    return _averaged(model, asked, framing, at, metric, progress)


def _averaged(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    at: Sequence[float],
    metric: str,
    progress: Progress | None,
) -> Integrated:
    """Return gradient x (genuine - sandbag), the gradient averaged over places `at` between the two
    runs.
    """
    total: dict[HookPoint, Tensor] = {}
    difference = 0.0
    parts = [patching.in_parts(model, asked, c, framing, AT_ONCE) for c in ("genuine", "sandbag")]
    for done, (genuine, sandbag) in enumerate(zip(*parts, strict=True), start=1):
        patching.reached(genuine, sandbag)  # refuses prompts that do not match
        by_column, gap = _of_part(model, genuine, sandbag, at, metric)
        total = {point: total.get(point, 0.0) + found for point, found in by_column.items()}
        difference += gap
        if progress:
            progress("gradients of nodes", done, len(parts[0]))
    scores = {
        node: float(total[point_of(node)][columns_of(model, node)].sum()) / len(asked)
        for node in all_nodes(model)
    }
    embedding = float(total[EMBEDDING].sum()) / len(asked)
    return Integrated(scores, embedding, difference / len(asked), len(at))


def _of_part(
    model: Model, genuine: Pack, sandbag: Pack, at: Sequence[float], metric: str
) -> tuple[dict[HookPoint, Tensor], float]:
    """Return the scores of some questions, summed over them and over tokens, {point: [width]}, and
    their summed difference of the metric.
    """
    here = replace(model, remote=False)  # the last step is always taken on this machine
    embed = model.module.get_input_embeddings()
    points, ends, gap = points_of(model), [], 0.0
    with torch.no_grad():
        first, last = (embed(p.input_ids.to(model.device)) for p in (sandbag, genuine))
    for pack, sign in ((sandbag, -1), (genuine, 1)):
        final, saved = hook_points.forward(model, pack, reads=points)
        ends.append({point: value[0] for point, value in saved.items()})
        gap += sign * float(_summed(here, pack, final, metric))
    change = {point: ends[1][point] - ends[0][point] for point in points}
    change[EMBEDDING] = last - first
    found: dict[HookPoint, Tensor] = {}
    for share in at:
        stream = first + share * (last - first)
        _, slopes = hook_points.slopes(
            model, sandbag, lambda final: _summed(here, sandbag, final, metric), points, stream
        )
        for point, slope in slopes.items():
            by_column = (slope * change[point]).double().sum(0) / len(at)
            found[point] = found.get(point, 0.0) + by_column
    return found, gap


def _summed(model: Model, pack: Pack, final: Tensor, metric: str) -> Tensor:
    return metrics.METRICS[metric](metrics.answer_logprobs(model, pack, final)).sum()
