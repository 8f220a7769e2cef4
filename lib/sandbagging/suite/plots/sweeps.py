"""The figure of a sweep: a measure per panel, a row per cell."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sandbagging.suite.plots import look


@look.styled
def sweep_cells(table: pd.DataFrame, measures: Sequence[str], parameters: Sequence[str]) -> Figure:
    """Each measure in pp with CI95, a row per cell, named by the values of the grid's parameters.

    Columns: the parameters, done, and per measure its value, `_low` and `_high`.
    """
    place = np.arange(len(table))[::-1]
    names = [", ".join(str(row[name]) for name in parameters) for row in table.to_dict("records")]
    size = (look.WIDTH, 1.5 + 0.26 * len(table))
    fig, axes = plt.subplots(1, len(measures), figsize=size, sharey=True, squeeze=False)
    for ax, measure in zip(axes[0], measures, strict=True):
        look.line_at_zero(ax)
        rows = table.assign(low=table[f"{measure}_low"], high=table[f"{measure}_high"])
        look.interval(ax, rows.astype({measure: float}), measure, place, (look.BLUE, "o"))
        look.guides(ax)
        ax.set(xlabel="p_full (pp)", title=measure.replace("_", " "))
    axes[0][0].set_yticks(place, names)
    axes[0][0].set_ylabel(", ".join(parameters))
    look.title(fig, "Cells of the grid")
    missing = int((~table["done"]).sum())
    not_done = f"{missing} of them are not done." if missing else ""
    return look.caption(fig, f"n = {len(table)} cells.", not_done, look.CI)
