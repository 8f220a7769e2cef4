"""Whether an effect belongs to sandbagging: what comes back on sandbag prompts is more than what
changes on genuine ones.

A plain difference of the two effects would be large, too, where genuine answers are ruined and
nothing comes back; so what happens to genuine prompts is taken off in either direction
(`shares.restored`). Log-odds decide, and p_full must not say the opposite. p_full alone may differ
because genuine prompts lie nearer to the ceiling, or because of mere form.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sandbagging.heads import shares
from sandbagging.heads.head import Head
from sandbagging.heads.selection import FLOOR_NATS
from sandbagging.heads.shares import BESIDE, DECIDES
from sandbagging.heads.sweep import Effects
from sandbagging.statistics import Estimate

SPECIFIC = "specific to sandbagging"
P_FULL_ALONE = "on p_full alone"
LARGER_ELSEWHERE = "larger elsewhere"
OPPOSITE = "opposite signs"
NOT_SHOWN = "not shown"
WORDS = {
    SPECIFIC: "more comes back on sandbag prompts than changes on genuine ones, on log-odds",
    P_FULL_ALONE: "more comes back on sandbag prompts than changes on genuine ones on p_full "
    "alone, which may be mere form or a ceiling; on log-odds it is not shown",
    LARGER_ELSEWHERE: "genuine prompts change by more than comes back on sandbag ones",
    OPPOSITE: "log-odds and p_full say opposite things, so no claim is made",
    NOT_SHOWN: f"that at least {FLOOR_NATS} nats more come back on sandbag prompts than change on "
    "genuine ones is not shown",
}


class Specific(NamedTuple):
    """What may be said of a set's effect on sandbag prompts against that on genuine ones."""

    says: str  # one of WORDS
    # condition subtracted -> metric -> effect on sandbag prompts minus that there, nats or pp
    differences: dict[str, dict[str, Estimate]]

    @property
    def specific(self) -> bool:
        """Whether the effect is specific to sandbagging."""
        return self.says == SPECIFIC

    @property
    def words(self) -> str:
        """What may be said, as a part of a sentence."""
        return WORDS[self.says]


def specific(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    categories: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Specific:
    """Return what may be said of a set's effect on sandbag prompts minus that on genuine ones: rule
    in `judge`, with neutral prompts beside it where they were run.

    With `categories` {question id: category} the wider interval decides.
    """
    heads = tuple(heads)
    differences = {
        other: {
            metric: shares.change(
                shares.restored(effects, heads, metric, other),
                metric,
                effects["sandbag"].question_ids,
                categories,
                seed,
            )
            for metric in (DECIDES, BESIDE)
        }
        for other in ("genuine", "neutral")
        if other in effects
    }
    against = differences["genuine"]
    return Specific(judge(against[DECIDES], against[BESIDE]), differences)


def judge(odds: Estimate, full: Estimate) -> str:
    """Return what the differences sandbag - genuine on log-odds and on p_full say, one of WORDS.

    *Specific*: the CI95 on log-odds lies above 0.1 nats, as the effect of a head that is found has
    to, and that on p_full not below 0.
    """
    if odds.low > FLOOR_NATS:
        return OPPOSITE if full.high < 0 else SPECIFIC
    if odds.high < 0:
        return OPPOSITE if full.low > 0 else LARGER_ELSEWHERE
    return P_FULL_ALONE if full.low > 0 else NOT_SHOWN
