"""How often each rule fires, against the gap that is truly there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from sandbagging.suite.plots import look

LOOKS = {
    "": ("nulls", (look.GREY, "s")),
    "planted": ("planted models", (look.VERMILION, "o")),
    "real": ("real weights", (look.SKY, "D")),
}
PER_ROW = 4
ALARMS, POWER = 0.05, 0.8


@look.styled
def power(table: pd.DataFrame, rules: Sequence[str]) -> Figure:
    """The share of tries in which each rule fires against the mean gap of a dose (nats), and at 0
    its false alarms; a panel a rule.

    Columns rule, weights ("" for nulls), gap, found, low, high, models, as `calibration.power`.
    """
    look.need(table, "table of power", "rule", "weights", "gap", "found", "low", "high", "models")
    names = [rule for rule in rules if rule in set(table["rule"])]
    fig, axes = look.panels(len(names), PER_ROW, 1.9, 1.0)
    for ax, rule in zip(axes, names, strict=True):
        _panel(ax, table[table["rule"] == rule])
        ax.set_title(rule)
    for ax in axes[::PER_ROW]:
        ax.set_ylabel("fires in")
    for ax in axes[-PER_ROW:]:
        ax.set_xlabel("true gap (nats)")
    look.legend_of_all(fig, axes)
    look.title(fig, "How often each rule fires")
    lines = "Dotted: 5 % of false alarms, and 80 % of what is there."
    return look.caption(
        fig, look.count(table["models"], "models a point"), lines, "Bars: 95 % CI over models."
    )


def _panel(ax: Axes, rows: pd.DataFrame) -> None:
    for level in (ALARMS, POWER):
        ax.axhline(level, color=look.GREY, linewidth=0.8, linestyle=":")
    for weights, (name, (colour, marker)) in LOOKS.items():
        part = rows[rows["weights"] == weights].sort_values("gap")
        if part.empty:
            continue
        reach = np.abs(part[["low", "high"]].sub(part["found"], axis=0).to_numpy().T)
        line = "none" if weights == "" else "-"
        ax.errorbar(
            part["gap"], part["found"], yerr=reach, fmt=marker, color=colour, linestyle=line,
            linewidth=1.0, elinewidth=0.8, label=name,
        )  # fmt: skip
    ax.set_ylim(-0.05, 1.05)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    look.guides(ax)
