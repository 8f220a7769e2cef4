"""The figure of rankings of nodes: what is left of the gap with only the best, or without them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging.suite.plots import look

# by the names of `nodes.ranking`; those that chance made are one grey line, their mean
RANKINGS: dict[str, look.Look] = {
    "zero": (look.BLUE, "o"),
    "mean": (look.SKY, "s"),
    "patching": (look.VERMILION, "v"),
    "attribution patching": (look.ORANGE, "^"),
    "integrated gradients": (look.PURPLE, "D"),
    "random": (look.GREY, "x"),
}


@look.styled
def faithfulness(curve: pd.DataFrame) -> Figure:
    """The share of the gap that the best k nodes of each ranking carry: kept alone, and taken out.

    Columns of `nodes.curve`: ranking, k, n, kept, removed, the last two with _low and _high.
    """
    look.need(curve, "curve of rankings", "ranking", "k", "n", "kept", "removed")
    sizes = sorted(curve["k"].unique())
    fig, axes = plt.subplots(1, 2, figsize=(look.WIDTH, 3.6), sharey=True)
    panels = {"kept": "only the best k are kept", "removed": "the best k are taken out"}
    for ax, (column, words) in zip(axes, panels.items(), strict=True):
        look.line_at_zero(ax, across=True)
        ax.axhline(1, color=look.GREY, linewidth=0.8, linestyle=":", zorder=0.5)
        for i, (name, part) in enumerate(_by_ranking(curve)):
            place = np.searchsorted(sizes, part["k"]) + 0.06 * (i - 2.5)
            _line(ax, part, column, place, name)
        ax.set_xticks(range(len(sizes)), sizes)
        ax.set(xlabel="k, number of nodes (heads and MLPs)", title=words)
    axes[0].set_ylabel("share of the gap, log-odds")
    names = axes[0].get_legend_handles_labels()[1]
    axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    look.title(fig, "How much of the gap do the best nodes carry?")
    words = "Random: the mean of several draws." if "random" in names else ""
    return look.caption(fig, look.count(curve["n"]), words, look.CI)


def _by_ranking(curve: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return (name, rows) of every ranking; those by chance as one, their mean without interval."""
    by_chance = curve["ranking"].str.startswith("random")
    found = list(curve[~by_chance].groupby("ranking", sort=False))
    if by_chance.any():
        mean = curve[by_chance].groupby("k")[["kept", "removed"]].mean().reset_index()
        ends = [f"{column}_{end}" for column in ("kept", "removed") for end in ("low", "high")]
        found.append(("random", mean.assign(**dict.fromkeys(ends, np.nan))))
    return found


def _line(ax: Axes, part: pd.DataFrame, column: str, place: np.ndarray, name: str) -> None:
    colour, marker = RANKINGS.get(name, (look.INK, "P"))
    ax.plot(place, part[column], color=colour, linewidth=1, alpha=0.6)
    rows = part.assign(low=part[f"{column}_low"], high=part[f"{column}_high"])
    look.interval(ax, rows, column, place, (colour, marker), along="y", label=name, markersize=4)
