"""Figures of the chosen heads together: by condition, beside random sets, by subset, and inside."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sandbagging import metrics, statistics
from sandbagging.statistics import Estimate
from sandbagging.suite.plots import look

KINDS = {"uniform": "heads of any layer", "same_layer": "heads of the same layers"}
ORDER = ("sandbag", "genuine", "neutral")  # of conditions, in every figure of the circuit


@look.styled
def draws(table: pd.DataFrame, observed: Estimate | float, metric: str = "p_full") -> Figure:
    """Effects in pp of random sets of heads, of any and of the same layers, and the chosen heads'.

    Columns kind, effect and where known metric, as `08_circuit/draws.csv`; a panel a kind.
    """
    look.need(table, "draws", "kind", "effect")
    part = table[table["metric"] == metric] if "metric" in table else table
    look.need(part, f"draws (metric {metric})", "kind")
    kinds = list(dict.fromkeys(part["kind"]))
    size = (look.WIDTH, 1.2 + 1.45 * len(kinds))
    fig, axes = plt.subplots(len(kinds), 1, figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, kind in zip(axes[:, 0], kinds, strict=True):
        effects = part.loc[part["kind"] == kind, "effect"].to_numpy(dtype=float)
        _draws(ax, effects, observed)
        words = f"{len(effects)} random sets, {KINDS.get(kind, kind.replace('_', ' '))}"
        value = _value(observed)
        z, p = statistics.z_score(value, effects), statistics.rank_p(value, effects)
        ax.set_title(f"{words}: z = {z:.1f}, rank p = {p:.3f}")
    axes[-1, 0].set_xlabel(f"joint {look.change(metric)}")
    look.legend_above(fig, axes[0, 0], 2)
    look.title(fig, "Beside random sets of as many heads")
    band = f"n = {observed.n} questions; shaded: 95 % CI." if isinstance(observed, Estimate) else ""
    n = "" if band else f"n = {len(part)} draws."
    return look.caption(fig, band, n, "The chosen heads are left out of the draws.")


def _value(observed: Estimate | float) -> float:
    return observed.value if isinstance(observed, Estimate) else float(observed)


def _draws(ax: Axes, effects: np.ndarray, observed: Estimate | float) -> None:
    bars = {"color": look.SKY, "edgecolor": "white", "bins": 30}
    sns.histplot(x=effects, ax=ax, label="random sets", **bars)
    if isinstance(observed, Estimate):
        band = {"color": look.VERMILION, "alpha": 0.15, "linewidth": 0}
        ax.axvspan(observed.low, observed.high, **band)
    value = _value(observed)
    label = f"chosen heads, {value:+.2f} pp"
    ax.axvline(value, color=look.VERMILION, linewidth=2, label=label)
    look.line_at_zero(ax)
    ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_ylabel("draws")


@look.styled
def circuit_conditions(effects: pd.DataFrame, seed: int = 0) -> Figure:
    """Joint effect of the chosen heads per condition, and how much larger it is under sandbagging.

    effects: rows question_id, condition, intervention, metric, baseline, value, as
    `08_circuit/effects_by_question.csv.gz`; of several interventions, "joint" is drawn.
    """
    names = ("question_id", "condition", "metric", "baseline", "value")
    look.need(effects, "effects by question", *names)
    if "intervention" in effects and effects["intervention"].nunique() > 1:
        effects = look.pick(effects, "effects by question", intervention="joint")
    table = _effects_and_differences(effects, seed)
    units = list(dict.fromkeys(table["unit"]))
    share = [1.6 if unit == "pp" else 1 for unit in units]
    size = (look.WIDTH, 1.5 + 0.36 * table["row"].nunique())
    fig, axes = plt.subplots(
        1, len(units), figsize=size, sharey=True, squeeze=False, width_ratios=share
    )
    for ax, unit in zip(axes[0], units, strict=True):
        part = table[table["unit"] == unit]
        look.rows_by_group(ax, part, "row", "metric", "value", look.METRICS)
        look.guides(ax)
        split = sum("−" in row for row in part["row"].unique())
        if split:
            ax.axhline(split - 0.5, color=look.GREY, linewidth=0.8)
        ax.set_xlabel(f"effect of zeroing the heads ({unit})")
    axes[0][0].set_ylabel("condition, and paired difference")
    handles, labels = [], []
    for ax in axes[0]:
        found = ax.get_legend_handles_labels()
        handles, labels = handles + found[0], labels + found[1]
    fig.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    look.title(fig, "Joint effect by condition")
    paired = "Below the line: differences of effects, question by question."
    return look.caption(fig, look.count(table["n"]), look.CI, paired)


def _effects_and_differences(effects: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows row ("sandbag", "sandbag − genuine"), metric, value, low, high, n, unit."""
    rows = []
    for metric, part in effects.groupby("metric", sort=False):
        unit, scale = metrics.unit_of_change(metric)
        look.once(part, "effects by question", ["question_id", "condition"], "intervention")
        moved = part.assign(change=part["value"] - part["baseline"])
        wide = moved.pivot(index="question_id", columns="condition", values="change")
        order = look.in_order(wide.columns, ORDER)
        shown = {name: wide[name] for name in order}
        if "sandbag" in order:
            others = [name for name in order if name != "sandbag"]
            shown |= {f"sandbag − {name}": wide["sandbag"] - wide[name] for name in others}
        for row, values in shown.items():
            both = values.to_numpy(), np.zeros(len(values))
            estimate = statistics.paired_effect(*both, unit=unit, scale=scale, seed=seed)
            rows.append({"row": row, "metric": metric} | estimate.as_dict())
    return pd.DataFrame(rows)


