"""Figures of the swaps through SAEs: the battery, shuffled labels, specificity, depth."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging.suite.plots import look
from sandbagging.suite.plots.saes import Name, named

WORDS = {
    "E6": "E6, median genuine code",
    "E4": "E4, median sandbag code",
    "E1": "E1, code of shuffled labels",
    "E1_mean": "E1, mean for median",
    "delta+": "delta+, x + D(m_G) − D(m_S)",
    "delta-": "delta−, x − D(m_G) + D(m_S)",
    "delta_E1": "delta_E1, shuffled labels",
    "delta_span": "random direction, same length",
    "E6_frozen_decoder": "E6, decoder frozen at random",
    "E6_near_decoder": "E6, decoder kept near random",
    "E6_frozen_encoder": "E6, encoder frozen at random",
    "oracle": "oracle, own genuine stream",
    "diff_means": "difference of means",
    "diff_means_shuffled": "the same, shuffled labels",
    "mean_ablation": "mean over all prompts",
    "identity": "identity, D(f(x))",
    "noise": "noise of E6's size",
}


@look.styled
def battery(
    summary: pd.DataFrame, layer: int, tag: str | None = None, metric: str = "p_full", **where
) -> Figure:
    """All interventions through one SAE of a layer, its guards and its verdict.

    summary has the columns of `04_swap/summary.csv`; where picks rows further: position="last".
    Without a tag the layer's JumpReLU SAE trained on mixed prompts is drawn, or else its first.
    Rows without a tag (rivals that need no SAE) belong to every SAE.
    """
    part = _of_layer(summary, layer, metric, where)
    tag = tag or main_tag(part["tag"][_with_sae(part)])
    rows = _of_tag(part, tag)
    names = look.in_order(rows["intervention"], look.INTERVENTIONS)
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.7 + 0.27 * len(names)))
    _interventions(ax, rows, names)
    ax.set_yticks(ax.get_yticks(), [WORDS.get(name, name) for name in names])
    ax.set(xlabel=look.change(metric), ylabel="intervention")
    ax.set_title(_guards(rows), fontsize=8)
    look.title(fig, f"{named(tag) if tag else f'Layer {layer}, no SAE'}: {_verdict(rows)}")
    sign = "Positive: the right answer becomes more probable."
    return look.caption(fig, look.count(rows["n"]), look.CI, sign)


@look.styled
def _others(part: pd.DataFrame, tags: list[str], layer: int, metric: str) -> Figure:
    names = look.in_order(part["intervention"], look.INTERVENTIONS)
    short = [name.replace("delta-", "delta−").replace("_", " ") for name in names]
    fig, axes = look.panels(len(tags), 3, 0.95 + 0.17 * len(names), extra=0.7)
    for ax, tag in zip(axes, tags, strict=True):
        rows = _of_tag(part, tag)
        _interventions(ax, rows, names)
        first = ax.get_subplotspec().is_first_col()
        ax.set_yticks(ax.get_yticks(), short if first else [""] * len(names), fontsize=8)
        told = textwrap.fill(f"{named(tag)}: {_verdict(rows)}", 34)
        ax.set_title(told, fontsize=8, fontweight="bold")
        ax.set_xlabel(look.change(metric))
    look.title(fig, f"The other SAEs of layer {layer}")
    return look.caption(fig, look.count(part["n"]), look.CI)


def battery_others(
    summary: pd.DataFrame, layer: int, tag: str | None = None, metric: str = "p_full", **where
) -> Figure | None:
    """As `battery`, for the layer's other SAEs, a small panel each; None where there are none."""
    part = _of_layer(summary, layer, metric, where)
    tags = list(dict.fromkeys(part["tag"][_with_sae(part)]))
    main = tag or main_tag(tags)
    others = [other for other in tags if other != main]
    return _others(part, others, layer, metric) if others else None


def main_tag(tags: Iterable[str]) -> str | None:
    """Return the SAE that stands for its layer: JumpReLU on mixed prompts, or else the first."""
    names = {tag: named(tag) for tag in dict.fromkeys(tags)}

    def rank(tag: str) -> tuple[bool, bool]:
        return names[tag].trained_on != "mixed", names[tag].architecture != "JumpReLU"

    return min(names, key=rank, default=None)


def _of_layer(summary: pd.DataFrame, layer: int, metric: str, where: dict) -> pd.DataFrame:
    part = look.pick(summary, "summary", layer=layer, metric=metric, **where)
    look.need(part, "summary", "tag", "intervention", "effect_pp", "low", "high", "n")
    return part


def _with_sae(part: pd.DataFrame) -> pd.Series:
    return ~(part["tag"].isna() | part["tag"].astype(str).isin(["", "-", "none"]))


def _of_tag(part: pd.DataFrame, tag: str | None) -> pd.DataFrame:
    """One SAE's rows, and the rivals that need no SAE."""
    rows = part[part["tag"] == tag]
    shared = part[~_with_sae(part) & ~part["intervention"].isin(rows["intervention"])]
    return pd.concat([rows, shared])


def _interventions(ax: Axes, rows: pd.DataFrame, names: list[str]) -> None:
    place = {name: len(names) - 1 - i for i, name in enumerate(names)}
    look.line_at_zero(ax)
    for name, part in rows.groupby("intervention", sort=False):
        # Several rows of one name (seeds, positions) stand one under the other.
        spread = np.linspace(0.2, -0.2, len(part)) if len(part) > 1 else np.zeros(1)
        mark = look.INTERVENTIONS.get(name, (look.INK, "."))
        look.interval(ax, part, "effect_pp", place[name] + spread, mark)
    ax.set_yticks(list(place.values()))
    ax.set_ylim(-0.6, len(names) - 0.4)
    look.guides(ax)


