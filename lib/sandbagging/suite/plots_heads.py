"""Figures of single heads and of several models: attention, logits, agreement of methods, models side by side."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from sandbagging.suite import plots
from sandbagging.suite.plots import BLUE, CI, GREY, INK, VERMILION, WIDTH


@plots.styled
def attention(patterns: Mapping[str, Mapping[str, np.ndarray]], tokens: Mapping[str, Sequence[str]], last: int = 24) -> Figure:
    """Attention from the last prompt token to the tokens before it, a row of small multiples per condition, a panel per head.

    patterns: condition -> head -> weights [key]; tokens: condition -> texts [key]; the `last` tokens of the prompt are shown, and the
    caption says how much weight lies on the others.
    """
    conditions, heads = list(patterns), list(next(iter(patterns.values())))
    fig, axes = plt.subplots(1, len(conditions), figsize=(WIDTH, 1.2 + 0.17 * last), squeeze=False)
    unseen = []
    for ax, condition in zip(axes[0], conditions, strict=True):
        shown = np.array([np.asarray(patterns[condition][head], dtype=float)[-last:] for head in heads]).T
        texts = [_visible(text) for text in tokens[condition][-last:]]
        sns.heatmap(shown, ax=ax, vmin=0, vmax=1, cmap="viridis", yticklabels=texts, xticklabels=heads,
                    cbar_kws={"label": "attention weight"}, linewidths=0.3)  # fmt: skip
        ax.set(title=condition, xlabel="head", ylabel="token attended to")
        ax.tick_params(axis="y", labelrotation=0, labelsize=6.5)
        ax.tick_params(axis="x", labelrotation=45, labelsize=7.5)
        unseen += [f"{condition} {1 - shown.sum(0).mean():.0%}"]
    plots.title(fig, "Where the heads look from the last prompt token")
    return plots.caption(fig, f"One question. Weight on tokens further back, mean over heads: {', '.join(unseen)}.")


def _visible(text: str) -> str:
    return text.replace("\n", "↵").replace("$", r"\$") or "·"


@plots.styled
def logits(table: pd.DataFrame) -> Figure:
    """What each head adds to the logits of correct and wrong answers, in nats with CI95; columns as `estimates.logit_table`."""
    parts = [("correct", BLUE, "o"), ("wrong", VERMILION, "v"), ("correct - wrong", INK, "D")]
    conditions, heads = list(dict.fromkeys(table["condition"])), list(dict.fromkeys(table["head"]))
    fig, axes = plt.subplots(1, len(conditions), figsize=(WIDTH, 1.4 + 0.45 * len(heads)), squeeze=False, sharey=True, sharex=True)
    for ax, condition in zip(axes[0], conditions, strict=True):
        ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
        for i, (to, colour, marker) in enumerate(parts):
            rows = table[(table["condition"] == condition) & (table["to"] == to)].set_index("head").loc[heads]
            plots.interval(ax, rows, "value", np.arange(len(heads))[::-1] + 0.2 * (1 - i), (colour, marker), label=to)
        ax.set(title=condition, xlabel="direct push on the logit (nats)", ylabel="head")
        ax.set_yticks(range(len(heads)), heads[::-1])
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    plots.title(fig, "What the heads write")
    return plots.caption(fig, f"n = {int(table['n'].min())} questions.", CI, "First answer token; the final norm frozen.")


@plots.styled
def agreement(effects: Mapping[str, np.ndarray], exact: np.ndarray, exact_name: str, units: str = "pp") -> Figure:
    """Each method's effect per head against the exact one, a panel per method; arrays [head]."""
    fig, axes = plt.subplots(1, len(effects), figsize=(WIDTH, 3.1), squeeze=False)
    for ax, (name, values) in zip(axes[0], effects.items(), strict=True):
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle="--")
        ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
        ax.plot(exact, values, ".", color=INK, markersize=5, alpha=0.6)
        ax.set(xlabel=f"{exact_name} ({units})", ylabel=f"effect ({units})")
        ax.set_title(name, fontsize=8)
    plots.title(fig, "Other routes to the same heads")
    return plots.caption(fig, f"n = {len(exact)} heads.")


@plots.styled
def models(table: pd.DataFrame, published: Mapping[str, Mapping[str, float]] | None = None) -> Figure:
    """Gap, joint effect and sandbag-specific portion per model in pp with CI95; columns as `models.csv`.

    published: model -> {column: value} of the card, drawn as open diamonds.
    """
    published = published or {}
    wanted = table["missing"].isna() | table["model"].isin(published)
    rows = table[wanted].reset_index(drop=True)
    names = [f"{r.model}{'' if r.weights == 'real' else f' ({r.weights})'}{_framing(r)}" for r in rows.itertuples()]
    panels = {"gap": "sandbagging gap", "joint_effect": "heads zeroed", "specific_portion": "portion specific to sandbagging"}
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 1.5 + 0.36 * len(rows)), sharey=True)
    place = np.arange(len(rows))[::-1]
    for ax, (column, words) in zip(axes, panels.items(), strict=True):
        ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--")
        numbers = rows.assign(low=rows[f"{column}_low"], high=rows[f"{column}_high"])
        for open_gate, colour, marker, label in ((True, BLUE, "o", "gate open"), (False, GREY, "s", "gate closed")):
            part = (rows["gate"] == ("open" if open_gate else "closed")).to_numpy()
            plots.interval(ax, numbers[part], column, place[part], (colour, marker), label=label)
        card = [(y, published[m][column]) for y, m, w in zip(place, rows["model"], rows["weights"], strict=True)
                if w == "real" and column in published.get(m, {})]  # fmt: skip
        ax.plot([x for _, x in card], [y for y, _ in card], "D", color=VERMILION, fillstyle="none", label="the card")
        ax.set(xlabel="pp", title=words)
        ax.set_ylim(-0.6, len(rows) - 0.4)
    axes[0].set_yticks(place, names, fontsize=7.5)
    axes[0].set_ylabel("model")
    fig.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=7.5)
    plots.title(fig, "The same experiment on other models")
    return plots.caption(fig, plots.count(rows["joint_effect_n"]), CI, "Effects on p_full.")


def _framing(row) -> str:
    return "" if pd.isna(row.framing) or row.framing != "placebo" else ", placebo prompts"
