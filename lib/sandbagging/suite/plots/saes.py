"""Figures of the SAEs: their names on an axis, their training and their quality."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sandbagging.suite.plots import look

ARCHITECTURES = {"jumprelu": "JumpReLU", "topk": "TopK", "gated": "Gated"}
TRAINED_ON = {"genuine_only": "genuine", "sandbagging_only": "sandbag", "mixed": "mixed"}
DASHES = {"JumpReLU": "-", "TopK": "--", "Gated": ":"}
FEW = 2  # architectures that get a panel each


class Name(NamedTuple):
    """What a tag says, in short words; layer -1 where it names none."""

    layer: int
    architecture: str
    trained_on: str

    def __str__(self) -> str:
        layer = f"L{self.layer}" if self.layer >= 0 else ""
        return " ".join(filter(None, (layer, self.architecture, self.trained_on)))

    @property
    def base(self) -> str:
        """The architecture without its width and k."""
        return next((a for a in ARCHITECTURES.values() if a in self.architecture), "")


def named(tag: str) -> Name:
    """Return a tag's layer, architecture and training condition: "L7 JumpReLU genuine".

    Takes whole tags (v4_smollm2_jumprelu_L7_genuine_only) and short ones (L7 jumprelu mixed).
    """
    words = re.sub(r"^v\d+_[^_]+_", "", str(tag)).replace("_only", "-only").replace("_", " ")
    layer, made, trained_on = -1, [], ""
    for word in words.split():
        if re.fullmatch(r"L\d+", word):
            layer = int(word[1:])
        elif word.replace("-only", "_only") in TRAINED_ON:
            trained_on = TRAINED_ON[word.replace("-only", "_only")]
        else:
            made.append(ARCHITECTURES.get(word, word))
    if made and re.fullmatch(r"k\d+", made[-1]) and "TopK" not in made:
        made.insert(-1, "TopK")  # x8_k64: the tag leaves it out
    return Name(layer, " ".join(made), trained_on)


class Panel(NamedTuple):
    """Where the rows of one panel stand: an architecture, or all."""

    title: str
    place: dict[str, float]  # tag -> height
    labels: list[str]

    def ticks(self, ax: Axes) -> None:
        ax.set_yticks(list(self.place.values()), self.labels)
        ax.set_ylim(min(self.place.values()) - 0.6, max(self.place.values()) + 0.6)
        look.guides(ax)


def by_architecture(tags: Iterable[str]) -> list[Panel]:
    """Return a panel per architecture where there are few of them, else one for all tags."""
    names = {tag: named(tag) for tag in dict.fromkeys(tags)}
    kinds = list(dict.fromkeys(name.architecture for name in names.values()))
    if 1 < len(kinds) <= FEW:
        parts = {kind: {t: n for t, n in names.items() if n.architecture == kind} for kind in kinds}
        return [panel_of(kind, part, short=True) for kind, part in parts.items()]
    return [panel_of("", names, short=False)]


def panel_of(heading: str, names: dict[str, Name], short: bool) -> Panel:
    """Rows from the top, by layer, with a little room between layers."""
    order = list(TRAINED_ON.values())

    def key(tag: str) -> tuple:
        name = names[tag]
        trained = order.index(name.trained_on) if name.trained_on in order else len(order)
        return name.layer, name.architecture, trained

    place, labels, height, before = {}, [], 0.0, None
    for tag in sorted(names, key=key):
        name = names[tag]
        height -= 1.4 if before not in (None, name.layer) else 1.0
        place[tag], before = height, name.layer
        labels.append(str(name._replace(architecture="")) if short else str(name))
    return Panel(heading, place, labels)


def same_rows(rows: list[Panel]) -> bool:
    """Say whether the panels name the same rows, and can share their labels."""
    return all(panel.labels == rows[0].labels for panel in rows)


def inches(panels: list[Panel], row: float) -> float:
    """Return how high the highest panel is, with rows of so many inches."""
    return row * max(-min(p.place.values()) for p in panels)


@look.styled
def training_curves(history: pd.DataFrame) -> Figure:
    """FVU, loss and l0 (those present) against the training step: colour by layer, line by kind.

    Columns tag, step, fvu, and where known loss and l0.
    """
    look.need(history, "training history", "tag", "step", "fvu")
    labels = {
        "fvu": "FVU (share of variance, log scale)",
        "loss": "training loss (log scale)",
        "l0": "l0 (latents per token)",
    }
    quantities = [c for c in labels if c in history]
    names = {tag: named(tag) for tag in dict.fromkeys(history["tag"])}
    colours = look.layer_colours([name.layer for name in names.values()])
    fig, axes = plt.subplots(1, len(quantities), figsize=(look.WIDTH, 3.1), squeeze=False)
    for ax, quantity in zip(axes[0], quantities, strict=True):
        for tag, part in history.dropna(subset=[quantity]).groupby("tag", sort=False):
            name = names[tag]
            line = {"color": colours[name.layer], "linestyle": DASHES.get(name.base, "-.")}
            ax.plot(part["step"], part[quantity], linewidth=1, alpha=0.85, label=tag, **line)
        ax.set(xlabel="training step (batches)", ylabel=labels[quantity])
        if quantity != "l0":
            ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(4))
    kinds = list(dict.fromkeys(name.base or "other" for name in names.values()))
    some = {round(i) for i in np.linspace(0, len(colours) - 1, min(len(colours), 6))}
    named_layers = [layer for i, layer in enumerate(colours) if i in some]
    lines = [Line2D([], [], color=colours[x], label=f"layer {x}") for x in named_layers]
    lines += [Line2D([], [], color=look.INK, linestyle=DASHES.get(k, "-."), label=k) for k in kinds]
    columns = len(lines) if len(lines) < 6 else (len(lines) + 1) // 2
    fig.legend(handles=lines, loc="outside upper right", ncols=columns)
    look.title(fig, "Training of the SAEs")
    return look.caption(fig, f"n = {len(names)} SAEs, a line each.")


QUALITY = {
    "fvu": "FVU (share of\nvariance, log scale)",
    "l0": "l0 (non-zero\nlatents per token)",
    "dead": "dead latents\n(share)",
    "loss_recovered": "loss recovered\n(share)",
}


@look.styled
def sae_quality(metrics: pd.DataFrame) -> Figure:
    """Held-out quality per tag: FVU, l0, dead latents, loss recovered (those present).

    Columns tag and fvu, and any of fvu_last, l0, l0_last, dead, dead_last, loss_recovered.
    """
    look.need(metrics, "SAE metrics", "tag", "fvu")
    quantities = [c for c in QUALITY if c in metrics and metrics[c].notna().any()]
    rows = by_architecture(metrics["tag"])
    size = (look.WIDTH, 1.5 + len(rows) * (0.3 + inches(rows, 0.19)))
    fig, axes = plt.subplots(
        len(rows), len(quantities), figsize=size, sharex="col", sharey="row", squeeze=False
    )
    for line, panel in zip(axes, rows, strict=True):
        part = metrics[metrics["tag"].isin(panel.place)]
        for ax, quantity in zip(line, quantities, strict=True):
            _quality(ax, part, quantity, panel)
        line[0].set_ylabel("SAE")
        line[0].set_title(panel.title, fontweight="bold")
    for ax, quantity in zip(axes[-1], quantities, strict=True):
        ax.set_xlabel(QUALITY[quantity])
        if quantity == "fvu":
            look.log_axis(ax)
        else:
            largest = metrics[[c for c in (quantity, f"{quantity}_last") if c in metrics]].max()
            ax.set_xlim(-0.04, 1.04) if quantity != "l0" else ax.set_xlim(0, 1.1 * largest.max())
    look.legend_above(fig, axes[0][0], 2)
    look.title(fig, "Quality of the SAEs on held-out questions")
    perfect = "FVU is 0 for a perfect and 1 for a constant reconstruction."
    return look.caption(fig, f"n = {len(metrics)} SAEs.", perfect)


def _quality(ax: Axes, part: pd.DataFrame, quantity: str, panel: Panel) -> None:
    place = part["tag"].map(panel.place)
    last = f"{quantity}_last"
    everywhere = {"color": look.BLUE, "label": "all tokens"}
    ax.plot(part[quantity].astype(float), place, "o", **everywhere)
    if last in part:
        at_last = {"color": look.VERMILION, "fillstyle": "none", "label": "last tokens"}
        ax.plot(part[last].astype(float), place, "v", **at_last)
    panel.ticks(ax)
    look.guides(ax, "both")


@look.styled
def seen_and_held_out(metrics: pd.DataFrame, n_train: int, n_test: int) -> Figure:
    """FVU of each SAE on questions that it was trained on and on held-out ones.

    Columns tag, fvu_train, fvu_same.
    """
    look.need(metrics, "SAE metrics", "tag", "fvu_train", "fvu_same")
    fig, axes, rows = columns_of(metrics["tag"], 0.24)
    for ax, panel in zip(axes, rows, strict=True):
        part = metrics[metrics["tag"].isin(panel.place)]
        place = part["tag"].map(panel.place)
        ends = part["fvu_train"], part["fvu_same"]
        ax.hlines(place, *ends, color="#BBBBBB", linewidth=1.5, zorder=1)
        seen = {"color": look.SKY, "markeredgecolor": look.INK}
        ax.plot(ends[0], place, "o", label=f"train questions (seen), n = {n_train}", **seen)
        held = f"test questions (held out), n = {n_test}"
        ax.plot(ends[1], place, "v", color=look.VERMILION, label=held)
        ax.set_xlim(left=0)
        ax.set_xlabel("FVU over question tokens (share of variance)")
    look.legend_above(fig, axes[0], 2)
    look.title(fig, "Seen and held out")
    own = "each on prompts of its own training condition, shared prefix left out."
    return look.caption(fig, f"n = {len(metrics)} SAEs,", own)


def columns_of(tags: Iterable[str], row: float) -> tuple[Figure, np.ndarray, list[Panel]]:
    """A column of panels per architecture, with one horizontal axis, their rows named."""
    rows = by_architecture(tags)
    size = (look.WIDTH, 1.5 + inches(rows, row))
    shared = {"sharex": True, "sharey": same_rows(rows)}
    fig, axes = plt.subplots(1, len(rows), figsize=size, squeeze=False, **shared)
    for ax, panel in zip(axes[0], rows, strict=True):
        panel.ticks(ax)
        ax.set_title(panel.title, fontweight="bold")
    axes[0][0].set_ylabel("SAE")
    return fig, axes[0], rows