def _guards(rows: pd.DataFrame) -> str:
    """The guards of an SAE's E6 row as one line."""
    row = _e6(rows).iloc[0]

    def number(column: str) -> str:
        return f"{row[column]:.3g}" if column in row and pd.notna(row[column]) else "–"

    return (
        f"non-zero latents m_G {number('nnz_genuine')}, m_S {number('nnz_sandbag')}; "
        f"‖D(m_G) − D(m_S)‖ {number('norm_delta')}, ‖change‖ {number('norm_change')}; "
        f"FVU {number('fvu')}"
    )


def _e6(rows: pd.DataFrame) -> pd.DataFrame:
    e6 = rows[rows["intervention"] == "E6"]
    return e6 if len(e6) else rows


def _verdict(rows: pd.DataFrame) -> str:
    """The verdict of the E6 rows: other rows may belong to a cell of another error term."""
    given = _e6(rows)["verdict"].dropna() if "verdict" in rows else []
    words = [str(v) for v in dict.fromkeys(given) if str(v).strip()]
    return " / ".join(words) or "no verdict given"


@look.styled
def shuffles(table: pd.DataFrame) -> Figure:
    """Effects in pp of shuffled labels, a mark a seed, beside the lines of E4 and E6, per SAE.

    Columns SAE, kind (balanced, plain), effect_pp, E6, E4.
    """
    look.need(table, "table of shuffles", "SAE", "kind", "effect_pp", "E6", "E4")
    names = list(dict.fromkeys(table["SAE"]))
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.5 + 0.45 * len(names)))
    first = table.drop_duplicates("kind").set_index("kind")["SAE"].to_dict()
    for i, name in enumerate(names):
        part = table[table["SAE"] == name]
        for end in ("E4", "E6"):
            colour, marker = look.INTERVENTIONS[end]
            at = part[end].iloc[0]
            ax.vlines(at, i - 0.36, i + 0.36, color=colour, linewidth=2)
            ax.plot(at, i + 0.36, marker, color=colour, label=end if i == 0 else None)
        for kind, (colour, marker, shift) in SHUFFLES.items():
            effects = part.loc[part["kind"] == kind, "effect_pp"]
            # A kind is named in the legend by the first row that has it.
            label = f"E1, {kind} shuffles" if name == first.get(kind) else None
            marks = {"color": colour, "alpha": 0.45, "markersize": 4, "linestyle": "none"}
            ax.plot(effects, np.full(len(effects), i + shift), marker, label=label, **marks)
    look.line_at_zero(ax)
    ax.set_yticks(range(len(names)), [str(named(name)) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set(xlabel=look.change("p_full"), ylabel="SAE")
    look.legend_above(fig, ax, 4)
    look.title(fig, "Shuffled labels (E1)")
    how_many = look.count(table.groupby(["SAE", "kind"]).size(), "shuffles")
    return look.caption(fig, how_many, "Each mark is one shuffle's mean over the questions.")


SHUFFLES = {"balanced": (look.INK, "s", 0.14), "plain": (look.ORANGE, "o", -0.14)}
GAPS = {"E6 − E1": (look.INK, "s"), "E6 − E4": (look.VERMILION, "v")}


@look.styled
def specificity(
    summary: pd.DataFrame, margin: float = 0.15, metric: str = "p_full", **where
) -> Figure:
    """Gaps E6 − E1 and E6 − E4 in pp per SAE, with the band ±margin (pp) that counts as zero.

    summary: columns as `06_specificity/summary.csv`, with interventions `E6-E1` and `E6-E4`.
    Cells whose gaps and intervals are all 0 are one intervention by construction: they are counted
    in the caption, not drawn.
    """
    part = look.pick(summary, "summary", metric=metric, **where)
    kind = part["intervention"].astype(str).str.replace(r"\s*[−-]\s*", " − ", regex=True)
    part = part.assign(intervention=kind)[kind.isin(list(GAPS))]
    rows = ("layer", "tag", "intervention", "effect_pp", "low", "high", "n")
    look.need(part, "summary (rows E6-E1 and E6-E4)", *rows)
    extra = [k for k in ("position", "error_term") if k in part and part[k].nunique() > 1]
    cell = part.groupby(["layer", "tag", *extra], sort=False)
    zero = cell[["effect_pp", "low", "high"]].transform(lambda x: (x == 0).all()).all(axis=1)
    drawn = part[~zero] if not zero.all() else part
    several = [k for k in extra if drawn[k].nunique() > 1]
    drawn = drawn.assign(cell=[_cell(row, several) for row in drawn.to_dict("records")])
    fig, ax = plt.subplots(figsize=(look.WIDTH, 1.7 + 0.3 * drawn["cell"].nunique()))
    ax.axvspan(-margin, margin, color="#CCCCCC", alpha=0.6, linewidth=0, label=f"±{margin} pp")
    look.rows_by_group(ax, drawn, "cell", "intervention", "effect_pp", GAPS)
    look.guides(ax)
    ax.set(xlabel=f"gap in the {look.change(metric)}", ylabel="SAE")
    look.legend_above(fig, ax, 3)
    look.title(fig, "Specificity gaps")
    n_cells = cell.ngroups
    left_out = n_cells - drawn.groupby(["layer", "tag", *extra]).ngroups
    why = f"Not drawn: {left_out} of {n_cells} cells, where the gaps are 0 by construction."
    mean = "E1 is the mean over its seeds and lies midway between E6 and E4 in expectation."
    return look.caption(fig, look.count(drawn["n"]), look.CI, mean, why if left_out else "")


def _cell(row: dict, extra: list[str]) -> str:
    name: Name = named(row["tag"])
    if name.layer < 0:
        name = name._replace(layer=int(row["layer"]))
    return ", ".join([str(name), *(str(row[k]) for k in extra)])


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
