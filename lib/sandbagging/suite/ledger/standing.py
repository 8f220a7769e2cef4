"""What this run claims itself: each claim in words, its number, and whether it stands."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from sandbagging import gate, grading
from sandbagging.gate import Gate
from sandbagging.heads import rivals, specificity
from sandbagging.heads.head import join
from sandbagging.statistics import Estimate
from sandbagging.suite import robustness
from sandbagging.suite.ledger.artefacts import Artefacts, swap_cells
from sandbagging.swaps import decision

STANDS, FALLS, UNSAID = "stands", "does not stand", "cannot be said"
OF_CARRIED = {rivals.SURVIVES: STANDS, rivals.PART: STANDS, rivals.FAILS: FALLS}
OF_SPECIFIC = {
    specificity.SPECIFIC: STANDS,
    specificity.LARGER_ELSEWHERE: FALLS,
    specificity.OPPOSITE: FALLS,
}
OF_BASIS = {decision.ANY: STANDS, decision.NEEDS: FALLS}


class Claim(NamedTuple):
    """One claim of the run about its own model."""

    name: str  # of `robustness.CLAIMS`
    measured: str
    verdict: str
    stands: str  # STANDS, FALLS or UNSAID

    @property
    def words(self) -> str:
        """The claim as a sentence without its full stop."""
        return robustness.CLAIMS[self.name]

    @property
    def axes(self) -> str:
        """On how many independent axes it holds, in words; empty where that was not run."""
        return axes(self.name)

    @property
    def place(self) -> str:
        """The words behind `stands`: where it was tried elsewhere and did not hold each time."""
        found = robustness.axes_held(self.name)
        kept = self.stands != STANDS or found is None or found[0] == found[1]
        return "" if kept else " here, not wherever it was tried"


class Elsewhere(NamedTuple):
    """What becomes of the claims where one thing is changed."""

    table: pd.DataFrame  # `robustness.summary`, the claims that hold least first
    kept: list[str]  # claims that hold whatever was tried
    lost: list[str]  # claims that do not
    other_words: list[str]  # how many of the heads are chosen again, wording by wording


def elsewhere() -> Elsewhere:
    """Return what `make robustness` found; an empty table where it was not run."""
    table, cells = robustness.summary(), robustness.read()
    if table is None or cells is None:
        return Elsewhere(pd.DataFrame(columns=["claim", *robustness.AXES]), [], [], [])
    held = {words: robustness.axes_held(name) for name, words in robustness.CLAIMS.items()}
    tried = {words: ends for words, ends in held.items() if ends}
    kept = [words for words, (k, n) in tried.items() if k == n]
    lost = [words for words, (k, n) in tried.items() if k < n]
    least = table["claim"].map(lambda words: words in kept).argsort(kind="stable")
    again = cells[(cells["claim"] == "same_heads") & (cells["axis"] == "wording")]
    ordered = table.iloc[least].reset_index(drop=True)
    return Elsewhere(ordered, kept, lost, again["measured"].tolist())


def axes(name: str) -> str:
    """Return on how many independent axes a claim holds, in words; empty where none was run."""
    return "" if robustness.axes_held(name) is None else robustness.held_in_words(name)


def claims(a: Artefacts) -> list[Claim]:
    """Return the run's own claims, in the order of the story."""
    cells = swap_cells(a)
    return [_answers(a.gate), *_of_heads(a), *(_of_swaps(cells) if len(cells) else [])]


def standing(a: Artefacts) -> pd.DataFrame:
    """Return the run's own claims to read: claim, measured, verdict, stands, robustness."""
    lines = [
        {"claim": claim.words, "measured": claim.measured, "verdict": claim.verdict,
         "": claim.stands, "robustness": claim.axes}
        for claim in claims(a)
    ]  # fmt: skip
    return pd.DataFrame(lines)


def intervals(a: Artefacts) -> pd.DataFrame:
    """Return the headline numbers with both their intervals, and what they are when one category is
    left out: number, value, over questions, over categories, without one category, decides.
    """
    lines = []
    for row in a.beside:
        digits = ".0%" if not row["unit"] else ".2f"
        number = row["name"] + (f" ({row['unit']})" if row["unit"] else "")
        spans = {
            "over questions": (row["low_by_question"], row["high_by_question"]),
            "over categories": (row["low_by_category"], row["high_by_category"]),
            "without one category": (row["without_one_low"], row["without_one_high"]),
        }
        told = {name: _span(low, high, digits) for name, (low, high) in spans.items()}
        value = "not defined" if pd.isna(row["value"]) else f"{row['value']:{digits}}"
        lines.append({"number": number, "value": value, **told, "decides": row["decides"]})
    return pd.DataFrame(lines)


