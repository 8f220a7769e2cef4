"""Figures of what SAEs can tell apart, in the looks of plots.py."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sandbagging.suite import plots


def probing(table: pd.DataFrame) -> Figure:
    """Held-out AUROC of each tag's best latent and of all its latents, at its own L0 and at one L0 for all; a panel a pair.

    Columns tag, pair, at_l0 (own, matched), by (best_latent, all_latents), value, low, high, n.
    """
    looks = {("best_latent", "own"): (plots.BLUE, "o", "full"), ("best_latent", "matched"): (plots.BLUE, "o", "none"),
             ("all_latents", "own"): (plots.ORANGE, "s", "full"), ("all_latents", "matched"): (plots.ORANGE, "s", "none")}  # fmt: skip
    names = {"best_latent": "best latent", "all_latents": "all latents", "own": "own L0", "matched": "matched L0"}
    tags, pairs = list(dict.fromkeys(table["tag"])), list(dict.fromkeys(table["pair"]))
    place = {tag: len(tags) - 1 - i for i, tag in enumerate(tags)}
    with plt.rc_context(plots.style()):
        fig, axes = plt.subplots(
            1, len(pairs), figsize=(plots.WIDTH, 1.9 + 0.34 * len(tags)), sharey=True, squeeze=False, layout="constrained"
        )
        for ax, pair in zip(axes[0], pairs, strict=True):
            for shift, (key, (colour, marker, fill)) in zip(np.linspace(0.27, -0.27, 4), looks.items(), strict=True):
                part = table[(table["pair"] == pair) & (table["by"] == key[0]) & (table["at_l0"] == key[1])]
                at = part["tag"].map(place) + shift
                ax.hlines(at, part["low"], part["high"], color=colour, linewidth=1)
                ax.plot(part["value"], at, marker, color=colour, fillstyle=fill, markersize=5, label=f"{names[key[0]]}, {names[key[1]]}")
            ax.axvline(0.5, color=plots.GREY, linewidth=0.8, linestyle=":")
            ax.set_xlabel("AUROC on held-out questions\n(0.5: chance)")
            ax.set_title(pair, fontsize=9)
        axes[0][0].set_yticks(list(place.values()), list(place), fontsize=8)
        fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
        fig.supxlabel(
            f"n = {int(table['n'].max())} questions. Bars: 95 % CI over questions. Best latent and probe fitted on train questions.",
            fontsize=8,
        )
    plt.close(fig)
    return fig
