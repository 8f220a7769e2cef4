"""What failed here: predictions that did not hold, and claims that a harder look took back."""

from __future__ import annotations

import pandas as pd

from sandbagging import grading
from sandbagging.heads import rivals
from sandbagging.suite import predictions
from sandbagging.suite.ledger.artefacts import Artefacts, swap_cells
from sandbagging.suite.ledger.standing import estimate_of

LONGEST = 80  # characters of what was found that stand on the page


def failed(a: Artefacts) -> pd.DataFrame:
    """Return what the pages before expected and did not find: page, expected, found."""
    lines = [
        {"page": artefact[:2], "expected": entry["said"], "found": _short(entry["told"])}
        for artefact, said in sorted(a.predictions.items())
        for entry in predictions.failed(said)
    ]
    return pd.DataFrame(lines, columns=["page", "expected", "found"])


def _short(told: str) -> str:
    """Return what was found without a long list of the SAEs in which it failed."""
    return told if len(told) <= LONGEST else told.partition(", not in ")[0]


def counted(a: Artefacts) -> dict[bool | None, int]:
    """Return how many of the pages' expectations held (True), failed (False) or could not be
    judged (None).
    """
    held = [entry["held"] for said in a.predictions.values() for entry in said]
    return {value: sum(one is value for one in held) for value in (True, False, None)}


def harder_look(a: Artefacts) -> pd.DataFrame:
    """Return what an easy look says beside what a hard one does: claim, easy look, hard look.

    The easy ones: an effect divided by a gap that was left alone, a gap that closes from whichever
    side, zero alone, the strongest heads together, random rivals, p_full by itself, a swap beside
    its shuffled and its reversed form alone, an interval over questions alone.
    """
    if not a.gate.open:
        return pd.DataFrame(columns=["claim", "easy look", "hard look"])
    heads = [_share(a), _answers(a), *_replaced(a), *_leading(a), _rivals(a), _specific(a)]
    lines = [*heads, *_swaps(a), *_interval(a)]
    return pd.DataFrame(lines, columns=["claim", "easy look", "hard look"])


def _share(a: Artefacts) -> tuple[str, str, str]:
    naive = a.recorded("joint").value / a.gate.gap_p_full.value
    return (
        "How much of the gap do the heads restore?",
        f"{naive:.0%}: effect on sandbag prompts / untouched gap, p_full",
        f"{a.share('restored'):.0%}: less what happens to genuine prompts, log-odds",
    )


def _answers(a: Artefacts) -> tuple[str, str, str]:
    """A gap closes from either side; what is written says from which."""
    told = {"sandbag": "told to be incorrect", "genuine": "told to be correct"}
    found = {c: a.summary["answers_zeroed"][c] for c in told}
    right = [
        f"{words} {found[c]['before']:.0%} → {found[c][grading.RIGHT]:.0%}"
        for c, words in told.items()
    ]
    return (
        "Do right answers come back?",
        f"{a.share('closed').value:.0%} of the gap is closed, log-odds",
        f"right answers: {'; '.join(right)}",
    )


def _replaced(a: Artefacts) -> list[tuple[str, str, str]]:
    """Zero is a value that a head seldom takes."""
    mean = a.restored_by_mean()
    if mean is None:
        return []
    easy = f"{a.share('restored').value:.0%} restored with zero in their place"
    hard = f"{mean:short .0%} with the mean of genuine prompts there"
    return [("Does it hang on the value zero?", easy, hard)]


def _leading(a: Artefacts) -> list[tuple[str, str, str]]:
    """Heads that lead one by one need not act together."""
    if not a.summary.get("leading"):
        return []
    restored, closed = (a.share(of, leading=True) for of in ("restored", "closed"))
    claim = "Would the heads that lead one by one do?"
    return [(claim, f"{closed:short .0%} of the gap closed", f"{restored:short .0%} restored")]


def _rivals(a: Artefacts) -> tuple[str, str, str]:
    draws = {kind: a.summary[kind]["rank_p"] for kind in ("random_uniform", "random_same_layer")}
    p, said = max(draws.values()), a.summary["survives"]["value"]
    easy = "pass" if p <= rivals.RANK_P else "fail"
    return "Are these heads special?", f"they {easy} beside random sets, rank p = {p:.3f}", said


def _specific(a: Artefacts) -> tuple[str, str, str]:
    portion = a.recorded("specific_portion")
    easy = "not measured" if portion is None else f"{portion:ci} more than on neutral prompts"
    hard = f"{a.summary['specific']['verdict']}: net effect {a.net_effect():ci}, log-odds"
    return "Does it belong to sandbagging?", f"{easy}, p_full", hard


def _swaps(a: Artefacts) -> list[tuple[str, str, str]]:
    """The first SAE of each layer: its gaps on p_full, beside the whole table's verdict."""
    lines = []
    for _, cell in swap_cells(a).drop_duplicates("layer").sort_values("layer").iterrows():
        gaps = [estimate_of(cell, f"{name}_pp", "pp") for name in ("gap_e1", "gap_e4")]
        easy = "beats both controls" if all(gap.low > 0 for gap in gaps) else "does not beat both"
        basis = f", {cell['basis']}" if cell["basis"] else ""
        claim = f"Does the swap at layer {cell['layer']} do something?"
        lines.append((claim, f"{easy}, p_full: {gaps[1]:ci}", f"{cell['verdict']}{basis}"))
    return lines


def _interval(a: Artefacts) -> list[tuple[str, str, str]]:
    """The headline share's interval, where categories as the unit make it wider."""
    row = a.wide_row("share restored, log-odds")
    if row is None or row["decides"] == "questions":
        return []
    ends = [
        f"[{row[f'low_by_{unit}']:.0%}, {row[f'high_by_{unit}']:.0%}]"
        for unit in ("question", "category")
    ]
    return [("How sure is that share?", f"{ends[0]} over questions", f"{ends[1]} over categories")]
