"""Figures of the scores: the gap by framing, questions in pairs, conditions side by side."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sandbagging import metrics, statistics
from sandbagging.suite.plots import look


@look.styled
def gap_by_framing(table: pd.DataFrame) -> Figure:
    """Gap genuine − sandbag in pp per framing and metric.

    Columns framing, metric, value, low, high, n.
    """
    look.need(table, "gap table", "framing", "metric", "value", "low", "high", "n")
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.4 + 0.34 * table["framing"].nunique()))
    look.rows_by_group(ax, table, "framing", "metric", "value", look.METRICS)
    look.guides(ax)
    ax.set(xlabel="gap, genuine − sandbag (pp)", ylabel="framing")
    look.legend_above(fig, ax, 2)
    look.title(fig, "Sandbagging gap by framing")
    return look.caption(fig, look.count(table["n"]), look.CI)


@look.styled
def paired_scores(scores: pd.DataFrame, metric: str = "p_full", other: str = "sandbag") -> Figure:
    """Each question under genuine against another condition, and the paired differences.

    Columns question_id, condition and the metric (probability, or nats for logodds).
    """
    wide = _by_condition(scores, metric)
    look.need(wide, "scores", "genuine", other)
    wide = wide[["genuine", other]].dropna()
    fig, (left, right) = plt.subplots(1, 2, figsize=(look.WIDTH, 3.9))
    _scatter_of_pairs(left, wide["genuine"], wide[other], metric, other)
    _histogram_of_gaps(right, wide["genuine"], wide[other], metric, other)
    look.title(fig, f"Every question under genuine and {other} prompts")
    below = "Points below the diagonal score lower on the vertical axis's prompts."
    return look.caption(fig, f"n = {len(wide)} questions.", below, "Band: 95 % CI of the mean.")


def _by_condition(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One metric as [question, condition]."""
    look.need(scores, "scores", "question_id", "condition", metric)
    look.once(scores, "scores", ["question_id", "condition"], "framing and split")
    return scores.pivot(index="question_id", columns="condition", values=metric)


def _scatter_of_pairs(
    ax: Axes, genuine: pd.Series, other: pd.Series, metric: str, name: str
) -> None:
    colour, marker = look.CONDITIONS.get(name, (look.INK, "o"))
    marks = {"s": 16, "color": colour, "marker": marker, "alpha": 0.55, "linewidths": 0}
    ax.scatter(genuine, other, label="one question", **marks)
    ax.plot(genuine.mean(), other.mean(), "X", color=look.INK, markersize=9, label="mean")
    dashed = {"color": look.GREY, "linewidth": 0.8, "linestyle": "--"}
    ax.axline((0, 0), slope=1, label="no difference", **dashed)
    if metric != "logodds":
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_xlabel(f"genuine, {look.level(metric)}")
    ax.set_ylabel(f"{name}, {look.level(metric)}")
    ax.legend(loc="upper left")


def _histogram_of_gaps(
    ax: Axes, genuine: pd.Series, other: pd.Series, metric: str, name: str
) -> None:
    unit, scale = metrics.unit_of_change(metric)
    gap = statistics.paired_effect(genuine, other, unit=unit, scale=scale)
    sns.histplot(x=scale * (genuine - other), ax=ax, color=look.SKY, edgecolor="white", bins=30)
    look.line_at_zero(ax)
    ax.axvspan(gap.low, gap.high, color=look.INK, alpha=0.2, linewidth=0)
    ax.axvline(gap.value, color=look.INK)
    ax.set_title(f"mean {gap.value:+.2f} {unit} [{gap.low:+.2f}, {gap.high:+.2f}]")
    ax.set(xlabel=f"{metric}, genuine − {name} ({unit})", ylabel="questions")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))


@look.styled
def metric_by_condition(
    scores: pd.DataFrame, names: Sequence[str] = metrics.JUDGED, seed: int = 0
) -> Figure:
    """Mean of probability metrics per condition, and each condition's paired gap to genuine in pp.

    scores: one row a condition and question, with question_id, condition and the metrics.
    """
    levels, gaps = _levels_and_gaps(scores, names, seed)
    rows = levels["condition"].nunique()
    fig, (left, right) = plt.subplots(1, 2, figsize=(look.WIDTH, 1.5 + 0.4 * rows))
    look.rows_by_group(left, levels, "condition", "metric", "value", look.METRICS, zero=False)
    look.rows_by_group(right, gaps, "condition", "metric", "value", look.METRICS)
    left.set(xlim=(0, 1), xlabel="mean (probability)", ylabel="condition", title="Level")
    paired = "Paired difference, question by question"
    right.set(xlabel="genuine − condition (pp)", title=paired)
    for ax in (left, right):
        look.guides(ax)
    look.legend_above(fig, left, len(names))
    look.title(fig, "Scores by condition")
    return look.caption(fig, look.count(levels["n"]), look.CI)


def _levels_and_gaps(
    scores: pd.DataFrame, names: Sequence[str], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    levels, gaps = [], []
    for metric in names:
        wide = _by_condition(scores, metric).dropna()
        look.need(wide, "scores", "genuine")
        for name in look.in_order(wide.columns, look.CONDITIONS):
            where = {"condition": name, "metric": metric}
            levels.append(where | statistics.mean_ci(wide[name], seed=seed).as_dict())
            if name != "genuine":
                gap = statistics.paired_effect(wide["genuine"], wide[name], seed=seed)
                gaps.append(where | gap.as_dict())
    return pd.DataFrame(levels), pd.DataFrame(gaps)
