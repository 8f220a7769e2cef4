"""Figures of the scores: the gap by framing, questions in pairs, conditions side by side."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sandbagging import metrics, statistics
from sandbagging.suite.plots import look


@look.styled
def gap_by_framing(table: pd.DataFrame) -> Figure:
    """Gap genuine − sandbag per framing: log-odds in nats on the left, the other metrics in pp.

    Columns framing, metric, value, low, high, n.
    """
    look.need(table, "gap table", "framing", "metric", "value", "low", "high", "n")
    odds = table["metric"] == "logodds"
    parts = [
        (part, unit) for part, unit in ((table[odds], "nats"), (table[~odds], "pp")) if len(part)
    ]
    size = (look.WIDTH, 1.4 + 0.34 * table["framing"].nunique())
    fig, axes = plt.subplots(1, len(parts), figsize=size, sharey=True, squeeze=False)
    for ax, (part, unit) in zip(axes[0], parts, strict=True):
        look.rows_by_group(ax, part, "framing", "metric", "value", look.METRICS)
        look.guides(ax)
        ax.set_xlabel(f"gap, genuine − sandbag ({unit})")
    axes[0, 0].set_ylabel("framing")
    look.legend_of_all(fig, axes)
    look.title(fig, "Sandbagging gap by framing")
    return look.caption(fig, look.count(table["n"]), look.CI)


@look.styled
def yardstick(table: pd.DataFrame) -> Figure:
    """Gap on log-odds, genuine − condition in nats, of sandbag and of every placebo.

    Columns condition, value, low, high, n.
    """
    look.need(table, "table of gaps", "condition", "value", "low", "high", "n")
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.3 + 0.32 * len(table)))
    look.line_at_zero(ax)
    for place, name in zip(range(len(table))[::-1], table["condition"], strict=True):
        row, mark = table[table["condition"] == name], look.CONDITIONS.get(name, (look.INK, "o"))
        look.interval(ax, row, "value", [place], mark, label=name)
    ax.set_yticks(range(len(table))[::-1], table["condition"])
    ax.set_ylim(-0.6, len(table) - 0.4)
    look.guides(ax)
    ax.set(xlabel="genuine − condition, log-odds (nats)", ylabel="condition")
    look.title(fig, "Told to answer incorrectly, and harmless changes of words")
    return look.caption(fig, look.count(table["n"]), look.CI)


@look.styled
def free_answers(answers: pd.DataFrame) -> Figure:
    """Shares of free answers by condition: right, a listed wrong option, something else.

    Columns condition and verdict, one row an answer.
    """
    look.need(answers, "free answers", "condition", "verdict")
    names = look.in_order(answers["condition"], look.CONDITIONS)
    shares = 100 * pd.crosstab(answers["condition"], answers["verdict"], normalize="index")
    shares = shares.reindex(index=names, columns=list(look.ANSWERS), fill_value=0.0)
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.4 + 0.32 * len(names)))
    place, left = np.arange(len(names))[::-1], np.zeros(len(names))
    for verdict, colour in look.ANSWERS.items():
        part = shares[verdict].to_numpy()
        bars = ax.barh(place, part, left=left, color=colour, label=verdict, height=0.7)
        ax.bar_label(bars, [f"{x:.0f}" if x >= 5 else "" for x in part], label_type="center")
        left += part
    ax.set_yticks(place, names)
    ax.set(xlim=(0, 100), xlabel="free answers (%)", ylabel="condition")
    look.legend_above(fig, ax, 3)
    look.title(fig, "What the model answers")
    return look.caption(fig, look.count(answers.groupby("condition").size()))


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
    words = look.WORDS.get(metric, metric)
    ax.set(xlabel=f"{words}, genuine − {name} ({unit})", ylabel="questions")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))


@look.styled
def metric_by_condition(
    scores: pd.DataFrame, names: Sequence[str] = (metrics.CARD, metrics.CHOICE), seed: int = 0
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
