"""The figure of several models side by side."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sandbagging.suite.plots import look

PANELS = {
    "gap": "sandbagging gap",
    "joint_effect": "zeroing the heads",
    "specific_portion": "specific to sandbagging",
}
GRADES = {
    "answers wrongly": (look.BLUE, "o"),
    "less sure": (look.SKY, "D"),
    "no": (look.GREY, "s"),
}
Card = Mapping[str, Mapping[str, float]]  # model -> column -> published value


@look.styled
def other_models(table: pd.DataFrame, published: Card | None = None) -> Figure:
    """Gap, joint effect and sandbag-specific portion per model in pp, planted models apart.

    Columns as `09_models/models.csv`. published: model -> {column: value} of the card.
    """
    numbers = [f"{column}{end}" for column in PANELS for end in ("", "_low", "_high")]
    look.need(table, "table of models", "model", "weights", "framing", "grade", "missing", *numbers)
    published = published or {}
    rows = table[table["missing"].isna() | table["model"].isin(published)]
    planted = rows["weights"] == "planted"
    blocks = [part for part in (rows[~planted], rows[planted]) if len(part)]
    look.need(rows, "table of models (those that were run)", "model")
    heights = [len(part) + 1.2 for part in blocks]
    fig, axes = plt.subplots(
        len(blocks), 3, figsize=(look.WIDTH, 1.2 + 0.32 * sum(heights)), squeeze=False,
        sharey="row", sharex="row", height_ratios=heights,
    )  # fmt: skip
    for line, part in zip(axes, blocks, strict=True):
        for ax, column in zip(line, PANELS, strict=True):
            _block(ax, part.reset_index(drop=True), column, published)
    for ax, words in zip(axes[0], PANELS.values(), strict=True):
        ax.set_title(words)
    look.legend_of_all(fig, axes)
    look.title(fig, "The same experiment on other models")
    axis = "Below: planted models, on their own axis." if len(blocks) > 1 else ""
    return look.caption(fig, look.count(rows["joint_effect_n"]), look.CI, axis)


def _block(ax: Axes, rows: pd.DataFrame, column: str, published: Card) -> None:
    look.line_at_zero(ax)
    place = np.arange(len(rows))[::-1]
    numbers = rows.assign(low=rows[f"{column}_low"], high=rows[f"{column}_high"])
    for grade, mark in GRADES.items():
        here = (rows["grade"] == grade).to_numpy()
        if here.any():
            label = f"grade: {grade}"
            look.interval(ax, numbers[here], column, place[here], mark, label=label)
    card = [
        (published[row.model][column], y)
        for y, row in zip(place, rows.itertuples(), strict=True)
        if row.weights == "real" and column in published.get(row.model, {})
    ]
    if card:
        diamond = {"color": look.VERMILION, "fillstyle": "none", "label": "the card"}
        ax.plot(*zip(*card, strict=True), "D", **diamond)
    ax.set_yticks(place, [_name(row) for row in rows.itertuples()])
    ax.set_ylim(-0.6, len(rows) - 0.4)
    look.guides(ax)
    ax.set_xlabel("p_full (pp)")


def _name(row) -> str:
    weights = "" if row.weights == "real" else f" ({row.weights})"
    prompts = ",\nplacebo prompts" if row.framing == "placebo" else ""
    return f"{row.model}{weights}{prompts}"
