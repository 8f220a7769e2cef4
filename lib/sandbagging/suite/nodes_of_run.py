"""How notebook 07 measures heads and MLPs side by side, and by which routes it ranks them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.nodes import gaps, gradients, node, ranking, sweep
from sandbagging.nodes.gaps import Gaps
from sandbagging.nodes.ranking import Ranking
from sandbagging.questions import Question
from sandbagging.suite import runs

CONDITIONS = ("sandbag", "genuine")


def swept_mlps(
    step: runs.Step, lm: Model, train: Sequence[Question], framing: str, layers: Sequence[int] = ()
) -> dict[str, Effects]:
    """Return {condition: effects} of zeroing the MLP of each layer, or of some."""
    mlps, swept = node.alone(node.all_mlps(lm, layers)), {}
    for condition in CONDITIONS:
        swept |= step.measure(
            sweep.sweep_conditions, lm, train, [condition], framing, mlps, label="MLPs"
        )
    return swept


class Ranked(NamedTuple):
    """All nodes ranked by several routes on train questions, and the gaps of test questions when
    only the best ones are kept or taken out.
    """

    rankings: Mapping[str, Ranking]
    gaps: Gaps
    integrated: gradients.Integrated  # with how far its scores add up


def ranked(
    step: runs.Step,
    lm: Model,
    train: Sequence[Question],
    test: Sequence[Question],
    framing: str,
    patch_framing: str,
    zero: Effects,
    seed: int = 0,
) -> Ranked:
    """Return every node's rankings on sandbag prompts: by zeroing (`zero`, swept before) and by its
    mean in `framing`, by patching and gradients in `patch_framing`; the gaps are of patching.

    Raises UserError where the prompts of `patch_framing` do not match token by token.
    """
    every = node.alone(node.all_nodes(lm))
    mean = step.measure(
        sweep.sweep_conditions,
        lm,
        train,
        ["sandbag"],
        framing,
        every,
        replacement="mean",
        label="means of nodes",
    )["sandbag"]
    patched = step.measure(sweep.patch_sets, lm, train, patch_framing, every)
    slope = step.measure(gradients.attribution, lm, train, patch_framing)
    integrated = step.measure(gradients.integrated, lm, train, patch_framing)
    rankings = ranking.side_by_side(zero, mean, patched, slope, integrated.scores, seed=seed)
    sets = ranking.sets_to_run(rankings)
    left = step.measure(gaps.by_patching, lm, test[: len(train)], patch_framing, sets)
    return Ranked(rankings, left, integrated)
