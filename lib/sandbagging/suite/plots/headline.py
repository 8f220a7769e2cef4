"""The figure of the headline: scores with and without the heads, the change, and random heads."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from sandbagging import statistics
from sandbagging.statistics import Estimate
from sandbagging.suite.plots import look
from sandbagging.suite.plots.circuit import ORDER

KINDS = {
    "uniform": ("any layer", {"color": "#BBBBBB", "fill": True}),
    "same_layer": ("same layers", {"color": look.SKY, "linewidth": 1.6}),
}
HATCH = "////"


@look.styled
def headline_figure(
    effects: pd.DataFrame,
    draws: pd.DataFrame,
    heads: Sequence[tuple[int, int]],
    measured_on: str = "",
    seed: int = 0,
    metric: str = "p_full",
) -> Figure:
    """The metric with and without the heads by condition, the paired change, and random heads.

    effects and draws as `08_circuit/effects_by_question.csv.gz` and `draws.csv`; measured_on: the
    model in words.
    """
    part = look.pick(effects, "effects by question", intervention="joint", metric=metric)
    random = look.pick(draws, "draws", metric=metric) if "metric" in draws else draws
    before, change = _levels_and_changes(part, seed)
    fig, axes = plt.subplots(1, 3, figsize=(look.WIDTH, 3.2), width_ratios=[1.15, 1, 1.3])
    _levels(axes[0], before, change, metric)
    _changes(axes[1], change, metric)
    _random(axes[2], random, change.get("sandbag"), metric)
    names = ", ".join(f"L{layer}H{head}" for layer, head in heads)
    look.title(fig, f"Told to answer wrongly; heads zeroed: {names}")
    where = f"{measured_on}." if measured_on else ""
    n = part["question_id"].nunique()
    questions = f"n = {n} test questions; the heads were found on others."
    bars = "Bars and band: 95 % CI of the paired change, over questions."
    sizes = " + ".join(str(n) for n in random.groupby("kind", sort=False).size())
    return look.caption(fig, where, questions, bars, f"{sizes} random sets of as many heads.")


def _levels_and_changes(
    part: pd.DataFrame, seed: int
) -> tuple[dict[str, float], dict[str, Estimate]]:
    """Per condition the mean with all heads, and the paired change by zeroing in pp."""
    before, change = {}, {}
    for name in look.in_order(part["condition"], ORDER):
        rows = part[part["condition"] == name]
        before[name] = float(rows["baseline"].mean())
        both = rows["value"].to_numpy(), rows["baseline"].to_numpy()
        change[name] = statistics.paired_effect(*both, seed=seed)
    return before, change


def _levels(ax: Axes, before: dict[str, float], change: dict[str, Estimate], metric: str) -> None:
    """A filled bar with all heads; a hatched one without them, with the change's interval."""
    place = np.arange(len(before))[::-1]
    colours = [look.CONDITIONS.get(name, (look.INK, "o"))[0] for name in before]
    after = [before[name] + change[name].value / 100 for name in before]
    below = [(c.value - c.low) / 100 for c in change.values()]
    above = [(c.high - c.value) / 100 for c in change.values()]
    ax.barh(place + 0.2, list(before.values()), 0.36, color=colours, label="all heads")
    hatched = {"color": "white", "edgecolor": colours, "hatch": HATCH, "linewidth": 1.2}
    ax.barh(place - 0.2, after, 0.36, label="chosen heads zeroed", **hatched)
    error = {"fmt": "none", "color": look.INK, "elinewidth": 1.3}
    ax.errorbar(after, place - 0.2, xerr=[below, above], label="chosen heads zeroed", **error)
    keys = [Patch(color=look.GREY), Patch(fc="white", ec=look.GREY, hatch=HATCH)]
    words = ["all heads", "chosen heads zeroed"]
    ax.legend(keys, words, loc="upper left", borderaxespad=0, fontsize=7.5)
    ax.set_yticks(place, list(before))
    ax.set_ylim(-0.6, len(before) + 0.2)  # room for the legend
    ax.set(xlabel=look.level(metric), title="The right answer", ylabel="condition")


def _changes(ax: Axes, change: dict[str, Estimate], metric: str) -> None:
    look.line_at_zero(ax)
    for place, (name, estimate) in enumerate(change.items()):
        row = pd.DataFrame([estimate.as_dict()])
        mark = look.CONDITIONS.get(name, (look.INK, "o"))
        at = [len(change) - 1 - place]
        look.interval(ax, row, "value", at, mark, label=name, markersize=7)
    ax.set_yticks(range(len(change)), list(change)[::-1])
    ax.set_ylim(-0.6, len(change) + 0.2)
    ax.set(xlabel=look.change(metric), title="Change by zeroing")


def _random(ax: Axes, table: pd.DataFrame, joint: Estimate | None, metric: str) -> None:
    """Random sets of as many heads, uniform ones filled and those of the same layers outlined."""
    look.need(table, "draws", "kind", "effect")
    bins = np.histogram_bin_edges(table["effect"], bins=16)
    other = {"color": look.ORANGE, "linewidth": 1.6}
    for kind, part in table.groupby("kind", sort=False):
        effects = part["effect"].to_numpy(dtype=float)
        words, shown = KINDS.get(kind, (kind, other))
        p = f", p = {statistics.rank_p(joint.value, effects):.3f}" if joint else ""
        ax.stairs(np.histogram(effects, bins)[0], bins, label=f"{words}{p}", **shown)
    if joint:
        band = {"color": look.VERMILION, "alpha": 0.15, "linewidth": 0}
        ax.axvspan(joint.low, joint.high, **band)
        ax.axvline(joint.value, color=look.VERMILION, linewidth=2, label="chosen heads")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set(xlabel=f"{look.change(metric)}, sandbag", ylabel="draws", title="Beside random heads")
    ax.set_ylim(top=1.5 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper left", borderaxespad=0, fontsize=7.5)
