"""Figures of the swaps through SAEs: E6 beside its rivals, doses, E1 on its way."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging.suite.plots import look
from sandbagging.suite.plots.saes import named

WORDS = {
    "E6": "E6, median genuine code",
    "E4": "E4, median sandbag code",
    "delta+": "delta+, x + D(m_G) − D(m_S)",
    "delta-": "delta−, x − D(m_G) + D(m_S)",
    "delta_E1": "delta_E1, shuffled labels",
    "delta_span": "random direction, same length",
    "E6_frozen_decoder": "E6, decoder frozen at random",
    "E6_near_decoder": "E6, decoder kept near random",
    "E6_frozen_encoder": "E6, encoder frozen at random",
    "oracle": "oracle, own genuine stream",
    "diff_means": "difference of means",
    "diff_means_shuffled": "means of shuffled labels",
    "mean_ablation": "mean over all prompts",
    "identity": "identity, D(f(x))",
    "noise": "noise of E6's size",
}


# From what most can be expected of to what nothing can be expected of.
ORDER = (
    "oracle", "diff_means", "E6", "delta+", "E6_frozen_decoder", "E6_near_decoder",
    "E6_frozen_encoder", "E4", "delta-", "delta_E1", "delta_span", "diff_means_shuffled", "noise",
    "identity", "mean_ablation",
)  # fmt: skip


@look.styled
def rivals(summary: pd.DataFrame, tags: Sequence[str], metric: str = "logodds") -> Figure:
    """E6 and everything that stands beside it, a panel an SAE (one a layer).

    summary: `swaps.estimates.by_metric`; of two error terms the kept one is drawn, and what needs
    no SAE in every panel of its layer. E1 has a figure of its own, `halfway`.
    """
    rows = look.pick(summary, "summary", metric=metric)
    rows = rows[(rows["error_term"] != "dropped") | (rows["intervention"] == "identity")]
    parts = [_of_tag(rows, tag) for tag in tags]
    names = [name for name in ORDER if name in set(pd.concat(parts)["intervention"])]
    size = (look.WIDTH, 1.5 + 0.24 * len(names))
    fig, axes = plt.subplots(1, len(tags), figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, tag, part in zip(axes[0], tags, parts, strict=True):
        look.line_at_zero(ax)
        for place, name in enumerate(reversed(names)):
            own = part[part["intervention"] == name]
            if len(own):
                look.interval(ax, own, "value", [place], look.INTERVENTIONS[name])
        ax.set_title(str(named(tag)), fontweight="bold")
        ax.set_xlabel(look.change(metric))
        look.guides(ax)
    axes[0, 0].set_yticks(range(len(names)), [WORDS.get(n, n) for n in reversed(names)])
    axes[0, 0].set_ylim(-0.6, len(names) - 0.4)
    look.title(fig, "E6 and its rivals, on sandbag prompts")
    sign = "Positive: the right answer becomes more probable."
    return look.caption(fig, look.count(rows["n"]), look.CI, sign)


def _of_tag(rows: pd.DataFrame, tag: str) -> pd.DataFrame:
    """One SAE's rows, and the rivals that need no SAE."""
    own = look.pick(rows, "summary", tag=tag)
    return pd.concat([own, rows[(rows["tag"] == "") & (rows["layer"] == own["layer"].iloc[0])]])


DIRECTIONS = {
    "diff_means": (look.PURPLE, "o"),
    "TopK": (look.BLUE, "^"),
    "JumpReLU": (look.SKY, "s"),
}


@look.styled
def dose_response(changed: pd.DataFrame) -> Figure:
    """Change of right free answers (pp) by the strength of a direction, a panel a layer: whole
    lines on sandbag prompts, dotted ones on genuine prompts.

    changed: `swaps.dose_rules.changes` of `doses.dose_response`.
    """
    look.need(changed, "table of doses", "layer", "tag", "condition", "intervention", "strength")
    layers = list(dict.fromkeys(changed["layer"]))
    fig, axes = plt.subplots(
        1, len(layers), figsize=(look.WIDTH, 3.0), sharex=True, sharey=True, squeeze=False
    )
    for ax, layer in zip(axes[0], layers, strict=True):
        look.line_at_zero(ax, across=True)
        part = changed[changed["layer"] == layer]
        for (tag, condition), own in part.groupby(["tag", "condition"], sort=False):
            _dose(ax, own, named(tag).base if tag else "diff_means", condition)
        ax.set_title(f"layer {layer}", fontweight="bold")
        ax.set_xlabel("strength (1: the whole difference)")
    axes[0, 0].set_ylabel("right free answers,\nchange (pp)")
    look.legend_of_all(fig, axes)
    look.title(fig, "Dose and response")
    n = pd.Series([e.n for e in changed["right"]])
    lines = "Whole lines: sandbag prompts; dotted: genuine prompts."
    return look.caption(fig, look.count(n), look.CI, lines)


def _dose(ax: Axes, rows: pd.DataFrame, name: str, condition: str) -> None:
    """One direction's line through nothing done."""
    ends = pd.DataFrame([e.as_dict() for e in rows["right"]])[["value", "low", "high"]]
    ends = pd.concat([ends, pd.DataFrame([{"value": 0.0, "low": 0.0, "high": 0.0}])])
    strength = np.append(rows["strength"].to_numpy(), 0.0)
    order = np.argsort(strength)
    colour, marker = DIRECTIONS[name]
    line = "-" if condition == "sandbag" else ":"
    label = name.replace("diff_means", "difference of means") if condition == "sandbag" else None
    look.interval(
        ax, ends.iloc[order], "value", strength[order], (colour, marker),
        along="y", linestyle=line, label=label, markersize=4,
    )  # fmt: skip


@look.styled
def halfway(seeds: pd.DataFrame) -> Figure:
    """Per SAE a line from E4's effect to E6's, with a dot for each shuffle (E1) and a tick in the
    middle.

    seeds: `swaps.halfway.seeds_of`, in nats.
    """
    look.need(seeds, "table of shuffles", "tag", "effect", "E4", "E6")
    tags = list(dict.fromkeys(seeds["tag"]))
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.5 + 0.32 * len(tags)))
    look.line_at_zero(ax)
    for place, tag in enumerate(reversed(tags)):
        part = seeds[seeds["tag"] == tag]
        ends = {name: part[name].iloc[0] for name in ("E4", "E6")}
        label = place == len(tags) - 1
        ax.plot([*ends.values()], [place, place], color=look.GREY, linewidth=1.2, zorder=1)
        middle = sum(ends.values()) / 2
        ax.plot(
            middle, place, "|", color=look.INK, markersize=14, label="half-way" if label else None
        )
        ax.plot(
            part["effect"], np.full(len(part), place), ".", color=look.ORANGE, alpha=0.6,
            label="E1, a dot a shuffle" if label else None,
        )  # fmt: skip
        for name, at in ends.items():
            colour, marker = look.INTERVENTIONS[name]
            ax.plot(at, place, marker, color=colour, markersize=7, label=name if label else None)
    ax.set_yticks(range(len(tags)), [str(named(tag)) for tag in reversed(tags)])
    ax.set_ylim(-0.6, len(tags) - 0.4)
    ax.set(xlabel=look.change("logodds"), ylabel="SAE")
    look.legend_above(fig, ax, 4)
    look.title(fig, "E1 is half a dose")
    shuffles = look.count(seeds.groupby("tag").size(), "shuffles")
    return look.caption(fig, shuffles, "Each mark is a mean over the questions.")
