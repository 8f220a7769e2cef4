"""Genuine and sandbag prompts give each other the z of some heads: patching in both directions.

Patching into sandbag prompts shows what heads bring of the right answer, patching into genuine ones
what they bring of the wrong one. A circuit that carries the instruction does both.
"""

from collections.abc import Sequence

from sandbagging import metrics
from sandbagging.heads import patching
from sandbagging.heads.head import Heads
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question

NAMES = metrics.JUDGED


def both_ways(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    sets: Sequence[Heads],
    *,
    conditions: Sequence[str] = ("genuine", "sandbag"),
    names: Sequence[str] = NAMES,
    progress: Progress | None = None,
) -> dict[str, Effects]:
    """Return {condition patched into: effects} of giving each set of heads the z that it has on the
    other condition's prompt of the same question, genuine or sandbag, at all positions.

    Raises UserError where the prompts do not match token by token.
    """
    packs = {c: metrics.prepare(model, asked, c, framing) for c in ("genuine", "sandbag")}
    other = {"genuine": "sandbag", "sandbag": "genuine"}
    return {
        condition: patching.patch_sets(
            model,
            packs[other[condition]],
            packs[condition],
            sets,
            names=names,
            progress=progress,
            label=f"{other[condition]} into {condition}",
        )
        for condition in conditions
    }
