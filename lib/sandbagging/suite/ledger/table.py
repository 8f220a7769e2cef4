"""The ledger as a table: each claim beside its measurement and its verdict, and ways to read it."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

import pandas as pd

from sandbagging.statistics import Estimate
from sandbagging.suite.ledger.artefacts import Artefacts
from sandbagging.suite.ledger.card import ABOUT_TOOLS, MODELS, UNDER, published, same_model
from sandbagging.suite.ledger.measured import SEPARATION, Measurement, measurements
from sandbagging.suite.ledger.rule import (
    NO_FINDING,
    NOT_RUN,
    NOT_TESTABLE,
    Judgement,
    heads_verdict,
    verdict,
)

COLUMNS = ["claim", "under", "text", "section", "model", "published", "published_low",
           "published_high", "measured_on", "measured", "measured_low", "measured_high", "n",
           "unit", "verdict", "why"]  # fmt: skip
# A closed gate says nothing about these, which do not need instructed sandbagging.
WITHOUT_GATE = (*SEPARATION, "p_genuine", "p_sandbag")


def judge(entry: dict, found: Measurement, a: Artefacts) -> Judgement:
    """Return the verdict on one claim of `published`, from what the run measured.

    A claim about what is in a model is judged on that model alone; on a tool, on any.
    """
    same = bool(found.own_model) or (same_model(entry["model"], a.model) and a.untouched)
    if entry["kind"] != "finding":
        return Judgement(NO_FINDING, "how things were made, or what the release holds")
    if not same and entry["claim"] not in ABOUT_TOOLS:
        return Judgement(NOT_RUN, f"a claim about {MODELS[entry['model']]}")
    if not a.gate.open and not found.own_model and entry["claim"] not in WITHOUT_GATE:
        return Judgement(NOT_TESTABLE, "the grade is *no*: no sandbagging to explain")
    if isinstance(entry["value"], list):
        return heads_verdict(entry["value"], found.heads)
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
    """Return the ledger: one row per published figure, columns `COLUMNS`.

    `under` names the claim that a figure is derived from; it is empty for an independent
    measurement. Of a claim that is *not run*, the measured number is the same measurement on this
    run's model, where there is one: it stands beside the claim and judges nothing.
    """
    found = measurements(a)
    not_here = Measurement(why="this suite does not measure it")
    lines = [_row(entry, found.get(entry["claim"], not_here), a) for entry in published()]
    return pd.DataFrame(lines, columns=COLUMNS)


def _row(entry: dict, here: Measurement, a: Artefacts) -> dict:
    word, why = judge(entry, here, a)
    claimed = entry["value"]
    number = here.estimate or Estimate(nan, nan, nan, 0)
    there = here.estimate is not None or here.heads
    return {
        "claim": entry["claim"],
        "under": UNDER.get(entry["claim"], ""),
        "text": entry["text"],
        "section": entry["section"],
        "model": entry["model"],
        "published": " ".join(map(str, claimed)) if isinstance(claimed, list) else claimed,
        "published_low": entry["low"],
        "published_high": entry["high"],
        "measured_on": (here.own_model or a.measured_on) if there else "",
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


def independent(table: pd.DataFrame) -> pd.DataFrame:
    """Return the findings that are measurements of their own: what verdicts are counted over."""
    return findings(table)[findings(table)["under"] == ""]


def tally(table: pd.DataFrame) -> dict[str, int]:
    """Return how many independent measurements got each verdict."""
    return independent(table)["verdict"].value_counts().to_dict()


def shown(part: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the ledger to read, claims in words and numbers with their intervals.

    Columns the card says, there, here, verdict, why; derived rows begin with an arrow.
    """
    lines = part.to_dict("records")
    arrows = ["↳ " if line["under"] else "" for line in lines]
    return pd.DataFrame(
        {
            "the card says": [
                arrow + line["text"] for arrow, line in zip(arrows, lines, strict=True)
            ],
            "there": [_with_unit(line, "published") for line in lines],
            "here": [_with_unit(line, "measured") for line in lines],
            "verdict": [line["verdict"] for line in lines],
            "why": [line["why"] for line in lines],
        }
    )


def with_derived(table: pd.DataFrame) -> pd.DataFrame:
    """Return the findings, each independent one followed by what is derived from it."""
    found = findings(table)
    head = found["under"].where(found["under"] != "", found["claim"])
    place = {claim: i for i, claim in enumerate(independent(table)["claim"])}
    order = pd.DataFrame({"head": head.map(place), "derived": found["under"] != ""})
    return found.loc[order.sort_values(["head", "derived"], kind="stable").index]


def _with_unit(line: Mapping, side: str) -> str:
    text = number_text(line, side)
    wordless = text == "–" or line["unit"] in ("heads", "ratio", "probability")
    return text if wordless else f"{text} {line['unit']}"


def number_text(line: Mapping, side: str) -> str:
    """Return a published or measured number of one line of the ledger with its interval.

    Such as "13.71 [11.28, 16.24]"; a list of heads as it is, and "–" where there is nothing.
    """
    value = pd.to_numeric(line[side], errors="coerce")
    if isinstance(line[side], str) and pd.isna(value):
        return line[side] or "–"
    low, high = line[f"{side}_low"], line[f"{side}_high"]
    if pd.isna(low):
        return "–" if pd.isna(value) else f"{value:.4g}"
    if pd.isna(value):  # the card gives a range alone
        return f"[{low:.4g}, {high:.4g}]"
    return f"{Estimate(value, low, high, 0):short .4g}"
