"""Figures of the verdicts on swaps: what each would look like, where cells fall, planted models."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sandbagging.suite.plots import look
from sandbagging.suite.plots.saes import named

# verdict -> colour; a verdict that says nothing of the SAE is pale.
VERDICTS = {
    "no sandbagging to explain": "#FFFFFF",
    "degenerate": "#BBBBBB",
    "nothing here yet": "#E5E5E5",
    "destructive": "#E9A27A",
    "carries the difference": "#9AD6C3",
    "equivalent": "#F3D08A",
    "cannot be said": "#F7F7F7",
}
SHOWN = {
    "oracle": ("oracle", look.INTERVENTIONS["oracle"]),
    "e6": ("E6", look.INTERVENTIONS["E6"]),
    "e1": ("E1", look.INTERVENTIONS["E1"]),
    "e4": ("E4", look.INTERVENTIONS["E4"]),
    "noise": ("noise", look.INTERVENTIONS["noise"]),
    "rivals": ("rivals", look.INTERVENTIONS["diff_means"]),
}


@look.styled
def verdict_examples(examples: Sequence[tuple[Mapping[str, float], str, str]]) -> Figure:
    """Made-up cells and what the decision table says of them, `swaps.examples.decided` each:
    effects in nats, the verdict, the point of the example.
    """
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.2 + 0.42 * len(examples)))
    look.line_at_zero(ax)
    for place, (effects, verdict, shows) in enumerate(reversed(examples)):
        for i, (name, (word, mark)) in enumerate(SHOWN.items()):
            ends = [effects[name] + side * effects["half"] for side in (0, -1, 1)]
            row = pd.DataFrame([ends], columns=["value", "low", "high"])
            label = word if place == len(examples) - 1 else None
            look.interval(ax, row, "value", [place + 0.3 - 0.12 * i], mark, label=label)
        at = {"xy": (1.02, place), "xycoords": ("axes fraction", "data"), "va": "center"}
        ax.annotate(f"{verdict}\n({shows})", **at, fontsize=8)
        ax.axhline(place + 0.5, color=look.PALE, linewidth=0.6)
    ax.set_yticks([])
    ax.set_ylim(-0.6, len(examples) - 0.4)
    ax.set(xlabel=look.change("logodds"), ylabel="a made-up cell each")
    look.legend_above(fig, ax, 6)
    look.title(fig, "Each verdict, by example")
    what = "Set by hand, as if n = 100; the verdicts are those of the real rule. Bars: 95 % CI."
    rivals = "Rivals: the difference of means and E6 through untrained SAEs."
    return look.caption(fig, what, rivals)


@look.styled
def verdict_map(judged: pd.DataFrame) -> Figure:
    """Layer by SAE, coloured by verdict, with E6 in nats and what it owes to its SAE.

    judged: `swaps.decision.judge_cells` of one error term.
    """
    look.need(judged, "verdicts", "layer", "tag", "verdict", "basis", "e6")
    names = {tag: named(tag) for tag in dict.fromkeys(judged["tag"])}
    rows = list(dict.fromkeys((n.architecture, n.trained_on) for n in names.values()))
    layers = sorted(dict.fromkeys(judged["layer"]))
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.6 + 0.5 * len(rows)))
    for cell in judged.to_dict("records"):
        name = names[cell["tag"]]
        x = layers.index(cell["layer"])
        y = len(rows) - 1 - rows.index((name.architecture, name.trained_on))
        colour = VERDICTS[cell["verdict"]]
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="white"))
        told = f"{cell['verdict']}\nE6 {cell['e6'].value:+.2f}"
        told += f"; {cell['basis']}" if cell["basis"] else ""
        ax.text(x, y, told, ha="center", va="center", fontsize=7)
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.set_ylim(-0.5, len(rows) - 0.5)
    ax.set_xticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    ax.set_yticks(range(len(rows)), [f"{made}, {on}" for made, on in reversed(rows)])
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set(xlabel="layer that is edited (E6: effect in nats)", ylabel="SAE, trained on")
    look.title(fig, "Where the cells fall")
    n = pd.Series([e.n for e in judged["e6"]])
    return look.caption(fig, look.count(n), "E6: its effect on log-odds.")


@look.styled
def verdicts_by_depth(judged: pd.DataFrame) -> Figure:
    """Effects of E6, E1, E4 and noise by layer on planted models, their gaps, and the verdicts.

    Columns variant, layer, seed, verdict, and as Estimates in nats e6, e1, e4, noise, and where
    known gap_e1 and gap_e4. A row of panels per variant, a mark per seed.
    """
    look.need(judged, "verdicts", "variant", "layer", "seed", "verdict", *DEPTH)
    variants, layers = list(dict.fromkeys(judged["variant"])), sorted(judged["layer"].unique())
    columns = [DEPTH, *([DEPTH_GAPS] if {*DEPTH_GAPS} <= set(judged) else [])]
    size = (look.WIDTH, 1.1 + len(variants) * (0.35 + 0.48 * len(layers)))
    fig, axes = plt.subplots(
        len(variants), len(columns), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for line, variant in zip(axes, variants, strict=True):
        part = judged[judged["variant"] == variant]
        for ax, looks in zip(line, columns, strict=True):
            _by_layer(ax, part, looks, layers)
        line[0].set_title(str(variant), fontweight="bold")
        for place, layer in enumerate(reversed(layers)):
            words = " / ".join(dict.fromkeys(part.loc[part["layer"] == layer, "verdict"]))
            at = {"xy": (1.02, place), "xycoords": ("axes fraction", "data")}
            line[-1].annotate(textwrap.fill(words, 20), **at, fontsize=7.5, va="center")
    axes[0][0].set_ylim(-0.6, len(layers) - 0.4)
    labels = [look.change("logodds"), "paired gap in the effect (nats)"]
    for ax, label in zip(axes[-1], labels, strict=False):
        ax.set_xlabel(label)
    handles = {}
    for ax in axes[0]:
        marks, names = ax.get_legend_handles_labels()
        handles |= dict(zip(names, marks, strict=True))
    fig.legend(handles.values(), handles, loc="outside upper right", ncols=len(handles))
    look.title(fig, "Planted models, by depth")
    seeds = judged["seed"].nunique()
    marks = f"n = {seeds} seed{'s' if seeds > 1 else ''}, a mark each;"
    over = f"means over {judged['e6'].iloc[0].n} questions. At the right: the verdicts."
    return look.caption(fig, marks, over)


DEPTH = {"e6": "E6", "e1": "E1", "e4": "E4", "noise": "noise"}
DEPTH_GAPS = {"gap_e1": "E6 − E1", "gap_e4": "E6 − E4"}
DEPTH_LOOKS = {"E6 − E1": (look.INK, "s"), "E6 − E4": (look.ORANGE, "D")} | look.INTERVENTIONS


def _by_layer(ax: Axes, part: pd.DataFrame, names: dict[str, str], layers: list[int]) -> None:
    look.line_at_zero(ax)
    for i, (column, name) in enumerate(names.items()):
        down = part["layer"].map(lambda layer: len(layers) - 1 - layers.index(layer))
        at = down + 0.18 * ((len(names) - 1) / 2 - i)
        colour, marker = DEPTH_LOOKS[name]
        values = [estimate.value for estimate in part[column]]
        marks = {"color": colour, "alpha": 0.8, "linestyle": "none"}
        ax.plot(values, at, marker, label=name, **marks)
    ax.set_yticks(range(len(layers)), [f"layer {layer}" for layer in reversed(layers)])
    look.guides(ax)
