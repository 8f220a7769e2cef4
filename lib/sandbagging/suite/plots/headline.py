"""The figure of the headline: answers and log-odds with and without the heads, beside rivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sandbagging import metrics, statistics
from sandbagging.statistics import Estimate
from sandbagging.suite.plots import look
from sandbagging.suite.plots.circuit import ORDER

HATCH = "////"
CHOSEN = "sandbag"  # on these prompts the heads themselves were searched for


@look.styled
def headline_figure(
    effects: pd.DataFrame,
    answers: Mapping[str, Mapping],
    rivals: pd.DataFrame,
    heads: Sequence[tuple[int, int]],
    measured_on: str = "",
    seed: int = 0,
) -> Figure:
    """Right free answers and log-odds with and without the heads by condition, and the share of the
    gap that these heads restore beside rivals that were searched for as hard.

    effects and rivals as `08_circuit/effects_by_question.csv.gz` and `rivals.csv`; answers
    {condition: before (0 to 1), change (fields of an Estimate, pp)}; measured_on: the model in
    words.
    """
    metric = metrics.DECIDES
    part = look.pick(effects, "effects by question", intervention="joint", metric=metric)
    shares = look.pick(rivals, "rivals", metric=metric, quantity="share_restored", rule="zero")
    right = {
        name: (found["before"], _scaled(Estimate.from_dict(found["change"]), 0.01))
        for name, found in answers.items()
    }
    fig, axes = plt.subplots(1, 3, figsize=(look.WIDTH, 3.2), width_ratios=[1, 1, 1])
    _levels(axes[0], right, "right free answers (share)", "What it answers")
    _levels(axes[1], _odds(part, seed), look.level(metric), "What it prefers")
    _shares(axes[2], shares)
    look.title(fig, f"Told to answer wrongly; heads zeroed: {', '.join(map(str, heads))}")
    where = f"{measured_on}." if measured_on else ""
    n = part["question_id"].nunique()
    questions = f"n = {n} test questions; the heads were found on others."
    bars = "Bars: 95 % CI of the paired change and of the share."
    return look.caption(fig, where, questions, bars)


def _scaled(e: Estimate, factor: float) -> Estimate:
    return Estimate(factor * e.value, factor * e.low, factor * e.high, e.n)


def _odds(part: pd.DataFrame, seed: int) -> dict[str, tuple[float, Estimate]]:
    """Per condition the mean with all heads, and the paired change by zeroing, in nats."""
    found = {}
    for name, rows in part.groupby("condition"):
        change = (rows["value"] - rows["baseline"]).to_numpy()
        found[name] = float(rows["baseline"].mean()), statistics.mean_ci(change, seed=seed)
    return found


def _levels(ax: Axes, found: Mapping[str, tuple[float, Estimate]], words: str, title: str) -> None:
    """A filled bar with all heads; a hatched one without them, with the change's interval."""
    names = look.in_order(found, ORDER)
    place = np.arange(len(names))[::-1]
    colours = [look.CONDITIONS.get(name, (look.INK, "o"))[0] for name in names]
    before, change = ([found[name][i] for name in names] for i in (0, 1))
    after = [level + by.value for level, by in zip(before, change, strict=True)]
    ends = [[c.value - c.low for c in change], [c.high - c.value for c in change]]
    ax.barh(place + 0.2, before, 0.36, color=colours, label="all heads")
    hatched = {"color": "white", "edgecolor": colours, "hatch": HATCH, "linewidth": 1.2}
    ax.barh(place - 0.2, after, 0.36, label="chosen heads zeroed", **hatched)
    error = {"fmt": "none", "color": look.INK, "elinewidth": 1.3}
    ax.errorbar(after, place - 0.2, xerr=ends, label="chosen heads zeroed", **error)
    keys = [Patch(color=look.GREY), Patch(fc="white", ec=look.GREY, hatch=HATCH)]
    ax.legend(keys, ["all heads", "heads zeroed"], loc="upper left", borderaxespad=0, fontsize=7.5)
    ax.set_yticks(place, names)
    ax.set_ylim(-0.6, 1.35 * len(names) - 0.6)  # room for the legend
    ax.set(xlabel=words, title=title, ylabel="condition")


def _shares(ax: Axes, table: pd.DataFrame) -> None:
    """The share restored by the chosen heads, and by other prompts' own: those that the same search
    finds on them."""
    names = list(table["chosen_on"])
    words = ["chosen heads" if name == CHOSEN else f"{name}'s" for name in names]
    look.line_at_zero(ax)
    for i, (name, label) in enumerate(zip(names, words, strict=True)):
        mark = (look.VERMILION, "o") if name == CHOSEN else (look.GREY, "D")
        at = [len(names) - 1 - i]
        look.interval(ax, table.iloc[[i]], "value", at, mark, label=label, markersize=6)
    ax.set_yticks(range(len(names)), words[::-1])
    ax.set_ylim(-0.6, len(names) - 0.2)
    ax.set(xlabel="share of the gap restored", title="Beside rivals")
    ax.set_ylabel("heads searched for on prompts")
