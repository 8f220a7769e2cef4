"""Figures of single heads: the sweep over all of them, the winner's curse, and other routes."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import stats

from sandbagging.suite.plots import look

Head = tuple[int, int]  # layer, head


def _checked(effects: pd.DataFrame, *columns: str) -> None:
    look.need(effects, "head effects", "layer", "head", "effect", *columns)
    look.once(effects, "head effects", ["layer", "head"], "condition, replacement and metric")


def _how_many(effects: pd.DataFrame) -> str:
    questions = look.count(effects["n"]) if "n" in effects else ""
    return f"{questions} {len(effects)} heads.".strip()


@look.styled
def head_map(effects: pd.DataFrame, chosen: Iterable[Head] = (), metric: str = "p_full") -> Figure:
    """Effect of ablating each head, layer by head, colours centred at 0, chosen heads outlined.

    Columns layer, head, effect; chosen: pairs (layer, head).
    """
    _checked(effects)
    grid = effects.pivot(index="head", columns="layer", values="effect")
    # layers that were not swept stay blank
    grid = grid.reindex(columns=range(grid.columns.min(), grid.columns.max() + 1))
    limit = float(np.nanmax(np.abs(grid.to_numpy()))) or 1.0
    height = float(np.clip(1.6 + 0.2 * len(grid), 2.8, 7))
    fig, ax = plt.subplots(figsize=(look.WIDTH, height))
    left, right = grid.columns.min() - 0.5, grid.columns.max() + 0.5
    edges = (left, right, grid.index.max() + 0.5, grid.index.min() - 0.5)
    colours = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    image = ax.imshow(grid, aspect="auto", extent=edges, **colours)
    chosen = list(chosen)
    outline = {"fill": False, "edgecolor": look.INK, "linewidth": 1.8}
    for layer, head in chosen:
        ax.add_patch(Rectangle((layer - 0.5, head - 0.5), 1, 1, **outline))
    fig.colorbar(image, label=look.change(metric), pad=0.01)
    ax.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(9, integer=True))
    ax.set(xlabel="layer (index)", ylabel="query head (index)")
    look.title(fig, "Effect of ablating one head")
    outlined = "Outlined: the chosen heads." if chosen else ""
    return look.caption(fig, _how_many(effects), outlined)


@look.styled
def nodes_ranked(
    effects: pd.DataFrame, found: Iterable = (), top: int = 20, metric: str = "logodds"
) -> Figure:
    """The heads and MLPs of largest effect with CI95, those that were found filled.

    Columns node, kind (head or MLP), effect, low, high, n; found: nodes, or their names.
    """
    look.need(effects, "node effects", "node", "kind", "effect", "low", "high", "n")
    best = effects.nlargest(top, "effect")
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.5 + 0.19 * len(best)))
    look.line_at_zero(ax)
    place = np.arange(len(best))[::-1]
    is_mlp, is_found = (
        (best["kind"] == "MLP").to_numpy(),
        best["node"].isin(list(map(str, found))).to_numpy(),
    )
    marks = {"head": (look.BLUE, "o"), "MLP": (look.ORANGE, "s")}
    for kind, mask in (("head", ~is_mlp), ("MLP", is_mlp)):
        for state, here, face in (
            ("found", mask & is_found, None),
            ("not found", mask & ~is_found, "white"),
        ):
            if here.any():
                words = f"{kind}, {state}"
                look.interval(
                    ax, best[here], "effect", place[here], marks[kind], label=words, mfc=face
                )
    ax.set_yticks(place, best["node"])
    ax.set_ylim(-0.8, len(best) - 0.2)
    look.guides(ax)
    ax.set(xlabel=f"{look.change(metric)} of zeroing the node", ylabel="node")
    look.legend_above(fig, ax, 4)
    look.title(fig, f"The {len(best)} largest of {len(effects)} nodes")
    words = "The intervals are not corrected for the choice of the largest."
    return look.caption(fig, look.count(best["n"]), look.CI, words)


@look.styled
def growing(table: pd.DataFrame) -> Figure:
    """What a set of heads does after each that joined it, on sandbag and genuine prompts, and net.

    Rows head, on ("sandbag", "genuine", "net"), value, low, high, n, as `estimates.grown_table`.
    """
    look.need(table, "steps", "head", "on", "value", "low", "high", "n")
    looks = {**look.CONDITIONS, "net": (look.INK, "D")}
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.3 + 0.36 * table["head"].nunique()))
    look.rows_by_group(ax, table, "head", "on", "value", looks)
    look.guides(ax)
    ax.set(xlabel=f"{look.change('logodds')} of zeroing all heads so far", ylabel="head that joins")
    look.legend_above(fig, ax, 3)
    look.title(fig, "Heads that join one at a time")
    words = "In sample. Net: what comes back beyond what changes on genuine prompts."
    return look.caption(fig, look.count(table["n"]), look.CI, words)


@look.styled
def winners_curse(table: pd.DataFrame, metric: str = "logodds") -> Figure:
    """Mean single effect of selected heads, in and out of sample, by questions selected on.

    Columns n_selected_on, in_sample, out_of_sample, and where known in_sample_low, in_sample_high,
    out_of_sample_low, out_of_sample_high: percentiles over random selections.
    """
    look.need(table, "winner's curse table", "n_selected_on", "in_sample", "out_of_sample")
    table = table.sort_values("n_selected_on")
    fig, ax = plt.subplots(figsize=(look.WIDTH, 3.2))
    look.line_at_zero(ax, across=True)
    place = np.arange(len(table))
    looks = {
        "in_sample": (look.VERMILION, "v", -0.05, "on the questions that chose them"),
        "out_of_sample": (look.BLUE, "o", 0.05, "on the other questions"),
    }
    for column, (colour, marker, shift, words) in looks.items():
        ends = {end: table.get(f"{column}_{end}", np.nan) for end in ("low", "high")}
        ax.plot(place + shift, table[column], color=colour, linewidth=1, alpha=0.6)
        at = place + shift
        look.interval(
            ax, table.assign(**ends), column, at, (colour, marker), along="y", label=words
        )
    ax.set_xticks(place, table["n_selected_on"])
    ax.set_xlabel("n, questions on which the heads were chosen")
    ax.set_ylabel(f"mean {look.change(metric)}\nof one chosen head")
    look.legend_above(fig, ax, 2)
    look.title(fig, "The winner's curse")
    points = "Points: means over random choices of the questions."
    bars = "Bars: the middle 95 % of these choices, not confidence intervals."
    return look.caption(fig, points, bars)


@look.styled
def agreement(
    table: pd.DataFrame, chosen: Iterable[Head] = (), exact: str = "zero", unit: str = "nats"
) -> Figure:
    """Each route's effect per head against the exact one, with Spearman's rho over heads.

    Columns layer, head, `exact` and one per route, as `07_heads/other_routes.csv`.
    """
    fig, axes = _panels(table, chosen, exact, "table of other routes")
    for ax in axes:
        ax.set_ylabel(f"effect by this route ({unit})")
        ax.set_xlabel(f"effect of {exact}-ablation ({unit})")
    look.title(fig, "Other routes to the same heads")
    words = "ρ: Spearman's rank correlation over heads. Vertical axes differ."
    return look.caption(fig, f"n = {len(table)} heads.", words)


@look.styled
def heads_by_condition(
    table: pd.DataFrame, chosen: Iterable[Head] = (), metric: str = "logodds"
) -> Figure:
    """Each head's effect on sandbag prompts against its effect on other prompts.

    Columns layer, head, sandbag, and one per other condition.
    """
    fig, axes = _panels(table, chosen, "sandbag", "table of conditions")
    for ax in axes:
        ax.set_xlabel("on sandbag prompts")
        ax.set_ylabel(look.change(metric))
    look.title(fig, "Each head alone, on sandbag prompts and on others")
    words = "ρ: Spearman's rank correlation over heads. Vertical axes differ."
    return look.caption(fig, f"n = {len(table)} heads.", words)


def _panels(
    table: pd.DataFrame, chosen: Iterable[Head], exact: str, name: str
) -> tuple[Figure, list[Axes]]:
    """Return a panel for each column but `exact`, drawn against it, with rho in its title."""
    look.need(table, name, "layer", "head", exact)
    others = [c for c in table if c not in ("layer", "head", exact)]
    look.need(table, name, *others[:1] or ["a column to compare with"])
    chosen = {tuple(head) for head in chosen}
    picked = np.array([(r.layer, r.head) in chosen for r in table.itertuples()])
    columns = 3 if len(others) == 3 else min(len(others), 2)
    rows = ceil(len(others) / columns)
    size = (look.WIDTH, 1.0 + 2.5 * rows)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True)
    for ax in axes.ravel()[len(others) :]:
        ax.remove()
    drawn = list(axes.ravel()[: len(others)])
    for ax, other in zip(drawn, others, strict=True):
        _against(ax, table[exact], table[other], picked)
        rho = stats.spearmanr(table[exact], table[other]).statistic
        ax.set_title(f"{other}: ρ = {rho:+.2f}".replace("-", "−"))
    if picked.any():
        look.legend_above(fig, axes[0][0], 2)
    return fig, drawn


def _against(ax: Axes, exact: pd.Series, other: pd.Series, picked: np.ndarray) -> None:
    look.line_at_zero(ax)
    look.line_at_zero(ax, across=True)
    ax.plot(exact[~picked], other[~picked], ".", color=look.GREY, alpha=0.6, label="other heads")
    if picked.any():
        here = {"color": look.VERMILION, "markeredgecolor": look.INK, "markersize": 6}
        ax.plot(exact[picked], other[picked], "D", label="chosen heads", **here)
