"""Results in, figure out: every function takes tables as they lie in a run folder and returns a Figure.

Axes carry units, captions carry n and what a bar means, titles say what is shown and leave the verdict
to the text. Colours and markers of the conditions are fixed, differ in a greyscale print, and are safe
for colour-blind readers. Nothing is shown or kept open: the caller displays or saves the figure.
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Callable, Iterable
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from sandbagging import statistics
from sandbagging.errors import UserError
from sandbagging.statistics import Estimate

WIDTH = 8.0  # inches
INK, GREY = "#222222", "#7F7F7F"
BLUE, VERMILION, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"

# One look (colour, marker) per condition, metric and intervention, the same in every figure.
CONDITIONS = {"genuine": (BLUE, "o"), "sandbag": (VERMILION, "v"), "neutral": (GREY, "s"), "placebo": (GREEN, "D")}
METRIC_STYLES = {"p_full": (INK, "o"), "choice_len": (PURPLE, "s"), "logodds": (SKY, "D"), "p_first": (ORANGE, "v")}
INTERVENTIONS = {
    "E6": (BLUE, "o"),
    "E4": (VERMILION, "v"),
    "E1": (GREY, "s"),
    "E1_mean": (GREY, "P"),
    "delta+": (BLUE, "^"),
    "delta-": (VERMILION, "<"),
    "delta_E1": (GREY, "D"),
    "oracle": (INK, "*"),
    "diff_means": (PURPLE, "o"),
    "diff_means_shuffled": (PURPLE, "s"),
    "mean_ablation": (INK, "d"),
    "identity": (INK, "x"),
    "noise": (INK, "+"),
}
UNITS = {
    "p_full": "p_full (probability)",
    "choice_len": "choice_len (probability)",
    "p_first": "p_first (probability)",
    "choice_sum": "choice_sum (probability)",
    "logodds": "logodds (nats)",
    "accuracy": "accuracy (share of questions)",
}
MARKERS = "osv^D<>Pd*hp"
CI = "Bars: 95 % CI over questions."


def style() -> dict:
    """Return the matplotlib settings of the suite's figures, for `matplotlib.rc_context`."""
    return {
        "figure.dpi": 100,
        "savefig.dpi": 120,
        "figure.constrained_layout.use": True,
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "lines.markersize": 5,
        "axes.axisbelow": True,
    }


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw under `style()` without touching the caller's settings or leaving a figure open."""

    @functools.wraps(draw)
    def wrapped(*args, **kwargs) -> Figure:
        with plt.rc_context(style()):
            fig = draw(*args, **kwargs)
        plt.close(fig)  # else a notebook shows it twice
        return fig

    return wrapped


# --- baseline -------------------------------------------------------------------------------------


@styled
def gap_by_framing(table: pd.DataFrame) -> Figure:
    """Gap genuine − sandbag in pp per framing and metric; columns framing, metric, value, low, high, n."""
    _need(table, "gap table", "framing", "metric", "value", "low", "high", "n")
    fig, ax = plt.subplots(figsize=(WIDTH, 1.6 + 0.42 * table["framing"].nunique()))
    _rows_by_group(ax, table, "framing", "metric", "value", METRIC_STYLES)
    ax.set_xlabel("gap, genuine − sandbag (pp)")
    ax.set_ylabel("framing")
    ax.legend(title="metric", loc="best")
    title(fig, "Sandbagging gap by framing")
    return caption(fig, count(table["n"]), CI)


@styled
def paired_scores(scores: pd.DataFrame, metric: str = "p_full", other: str = "sandbag") -> Figure:
    """Each question under genuine against another condition (probability), and its paired differences in pp."""
    _need(scores, "scores", "question_id", "condition", metric)
    _once(scores, "scores", ["question_id", "condition"], "framing")
    wide = scores.pivot(index="question_id", columns="condition", values=metric)
    _need(wide, "scores", "genuine", other)
    wide = wide[["genuine", other]].dropna()
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.0))
    _scatter_of_pairs(left, wide["genuine"], wide[other], metric, other)
    _histogram_of_gaps(right, wide["genuine"], wide[other], metric, other)
    title(fig, f"Every question under genuine and {other} prompts")
    return caption(fig, f"n = {len(wide)} questions.", "Points below the diagonal score lower on the vertical axis's prompts.")


def _scatter_of_pairs(ax: Axes, genuine: pd.Series, other: pd.Series, metric: str, name: str) -> None:
    colour, marker = CONDITIONS.get(name, (INK, "o"))
    ax.scatter(genuine, other, s=16, color=colour, marker=marker, alpha=0.55, linewidths=0, label="one question")
    ax.plot(genuine.mean(), other.mean(), "X", color=INK, markersize=9, label="mean")
    ax.axline((0, 0), slope=1, color=GREY, linewidth=0.8, linestyle="--", label="no difference")
    if metric != "logodds":
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_xlabel(f"genuine, {UNITS.get(metric, metric)}")
    ax.set_ylabel(f"{name}, {UNITS.get(metric, metric)}")
    ax.legend(loc="upper left")


def _histogram_of_gaps(ax: Axes, genuine: pd.Series, other: pd.Series, metric: str, name: str) -> None:
    scale, unit = (1, "nats") if metric == "logodds" else (100, "pp")
    gap = statistics.paired_effect(genuine, other, unit=unit, scale=scale)
    sns.histplot(x=scale * (genuine - other), ax=ax, color=SKY, edgecolor="white", bins=30)
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
    ax.axvspan(gap.low, gap.high, color=INK, alpha=0.2, linewidth=0)
    ax.axvline(gap.value, color=INK)
    ax.set_title(f"line and band: mean and CI95\n{gap.value:+.2f} {unit} [{gap.low:+.2f}, {gap.high:+.2f}]", loc="left", fontsize=8)
    ax.set_xlabel(f"{metric}, genuine − {name} ({unit})")
    ax.set_ylabel("questions")


