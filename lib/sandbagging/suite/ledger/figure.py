"""The figure of the headline."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging import metrics, statistics
from sandbagging.statistics import Estimate
from sandbagging.suite import plots
from sandbagging.suite.ledger.artefacts import Artefacts, draw_effects
from sandbagging.suite.ledger.headline import RANDOM
from sandbagging.suite.ledger.measured import level_after


def headline_figure(a: Artefacts) -> Figure:
    """Return the figure of the headline, in three panels.

    They show p_full by condition, the joint effect by condition and the random draws (both in pp).
    """
    with plt.rc_context(plots.style()):
        fig, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.4), width_ratios=[1, 0.8, 1.2])
        _levels_panel(axes[0], a)
        _effects_panel(axes[1], a)
        _draws_panel(axes[2], a)
        names = ", ".join(map(str, a.heads))
        title = f"Told to answer wrongly; heads zeroed: {names}"
        fig.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        n = a.scores["question_id"].nunique()
        questions = f"n = {n} test questions, the heads found on others."
        caption = f"{a.measured_on}.\n{questions} Bars and shading: 95 % CI over questions."
        fig.supxlabel(caption, x=0.01, ha="left", fontsize=8)
        plt.close(fig)
    return fig


def _levels_panel(ax: Axes, a: Artefacts) -> None:
    here = [c for c in ("genuine", "sandbag", "neutral") if (a.scores["condition"] == c).any()]
    levels = {c: statistics.mean_ci(metrics.per_question(a.scores, c).to_numpy()) for c in here}
    levels["sandbag, heads zeroed"] = level_after(a)
    wanted = ("genuine", "sandbag", "sandbag, heads zeroed", "neutral")
    order = [name for name in wanted if levels.get(name)]
    _bars(ax, [levels[name] for name in order], order)
    ax.set(ylabel="p_full (probability)", title="The right answer")
    ax.set_ylim(0, 1.08 * max(levels[name].high for name in order))


def _effects_panel(ax: Axes, a: Artefacts) -> None:
    keys = {"sandbag": "joint", "neutral": "joint_neutral", "genuine": "joint_genuine"}
    effects = {condition: a.recorded(key) for condition, key in keys.items()}
    order = [name for name, effect in effects.items() if effect]
    _bars(ax, [effects[name] for name in order], order)
    ax.axhline(0, color=plots.GREY, linewidth=0.8, linestyle="--", zorder=0)
    ax.set(ylabel="effect on p_full (pp)", title="Effect of zeroing the heads")


def _bars(ax: Axes, estimates: Sequence[Estimate], names: Sequence[str]) -> None:
    for place, (estimate, name) in enumerate(zip(estimates, names, strict=True)):
        colour, marker = plots.CONDITIONS[name.split(",")[0]]
        error = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        fill = "none" if "," in name else "full"
        look = {"color": colour, "marker": marker, "fillstyle": fill, "markersize": 7}
        ax.errorbar([place], [estimate.value], yerr=error, capsize=3, linestyle="none", **look)
    labels = [name.replace(", ", ",\n") for name in names]
    ax.set_xticks(range(len(names)), labels, rotation=30, ha="right")
    ax.set_xlim(-0.6, len(names) - 0.4)


def _draws_panel(ax: Axes, a: Artefacts) -> None:
    joint, draws = a.recorded("joint"), {kind: draw_effects(a.draws, kind) for kind in RANDOM}
    bins = np.histogram_bin_edges(np.concatenate(list(draws.values())), bins=24)
    for (kind, effects), colour in zip(draws.items(), (plots.GREY, plots.SKY), strict=True):
        words = {"uniform": "random heads", "same_layer": "of the same layers"}[kind]
        label = f"{words}, {len(effects)} draws: p = {a.summary[f'random_{kind}']['rank_p']:.3f}"
        ax.hist(effects, bins=bins, color=colour, alpha=0.65, label=label)
    ax.axvspan(joint.low, joint.high, color=plots.VERMILION, alpha=0.15, linewidth=0)
    label = f"chosen heads: {joint.value:+.2f} pp"
    ax.axvline(joint.value, color=plots.VERMILION, linewidth=2, label=label)
    ax.set(xlabel="effect on p_full, sandbag (pp)", ylabel="draws", title="Beside random heads")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
