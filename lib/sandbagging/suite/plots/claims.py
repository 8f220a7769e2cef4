"""The figure of the ledger: published beside measured."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging.suite.plots import look

SIDES = ("published", "measured")
NUMBERS = [f"{side}{end}" for side in SIDES for end in ("", "_low", "_high")]


@look.styled
def ledger(table: pd.DataFrame) -> Figure:
    """Published beside measured value with CI95 per claim, verdict at the right; a panel per unit.

    Columns as `10_ledger/ledger.csv`; a claim without both numbers is counted in the caption.
    """
    wanted = ("claim", "published", "measured", "measured_low", "measured_high", "n", "verdict")
    look.need(table, "ledger", *wanted)
    table = table.assign(unit=table["unit"].fillna("") if "unit" in table else "pp")
    numbers = {c: table[c] if c in table else np.nan for c in NUMBERS}
    numbers = {c: pd.to_numeric(x, errors="coerce") for c, x in numbers.items()}
    table = table.assign(**numbers)
    drawn = table.dropna(subset=list(SIDES))
    look.need(drawn, "ledger (claims with a published and a measured number)", "claim")
    units = list(dict.fromkeys(drawn["unit"]))
    sizes = [int((drawn["unit"] == u).sum()) for u in units]
    fig, axes = plt.subplots(
        len(units), 1, squeeze=False, height_ratios=[s + 0.6 for s in sizes],
        figsize=(look.WIDTH, 1.5 + 0.4 * sum(sizes) + 0.5 * len(units)),
    )  # fmt: skip
    for ax, unit in zip(axes[:, 0], units, strict=True):
        _claims(ax, drawn[drawn["unit"] == unit], unit)
    look.legend_above(fig, axes[0, 0], 2)
    look.title(fig, "Published and measured")
    left_out = len(table) - len(drawn)
    missing = f"Not drawn, for want of a number: {left_out} of {len(table)} claims."
    bars = "Bars: 95 % CI, where one is given."
    return look.caption(fig, look.count(drawn["n"]), bars, missing if left_out else "")


def _claims(ax: Axes, part: pd.DataFrame, unit: str) -> None:
    place = np.arange(len(part))[::-1]
    look.line_at_zero(ax)
    looks = {"published": (look.VERMILION, "D", 0.15), "measured": (look.BLUE, "o", -0.15)}
    for side, (colour, marker, shift) in looks.items():
        rows = part.rename(columns={f"{side}_low": "low", f"{side}_high": "high"})
        fill = {"fillstyle": "none"} if side == "published" else {}
        look.interval(ax, rows, side, place + shift, (colour, marker), label=side, **fill)
    words = [textwrap.fill(str(claim).replace("_", " "), 36) for claim in part["claim"]]
    ax.set_yticks(place, words)
    ax.set_ylim(-0.6, len(part) - 0.4)
    look.guides(ax)
    for y, verdict in zip(place, part["verdict"], strict=True):
        at = {"xy": (1.01, y), "xycoords": ("axes fraction", "data")}
        ax.annotate(textwrap.fill(str(verdict), 22), **at, fontsize=8, va="center")
    ax.set_xlabel(f"value ({unit})" if unit else "value (no unit)")
    ax.set_ylabel("claim")
