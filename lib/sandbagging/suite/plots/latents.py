"""Figures of what can be read at the last prompt token: by probes, the logit lens, latents."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging.suite.plots import look
from sandbagging.suite.plots.saes import named, panel_of

TITLES = {
    "the prompt": "the prompt\n(the wording of training)",
    "the prompt, other wordings": "the prompt\n(wordings never seen)",
    "the answer to come": "the answer to come\n(within sandbag prompts)",
}
PROBES = {
    "logistic": ("logistic", look.BLUE, "-"),
    "diff_means": ("difference of means", look.ORANGE, "--"),
}
BY = {
    "best_latent": ("the best latent", (look.ORANGE, "s")),
    "all_latents": ("all latents", (look.BLUE, "o")),
}
CHANCE = 0.5


def _panels(targets: Iterable[str], height: float, sharex: bool) -> tuple[Figure, dict[str, Axes]]:
    """A panel for each target that is there, in the order of TITLES, with one axis of AUROC."""
    there = look.in_order(targets, TITLES)
    shared = {"sharey": True, "sharex": sharex, "squeeze": False}
    fig, axes = plt.subplots(1, len(there), figsize=(look.WIDTH, height), **shared)
    for ax, target in zip(axes[0], there, strict=True):
        ax.set_title(TITLES.get(target, target))
    return fig, dict(zip(there, axes[0], strict=True))


@look.styled
def probes_by_depth(probes: pd.DataFrame) -> Figure:
    """How well probes of the raw residual stream read each target, layer by layer.

    Columns said (the target), probe, wording, layer, auroc (Estimates).
    """
    look.need(probes, "table of probes", "said", "probe", "wording", "layer", "auroc")
    fig, axes = _panels(probes["said"], 3.5, sharex=True)
    for target, ax in axes.items():
        ax.axhline(CHANCE, color=look.GREY, linewidth=0.8, linestyle=":")
        for (probe, _), line in probes[probes["said"] == target].groupby(["probe", "wording"]):
            label, colour, dash = PROBES[probe]
            line = line.sort_values("layer")
            ends = [[getattr(e, end) for e in line["auroc"]] for end in ("value", "low", "high")]
            ax.fill_between(line["layer"], *ends[1:], color=colour, alpha=0.15, linewidth=0)
            ax.plot(line["layer"], ends[0], dash, color=colour, linewidth=1.3, label=label)
        ax.set_xlabel("layer")
        ax.set_ylim(0, 1.03)
    first = next(iter(axes.values()))
    first.set_ylabel("AUROC (0.5: guessing)")
    look.legend_of_all(fig, np.array(list(axes.values())))
    look.title(fig, "What a probe reads at the last prompt token")
    shown = "Test questions. Bands: 95 % CI over questions. A line for each wording."
    return look.caption(fig, look.count(pd.Series([e.n for e in probes["auroc"]])), shown)


@look.styled
def lens_by_depth(by_layer: pd.DataFrame, genuine: pd.DataFrame, from_layer: int | None) -> Figure:
    """The logit lens on sandbag prompts that are answered wrongly, layer by layer, and the right
    answer on the genuine prompts of the same questions.

    Columns layer, p_right and p_given with _low and _high, n; from_layer: where the answer given
    begins to lead.
    """
    look.need(by_layer, "lens", "layer", "n", "p_right", "p_given")
    look.need(genuine, "lens on genuine prompts", "layer", "n", "p_right")
    fig, ax = plt.subplots(figsize=(look.WIDTH, 3.2))
    if from_layer is not None:
        marked = {"color": look.GREY, "linewidth": 1, "linestyle": ":"}
        ax.axvline(from_layer, label="the answer given leads from here on", **marked)
    lines = {
        "sandbag: the answer given": (by_layer, "p_given", *look.CONDITIONS["sandbag"], "-"),
        "sandbag: the right answer": (by_layer, "p_right", look.SKY, "s", "-"),
        "genuine: the right answer": (genuine, "p_right", *look.CONDITIONS["genuine"], "--"),
    }
    for label, (table, name, colour, marker, dash) in lines.items():
        x, ends = table["layer"], (table[name + "_low"], table[name + "_high"])
        ax.fill_between(x, *ends, color=colour, alpha=0.15, linewidth=0)
        marks = {"marker": marker, "markersize": 3.5, "linestyle": dash}
        ax.plot(x, table[name], color=colour, label=label, **marks)
    ax.set(xlabel="layer", ylabel="mean p of its first token\n(probability)")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper left")
    look.title(fig, "What each layer would answer")
    shown = "Questions whose sandbag prompt is answered wrongly. Bands: 95 % CI over questions."
    return look.caption(fig, look.count(by_layer["n"]), shown)


@look.styled
def latents_beside_raw(beside: pd.DataFrame) -> Figure:
    """AUROC of each SAE's latents beside that of the raw probe at its layer, a panel a target.

    Columns target, tag, probe, latents and raw (Estimates).
    """
    look.need(beside, "table of latents", "target", "tag", "probe", "latents", "raw")
    panel = panel_of("", {tag: named(tag) for tag in dict.fromkeys(beside["tag"])}, short=False)
    fig, axes = _panels(beside["target"], 1.6 + 0.24 * -min(panel.place.values()), sharex=True)
    for target, ax in axes.items():
        panel.ticks(ax)
        ax.axvline(CHANCE, color=look.GREY, linewidth=0.8, linestyle=":")
        of_target = beside[beside["target"] == target]
        raw = of_target.drop_duplicates("tag")
        at = raw["tag"].map(panel.place)
        ticks = {"color": look.INK, "marker": "|", "markersize": 11, "markeredgewidth": 2}
        ax.plot([e.value for e in raw["raw"]], at, linestyle="", label="no SAE", **ticks)
        for shift, (probe, (label, shown)) in zip((0.17, -0.17), BY.items(), strict=True):
            part = of_target[of_target["probe"] == probe]
            ends = pd.DataFrame([e.as_dict() for e in part["latents"]])
            place = part["tag"].map(panel.place).to_numpy() + shift
            look.interval(ax, ends, "value", place, shown, label=label, markersize=4)
        ax.set_xlabel("AUROC (0.5: guessing)")
    look.legend_of_all(fig, np.array(list(axes.values())))
    look.title(fig, "What latents read")
    shown = "Test questions. Upright marks: the logistic probe of the raw stream at that layer."
    return look.caption(fig, look.count(pd.Series([e.n for e in beside["raw"]])), look.CI, shown)
