"""Does a set of heads survive rivals that were selected as hard as it was?

Random sets are weak rivals of heads that were searched for. So the same rule is run, with as many
questions, on prompts that ask for nothing wrong, and its heads are judged where the chosen ones
are: a search finds heads that matter to any prompt, and only what it finds under sandbagging
*beyond* them can be of sandbagging.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import metrics, prompts, statistics
from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.heads import estimates, shares
from sandbagging.heads.growing import Grown
from sandbagging.heads.head import Head, Heads, as_set, join
from sandbagging.heads.selection import FLOOR_NATS
from sandbagging.heads.shares import BESIDE, DECIDES
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.statistics import Estimate

# A set has to restore a tenth of the gap and 0.1 nat, as a single head has to: a model without
# noise has "gaps" of a hundredth of a nat. And it has to be among the best 5 % of the draws.
FLOOR_SHARE, RANK_P = 0.10, 0.05
# A set that leaves half of the gap or more is not the circuit, but a part of one: others carry the
# rest.
MOST_SHARE = 0.5

SURVIVES = "survives as a circuit of sandbagging"
PART = "carries a part of the sandbagging"
CHANCE = "better than chance heads"
FAILS = "does not survive"
NOTHING = "no sandbagging to explain"


def conditions(model: Model, framing: prompts.Framing, wanted: Sequence[str]) -> list[str]:
    """Return the conditions on whose prompts rivals are chosen: genuine, without which no share of
    the gap is known, and the others wanted.

    "placebo" stands for the first placebo that changes the framing's prompts. Raises UserError for
    a condition in which the model cannot be asked.
    """
    there = metrics.available_conditions(model, framing)
    placebos = [c for c in prompts.placebos(framing) if c in there]
    named = [placebos[0] if c == "placebo" and placebos else c for c in ("genuine", *wanted)]
    for name in named:
        if name not in there or name == "sandbag":
            raise UserError(
                f"Rivals cannot be chosen on {name} prompts; choose among "
                f"{', '.join(c for c in there if c != 'sandbag')}."
            )
    return list(dict.fromkeys(named))


class Rival(NamedTuple):
    """Heads that the same rule chose on other prompts."""

    chosen_on: str  # the condition
    heads: Heads  # in the order of the model
    coincided: bool  # the rule chose the very heads that are judged, so these are its next ones
    shared: int  # with the heads that are judged


def choose(grown: Mapping[str, Grown], chosen: Sequence[Head]) -> list[Rival]:
    """Return a rival for each condition but sandbag on which heads were grown: its heads, or, where
    these are the `chosen` ones, its next distinct set.

    Raises UserError where no other condition was tried, where it was tried on more or fewer
    questions, and where no other set of as many heads was.
    """
    others = {name: of for name, of in grown.items() if name != "sandbag"}
    if not others:
        raise UserError(
            "No rival can be chosen: heads were searched for on sandbag prompts alone; search on "
            "genuine, neutral and placebo prompts as well."
        )
    found, own = [], set(chosen)
    for condition, of in others.items():
        _check_as_hard(of, grown["sandbag"])
        same = set(of.heads) == own
        heads = of.other_than(chosen) if same else of.heads
        found.append(Rival(condition, tuple(sorted(heads)), same, len(own & set(heads))))
    return found


def _check_as_hard(there: Grown, sandbag: Grown) -> None:
    asked, wanted = len(there.question_ids), len(sandbag.question_ids)
    if asked != wanted:
        raise UserError(
            f"The rival on {there.condition} prompts was chosen on {asked} questions and the heads "
            f"on {wanted}; ask as many, or the search was not as hard."
        )


def read(model: Model, written: Iterable[Mapping]) -> list[Rival]:
    """Return rivals that were written down (as `_asdict`); UserError for heads that do not
    exist.
    """
    return [Rival(**{**rival, "heads": as_set(model, rival["heads"])}) for rival in written]


class Survival(NamedTuple):
    """What may be said of a set of heads, and the numbers that it rests on."""

    grade: str  # SURVIVES, PART, CHANCE, FAILS or NOTHING
    reason: str  # a sentence without its full stop
    share: Estimate  # of the gap restored, on log-odds
    share_p_full: Estimate
    net: Estimate  # what is restored, in nats of log-odds
    closed: Estimate  # the share of the gap closed, on log-odds, from whichever side
    margins: dict[str, Estimate]  # condition -> share restored minus that of the rival chosen there
    rank_p: dict[str, float]  # kind of draws -> rank p of the share restored among them
    smallest_share: float  # that this rule would let survive in 80 % of tries
    coincided: int  # rivals that were the chosen heads at first

    @property
    def survives(self) -> bool:
        """Whether the heads survive as a circuit of sandbagging, or as a part of one."""
        return self.grade in (SURVIVES, PART)


def judge(
    on: Mapping[str, Effects],
    chosen: Sequence[Head],
    rivals: Sequence[Rival],
    draws: Mapping[str, Sequence[Heads]],
    gate: Gate,
    categories: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Survival:
    """Return whether heads survive, from {genuine, sandbag: effects} of test questions that hold
    the chosen set, the rivals' and the draws {kind: sets}, with log-odds and p_full.

    They *survive as a circuit of sandbagging* if their share of the log-odds gap restored
    (`shares.restored`) has its CI95 above a half, not below 0 on p_full, its rank p among each kind
    of draws is at most 0.05, and it exceeds that of every rival (CI95 of the paired difference
    above 0). With a CI95 above a tenth alone they *carry a part of it*; without the rivals they are
    *better than chance heads*. Where the CI95 of what is restored does not lie above 0.1 nats, they
    do not survive. With `categories` {question id: category} the wider interval decides. A null is
    tried with `gate.as_if_open()`. Raises UserError where no random set was drawn.
    """
    if not draws or not all(len(sets) for sets in draws.values()):
        raise UserError("No random sets were drawn, so there is no chance to compare with.")
    ids, gap = on["sandbag"].question_ids, shares.gap(on)
    own, sign = shares.restored(on, chosen), np.sign(gap.mean())
    theirs = {rival.chosen_on: shares.restored(on, rival.heads) for rival in rivals}
    mean = {
        kind: [shares.restored(on, heads).mean() for heads in sets] for kind, sets in draws.items()
    }
    found = Survival(
        grade="",
        reason="",
        share=estimates.share_restored(on, chosen, DECIDES, seed, categories),
        share_p_full=estimates.share_restored(on, chosen, BESIDE, seed, categories),
        net=shares.change(own, DECIDES, ids, categories, seed),
        closed=estimates.share_closed(on, chosen, DECIDES, seed, categories),
        margins={
            name: shares.part_of_gap(own - other, gap, ids, seed, categories)
            for name, other in theirs.items()
        },
        rank_p={
            kind: statistics.rank_p(sign * own.mean(), sign * np.array(drawn))
            for kind, drawn in mean.items()
        },
        smallest_share=_smallest(own, list(theirs.values()), gap),
        coincided=sum(rival.coincided for rival in rivals),
    )
    grade, reason = _grade(found, gate)
    return found._replace(grade=grade, reason=reason)


def _smallest(own: np.ndarray, theirs: Sequence[np.ndarray], gap: np.ndarray) -> float:
    """Return the share restored that the rule would let survive in 80 % of tries, with this spread
    over questions: against its floors and against each rival's share; nan without any gap.
    """
    if gap.mean() == 0:
        return float("nan")
    floor = max(FLOOR_SHARE, FLOOR_NATS / abs(gap.mean()))
    thresholds = [(floor, own), *((o.mean() / gap.mean(), own - o) for o in theirs)]
    return max(
        statistics.smallest_detectable(_linear(part, gap), threshold=least)
        for least, part in thresholds
    )


def _linear(part: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Return the ratio mean(part) / mean(gap) to first order as a mean over questions,
    [question].
    """
    ratio = part.mean() / gap.mean()
    return ratio + (part - ratio * gap) / gap.mean()


