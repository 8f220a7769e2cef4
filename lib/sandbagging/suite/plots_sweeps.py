"""The figure of a sweep: a measure per panel, a row per cell."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sandbagging.suite import plots


@plots.styled
def cells(table: pd.DataFrame, measures: Sequence[str], parameters: Sequence[str]) -> Figure:
    """Each measure in pp with CI95, a row per cell, named by the values of the grid's parameters."""
    place = np.arange(len(table))[::-1]
    names = [", ".join(str(row[name]) for name in parameters) for row in table.to_dict("records")]
    fig, axes = plt.subplots(1, len(measures), figsize=(plots.WIDTH, 1.5 + 0.28 * len(table)), sharey=True, squeeze=False)
    for ax, measure in zip(axes[0], measures, strict=True):
        ax.axvline(0, color=plots.GREY, linewidth=0.8, linestyle="--")
        rows = table.assign(low=table[f"{measure}_low"], high=table[f"{measure}_high"]).astype({measure: float})
        plots.interval(ax, rows, measure, place, (plots.BLUE, "o"))
        ax.set(xlabel="pp", title=measure.replace("_", " "))
    axes[0][0].set_yticks(place, names, fontsize=7.5)
    axes[0][0].set_ylabel(", ".join(parameters))
    plots.title(fig, "Cells of the grid")
    missing = int((~table["done"]).sum())
    return plots.caption(fig, plots.CI, f"{missing} of {len(table)} cells are not done." if missing else f"{len(table)} cells.")
