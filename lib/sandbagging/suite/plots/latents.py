"""Figures of what latents tell apart: single latents, their null, architectures, and probes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging.suite.plots import look
from sandbagging.suite.plots.saes import (
    TRAINED_ON,
    Panel,
    by_architecture,
    columns_of,
    inches,
    named,
    panel_of,
    same_rows,
)

PAIRS = {False: look.CONDITIONS["sandbag"], True: look.CONDITIONS["placebo"]}  # is it the placebo?


@look.styled
def chosen_latents(table: pd.DataFrame) -> Figure:
    """d_z on test questions of one latent per SAE, chosen on train questions.

    Columns tag, pair, value, low, high, n.
    """
    look.need(table, "table of chosen latents", "tag", "pair", "value", "low", "high", "n")
    fig, axes, rows = columns_of(table["tag"], 0.26)
    for ax, panel in zip(axes, rows, strict=True):
        look.line_at_zero(ax)
        for pair, part in table[table["tag"].isin(panel.place)].groupby("pair", sort=False):
            shown = PAIRS["placebo" in pair]
            look.interval(ax, part, "value", part["tag"].map(panel.place), shown, label=pair)
        ax.set_xlabel("d_z of the chosen latent (SD units)")
    look.legend_above(fig, axes[0], 2)
    look.title(fig, "The latent chosen on train questions")
    sign = "Positive: larger in genuine prompts."
    return look.caption(fig, look.count(table["n"], "test prompt pairs"), look.CI, sign)


@look.styled
def separation(table: pd.DataFrame, n: int | None = None) -> Figure:
    """|d_max| per tag and pair on a log axis, over its sign-flip null; n is the number of pairs.

    Columns tag, pair, d, d_max, null_d_max; a tag that begins with `diff_means` is the baseline
    without an SAE.
    """
    look.need(table, "separation table", "tag", "pair", "d", "d_max", "null_d_max")
    formulas = list(dict.fromkeys(table["d"]))
    tags = pd.Series(dict.fromkeys(table["tag"]).keys())
    plain = tags.str.startswith("diff_means")
    panel = panel_of("", {t: named(t) for t in tags[~plain]}, short=False)
    lowest = min(panel.place.values(), default=0.0) - 0.4
    baseline = {t: lowest - 1 - i for i, t in enumerate(tags[plain])}
    words = [t.replace("diff_means_", "") + " difference of means" for t in baseline]
    panel = Panel("", {**panel.place, **baseline}, [*panel.labels, *words])
    size = (look.WIDTH, 1.6 + 0.24 * -min(panel.place.values()))
    shared = {"sharey": True, "sharex": True, "squeeze": False}
    fig, axes = plt.subplots(1, len(formulas), figsize=size, **shared)
    floor = _left_edge(table[["d_max", "null_d_max"]].abs().to_numpy(dtype=float))
    for ax, formula in zip(axes[0], formulas, strict=True):
        panel.ticks(ax)
        for pair, part in table[table["d"] == formula].groupby("pair", sort=False):
            _dots_with_null(ax, part, part["tag"].map(panel.place), pair, floor)
        ax.set_xscale("log")
        ax.set_xlim(left=floor)
        look.log_axis(ax)
        ax.set_xlabel(f"|d_max|, {formula} (SD units, log scale)")
    axes[0][0].set_ylabel("SAE")
    look.legend_above(fig, axes[0][0], 3)
    look.title(fig, "Best single latent")
    known = look.count(table["n"], "prompt pairs") if "n" in table else f"n = {len(tags)} tags."
    how_many = f"n = {n} prompt pairs." if n else known
    null = "Grey: up to the 95th percentile of d_max when conditions are exchanged within pairs."
    at_edge = "A mark on the left edge is 0." if (table["d_max"] == 0).any() else ""
    return look.caption(fig, how_many, null, at_edge)


def _left_edge(sizes: np.ndarray) -> float:
    """Where a log axis of these sizes begins: below the smallest, and below a power of ten."""
    known = sizes[sizes > 0]
    if not len(known):
        return 0.01
    return min(0.6 * known.min(), 0.99 * 10.0 ** np.floor(np.log10(known.max())))


def _dots_with_null(
    ax: Axes, part: pd.DataFrame, place: pd.Series, pair: str, floor: float
) -> None:
    placebo = "placebo" in str(pair)
    colour, marker = PAIRS[placebo]
    at = place + (-0.18 if placebo else 0.18)
    bar = {"color": "#B8B8B8", "linewidth": 3.5, "zorder": 1}
    name = None if placebo else "chance (95 % of sign flips)"
    ax.hlines(at, floor, part["null_d_max"], label=name, **bar)
    at_least = part["d_max"].abs().clip(lower=floor)
    ax.plot(at_least, at, marker, color=colour, label=str(pair), clip_on=False)


@look.styled
def topk_against_jumprelu(pairs: pd.DataFrame, what: str = "|d_max| (SD units)") -> Figure:
    """TopK and JumpReLU at the same layer and training condition.

    Columns layer, condition, topk, jumprelu (and model).
    """
    look.need(pairs, "pairs", "layer", "condition", "topk", "jumprelu")
    several = "model" in pairs and pairs["model"].nunique() > 1
    names = [
        f"{row['model'] if several else ''} L{row['layer']} "
        f"{TRAINED_ON.get(row['condition'], row['condition'])}".strip()
        for row in pairs.to_dict("records")
    ]
    place = np.arange(len(pairs))[::-1]
    fig, ax = plt.subplots(figsize=(look.WIDTH, max(2.6, 1.4 + 0.24 * len(pairs))))
    ax.hlines(place, pairs["topk"], pairs["jumprelu"], color="#BBBBBB", linewidth=1.5, zorder=1)
    ax.plot(pairs["topk"], place, "o", color=look.BLUE, label="TopK")
    square = {"color": look.ORANGE, "markeredgecolor": look.INK}
    ax.plot(pairs["jumprelu"], place, "s", label="JumpReLU", **square)
    ax.set_yticks(place, names)
    look.guides(ax)
    ax.set(xlabel=what, ylabel="layer and training prompts")
    ax.set_xlim(left=0)
    look.legend_above(fig, ax, 2)
    look.title(fig, "TopK and JumpReLU at the same layer and condition")
    jumprelu, topk = pairs["jumprelu"] > pairs["topk"], pairs["topk"] > pairs["jumprelu"]
    counted = f"JumpReLU is the larger in {jumprelu.sum()}, TopK in {topk.sum()}."
    return look.caption(fig, f"n = {len(pairs)} pairs;", counted)


PROBES = {
    ("best_latent", "own"): (look.BLUE, "o", "full"),
    ("best_latent", "matched"): (look.BLUE, "o", "none"),
    ("all_latents", "own"): (look.ORANGE, "s", "full"),
    ("all_latents", "matched"): (look.ORANGE, "s", "none"),
}


@look.styled
def probing(table: pd.DataFrame) -> Figure:
    """Held-out AUROC of each tag's best latent and of all its latents, at two L0; a row a pair.

    Columns tag, pair, at_l0 (own, matched), by (best_latent, all_latents), value, low, high, n.
    """
    look.need(table, "probing table", "tag", "pair", "at_l0", "by", "value", "low", "high", "n")
    columns, pairs = by_architecture(table["tag"]), list(dict.fromkeys(table["pair"]))
    size = (look.WIDTH, 1.4 + len(pairs) * (0.35 + inches(columns, 0.3)))
    shared = {"sharex": True, "sharey": same_rows(columns) or "col", "squeeze": False}
    fig, axes = plt.subplots(len(pairs), len(columns), figsize=size, **shared)
    for line, pair in zip(axes, pairs, strict=True):
        for ax, panel in zip(line, columns, strict=True):
            _probes(ax, table[table["pair"] == pair], panel)
            ax.set_title(f"{pair}, {panel.title}".removesuffix(", "), fontweight="bold")
    for ax in axes[-1]:
        ax.set_xlabel("AUROC on held-out questions (0.5: chance)")
    for ax in axes[:, 0]:
        ax.set_ylabel("SAE")
    look.legend_above(fig, axes[0][0], 2)
    look.title(fig, "Probing the codes")
    fitted = "Fitted on train questions; own and matched: the L0 of the codes."
    return look.caption(fig, look.count(table["n"]), look.CI, fitted)


def _probes(ax: Axes, table: pd.DataFrame, panel: Panel) -> None:
    names = {"best_latent": "best latent", "all_latents": "all latents"}
    ax.axvline(0.5, color=look.GREY, linewidth=0.8, linestyle=":")
    shifts = np.linspace(0.27, -0.27, len(PROBES))
    for shift, ((by, at_l0), (colour, marker, fill)) in zip(shifts, PROBES.items(), strict=True):
        kept = (table["by"] == by) & (table["at_l0"] == at_l0) & table["tag"].isin(panel.place)
        part = table[kept]
        label = f"{names[by]}, {at_l0} L0"
        at = part["tag"].map(panel.place) + shift
        look.interval(
            ax, part, "value", at, (colour, marker), label=label, fillstyle=fill, markersize=4
        )
    panel.ticks(ax)
