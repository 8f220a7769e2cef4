"""Figures of the SAEs: training, quality, and what their latents tell apart."""

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
PAIRS = {False: look.CONDITIONS["sandbag"], True: look.CONDITIONS["placebo"]}  # is it the placebo?
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
        return [_panel(kind, part, short=True) for kind, part in parts.items()]
    return [_panel("", names, short=False)]


def _panel(heading: str, names: dict[str, Name], short: bool) -> Panel:
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


def _same_rows(rows: list[Panel]) -> bool:
    return all(panel.labels == rows[0].labels for panel in rows)


def _height(panels: list[Panel], row: float) -> float:
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
    size = (look.WIDTH, 1.5 + len(rows) * (0.3 + _height(rows, 0.19)))
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
    fig, axes, rows = _columns(metrics["tag"], 0.24)
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


def _columns(tags: Iterable[str], row: float) -> tuple[Figure, np.ndarray, list[Panel]]:
    """A column of panels per architecture, with one horizontal axis, their rows named."""
    rows = by_architecture(tags)
    size = (look.WIDTH, 1.5 + _height(rows, row))
    shared = {"sharex": True, "sharey": _same_rows(rows)}
    fig, axes = plt.subplots(1, len(rows), figsize=size, squeeze=False, **shared)
    for ax, panel in zip(axes[0], rows, strict=True):
        panel.ticks(ax)
        ax.set_title(panel.title, fontweight="bold")
    axes[0][0].set_ylabel("SAE")
    return fig, axes[0], rows


@look.styled
def chosen_latents(table: pd.DataFrame) -> Figure:
    """d_z on test questions of one latent per SAE, chosen on train questions.

    Columns tag, pair, value, low, high, n.
    """
    look.need(table, "table of chosen latents", "tag", "pair", "value", "low", "high", "n")
    fig, axes, rows = _columns(table["tag"], 0.26)
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
    panel = _panel("", {t: named(t) for t in tags[~plain]}, short=False)
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
    size = (look.WIDTH, 1.4 + len(pairs) * (0.35 + _height(columns, 0.3)))
    shared = {"sharex": True, "sharey": _same_rows(columns) or "col", "squeeze": False}
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
