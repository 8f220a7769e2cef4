"""What is left of the gap between genuine and sandbag prompts when only some nodes are kept, and
when only they are taken out.

Whatever is replaced takes, in `by_patching`, the genuine run's values (so the gap is closed where
all is replaced), and in `by_means` the mean over both conditions at the same position. Nothing is
judged here: see `judgement`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sandbagging import metrics
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.nodes import sweep
from sandbagging.nodes.node import Nodes
from sandbagging.nodes.sweep import METRICS
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question


class Gaps(NamedTuple):
    """The gap, genuine minus sandbag, of each question under replacements of nodes; every field is
    {metric: ...} but the first two.
    """

    sets: list[Nodes]
    question_ids: tuple[str, ...]
    whole: dict[str, np.ndarray]  # [question] of the untouched model
    none: dict[str, np.ndarray]  # [question] every node replaced
    kept: dict[str, np.ndarray]  # [set question] every node but these replaced
    removed: dict[str, np.ndarray]  # [set question] these alone replaced


def by_patching(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    sets: Sequence[Nodes],
    *,
    names: Sequence[str] = METRICS,
    progress: Progress | None = None,
) -> Gaps:
    """Return the gaps when nodes of the sandbag run take their genuine values.

    Raises UserError where the prompts do not match token by token.
    """
    genuine, sandbag = (
        metrics.prepare(model, asked, condition, framing) for condition in ("genuine", "sandbag")
    )
    sets = _distinct(sets)
    kept, removed = (
        sweep.patch_packs(
            model,
            genuine,
            sandbag,
            [(), *sets] if others else sets,
            others=others,
            names=names,
            progress=progress,
            label="nodes kept" if others else "nodes taken out",
        )
        for others in (True, False)
    )
    right = metrics.measure(model, genuine, names)
    return Gaps(
        sets,
        kept.question_ids,
        {name: right[name][0] - kept.baseline[name] for name in names},
        {name: right[name][0] - kept.value[name][0] for name in names},
        {name: right[name][0] - kept.value[name][1:] for name in names},
        {name: right[name][0] - removed.value[name] for name in names},
    )


def by_means(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    sets: Sequence[Nodes],
    drawn_from: Sequence[Question] = (),
    *,
    names: Sequence[str] = METRICS,
    progress: Progress | None = None,
) -> Gaps:
    """Return the gaps when nodes, in either condition's run, take their mean over genuine and
    sandbag prompts of the questions `drawn_from`, or of those that are asked.
    """
    both, sets = ("genuine", "sandbag"), _distinct(sets)
    kept, removed = (
        sweep.sweep_conditions(
            model,
            asked,
            both,
            framing,
            [(), *sets] if others else sets,
            replacement="mean",
            drawn_from=drawn_from,
            means_of=both,
            others=others,
            names=names,
            label="nodes kept" if others else "nodes taken out",
            progress=progress,
        )
        for others in (True, False)
    )
    gap_kept, gap_removed = _difference(kept, names), _difference(removed, names)
    whole = {n: kept["genuine"].baseline[n] - kept["sandbag"].baseline[n] for n in names}
    return Gaps(
        sets,
        kept["genuine"].question_ids,
        whole,
        {name: gap_kept[name][0] for name in names},
        {name: gap_kept[name][1:] for name in names},
        gap_removed,
    )


def _difference(effects: dict[str, Effects], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return {metric: genuine - sandbag [set question]}."""
    return {n: effects["genuine"].value[n] - effects["sandbag"].value[n] for n in names}


def _distinct(sets: Sequence[Nodes]) -> list[Nodes]:
    """Return sets of nodes in order, each once, without the empty one."""
    ordered = dict.fromkeys(tuple(sorted(nodes)) for nodes in sets)
    return [nodes for nodes in ordered if nodes]
