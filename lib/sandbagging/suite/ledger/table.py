"""The ledger as a table: each claim beside its measurement and its verdict, and ways to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import NamedTuple

import pandas as pd

from sandbagging.statistics import Estimate
from sandbagging.suite.ledger.artefacts import Artefacts
from sandbagging.suite.ledger.card import published, same_model
from sandbagging.suite.ledger.measured import SEPARATION, Measurement, measurements
from sandbagging.suite.ledger.rule import (
    CANNOT_BE_SAID,
    NO_FINDING,
    NOT_REPLICATED,
    NOT_TESTABLE,
    OPPOSITE,
    REPLICATED,
    SAME_DIRECTION,
    Judgement,
    heads_verdict,
    verdict,
)

COLUMNS = ["claim", "section", "model", "published", "published_low", "published_high",
           "measured_on", "measured", "measured_low", "measured_high", "n", "unit",
           "verdict", "why"]  # fmt: skip
# A closed gate says nothing about these, which do not need instructed sandbagging.
WITHOUT_GATE = (*SEPARATION, "p_genuine", "p_sandbag")


def judge(entry: dict, found: Measurement, a: Artefacts) -> Judgement:
    """Return the verdict on one claim of `published`, from what the run measured."""
    same = bool(found.own_model) or (same_model(entry["model"], a.model) and a.untouched)
    if entry["kind"] != "finding":
        return Judgement(NO_FINDING, "how things were made, or what the release holds")
    if not a.gate.open and not found.own_model and entry["claim"] not in WITHOUT_GATE:
        return Judgement(NOT_TESTABLE, "the grade is *no*: no sandbagging to explain")
    if isinstance(entry["value"], list):
        return heads_verdict(entry["value"], found.heads, same)
    if entry["claim"].startswith("single_effect_") and not same:
        return heads_verdict([], None, same)
    if found.estimate is None:
        return Judgement(NOT_TESTABLE, found.why or "not measured")
    # The rule reads shares, so a published count is divided by the published number of pairs.
    per = entry["n"] if found.scale > 1 and entry["unit"] != "%" else found.scale
    claimed = _published_estimate(entry, per)
    word, why = verdict(claimed, found.estimate, same, kind=found.kind,
                        reference=found.reference, p_equivalent=found.p_equivalent)  # fmt: skip
    return Judgement(word, "; ".join(part for part in (why, found.why) if part))


def _published_estimate(entry: dict, per: float = 1.0) -> Estimate:
    ends = ("value", "low", "high")
    value, low, high = (nan if entry[end] is None else entry[end] / per for end in ends)
    return Estimate(value, low, high, entry["n"] or 0, entry["unit"], entry["section"])


def rows(a: Artefacts) -> pd.DataFrame:
    """Return the ledger: one row per published figure, columns `COLUMNS`."""
    found = measurements(a)
    not_here = Measurement(why="this suite does not measure it")
    lines = [_row(entry, found.get(entry["claim"], not_here), a) for entry in published()]
    return pd.DataFrame(lines, columns=COLUMNS)


def _row(entry: dict, here: Measurement, a: Artefacts) -> dict:
    word, why = judge(entry, here, a)
    claimed = entry["value"]
    number = here.estimate or Estimate(nan, nan, nan, 0)
    return {
        "claim": entry["claim"],
        "section": entry["section"],
        "model": entry["model"],
        "published": " ".join(map(str, claimed)) if isinstance(claimed, list) else claimed,
        "published_low": entry["low"],
        "published_high": entry["high"],
        "measured_on": "" if word == NO_FINDING else here.own_model or a.measured_on,
        "measured": " ".join(here.heads) if here.heads else number.value * here.scale,
        "measured_low": number.low * here.scale,
        "measured_high": number.high * here.scale,
        "n": number.n or len(here.heads) or None,
        "unit": entry["unit"],
        "verdict": word,
        "why": why,
    }


def findings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger's rows that were found by an experiment."""
    return table[table["verdict"] != NO_FINDING]


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose published and measured numbers are both effects in pp.

    These are what `plots.ledger` draws.
    """
    both = ["published", "measured"]
    numbers = table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in both})
    no_effect = table["claim"].str.startswith(("swap_gap", "random_heads_sd"))  # a bound, a spread
    effects = numbers[(table["unit"] == "pp") & ~no_effect]
    single = effects["claim"].str.startswith("single_effect_")
    other_heads = single & (effects["verdict"] == NOT_TESTABLE)
    return effects[~other_heads].dropna(subset=both)


GROUPS = {
    "The swap through an SAE": ("§24, §26, §31",),
    "The heads": ("Where the deception circuit lives", "§28", "§28.2", "§28.4", "§29 / U6", "§30"),
    "The same heads on five questions": ("edited-model card",),
    "TopK against JumpReLU": ("§32",),
}


def shown(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """Return one group of the ledger to read, numbers with their intervals as text.

    Columns claim, section, model, published, measured, unit, n, verdict, why.
    """
    part = findings(table)
    part = part[part["section"].isin(GROUPS[group])]
    lines, sides = part.to_dict("records"), ("published", "measured")
    texts = {side: [number_text(line, side) for line in lines] for side in sides}
    counts = ["" if pd.isna(n) else str(int(n)) for n in part["n"]]
    columns = ["claim", "section", "model", *sides, "unit", "n", "verdict", "why"]
    return part.assign(**texts, n=counts)[columns].reset_index(drop=True)


def number_text(line: Mapping, side: str) -> str:
    """Return a published or measured number of one line of the ledger with its interval.

    Such as "13.71 [11.28, 16.24]"; a list of heads as it is, and "–" where there is nothing.
    """
    value = pd.to_numeric(line[side], errors="coerce")
    if isinstance(line[side], str) and pd.isna(value):
        return line[side]
    low, high = line[f"{side}_low"], line[f"{side}_high"]
    if pd.isna(low):
        return "–" if pd.isna(value) else f"{value:.4g}"
    if pd.isna(value):  # the card gives a range alone
        return f"[{low:.4g}, {high:.4g}]"
    return f"{Estimate(value, low, high, 0):short .4g}"


def tally(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many claims got each verdict, a row per model that the claims are about."""
    return pd.crosstab(findings(table)["model"], findings(table)["verdict"])


