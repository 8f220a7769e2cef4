"""Figures of the chosen heads: beside rivals and draws, by place and way, alone and together."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from sandbagging.suite.plots import look

KINDS = {"uniform": "random, any layer", "same_layer": "random, same layers"}
SETS = {
    "joint": "chosen heads",
    "leading": "lead one by one",
    "patching": "patching's heads",
    "random": "a random set",
}  # how named sets are called
OF_SETS = {"chosen heads": (look.VERMILION, "o"), "patching's heads": (look.BLUE, "s")}
SHARES = {"restored": (look.INK, "o"), "closed": (look.PURPLE, "s")}
SIZE_OF_DRAW = 3
ORDER = ("sandbag", "genuine", "neutral")  # of conditions, in figures of the circuit


def called(name: str) -> str:
    """Return how a figure calls a set of heads: "rival:genuine" is what the search finds there."""
    rule, _, condition = name.partition(":")
    return f"found on {condition} prompts" if rule == "rival" else SETS.get(name, name)


@look.styled
def beside_rivals(
    table: pd.DataFrame, draws: pd.DataFrame, least: Sequence[float] = (0.1, 0.5)
) -> Figure:
    """What zeroing sets of heads does on sandbag and genuine prompts, and the shares of the gap
    that it restores and closes, on log-odds.

    table: rows set, metric, quantity ("effect", "effect on genuine", "share_restored",
    "share_closed"), value, low, high, n, as `08_circuit/shares.csv`; draws: as `draws.csv`.
    """
    look.need(table, "shares", "set", "metric", "quantity", "value", "low", "high", "n")
    table = look.pick(table, "shares", metric="logodds")
    table = table.assign(row=table["set"].map(called))
    draws = draws[draws["metric"] == "logodds"] if len(draws) else draws
    kinds = [k for k in KINDS if k in set(draws["kind"])] if len(draws) else []
    names = [*dict.fromkeys(table["row"]), *(KINDS[kind] for kind in kinds)]
    size = (look.WIDTH, 1.6 + 0.42 * len(names))
    fig, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=[1.15, 1])
    words = {"effect": "sandbag", "effect on genuine": "genuine"}
    effects = table[table["quantity"].isin(words)]
    effects = effects.assign(condition=effects["quantity"].map(words))
    _rows(left, effects, names, "condition", look.CONDITIONS)
    shares = table.assign(what=table["quantity"].map({f"share_{what}": what for what in SHARES}))
    _rows(right, shares.dropna(subset="what"), names, "what", SHARES)
    for kind in kinds:
        place = len(names) - 1 - names.index(KINDS[kind])
        part = draws[draws["kind"] == kind]
        _cloud(left, part["effect"], place + 0.1, look.CONDITIONS["sandbag"])
        _cloud(left, part["effect_on_genuine"], place - 0.1, look.CONDITIONS["genuine"])
        _cloud(right, part["share_restored"], place + 0.1, SHARES["restored"])
        _cloud(right, part["share_closed"], place - 0.1, SHARES["closed"])
    left.set_xlabel("effect on the log-odds of the right answer (nats)")
    for share in least:
        right.axvline(share, color=look.GREY, linewidth=0.8, linestyle=":")
    right.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    right.set_xlabel("share of the gap (log-odds)")
    look.legend_of_all(fig, np.array([left, right]))
    look.title(fig, "Heads zeroed on both kinds of prompts")
    small = "Small marks: one random set each." if kinds else ""
    dotted = "Dotted: the least share restored of a part, and of a circuit."
    return look.caption(fig, look.count(table["n"]), "Bars: 95 % CI, the wider.", small, dotted)


def _rows(
    ax: Axes, table: pd.DataFrame, names: Sequence[str], group: str, looks: dict[str, look.Look]
) -> None:
    """One row a set, in it one point with CI a group; a line at 0."""
    look.line_at_zero(ax)
    look.guides(ax)
    groups = list(dict.fromkeys(table[group]))
    for i, name in enumerate(groups):
        part = table[table[group] == name]
        apart = 0.2 * ((len(groups) - 1) / 2 - i)
        at = [len(names) - 1 - names.index(row) + apart for row in part["row"]]
        look.interval(ax, part, "value", at, looks[name], label=name)
    ax.set_yticks(range(len(names)), names[::-1])
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.xaxis.set_major_locator(MaxNLocator(6))


def _cloud(ax: Axes, values: pd.Series, place: float, how: look.Look) -> None:
    colour, marker = how
    jitter = np.random.default_rng(0).uniform(-0.06, 0.06, len(values))
    marks = {"color": colour, "alpha": 0.35, "markersize": SIZE_OF_DRAW, "linewidth": 0}
    ax.plot(values, place + jitter, marker=marker, **marks)


@look.styled
def shares_by_way(table: pd.DataFrame, title: str, note: str = "") -> Figure:
    """The shares of the log-odds gap that sets of heads restore and close, a row a way: where, by
    which path or by what they are replaced.

    Rows set, way, metric, quantity, value, low, high, n, as `08_circuit/positions.csv`,
    `paths.csv` and `replacements.csv`.
    """
    look.need(table, "shares by way", "set", "way", "metric", "quantity", "value", "low", "high")
    table = look.pick(table, "shares by way", metric="logodds")
    table = table.assign(set=table["set"].map(called))
    ways, sets = (list(dict.fromkeys(table[c])) for c in ("way", "set"))
    size = (look.WIDTH, 1.4 + len(ways) * (0.2 + 0.1 * len(sets)))
    fig, axes = plt.subplots(1, 2, figsize=size, sharey=True)
    spare = zip(
        [s for s in sets if s not in OF_SETS],
        [(look.GREEN, "^"), (look.PURPLE, "v"), (look.ORANGE, "D"), (look.GREY, "x")],
        strict=False,
    )
    looks = {**OF_SETS, **dict(spare)}
    for ax, what in zip(axes, SHARES, strict=True):
        part = look.pick(table, "shares by way", quantity=f"share_{what}")
        look.rows_by_group(ax, part, "way", "set", "value", looks)
        look.guides(ax)
        ax.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.set_xlabel(f"share of the gap {what} (log-odds)")
    look.legend_above(fig, axes[0], min(3, len(sets)))
    look.title(fig, title)
    return look.caption(fig, look.count(table["n"]), "Bars: 95 % CI, the wider.", note)


def by_place_and_path(places: pd.DataFrame, paths: pd.DataFrame, told: str) -> Figure:
    """The shares of the gap with the heads zeroed at one place of the prompts, and with the part
    `told` hidden from them there: tables as `shares_by_way` takes them.
    """
    zeroed = places.assign(way="zeroed: " + places["way"])
    hidden = paths.assign(way=f"{told} hidden: " + paths["way"])
    both = pd.concat([zeroed, hidden], ignore_index=True)
    return shares_by_way(both, "Where the heads act, and what they read")


def by_replacement(table: pd.DataFrame) -> Figure:
    """The shares of the gap by what stands in for the heads; table as `shares_by_way` takes it."""
    note = "At all tokens but the first."
    return shares_by_way(table, "What stands in for the heads", note)


@look.styled
def members(table: pd.DataFrame) -> Figure:
    """What each chosen head restores of the gap by itself, and what is lost when it alone stays in.

    Rows head, quantity ("alone", "lost without it"), value, low, high, n, as `08_circuit/parts.csv`
    has them.
    """
    look.need(table, "parts", "head", "quantity", "value", "low", "high", "n")
    looks = {"alone": (look.SKY, "o"), "lost without it": (look.VERMILION, "D")}
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.3 + 0.34 * table["head"].nunique()))
    look.rows_by_group(ax, table, "head", "quantity", "value", looks)
    look.guides(ax)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    ax.set_xlabel("share of the gap restored (log-odds)")
    look.legend_above(fig, ax, 2)
    look.title(fig, "Each head alone, and what the others lack without it")
    return look.caption(fig, look.count(table["n"]), "Bars: 95 % CI, the wider.")


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