def _span(low: float | None, high: float | None, digits: str) -> str:
    return "–" if pd.isna(low) else f"{low:{digits}} to {high:{digits}}"


def right_answers(g: Gate) -> str:
    """Return what becomes of right free answers when wrong ones are asked for, in words."""
    genuine, sandbag = (100 * g.shares[c][grading.RIGHT] for c in ("genuine", "sandbag"))
    return f"{genuine:.0f} % → {sandbag:.0f} %, a drop of {g.drop:.1f}"


def _answers(g: Gate) -> Claim:
    stands = STANDS if g.grade == gate.ANSWERS_WRONGLY else FALLS
    return Claim("answers_wrongly", right_answers(g), f"grade: {g.grade}", stands)


def _of_heads(a: Artefacts) -> list[Claim]:
    share, closed = a.share("restored"), a.share("closed")
    survives, says = a.summary["survives"]["value"], a.summary["specific"]["verdict"]
    early = [head for head in a.found if head.layer < (a.sweep["layer"].max() + 1) / 4]
    there = (STANDS if early else FALLS) if a.found else UNSAID
    restored = f"{share:short .0%} of the gap restored, {closed:short .0%} closed, n = {share.n}"
    net, count = a.net_effect(), f"{len(early)} of {len(a.found)} found"
    return [
        Claim("heads_carry", restored, survives, OF_CARRIED.get(survives, UNSAID)),
        Claim("heads_most", f"{share:short .0%}", survives, _most(survives, share)),
        Claim("heads_specific", f"net effect {net}", says,
              OF_SPECIFIC.get(says, UNSAID) if a.gate.open else UNSAID),
        Claim("early_head", count, join(early, ", ") or "none", there),
    ]  # fmt: skip


def _most(survives: str, share: Estimate) -> str:
    """Whether zeroing the heads undoes most of it: refuted only by an interval below a half."""
    if survives == rivals.SURVIVES:
        return STANDS
    below = survives == rivals.FAILS or share.high < rivals.MOST_SHARE
    return FALLS if below and survives != rivals.NOTHING else UNSAID


def _of_swaps(cells: pd.DataFrame) -> list[Claim]:
    """What is claimed of the deepest and the earliest layer, by the first SAE of each."""
    first = cells.drop_duplicates("layer").sort_values("layer")
    early, deep = first.iloc[0], first.iloc[-1]
    e6, oracle = (estimate_of(deep, name) for name in ("e6", "oracle"))
    return [
        Claim("swap_carries", f"E6 {e6}; the oracle {oracle:ci}", deep["verdict"],
              _stands(deep["verdict"], decision.CARRIES)),
        Claim("any_basis", _over_rivals(deep), deep["basis"] or deep["verdict"],
              OF_BASIS.get(deep["basis"], UNSAID)),
        Claim("nothing_early", f"the oracle {estimate_of(early, 'oracle')}", early["verdict"],
              _stands(early["verdict"], decision.NOTHING)),
    ]  # fmt: skip


def _stands(verdict: str, claimed: str) -> str:
    if verdict in (decision.UNKNOWN, decision.NO_GATE):
        return UNSAID
    return STANDS if verdict == claimed else FALLS


def _over_rivals(cell: pd.Series) -> str:
    """Return by how much E6 exceeds the rival basis that comes nearest, in words."""
    names = [f"over_{name}" for name in decision.RIVALS]
    there = [name for name in names if name in cell and pd.notna(cell[name])]
    if not there:
        return "rivals not run"
    nearest = min(there, key=lambda name: cell[name])
    return f"E6 exceeds the nearest rival basis by {estimate_of(cell, nearest):ci}"


def estimate_of(cell: pd.Series, name: str, unit: str = "nats") -> Estimate:
    """Return one number of a row of verdicts.csv with its interval."""
    ends = (float(cell[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return Estimate(*ends, int(cell["n"]), unit)