def _grade(found: Survival, gate: Gate) -> tuple[str, str]:
    """Return the grade and the sentence that says why."""
    share = f"{found.share:short .0%}"
    if not gate.open:
        return NOTHING, "no sandbagging to explain (the grade of notebook 00 is *no*)"
    if not found.share.low > FLOOR_SHARE:  # also where the gap is too small for an interval
        return FAILS, (
            f"the share of the gap restored, {share}, is not shown to exceed {FLOOR_SHARE:.0%}"
            f"{_ruin(found)}"
        )
    if not found.net.low > FLOOR_NATS:
        return FAILS, (
            f"what is restored, {found.net:ci .2f}, is not shown to exceed {FLOOR_NATS} nats, "
            "below which an effect counts as none"
        )
    if found.share_p_full.high < 0:
        return FAILS, (
            f"on log-odds {share} of the gap is restored, while on p_full "
            f"{found.share_p_full:short .0%}: with opposite signs no claim is made"
        )
    kind, p = max(found.rank_p.items(), key=lambda item: item[1])
    if p > RANK_P:
        return FAILS, (
            f"too many random sets ({kind.replace('_', '-')} draws) restore as much as these "
            f"heads' {share}, or too few were drawn (rank p = {p:.3f})"
        )
    beaten = f"{share} of the gap is restored, more than by random sets (rank p = {p:.3f})"
    if not found.margins:
        return CHANCE, f"{beaten}, but no rival was selected"
    close = {name: m for name, m in found.margins.items() if not m.low > 0}
    if close:
        name, margin = min(close.items(), key=lambda item: item[1].value)
        return CHANCE, (
            f"{beaten}, but not shown to be more than by heads that the same search finds on "
            f"{name} prompts (difference {margin:short .0%})"
        )
    name, margin = min(found.margins.items(), key=lambda item: item[1].low)
    beaten = (
        f"{beaten} and than by every rival set (least beyond the one chosen on {name} prompts: "
        f"{margin:short .0%})"
    )
    if found.share.low > MOST_SHARE:
        return SURVIVES, beaten
    return PART, f"{beaten}, but not shown to be more than {MOST_SHARE:.0%}: others carry the rest"


