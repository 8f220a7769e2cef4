"""Figures of the residual stream: its size along a prompt, how far conditions lie apart, and from
which layer on it decides the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from sandbagging.suite.plots import look


@look.styled
def norm_by_position(norms: pd.DataFrame) -> Figure:
    """Mean residual norm against token position, a line per layer, log axis.

    Columns position, layer, norm.
    """
    look.need(norms, "norms", "position", "layer", "norm")
    fig, ax = plt.subplots(figsize=(look.WIDTH, 3.3))
    for i, (layer, colour) in enumerate(look.layer_colours(norms["layer"]).items()):
        line = norms[norms["layer"] == layer].groupby("position")["norm"].mean()
        every = max(1, len(line) // 12)
        marks = {"marker": look.MARKERS[i % len(look.MARKERS)], "markevery": every}
        ax.plot(line.index, line, color=colour, label=f"layer {layer}", **marks)
    ax.set_yscale("log")
    ax.set_xlabel("token position in the prompt (0 = first token)")
    ax.set_ylabel("mean L2 norm of resid_post\n(model units, log scale)")
    look.legend_above(fig, ax, 3)
    look.title(fig, "Size of the residual stream by position")
    values = f"n = {len(norms)} position × layer values."
    return look.caption(fig, look.count(norms["n"], "tokens per point") if "n" in norms else values)


@look.styled
def last_token_distance(summary: pd.DataFrame) -> Figure:
    """Distance of each prompt's last token from its genuine twin's, as a share of the twin's norm.

    Columns layer, condition, value, low, high, n; of a column metric, the rows "distance".
    """
    if "metric" in summary:
        summary = look.pick(summary, "summary", metric="distance")
    look.need(summary, "summary", "layer", "condition", "value", "low", "high", "n")
    part = summary[summary["condition"] != "genuine"].sort_values("layer", kind="stable")
    part = part.assign(layer="layer " + part["layer"].astype(str))
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.3 + 0.42 * part["layer"].nunique()))
    look.rows_by_group(ax, part, "layer", "condition", "value", look.CONDITIONS, zero=False)
    look.guides(ax)
    ax.set_xlim(left=0)
    ax.set_xlabel("distance from the genuine prompt of the same question (share of its norm)")
    look.legend_above(fig, ax, 3)
    look.title(fig, "How far the last token lies from its genuine twin")
    paired = "Each distance is between two prompts of one question."
    return look.caption(fig, look.count(part["n"]), paired, look.CI)


@look.styled
def oracle_by_layer(by_layer: pd.DataFrame, floor: float, chosen: Sequence[int]) -> Figure:
    """What the oracle restores at each layer, with the floor from which on it counts and the layers
    chosen.

    Columns layer, value, low, high, n, moves; nats.
    """
    look.need(by_layer, "ceiling", "layer", "value", "low", "high", "n", "moves")
    fig, ax = plt.subplots(figsize=(look.WIDTH, 3.1))
    for i, layer in enumerate(chosen):
        label = None if i else "layers chosen"
        ax.axvline(layer, color=look.PALE, linewidth=9, zorder=0, label=label)
    ax.axhline(floor, color=look.GREY, linewidth=1, linestyle=":", label="floor")
    for moves, fill, label in ((True, "full", "moved"), (False, "none", "not moved")):
        part = by_layer[by_layer["moves"].astype(bool) == moves]
        if len(part):
            look.interval(
                ax, part, "value", part["layer"], (look.INK, "o"), along="y",
                label=label, fillstyle=fill,
            )  # fmt: skip
    ax.set_xlabel("layer at which the last token is replaced")
    ax.set_ylabel("restored log-odds (nats)")
    look.legend_above(fig, ax, 4)
    look.title(fig, "What the oracle restores, layer by layer")
    what = "Sandbag prompts of train questions."
    return look.caption(fig, look.count(by_layer["n"]), what, look.CI)