@styled
def metric_by_condition(summary: pd.DataFrame) -> Figure:
    """Mean of each metric per condition; columns condition, metric, value, low, high, n."""
    _need(summary, "summary", "condition", "metric", "value", "low", "high", "n")
    _once(summary, "summary", ["condition", "metric"], "framing")
    fig = _panels_by_condition(summary, "value", lambda metric: UNITS.get(metric, metric))
    title(fig, "Scores by condition")
    return caption(fig, count(summary["n"]), CI)


# --- activations and SAEs ---------------------------------------------------------------------------


@styled
def norm_by_position(norms: pd.DataFrame) -> Figure:
    """Mean residual norm against token position, one line per layer, log axis; columns position, layer, norm."""
    _need(norms, "norms", "position", "layer", "norm")
    fig, ax = plt.subplots(figsize=(WIDTH, 3.6))
    layers = sorted(norms["layer"].unique())
    colours = sns.color_palette("cividis", len(layers))
    for i, layer in enumerate(layers):
        line = norms[norms["layer"] == layer].groupby("position")["norm"].mean()
        marks = {"marker": MARKERS[i % len(MARKERS)], "markevery": max(1, len(line) // 12)}
        ax.plot(line.index, line, color=colours[i], label=f"layer {layer}", **marks)
    ax.set_yscale("log")
    ax.set_xlabel("token position in the prompt (0 = first token)")
    ax.set_ylabel("mean L2 norm of resid_post\n(model units, log scale)")
    ax.legend()
    title(fig, "Size of the residual stream by position")
    how_many = count(norms["n"], "tokens per point") if "n" in norms else f"n = {len(norms)} position × layer values."
    return caption(fig, how_many)


@styled
def training_curves(history: pd.DataFrame) -> Figure:
    """Small multiples of fvu, loss and l0 (those present) against the training step, a line per tag."""
    _need(history, "training history", "tag", "step", "fvu")
    shown = [c for c in ("fvu", "loss", "l0") if c in history]
    labels = {"fvu": "FVU (share of variance, log)", "loss": "training loss (log scale)", "l0": "l0 (latents per token)"}
    tags = list(dict.fromkeys(history["tag"]))
    fig, axes = plt.subplots(1, len(shown), figsize=(WIDTH, max(2.8, 0.9 + 0.16 * len(tags))), squeeze=False)
    looks = dict(zip(tags, _looks(len(tags)), strict=True))
    for ax, quantity in zip(axes[0], shown, strict=True):
        for tag, part in history.dropna(subset=[quantity]).groupby("tag", sort=False):
            colour, _, dash = looks[tag]
            ax.plot(part["step"], part[quantity], color=colour, linestyle=dash, linewidth=1.2, label=tag)
        ax.set_xlabel("training step (batches)")
        ax.set_ylabel(labels[quantity])
        if quantity != "l0":
            ax.set_yscale("log")
        ax.xaxis.set_major_locator(MaxNLocator(4))
    _legend_beside(fig, axes[0][0])
    title(fig, "Training of the SAEs")
    return caption(fig, f"n = {len(tags)} SAEs; one line each.")


@styled
def sae_quality(metrics: pd.DataFrame) -> Figure:
    """Held-out quality per tag: FVU at all and last tokens, l0, dead latents, loss recovered (those present).

    Columns tag and fvu, and any of fvu_last, l0, l0_last, dead, loss_recovered.
    """
    _need(metrics, "SAE metrics", "tag", "fvu")
    labels = {
        "fvu": "FVU\n(share of variance)",
        "l0": "l0 (non-zero\nlatents per token)",
        "dead": "dead latents\n(share)",
        "loss_recovered": "loss recovered\n(share)",
    }
    shown = [c for c in labels if c in metrics and metrics[c].notna().any()]
    fig, axes = plt.subplots(1, len(shown), figsize=(WIDTH, 1.7 + 0.24 * len(metrics)), sharey=True, squeeze=False)
    place = np.arange(len(metrics))[::-1]
    for ax, quantity in zip(axes[0], shown, strict=True):
        ax.plot(metrics[quantity].astype(float), place, "o", color=BLUE, label="all tokens")
        if f"{quantity}_last" in metrics:
            ax.plot(metrics[f"{quantity}_last"].astype(float), place, "v", color=VERMILION, fillstyle="none", label="last tokens")
        ax.set_xlabel(labels[quantity])
        ax.set_xlim(0, 1.06 * max(ax.get_xlim()[1], 1e-3))
        ax.grid(axis="y", color="#E5E5E5", linewidth=0.6)
    axes[0][0].set_yticks(place, metrics["tag"], fontsize=8)
    axes[0][0].set_ylabel("SAE (tag)")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    title(fig, "Quality of the SAEs on held-out questions")
    return caption(fig, f"n = {len(metrics)} SAEs; FVU is 0 for a perfect and 1 for a constant reconstruction.")


@styled
def seen_and_held_out(metrics: pd.DataFrame, n_train: int, n_test: int) -> Figure:
    """FVU of each SAE on questions that it was trained on and on held-out ones; columns tag, fvu_train, fvu_same."""
    _need(metrics, "SAE metrics", "tag", "fvu_train", "fvu_same")
    place = np.arange(len(metrics))[::-1]
    fig, ax = plt.subplots(figsize=(WIDTH, 1.6 + 0.26 * len(metrics)))
    ax.hlines(place, metrics["fvu_train"], metrics["fvu_same"], color="#BBBBBB", linewidth=1.5, zorder=1)
    ax.plot(metrics["fvu_train"], place, "o", color=SKY, markeredgecolor=INK, label=f"train questions (seen), n = {n_train}")
    ax.plot(metrics["fvu_same"], place, "v", color=VERMILION, label=f"test questions (held out), n = {n_test}")
    ax.set_yticks(place, metrics["tag"], fontsize=8)
    ax.set_ylabel("SAE (tag)")
    ax.set_xlabel("FVU over all question tokens (share of variance)")
    ax.set_xlim(left=0)
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    title(fig, "Seen and held out")
    return caption(fig, f"n = {len(metrics)} SAEs, each on prompts of its own training condition, shared prefix left out.")


@styled
def chosen_latents(table: pd.DataFrame) -> Figure:
    """d_z on test questions of one latent per SAE, chosen on train questions; columns tag, pair, value, low, high, n."""
    _need(table, "table of chosen latents", "tag", "pair", "value", "low", "high", "n")
    looks = {pair: CONDITIONS["placebo" if "placebo" in pair else "sandbag"] for pair in table["pair"].unique()}
    fig, ax = plt.subplots(figsize=(WIDTH, 1.7 + 0.3 * table["tag"].nunique()))
    _rows_by_group(ax, table, "tag", "pair", "value", looks)
    ax.set_xlabel("d_z of the chosen latent on test questions (SD units; positive: larger in genuine prompts)")
    ax.set_ylabel("SAE (tag)")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
    title(fig, "The latent chosen on train questions")
    return caption(fig, count(table["n"], "test prompt pairs"), CI)


@styled
def separation(table: pd.DataFrame, n: int | None = None) -> Figure:
    """|d_max| per tag and pair beside the 95th percentile of its sign-flip null; n is the number of prompt pairs.

    Columns tag, pair, d, d_max, null_d_max; a row whose tag begins with `diff_means` is the baseline without an SAE.
    """
    _need(table, "separation table", "tag", "pair", "d", "d_max", "null_d_max")
    formulas = list(dict.fromkeys(table["d"]))
    tags = list(dict.fromkeys(table["tag"]))
    place = {tag: len(tags) - 1 - i for i, tag in enumerate(tags)}
    fig, axes = plt.subplots(1, len(formulas), figsize=(WIDTH, 1.8 + 0.26 * len(tags)), sharey=True, squeeze=False)
    for ax, formula in zip(axes[0], formulas, strict=True):
        for pair, part in table[table["d"] == formula].groupby("pair", sort=False):
            look = CONDITIONS["placebo"] if "placebo" in str(pair) else CONDITIONS["sandbag"]
            _dots_with_null(ax, part, part["tag"].map(place), pair, look)
        ax.set_xlabel(f"|d_max|, {formula} (SD units)")
        ax.set_xlim(left=0)
    axes[0][0].set_yticks(list(place.values()), [_diff_means_name(t) for t in tags], fontsize=8)
    axes[0][0].set_ylabel("SAE (tag)")
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    title(fig, "Best single latent")
    how_many = f"n = {n} prompt pairs." if n else count(table["n"], "prompt pairs") if "n" in table else f"n = {len(tags)} tags."
    return caption(fig, how_many, "Upright stroke: 95th percentile of d_max when conditions are exchanged at random within pairs.")


def _dots_with_null(ax: Axes, part: pd.DataFrame, place: pd.Series, name: str, look: tuple[str, str]) -> None:
    colour, marker = look
    shift = -0.14 if marker == CONDITIONS["placebo"][1] else 0.14
    ax.plot(part["d_max"].abs(), place + shift, marker, color=colour, label=str(name))
    ax.plot(part["null_d_max"], place + shift, "|", color=colour, markersize=9, markeredgewidth=1.8, label=f"{name}, null 95 %")


def _diff_means_name(tag: str) -> str:
    return str(tag).replace("diff_means_", "difference of means, ", 1) if str(tag).startswith("diff_means") else str(tag)


@styled
def topk_against_jumprelu(pairs: pd.DataFrame, what: str = "|d_max| (SD units)") -> Figure:
    """TopK and JumpReLU at matched layer and condition; columns layer, condition, topk, jumprelu (and model)."""
    _need(pairs, "pairs", "layer", "condition", "topk", "jumprelu")
    by_model = pairs["model"].nunique() > 1 if "model" in pairs else False
    names = [f"{r['model']} L{r['layer']} {r['condition']}" if by_model else f"L{r['layer']} {r['condition']}" for _, r in pairs.iterrows()]
    place = np.arange(len(pairs))[::-1]
    fig, ax = plt.subplots(figsize=(WIDTH, max(2.8, 1.7 + 0.26 * len(pairs))))
    ax.hlines(place, pairs["topk"], pairs["jumprelu"], color="#BBBBBB", linewidth=1.5, zorder=1)
    ax.plot(pairs["topk"], place, "o", color=BLUE, label="TopK")
    ax.plot(pairs["jumprelu"], place, "s", color=ORANGE, markeredgecolor=INK, label="JumpReLU")
    ax.set_yticks(place, names, fontsize=8)
    ax.set_xlabel(what)
    ax.set_ylabel("layer and training condition")
    ax.legend(loc="best")
    title(fig, "TopK and JumpReLU at the same layer and condition")
    jumprelu, topk = int((pairs["jumprelu"] > pairs["topk"]).sum()), int((pairs["topk"] > pairs["jumprelu"]).sum())
    return caption(fig, f"n = {len(pairs)} pairs; JumpReLU is the larger in {jumprelu}, TopK in {topk}.")


# --- interventions on SAE codes -----------------------------------------------------------------------


@styled
def battery(summary: pd.DataFrame, layer: int, metric: str = "p_full", **where) -> Figure:
    """All interventions of one layer on one axis in pp, a panel per SAE, with its guards above it and verdict below.

    summary has the columns of `04_swap/summary.csv`; where picks rows further, e.g. position="last",
    error_term=True. Rows without a tag (rivals that need no SAE) are drawn in every panel.
    """
    part = _pick(summary, "summary", layer=layer, metric=metric, **where)
    _need(part, "summary", "tag", "intervention", "effect_pp", "low", "high", "n")
    keys = ["tag"] + [k for k in ("position", "error_term") if k in part and part[k].nunique() > 1]
    no_sae = part["tag"].isna() | part["tag"].astype(str).isin(["", "-", "none"])
    panels = list(part[~no_sae].groupby(keys, sort=False)) or [(("no SAE",), part[no_sae])]
    names = _in_order(part["intervention"], INTERVENTIONS)
    fig, axes = _grid(len(panels), 3, 1.15 + 0.2 * len(names), extra=0.9 + 0.13 * len(panels))
    verdicts = []
    for ax, (key, rows) in zip(axes, panels, strict=False):
        shared = part[no_sae & ~part["intervention"].isin(rows["intervention"])]
        _interventions(ax, pd.concat([rows, shared]), names, labelled=ax.get_subplotspec().is_first_col())
        name = ", ".join(map(str, key))
        ax.set_title(f"{name}\n{_guards(rows)}", loc="left", fontsize=7)
        ax.set_xlabel(_effect(metric))
        verdicts += [f"{name}: {v}." for v in _verdicts(rows)]
    title(fig, f"Interventions at layer {layer}")
    same = {verdict.split(": ", 1)[-1] for verdict in verdicts}
    told = [f"for all panels: {verdict}" for verdict in same] if len(same) == 1 else verdicts or ["not given."]
    return caption(fig, count(part["n"]), CI, "Positive: the correct answer becomes more probable. Verdict —", *told)


def _interventions(ax: Axes, rows: pd.DataFrame, names: list[str], labelled: bool) -> None:
    place = {name: len(names) - 1 - i for i, name in enumerate(names)}
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
    for name, part in rows.groupby("intervention", sort=False):
        # Several rows of one name (seeds, layers' variants) stand one under the other.
        spread = np.linspace(0.2, -0.2, len(part)) if len(part) > 1 else np.zeros(1)
        interval(ax, part, "effect_pp", place[name] + spread, INTERVENTIONS.get(name, (INK, ".")))
    ax.set_yticks(list(place.values()), list(place) if labelled else [""] * len(place), fontsize=8)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.grid(axis="y", color="#EEEEEE", linewidth=0.6)
    if labelled:
        ax.set_ylabel("intervention")


def _guards(rows: pd.DataFrame) -> str:
    """The guards of a panel's E6 row as two short lines."""
    e6 = rows[rows["intervention"] == "E6"]
    row = (e6 if len(e6) else rows).iloc[0]

    def number(column: str) -> str:
        return f"{row[column]:.3g}" if column in row and pd.notna(row[column]) else "–"

    return (
        f"nnz m_G {number('nnz_genuine')}, m_S {number('nnz_sandbag')}; FVU {number('fvu')}\n"
        f"‖D(m_G)−D(m_S)‖ {number('norm_delta')}; ‖change‖ {number('norm_change')}"
    )


def _verdicts(rows: pd.DataFrame) -> list[str]:
    """The verdicts of a panel's E6 rows: other rows may belong to a cell of another error term."""
    if "verdict" not in rows:
        return []
    e6 = rows[rows["intervention"] == "E6"]
    return [str(v) for v in dict.fromkeys((e6 if len(e6) else rows)["verdict"].dropna()) if str(v).strip()]


@styled
def shuffles(table: pd.DataFrame) -> Figure:
    """Effects in pp of shuffled labels, one mark per seed, balanced above plain, between the lines of E4 and E6; a row per SAE.

    Columns SAE, kind (balanced, plain), effect_pp, E6, E4.
    """
    _need(table, "table of shuffles", "SAE", "kind", "effect_pp", "E6", "E4")
    names = list(dict.fromkeys(table["SAE"]))
    fig, ax = plt.subplots(figsize=(WIDTH, 1.5 + 0.5 * len(names)))
    looks = {"balanced": (INK, "s", 0.16), "plain": (ORANGE, "o", -0.16)}
    first = table.drop_duplicates("kind").set_index("kind")["SAE"].to_dict()  # the row that a kind is named by in the legend
    for i, name in enumerate(names):
        part = table[table["SAE"] == name]
        for end in ("E4", "E6"):
            colour, marker = INTERVENTIONS[end]
            ax.vlines(part[end].iloc[0], i - 0.38, i + 0.38, color=colour, linewidth=2)
            ax.plot(part[end].iloc[0], i + 0.38, marker, color=colour, label=end if i == 0 else None)
        for kind, (colour, marker, shift) in looks.items():
            effects = part.loc[part["kind"] == kind, "effect_pp"]
            label = f"E1, {kind} shuffles" if name == first.get(kind) else None
            ax.plot(
                effects, np.full(len(effects), i + shift), marker, color=colour, alpha=0.45, markersize=4, linestyle="none", label=label
            )
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(_effect("p_full"))
    ax.set_ylabel("SAE")
    _legend_beside(fig, ax)
    title(fig, "Shuffled labels (E1) between the reversed (E4) and the true ones (E6)")
    return caption(fig, count(table.groupby(["SAE", "kind"]).size(), "shuffles"), "Each mark is one shuffle's mean over the questions.")


@styled
def specificity(summary: pd.DataFrame, margin: float = 0.15, metric: str = "p_full", **where) -> Figure:
    """Gaps E6 − E1 and E6 − E4 in pp per layer and tag, with the band ±margin (pp) that counts as zero.

    summary has the columns of `06_specificity/summary.csv`, with interventions named `E6-E1` and `E6-E4`.
    """
    part = _pick(summary, "summary", metric=metric, **where)
    part = part.assign(intervention=part["intervention"].astype(str).str.replace(r"\s*[−-]\s*", "-", regex=True))
    part = part[part["intervention"].isin(["E6-E1", "E6-E4"])]
    _need(part, "summary (rows E6-E1 and E6-E4)", "layer", "tag", "intervention", "effect_pp", "low", "high", "n")
    extra = [k for k in ("position", "error_term") if k in part and part[k].nunique() > 1]
    cell = part.apply(lambda r: " · ".join([f"L{r['layer']}", str(r["tag"]), *(str(r[k]) for k in extra)]), axis=1)
    fig, ax = plt.subplots(figsize=(WIDTH, 1.7 + 0.36 * cell.nunique()))
    ax.axvspan(-margin, margin, color="#CCCCCC", alpha=0.6, linewidth=0, label=f"margin ±{margin} pp")
    _rows_by_group(ax, part.assign(cell=cell), "cell", "intervention", "effect_pp", {"E6-E1": (INK, "s"), "E6-E4": (VERMILION, "v")})
    ax.set_xlabel(f"gap in the {_effect(metric)}")
    ax.set_ylabel("layer and SAE")
    ax.legend(loc="best")
    title(fig, "Specificity gaps")
    return caption(fig, count(part["n"]), CI, "E1 is the mean over its seeds and lies midway between E6 and E4 in expectation.")


@styled
def verdicts_by_depth(judged: pd.DataFrame) -> Figure:
    """Effects of E6, E1, E4 and noise in pp by layer on planted models, a panel per variant, a mark per seed; verdicts below.

    Columns variant, layer, seed, verdict, and e6, e1, e4, noise as Estimates.
    """
    _need(judged, "verdicts", "variant", "layer", "seed", "verdict", "e6", "e1", "e4", "noise")
    variants, layers = list(dict.fromkeys(judged["variant"])), sorted(judged["layer"].unique())
    fig, axes = plt.subplots(1, len(variants), figsize=(WIDTH, 3.4), sharey=True, squeeze=False)
    shown = {"e6": "E6", "e1": "E1", "e4": "E4", "noise": "noise"}
    for ax, variant in zip(axes[0], variants, strict=True):
        part = judged[judged["variant"] == variant]
        for i, (column, name) in enumerate(shown.items()):
            place = part["layer"].map(layers.index) + 0.16 * (i - 1.5)
            colour, marker = INTERVENTIONS[name]
            ax.plot(place, [e.value for e in part[column]], marker, color=colour, alpha=0.8, linestyle="none", label=name)
        words = [" / ".join(dict.fromkeys(part.loc[part["layer"] == layer, "verdict"])) for layer in layers]
        ticks = [f"L{layer}\n{textwrap.fill(word, 13)}" for layer, word in zip(layers, words, strict=True)]
        ax.set_xticks(range(len(layers)), ticks, fontsize=7)
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
        ax.set_title(str(variant), loc="left")
        ax.set_xlabel("layer, and its verdict")
    axes[0][0].set_ylabel(_effect("p_full"))
    _legend_beside(fig, axes[0][0])
    title(fig, "Swaps on planted models, by depth")
    seeds = judged["seed"].nunique()
    return caption(fig, f"n = {seeds} seed{'s' if seeds > 1 else ''}, one mark each; means over {judged['e6'].iloc[0].n} questions.")


# --- heads --------------------------------------------------------------------------------------------


@styled
def head_map(effects: pd.DataFrame, chosen: Iterable[tuple[int, int]] = (), metric: str = "p_full") -> Figure:
    """Effect of ablating each head in pp, layer by head, colours centred at 0, chosen heads (layer, head) outlined."""
    _need(effects, "head effects", "layer", "head", "effect_pp")
    _once(effects, "head effects", ["layer", "head"], "condition, replacement and metric")
    grid = effects.pivot(index="head", columns="layer", values="effect_pp")
    limit = float(np.nanmax(np.abs(grid.to_numpy()))) or 1.0
    fig, ax = plt.subplots(figsize=(WIDTH, float(np.clip(1.6 + 0.2 * len(grid), 2.8, 7))))
    edges = (grid.columns.min() - 0.5, grid.columns.max() + 0.5, grid.index.max() + 0.5, grid.index.min() - 0.5)
    image = ax.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", extent=edges)
    chosen = list(chosen)
    for layer, head in chosen:
        ax.add_patch(Rectangle((layer - 0.5, head - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=1.8))
    fig.colorbar(image, label=_effect(metric), pad=0.01)
    ax.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(9, integer=True))
    ax.set(xlabel="layer (index)", ylabel="query head (index)")
    title(fig, "Effect of ablating one head")
    return caption(fig, _n_heads(effects), "Outlined: the chosen heads." if chosen else "")


@styled
def heads_ranked(effects: pd.DataFrame, top: int = 20, chosen: Iterable[tuple[int, int]] = (), metric: str = "p_full") -> Figure:
    """The heads of largest effect in pp with CI95; columns layer, head, effect_pp, low, high, n."""
    _need(effects, "head effects", "layer", "head", "effect_pp", "low", "high", "n")
    _once(effects, "head effects", ["layer", "head"], "condition, replacement and metric")
    best = effects.nlargest(top, "effect_pp")
    chosen = {tuple(h) for h in chosen}
    fig, ax = plt.subplots(figsize=(WIDTH, 1.5 + 0.19 * len(best)))
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
    place = np.arange(len(best))[::-1]
    picked = np.array([(r.layer, r.head) in chosen for r in best.itertuples()])
    for mask, look, name in ((picked, (VERMILION, "D"), "chosen"), (~picked, (INK, "o"), "other")):
        if mask.any():
            interval(ax, best[mask], "effect_pp", place[mask], look, label=f"{name} heads")
    ax.set_yticks(place, [f"L{r.layer}H{r.head}" for r in best.itertuples()], fontsize=8)
    ax.set_ylim(-0.8, len(best) - 0.2)
    ax.set(xlabel=f"{_effect(metric)} of ablating the head", ylabel="head")
    ax.legend(loc="lower right")
    title(fig, f"The {len(best)} heads of largest effect out of {len(effects)}")
    return caption(fig, count(best["n"]), CI, "The intervals are not corrected for the choice of the largest.")


@styled
def effects_by_depth(effects: pd.DataFrame, metric: str = "p_full") -> Figure:
    """Effect in pp of ablating each head against its layer, with the layer's mean; columns layer, head, effect_pp."""
    _need(effects, "head effects", "layer", "head", "effect_pp")
    _once(effects, "head effects", ["layer", "head"], "condition, replacement and metric")
    fig, ax = plt.subplots(figsize=(WIDTH, 3.2))
    ax.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
    ax.plot(effects["layer"], effects["effect_pp"], "o", color=BLUE, alpha=0.5, markersize=4, linewidth=0, label="one head")
    mean = effects.groupby("layer")["effect_pp"].mean()
    ax.plot(mean.index, mean, "-_", color=INK, markersize=9, label="mean of the layer")
    ax.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    ax.set(xlabel="layer (index)", ylabel=_effect(metric))
    ax.legend(loc="best")
    title(fig, "Effect of ablating one head, by depth")
    return caption(fig, _n_heads(effects))


# --- the circuit ----------------------------------------------------------------------------------------


@styled
def draws(draws: pd.DataFrame, observed: Estimate | float, metric: str = "p_full") -> Figure:
    """Effects in pp of random sets of heads, uniform and from the same layers, with the observed joint effect."""
    _need(draws, "draws", "kind", "effect_pp")
    part = draws[draws["metric"] == metric] if "metric" in draws else draws
    _need(part, f"draws (metric {metric})", "kind")
    kinds = list(dict.fromkeys(part["kind"]))
    value, low, high = _as_interval(observed)
    fig, axes = plt.subplots(len(kinds), 1, figsize=(WIDTH, 1.2 + 1.7 * len(kinds)), sharex=True, squeeze=False)
    for ax, kind in zip(axes[:, 0], kinds, strict=True):
        effects = part.loc[part["kind"] == kind, "effect_pp"].to_numpy(dtype=float)
        sns.histplot(x=effects, ax=ax, color=SKY, edgecolor="white", bins=30, label=f"{kind.replace('_', ' ')}, n = {len(effects)} draws")
        z, p = statistics.z_score(value, effects), statistics.rank_p(value, effects)
        ax.axvline(value, color=VERMILION, linewidth=2, label=f"chosen heads {value:+.2f} pp\nz = {z:.1f}, rank p = {p:.3f}")
        if low is not None:
            ax.axvspan(low, high, color=VERMILION, alpha=0.15, linewidth=0)
        ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
        ax.set_ylabel("draws")
        ax.set_ylim(top=1.5 * ax.get_ylim()[1])  # room for the legend
        ax.legend(loc="upper left", ncols=2)
    axes[-1, 0].set_xlabel(f"joint {_effect(metric)}")
    title(fig, "Joint effect of the chosen heads beside random sets of as many")
    questions = f"n = {observed.n} questions; shaded: 95 % CI." if isinstance(observed, Estimate) else ""
    return caption(fig, questions, "The chosen heads are left out of the draws.")


@styled
def circuit_conditions(summary_rows: pd.DataFrame) -> Figure:
    """Joint effect in pp per condition, a panel per metric; columns condition, metric, effect_pp, low, high, n."""
    rows = summary_rows.rename(columns={"value": "effect_pp"}) if "effect_pp" not in summary_rows else summary_rows
    _need(rows, "summary", "condition", "metric", "effect_pp", "low", "high", "n")
    _once(rows, "summary", ["condition", "metric"], "intervention")
    fig = _panels_by_condition(rows, "effect_pp", _effect)
    for ax in fig.axes:
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    title(fig, "Joint effect of the chosen heads by condition")
    return caption(fig, count(rows["n"]), CI)


@styled
def subsets(table: pd.DataFrame, metric: str = "p_full") -> Figure:
    """Effect in pp with CI95 of every subset of the chosen heads, its members as dots below; columns as `subsets.csv`."""
    _need(table, "subsets", "heads", "effect_pp", "low", "high", "n")
    part = table[table["metric"] == metric] if "metric" in table else table
    members = [_members(h) for h in part["heads"]]
    part = part.assign(size=[len(m) for m in members], members=members).sort_values(["size", "effect_pp"])
    heads = sorted({h for m in members for h in m}, key=_head_key)
    fig, (top, low) = plt.subplots(2, 1, figsize=(WIDTH, 3.2 + 0.2 * len(heads)), sharex=True, height_ratios=[3, 0.25 * len(heads) + 0.2])
    place = np.arange(len(part))
    top.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
    interval(top, part, "effect_pp", place, (INK, "o"), along="y", label=f"effect on {metric}, CI95")
    top.set_ylabel(_effect(metric))
    top.legend(loc="upper left")
    for x, row in zip(place, part["members"], strict=True):
        low.plot([x] * len(heads), range(len(heads)), ".", color="#DDDDDD")
        low.plot([x] * len(row), [heads.index(h) for h in row], "o", color=INK)
    low.set_yticks(range(len(heads)), heads, fontsize=8)
    low.set_xticks([])
    low.set(xlabel="subset (by size, then effect)", ylabel="head")
    low.set_ylim(len(heads) - 0.5, -0.5)
    title(fig, "Every subset of the chosen heads")
    return caption(fig, count(part["n"]), CI, f"{len(part)} subsets.")


@styled
def winners_curse(table: pd.DataFrame) -> Figure:
    """Mean single effect in pp of the selected heads, in sample and out of sample, by questions selected on.

    Columns n_selected_on, in_sample, out_of_sample, and where known in_sample_low, in_sample_high,
    out_of_sample_low, out_of_sample_high.
    """
    _need(table, "winner's curse table", "n_selected_on", "in_sample", "out_of_sample")
    table = table.sort_values("n_selected_on")
    fig, ax = plt.subplots(figsize=(WIDTH, 3.4))
    ax.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
    place = np.arange(len(table))
    looks = {"in_sample": (VERMILION, "v", -0.06), "out_of_sample": (BLUE, "o", 0.06)}
    for column, (colour, marker, shift) in looks.items():
        ax.plot(place + shift, table[column], color=colour, linewidth=1, alpha=0.6)
        rows = table.assign(low=table.get(f"{column}_low", np.nan), high=table.get(f"{column}_high", np.nan))
        interval(ax, rows, column, place + shift, (colour, marker), along="y", label=column.replace("_", " "))
    ax.set_xticks(place, table["n_selected_on"])
    ax.set(xlabel="n, questions on which the heads were selected", ylabel="mean effect of one selected head (pp)")
    ax.legend(loc="best")
    title(fig, "Effect of the selected heads, where they were selected and elsewhere")
    return caption(fig, count(table["n"], "selections per point") if "n" in table else "n on the horizontal axis.", "Bars: 95 % CI.")


# --- the ledger -------------------------------------------------------------------------------------------


@styled
def ledger(table: pd.DataFrame) -> Figure:
    """Published beside measured value with CI95 per claim, a panel per unit (column unit, else pp), verdict at the right.

    Columns as `10_ledger/ledger.csv`; a claim without both numbers is counted in the caption, not drawn.
    """
    _need(table, "ledger", "claim", "published", "measured", "measured_low", "measured_high", "n", "verdict")
    table = table.assign(unit=table["unit"].fillna("") if "unit" in table else "pp")
    numbers = ["published", "measured", "published_low", "published_high", "measured_low", "measured_high"]
    table = table.assign(**{c: pd.to_numeric(table[c], errors="coerce") if c in table else np.nan for c in numbers})
    drawn = table.dropna(subset=["published", "measured"])
    _need(drawn, "ledger (claims with a published and a measured number)", "claim")
    units = list(dict.fromkeys(drawn["unit"]))
    sizes = [int((drawn["unit"] == u).sum()) for u in units]
    height = 1.6 + 0.45 * sum(sizes) + 0.5 * len(units)
    fig, axes = plt.subplots(len(units), 1, figsize=(WIDTH, height), squeeze=False, height_ratios=[s + 0.6 for s in sizes])
    for ax, unit in zip(axes[:, 0], units, strict=True):
        _claims(ax, drawn[drawn["unit"] == unit], unit)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    title(fig, "Published and measured")
    left_out = len(table) - len(drawn)
    return caption(
        fig, count(drawn["n"]), "Bars: 95 % CI.", f"Not drawn, for want of a number: {left_out} of {len(table)} claims." if left_out else ""
    )


def _claims(ax: Axes, part: pd.DataFrame, unit: str) -> None:
    place = np.arange(len(part))[::-1]
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
    published = part.rename(columns={"published_low": "low", "published_high": "high"})
    measured = part.rename(columns={"measured_low": "low", "measured_high": "high"})
    interval(ax, published, "published", place + 0.15, (VERMILION, "D"), label="published", fillstyle="none")
    interval(ax, measured, "measured", place - 0.15, (BLUE, "o"), label="measured")
    ax.set_yticks(place, [textwrap.fill(str(c), 40) for c in part["claim"]], fontsize=7.5)
    ax.set_ylim(-0.6, len(part) - 0.4)
    for y, verdict in zip(place, part["verdict"], strict=True):
        ax.annotate(textwrap.fill(str(verdict), 22), (1.01, y), xycoords=("axes fraction", "data"), fontsize=7.5, va="center")
    ax.set_xlabel(f"value ({unit})" if unit else "value (no unit)")
    ax.set_ylabel("claim")


# --- small parts --------------------------------------------------------------------------------------------


def _need(table: pd.DataFrame, name: str, *columns: str) -> None:
    missing = [c for c in columns if c not in table]
    if missing:
        raise UserError(f"The {name} lacks the column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}.")
    if not len(table):
        raise UserError(f"The {name} is empty: there is nothing to draw.")


def _once(table: pd.DataFrame, name: str, keys: list[str], choose: str) -> None:
    if table.duplicated(keys).any():
        raise UserError(f"The {name} has several rows for one {' and '.join(keys)}; select one {choose} first.")


def _pick(table: pd.DataFrame, name: str, **where) -> pd.DataFrame:
    for column, wanted in where.items():
        _need(table, name, column)
        kept = table[table[column] == wanted]
        if kept.empty:
            there = ", ".join(map(str, dict.fromkeys(table[column])))
            raise UserError(f"The {name} has no row with {column} = {wanted}; there are {there}.")
        table = kept
    return table


def interval(ax: Axes, rows: pd.DataFrame, value: str, place, look: tuple[str, str], *, along: str = "x", label=None, **more) -> None:
    """Points with their intervals low..high along one axis; an interval of nan draws the point alone."""
    colour, marker = look
    x = rows[value].to_numpy(dtype=float)
    ends = np.vstack([x - rows["low"].to_numpy(dtype=float), rows["high"].to_numpy(dtype=float) - x]).clip(min=0)
    place = np.asarray(place, dtype=float)
    where = {"x": x, "y": place, "xerr": ends} if along == "x" else {"x": place, "y": x, "yerr": ends}
    ax.errorbar(**where, fmt=marker, color=colour, elinewidth=1.2, capsize=2, label=label, **more)


def _rows_by_group(ax: Axes, table: pd.DataFrame, row: str, group: str, value: str, looks: dict) -> None:
    """One row per `row`, in it one point with CI per `group`, a little apart, and a line at 0."""
    rows = list(dict.fromkeys(table[row]))
    place = {name: len(rows) - 1 - i for i, name in enumerate(rows)}
    groups = list(dict.fromkeys(table[group]))
    ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
    for i, name in enumerate(groups):
        part = table[table[group] == name]
        shift = 0.16 * ((len(groups) - 1) / 2 - i)
        interval(ax, part, value, part[row].map(place) + shift, looks.get(name, (INK, MARKERS[i])), label=str(name))
    ax.set_yticks(list(place.values()), rows, fontsize=8)
    ax.set_ylim(-0.6, len(rows) - 0.4)


def _panels_by_condition(table: pd.DataFrame, value: str, axis_label: Callable[[str], str]) -> Figure:
    metrics = list(dict.fromkeys(table["metric"]))
    fig, axes = _grid(len(metrics), 3, 2.6, extra=0.8, share=False)
    for ax, metric in zip(axes, metrics, strict=False):
        part = table[table["metric"] == metric]
        names = [c for c in CONDITIONS if c in set(part["condition"])] + [
            c for c in dict.fromkeys(part["condition"]) if c not in CONDITIONS
        ]
        for i, name in enumerate(names):
            interval(ax, part[part["condition"] == name], value, [i], CONDITIONS.get(name, (INK, ".")), along="y", label=name)
        ax.set_xticks(range(len(names)), names, rotation=20 if len(names) > 3 else 0)
        ax.set_xlim(-0.5, len(names) - 0.5)
        ax.set_xlabel("condition")
        ax.set_ylabel(axis_label(metric))
    return fig


def _grid(n: int, most_columns: int, row_height: float, extra: float, share: bool = True) -> tuple[Figure, np.ndarray]:
    """A grid of n panels, the unused ones removed."""
    columns = min(n, most_columns)
    rows = ceil(n / columns)
    fig, axes = plt.subplots(rows, columns, figsize=(WIDTH, rows * row_height + extra), squeeze=False, sharex=share)
    for ax in axes.ravel()[n:]:
        ax.remove()
    return fig, axes.ravel()[:n]


def _looks(n: int) -> list[tuple[str, str, str]]:
    """n distinct (colour, marker, dash), colours changing fastest."""
    colours, dashes = [BLUE, VERMILION, GREEN, INK, PURPLE, ORANGE, SKY], ["-", "--", ":", "-."]
    return [(colours[i % 7], MARKERS[i % len(MARKERS)], dashes[i // 7 % 4]) for i in range(n)]


def _in_order(names: Iterable[str], known: dict) -> list[str]:
    present = list(dict.fromkeys(names))
    return [n for n in known if n in present] + [n for n in present if n not in known]


def _as_interval(found: Estimate | float) -> tuple[float, float | None, float | None]:
    if isinstance(found, Estimate):
        return found.value, found.low, found.high
    return float(found), None, None


def _members(heads: object) -> list[str]:
    text = "" if pd.isna(heads) else str(heads)
    return re.findall(r"L\d+H\d+", text)


def _head_key(name: str) -> tuple[int, ...]:
    return tuple(int(x) for x in re.findall(r"\d+", name))


def _legend_beside(fig: Figure, ax: Axes) -> None:
    fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=7)


def _effect(metric: str) -> str:
    return f"effect on {metric} ({'nats' if metric == 'logodds' else 'pp'})"


def _n_heads(effects: pd.DataFrame) -> str:
    return (count(effects["n"]) + " " if "n" in effects else "") + f"n = {len(effects)} heads."


def count(counts: pd.Series, what: str = "questions") -> str:
    known = counts.dropna()
    if known.empty:
        return "n not recorded."
    low, high = int(known.min()), int(known.max())
    return f"n = {low} {what}." if low == high else f"n = {low} to {high} {what}."


def title(fig: Figure, text: str) -> None:
    fig.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")


def caption(fig: Figure, *parts: str) -> Figure:
    text = textwrap.fill(" ".join(p for p in parts if p), 118)
    fig.supxlabel(text, x=0.01, ha="left", fontsize=8, color="#444444")
    return fig