@look.styled
def subsets(table: pd.DataFrame, metric: str = "p_full") -> Figure:
    """Effect in pp of every subset of the chosen heads, its members as dots below.

    Columns heads ("L5H4+L12H2"), effect, low, high, n, and where known metric.
    """
    look.need(table, "subsets", "heads", "effect", "low", "high", "n")
    part = table[table["metric"] == metric] if "metric" in table else table
    sets = [_members(text) for text in part["heads"]]
    part = part.assign(size=[len(s) for s in sets], members=sets)
    part = part.sort_values(["size", "effect"])
    heads = sorted({head for s in sets for head in s}, key=_numbers)
    size, ratio = (look.WIDTH, 3.0 + 0.2 * len(heads)), [3, 0.25 * len(heads) + 0.2]
    fig, (top, low) = plt.subplots(2, 1, figsize=size, sharex=True, height_ratios=ratio)
    place = np.arange(len(part))
    look.line_at_zero(top, across=True)
    look.interval(top, part, "effect", place, (look.INK, "o"), along="y")
    top.set_ylabel(look.change(metric))
    for x, row in zip(place, part["members"], strict=True):
        low.plot([x] * len(heads), range(len(heads)), ".", color="#DDDDDD")
        low.plot([x] * len(row), [heads.index(h) for h in row], "o", color=look.INK)
    low.set_yticks(range(len(heads)), heads)
    low.set_xticks([])
    low.set(xlabel="subset (by size, then effect)", ylabel="head zeroed")
    low.set_ylim(len(heads) - 0.5, -0.5)
    look.title(fig, "Every subset of the chosen heads")
    return look.caption(fig, look.count(part["n"]), look.CI, f"{len(part)} subsets.")


def _members(heads: object) -> list[str]:
    return re.findall(r"L\d+H\d+", "" if pd.isna(heads) else str(heads))


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", name))


@look.styled
def attention(table: pd.DataFrame) -> Figure:
    """Share of each head's attention from the last prompt token on each region of the prompt.

    Columns head, condition, region, value, low, high, n, and where known tokens (mean number of
    tokens of the region), as `heads.reading.attention_by_region`; a panel a region.
    """
    look.need(table, "attention table", "head", "condition", "region", "value", "low", "high", "n")
    regions, heads = (list(dict.fromkeys(table[c])) for c in ("region", "head"))
    conditions = table["condition"].nunique()
    size = (look.WIDTH, 1.5 + len(heads) * (0.16 + 0.13 * conditions))
    shared = {"sharex": True, "sharey": True, "squeeze": False}
    fig, axes = plt.subplots(1, len(regions), figsize=size, **shared)
    for ax, region in zip(axes[0], regions, strict=True):
        part = table[table["region"] == region]
        look.rows_by_group(ax, part, "head", "condition", "value", look.CONDITIONS, zero=False)
        look.guides(ax)
        ax.set_title(f"{region}{_uniform(table, part)}", fontsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
        ax.set_xlabel("share of attention")
    axes[0][0].set_xlim(-0.03, 1.1 * table["high"].max())
    axes[0][0].set_ylabel("head")
    look.legend_above(fig, axes[0][0], conditions)
    look.title(fig, "Where the heads look")
    source = "Attention from the last prompt token; sink: the first token."
    even = "In brackets: the region's share of the tokens." if "tokens" in table else ""
    return look.caption(fig, look.count(table["n"]), look.CI, source, even)


def _uniform(table: pd.DataFrame, part: pd.DataFrame) -> str:
    """What even attention would give, over the conditions, as text."""
    if "tokens" not in table:
        return ""
    once = table.drop_duplicates(["condition", "region"])
    here = part.drop_duplicates("condition").set_index("condition")["tokens"]
    share = 100 * here / once.groupby("condition")["tokens"].sum()
    low, high = round(share.min()), round(share.max())
    return f"\n({low} %)" if low == high else f"\n({low}–{high} %)"


@look.styled
def logits(table: pd.DataFrame) -> Figure:
    """What each head adds to the logits of right and wrong answers, in nats.

    Columns head, condition, to, value, low, high, n, as `heads.reading.logit_table`.
    """
    look.need(table, "logit table", "head", "condition", "to", "value", "low", "high", "n")
    table = table.assign(to=table["to"].str.replace(" - ", " − ", regex=False))
    looks = {
        "correct": (look.BLUE, "o"),
        "wrong": (look.VERMILION, "v"),
        "correct − wrong": (look.INK, "D"),
    }
    conditions = list(dict.fromkeys(table["condition"]))
    size = (look.WIDTH, 1.4 + 0.4 * table["head"].nunique())
    shared = {"sharey": True, "sharex": True, "squeeze": False}
    fig, axes = plt.subplots(1, len(conditions), figsize=size, **shared)
    for ax, condition in zip(axes[0], conditions, strict=True):
        part = table[table["condition"] == condition]
        look.rows_by_group(ax, part, "head", "to", "value", looks)
        look.guides(ax)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set(title=f"{condition} prompts", xlabel="direct push on the logit (nats)")
    axes[0][0].set_ylabel("head")
    look.legend_above(fig, axes[0, 0], 3)
    look.title(fig, "What the heads write")
    first = "First answer token; the final norm frozen."
    return look.caption(fig, look.count(table["n"]), look.CI, first)
