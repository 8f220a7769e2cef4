"""Effects and verdicts of swaps as tables to read and to draw, and in words."""

from collections.abc import Sequence

import pandas as pd

from sandbagging import metrics
from sandbagging.saes import short_tag
from sandbagging.statistics import Estimate
from sandbagging.swaps.estimates import as_estimates


def to_draw(summary: pd.DataFrame, error_term: str = "kept") -> pd.DataFrame:
    """Return the rows to draw beside each other: one error term, and what has none (identity,
    noise, rivals without an SAE).
    """
    no_term = summary["intervention"].isin(["identity", "noise"]) | (summary["error_term"] == "")
    return summary[no_term | (summary["error_term"] == error_term)].drop(columns="error_term")


def effect_table(
    summary: pd.DataFrame,
    interventions: Sequence[str],
    *,
    metric: str = metrics.CARD,
    position: str = "last",
    error_term: str = "kept",
) -> pd.DataFrame:
    """Return effects in pp with CI95 as text, a row per SAE, a column per intervention; "" where
    there is none.

    Rivals that need no SAE stand in every row of their layer.
    """
    rows = to_draw(summary, error_term)
    rows = rows[
        (rows["metric"] == metric)
        & (rows["position"] == position)
        & rows["intervention"].isin(interventions)
    ]
    rows = rows.assign(text=[f"{e:short}" for e in as_estimates(rows)])
    texts = rows.set_index(["layer", "tag", "intervention"])["text"].to_dict()
    there = (summary["tag"] != "") & (summary["position"] == position)
    cells = summary.loc[there, ["layer", "tag"]].drop_duplicates()
    names = [name for name in interventions if name in set(rows["intervention"])]
    lines = [
        [texts.get((layer, tag, name), texts.get((layer, "", name), "")) for name in names]
        for layer, tag in cells.itertuples(index=False)
    ]
    columns = pd.Index(names, name="intervention", dtype=str)
    return pd.DataFrame(lines, index=cells["tag"].map(short_tag), columns=columns)


def signs(rows: pd.DataFrame) -> str:
    """Return in words on which side of 0 the CI95 of a summary's rows lie."""
    above, below = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    around = len(rows) - above - below
    return f"above 0 in {above}, below 0 in {below} and around 0 in {around} of {len(rows)} cells"


def of(
    summary: pd.DataFrame,
    intervention: str,
    *,
    metric: str = metrics.CARD,
    position: str = "last",
    error_term: str = "kept",
) -> pd.DataFrame:
    """Return one intervention's rows of a summary, one per SAE (or layer, where it needs none)."""
    rows = to_draw(summary, error_term)
    at = (rows["metric"] == metric) & (rows["position"] == position)
    return rows[at & (rows["intervention"] == intervention)]


def in_words(rows: pd.DataFrame) -> str:
    """Return in words on which side of 0 the CI95 of rows lie, and their range in pp."""
    lowest, highest = rows["effect_pp"].min(), rows["effect_pp"].max()
    return f"{signs(rows)}; from {lowest:+.2f} to {highest:+.2f} pp"


def findings(summary: pd.DataFrame, interventions: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """Return {"tag, position": {intervention: effect}} for a summary file, on p_full; the error
    term is kept where there is one.
    """
    rows = to_draw(summary)
    rows = rows[(rows["metric"] == metrics.CARD) & rows["intervention"].isin(interventions)]
    found: dict[str, dict[str, Estimate]] = {}
    for row, effect in zip(rows.to_dict("records"), as_estimates(rows), strict=True):
        found.setdefault(f"{row['tag'] or 'no SAE, L' + str(row['layer'])}, {row['position']}", {})[
            row["intervention"]
        ] = effect
    return found


def as_text(judged: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of `judge_all` for reading, a row per SAE and error term, estimates as "+1.20
    [+0.30, +2.10]".
    """

    def text(value: object) -> object:
        return f"{value:short}" if isinstance(value, Estimate) else value

    table = judged[list(columns)].map(text)
    names = {
        "SAE": judged["tag"].map(short_tag),
        "at": judged["position"],
        "error": judged["error_term"],
    }
    table.index = pd.MultiIndex.from_arrays(list(names.values()), names=list(names))
    return table


GAP_COLUMNS = [
    "gap_e1",
    "gap_e1_seeds",
    "seed_sd",
    "n_seeds",
    "gap_e4",
    "p_equivalent",
    "p_equivalent_own",
    "detectable",
]
VERDICT_COLUMNS = [
    "gap_e1",
    "gap_e4",
    "p_equivalent",
    "p_equivalent_own",
    "p_specific",
    "p_holm",
    "detectable",
    "seed_sd",
    "verdict",
    "reason",
]


def verdict_rows(judged: pd.DataFrame) -> pd.DataFrame:
    """Return verdicts.csv: SAE, at (position), error (term), and VERDICT_COLUMNS as text."""
    return as_text(judged, VERDICT_COLUMNS).reset_index()


def grid(judged: pd.DataFrame, position: str = "last", error_term: str = "kept") -> pd.DataFrame:
    """Return the one table over layers, conditions of training and architectures: verdict (E6 - E1,
    E6 - E4 in pp; E6 / oracle).
    """
    rows = judged[(judged["position"] == position) & (judged["error_term"] == error_term)]
    parts = rows["tag"].map(short_tag).str.split(" ", expand=True)  # "L15 topk mixed"
    shares = [f"; {share:.0%}" if share == share else "" for share in rows["share"]]
    gaps = [
        f"{a.value:+.2f}, {b.value:+.2f}"
        for a, b in zip(rows["gap_e1"], rows["gap_e4"], strict=True)
    ]
    text = [
        f"{verdict} ({gap}{share})"
        for verdict, gap, share in zip(rows["verdict"], gaps, shares, strict=True)
    ]
    table = pd.DataFrame(
        {"layer": rows["layer"], "trained on": parts[2], "architecture": parts[1], "text": text}
    )
    return table.pivot(index=["layer", "trained on"], columns="architecture", values="text").fillna(
        ""
    )
