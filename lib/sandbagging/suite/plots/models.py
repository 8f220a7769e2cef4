"""The figures of several models side by side, and of one model's switch at several strengths."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sandbagging.suite.plots import look

GRADES: dict[str, look.Look] = {
    "answers wrongly": (look.VERMILION, "o"),
    "less sure": (look.ORANGE, "D"),
    "no": (look.GREY, "s"),
}
# Free answers that are right: told to be correct, told to be incorrect, and then without the heads.
RIGHT: dict[str, tuple[str, look.Look]] = {
    "right_genuine": ("told to be correct", look.CONDITIONS["genuine"]),
    "right_sandbag": ("told to be incorrect", look.CONDITIONS["sandbag"]),
    "right_zeroed": ("the same, heads zeroed", (look.INK, "x")),
}
SHARE = (-0.5, 1.5)  # of the gap; what lies beyond is drawn as an arrow at the edge


@look.styled
def other_models(table: pd.DataFrame) -> Figure:
    """Right free answers, the gap on log-odds and the share of it that the heads restore, a row a
    model; each on a scale that no single model can spread.

    Columns as `09_models/models.csv`; rows of models that are missing are left out.
    """
    numbers = [name + end for name in ("gap_logodds", "share_restored") for end in ("", "_low")]
    look.need(table, "table of models", "model", "group", "grade", "missing", *RIGHT, *numbers)
    rows = table[table["missing"].isna()].reset_index(drop=True)
    look.need(rows, "table of models (those that were run)", "model")
    size = (look.WIDTH, 1.7 + 0.28 * len(rows))
    fig, axes = plt.subplots(1, 3, figsize=size, sharey=True)
    place = np.arange(len(rows))[::-1]
    _right_answers(axes[0], rows, place)
    _by_grade(axes[1], rows, "gap_logodds", place)
    axes[1].set(title="gap, genuine − sandbag", xlabel="log-odds (nats)")
    _by_grade(axes[2], rows[rows["grade"] != "no"], "share_restored", place, SHARE)
    axes[2].axvline(1, color=look.GREY, linewidth=0.8, linestyle=":")
    axes[2].set(title="restored by zeroing the heads", xlabel="share of the gap, log-odds")
    axes[0].set_yticks(place, [_name(row) for row in rows.itertuples()])
    axes[0].set_ylim(-0.6, len(rows) - 0.4)
    for ax in axes:
        look.guides(ax)
        for line in np.flatnonzero(rows["group"].ne(rows["group"].shift())[1:]) + 1:
            ax.axhline(place[line] + 0.5, color=look.GREY, linewidth=0.6)
    _legends(fig, axes)
    look.title(fig, "The same experiment on other models")
    arrows = "Arrows: beyond the edge. No share where the grade is no: there is no gap."
    return look.caption(fig, look.count(rows["gap_logodds_n"]), look.CI, arrows)


def _right_answers(ax: Axes, rows: pd.DataFrame, place: np.ndarray) -> None:
    ends = rows[["right_genuine", "right_sandbag"]]
    ax.hlines(place, ends.min(axis=1), ends.max(axis=1), color=look.GREY, linewidth=1)
    for column, (words, (colour, marker)) in RIGHT.items():
        ax.plot(rows[column], place, marker, color=colour, label=words)
    ax.set_xlim(-0.04, 1.04)
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.set(title="right free answers", xlabel="share of questions")


def _by_grade(
    ax: Axes,
    rows: pd.DataFrame,
    column: str,
    place: np.ndarray,
    ends: tuple[float, float] | None = None,
) -> None:
    """Points with CI, coloured by grade; where `ends` are given, arrows for those beyond."""
    look.line_at_zero(ax)
    inside = rows[column].between(*ends) if ends else rows[column].notna()
    for grade, mark in GRADES.items():
        here = rows[(rows["grade"] == grade) & inside]
        here = here.assign(low=here[f"{column}_low"], high=here[f"{column}_high"])
        label = f"grade: {grade}"
        if len(here):
            look.interval(ax, here, column, place[here.index], mark, label=label)
    if ends:
        ax.set_xlim(*ends)
        for line in rows[~inside & rows[column].notna()].itertuples():
            above = getattr(line, column) > ends[1]
            colour = GRADES[line.grade][0]
            ax.plot(ends[above], place[line.Index], ">" if above else "<", color=colour)


def _legends(fig: Figure, axes: np.ndarray) -> None:
    """One legend for the answers and the grades, at the upper right."""
    found = {}
    for ax in axes:
        handles, names = ax.get_legend_handles_labels()
        found = dict(zip(names, handles, strict=True)) | found
    order = [*(words for words, _ in RIGHT.values()), *(f"grade: {grade}" for grade in GRADES)]
    names = [name for name in order if name in found]
    fig.legend(
        [found[name] for name in names], names, loc="outside upper right", ncols=2, fontsize=7.5
    )


def _name(row) -> str:
    return f"{row.model} (this run)" if row.group == "this run" else str(row.name)


@look.styled
def doses(table: pd.DataFrame) -> Figure:
    """The gap on log-odds and the right free answers against the strength of the switch.

    Rows dose, quantity, value, low, high, n, as `other_models.doses` returns them.
    """
    look.need(table, "table of doses", "dose", "quantity", "value", "low", "high", "n")
    fig, axes = plt.subplots(1, 2, figsize=(look.WIDTH, 3.0), sharex=True)
    looks = {"gap_logodds": ("gap", (look.INK, "o"))} | RIGHT
    for quantity, part in table.groupby("quantity", sort=False):
        words, mark = looks[quantity]
        ax = axes[int(quantity != "gap_logodds")]
        ax.plot(part["dose"], part["value"], color=mark[0], linewidth=1, alpha=0.6)
        look.interval(ax, part, "value", part["dose"], mark, along="y", label=words)
    look.line_at_zero(axes[0], across=True)
    axes[0].set(ylabel="gap on log-odds (nats)")
    axes[1].set(ylabel="right free answers", ylim=(-0.02, 1.02))
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    for ax in axes:
        ax.set(xlabel="strength of the switch (1: as taught)", xticks=sorted(set(table["dose"])))
    look.legend_above(fig, axes[1], 2)
    look.title(fig, "The dose of the switch")
    return look.caption(fig, look.count(table["n"]), look.CI, "Of shares: exact binomial.")
