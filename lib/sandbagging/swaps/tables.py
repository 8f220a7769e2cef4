"""Effects and verdicts of swaps as tables to read, to draw and to keep, and in words."""

from collections.abc import Sequence

import pandas as pd

from sandbagging import metrics
from sandbagging.saes import short_tag
from sandbagging.statistics import Estimate
from sandbagging.swaps.evidence import DECIDES

ENDS = ("low", "high")


def of(summary: pd.DataFrame, intervention: str, metric: str = DECIDES) -> pd.DataFrame:
    """Return one intervention's rows of `estimates.by_metric`, one per SAE (or layer, where it
    needs none); the error term is kept where there is one.
    """
    rows = summary[(summary["metric"] == metric) & (summary["intervention"] == intervention)]
    return rows[rows["error_term"] != "dropped"] if intervention != "identity" else rows


def signs(rows: pd.DataFrame) -> str:
    """Return in words on which side of 0 the CI95 of a summary's rows lie."""
    above, below = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    around = len(rows) - above - below
    return f"above 0 in {above}, below 0 in {below} and around 0 in {around} of {len(rows)} cells"


def as_text(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Return columns {name: heading} of a table with a column `tag` for reading, a row per SAE,
    effects as "+1.20 [+0.30, +2.10]" and other estimates without a sign.
    """

    def text(value: object) -> object:
        if not isinstance(value, Estimate):
            return value
        return f"{value:short +.2f}" if value.unit in ("nats", "pp") else f"{value:short .2f}"

    told = table[[*columns]].map(text).rename(columns=columns)
    told.index = pd.Index(table["tag"].map(short_tag), name="SAE")
    return told


def guard_rows(guarded: pd.DataFrame, fits: pd.DataFrame) -> pd.DataFrame:
    """Return guards (`guards.guard_table`) and fits (`soundness.fits_table`) for reading, a row per
    SAE, with its tag.
    """
    both = guarded.merge(fits, on=["layer", "tag"])
    names = {
        "tag": "tag",
        "nnz_genuine": "on in m_G",
        "nnz_sandbag": "on in m_S",
        "norm_delta": "‖D(m_G) − D(m_S)‖",
        "norm_change": "‖E6's change‖",
        "norm_x": "‖x‖",
        "within": "FVU within",
        "pooled": "FVU pooled",
    }
    return as_text(both, names)


def answer_rows(changed: pd.DataFrame) -> pd.DataFrame:
    """Return `dose_rules.changes` for a file: the estimate of right answers as right, low, high."""
    ends = pd.DataFrame([e.as_dict() for e in changed["right"]], index=changed.index)
    told = changed.assign(right=ends["value"])
    at = told.columns.get_loc("right") + 1
    for i, name in enumerate(("low", "high", "n")):
        told.insert(at + i, name, ends[name])
    return told


# Verdicts in a file -------------------------------------------------------------------------------


def verdict_rows(judged: pd.DataFrame) -> pd.DataFrame:
    """Return `decision.judge_cells` for a file: an estimate X as X, X_low and X_high; and n."""
    names = estimated(judged)
    told = judged.drop(columns=names)
    told["n"] = [row["e6"].n for row in judged.to_dict("records")]
    for name in names:
        told[name] = [_part(e, "value") for e in judged[name]]
        for end in ENDS:
            told[f"{name}_{end}"] = [_part(e, end) for e in judged[name]]
    return told


def read_verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """Return what `verdict_rows` wrote, as `decision.judge_cells` returned it."""
    names = [name.removesuffix("_low") for name in table if str(name).endswith("_low")]
    told = table.drop(columns=["n", *names, *(f"{n}_{end}" for n in names for end in ENDS)])
    told = told.fillna({"basis": ""})
    for name in names:
        unit = metrics.unit_of_change(metrics.CARD if name.endswith("_pp") else DECIDES)[0]
        parts = zip(
            table[name], table[f"{name}_low"], table[f"{name}_high"], table["n"], strict=True
        )
        told[name] = [
            Estimate(value, low, high, int(n), unit) if value == value else float("nan")
            for value, low, high, n in parts
        ]
    return told


def estimated(judged: pd.DataFrame) -> list[str]:
    """Return the columns that hold Estimates; where a rival was not run, a row holds NaN."""
    return [n for n in judged if any(isinstance(value, Estimate) for value in judged[n])]


def _part(estimate: object, name: str) -> float:
    return getattr(estimate, name) if isinstance(estimate, Estimate) else float("nan")


def counts(judged: pd.DataFrame) -> dict[int, dict[str, int]]:
    """Return {layer: {verdict: cells}}."""
    by_layer = judged.groupby("layer", sort=True)["verdict"]
    return {int(layer): verdicts.value_counts().to_dict() for layer, verdicts in by_layer}


def all_above(judged: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows whose estimates of all these columns have their CI95 above 0; what was not
    measured is not above.
    """
    there = judged[list(columns)].map(lambda e: isinstance(e, Estimate) and e.low > 0)
    return judged[there.all(axis=1)]