def about_others(table: pd.DataFrame, a: Artefacts) -> pd.DataFrame:
    """Return the findings about other models that were measured on this run's own."""
    here = findings(table)
    other = here["model"].map(lambda claimed: not same_model(claimed, a.model))
    return here[other & (here["measured_on"] == a.measured_on)]


class Survived(NamedTuple):
    """What the verdicts of the ledger and of the headline say together."""

    own: dict[str, list[str]]  # verdict -> claims about this run's own model
    other: dict[str, list[str]]  # verdict -> claims about another model: directions alone
    untestable: list[str]  # claims
    circuit: str  # the verdict on the joint effect, by this run's own rule
    swaps: dict[str, str]  # layer and architecture -> verdict
    nulls: dict[str, str]  # null model -> verdict


def what_survived(table: pd.DataFrame, lines: Sequence[dict[str, str]]) -> Survived:
    """Return the verdicts of a ledger and of a run's headline, gathered to be told."""
    joint = [line["verdict"] for line in lines if "joint effect" in line["finding"]]
    return Survived(
        own=_by_verdict(table, (REPLICATED, NOT_REPLICATED, CANNOT_BE_SAID)),
        other=_by_verdict(table, (SAME_DIRECTION, OPPOSITE)),
        untestable=_by_verdict(table, (NOT_TESTABLE,)).get(NOT_TESTABLE, []),
        circuit=joint[0] if joint else "not measured",
        swaps=_after_prefix(lines, "SAE swap at "),
        nulls=_after_prefix(lines, "null model: "),
    )


def _after_prefix(lines: Sequence[dict[str, str]], prefix: str) -> dict[str, str]:
    chosen = [line for line in lines if line["finding"].startswith(prefix)]
    return {line["finding"].removeprefix(prefix): line["verdict"] for line in chosen}


def _by_verdict(table: pd.DataFrame, words: Sequence[str]) -> dict[str, list[str]]:
    claims = {word: table.loc[table["verdict"] == word, "claim"].tolist() for word in words}
    return {word: named for word, named in claims.items() if named}