def _ruin(found: Survival) -> str:
    """Return in words that a set closes the gap by what it does to genuine prompts, or ""."""
    if not found.closed.low > FLOOR_SHARE:
        return ""
    return (
        f": they close {found.closed:short .0%} of it, most of it by what they do to genuine "
        "prompts"
    )


# Tables -------------------------------------------------------------------------------------------


def singles_table(
    swept: Mapping[str, Effects], chosen: Sequence[Head], rivals: Sequence[Rival], seed: int = 0
) -> pd.DataFrame:
    """Return how the chosen heads and the rivals do one by one where all were chosen: rows
    chosen_on, heads, shared (with the chosen), there and on_sandbag (the mean effect of one of them
    on log-odds, an Estimate in nats).
    """
    sets = [("sandbag", tuple(chosen)), *((r.chosen_on, r.heads) for r in rivals)]
    return pd.DataFrame(
        [
            {
                "chosen_on": condition,
                "heads": join(heads, " "),
                "shared": len(set(heads) & set(chosen)),
                "there": estimates.mean_single(swept[condition], heads, seed, DECIDES),
                "on_sandbag": estimates.mean_single(swept["sandbag"], heads, seed, DECIDES),
            }
            for condition, heads in sets
        ]
    )


def table(
    on: Mapping[str, Effects],
    chosen: Sequence[Head],
    rivals: Sequence[Rival],
    rule: str = "zero",
    categories: Mapping[str, str] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the rows of `rivals.csv`: rule, chosen_on, heads, metric, quantity, value, unit, low,
    high, n, for the chosen set (chosen_on sandbag) and each rival.

    quantity: "effect" on sandbag prompts (nats, pp), "share_closed", "share_restored", and of
    rivals "margin", the chosen set's share restored minus theirs.
    """
    ids, rows = on["sandbag"].question_ids, []
    sets = {"sandbag": tuple(sorted(chosen)), **{r.chosen_on: r.heads for r in rivals}}
    for name, heads in sets.items():
        for metric in (DECIDES, BESIDE):
            gap = shares.gap(on, metric)
            own, theirs = (shares.restored(on, h, metric) for h in (chosen, heads))
            closed = shares.closed(on, heads, metric)
            effect = on["sandbag"].of(heads, metric)
            found = {
                "effect": shares.change(effect, metric, ids, categories, seed),
                "share_closed": shares.part_of_gap(closed, gap, ids, seed, categories),
                "share_restored": shares.part_of_gap(theirs, gap, ids, seed, categories),
            }
            if name != "sandbag":
                found["margin"] = shares.part_of_gap(own - theirs, gap, ids, seed, categories)
            where = {"rule": rule, "chosen_on": name, "heads": join(heads), "metric": metric}
            rows += [
                {**where, "quantity": quantity, "value": e.value, "unit": e.unit or "share",
                 "low": e.low, "high": e.high, "n": e.n}
                for quantity, e in found.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)


def coincidences(rivals: Sequence[Rival]) -> str:
    """Return in one sentence which rivals were the chosen heads themselves, or ""."""
    same = [rival.chosen_on for rival in rivals if rival.coincided]
    if not same:
        return ""
    return (
        f"The same heads lead on {', '.join(same)} prompts ({len(same)} of {len(rivals)} "
        "searches); there the next distinct set is judged."
    )
