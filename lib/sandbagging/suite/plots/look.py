"""The look that all figures share: colours and markers, units, title, caption, and common marks.

Axes carry units, captions carry n and what a bar means. Colours and markers of conditions, metrics
and interventions are fixed, differ in a greyscale print, and are safe for colour-blind readers.
Nothing is shown or kept open: the caller displays or saves the figure.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil, floor, log10

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sandbagging import metrics
from sandbagging.errors import UserError

WIDTH = 8.0  # inches
INK, GREY, PALE = "#222222", "#7F7F7F", "#E5E5E5"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, ORANGE = "#CC79A7", "#56B4E9", "#E69F00"
MARKERS = "osv^D<>Pd*hp"

Look = tuple[str, str]  # colour, marker
CONDITIONS: dict[str, Look] = {
    "genuine": (BLUE, "o"),
    "sandbag": (VERMILION, "v"),
    "neutral": (GREY, "s"),
    "placebo": (GREEN, "D"),
    "placebo_second": (GREEN, "^"),
    "placebo_quick": (GREEN, "<"),
    "placebo_possible": (GREEN, ">"),
    "placebo_last": (GREEN, "P"),
}
ANSWERS = {"right": SKY, "listed wrong": VERMILION, "something else": PALE}
METRICS: dict[str, Look] = {
    "p_full": (INK, "o"),
    "choice_len": (PURPLE, "s"),
    "logodds": (SKY, "D"),
    "p_first": (ORANGE, "v"),
}
INTERVENTIONS: dict[str, Look] = {
    "E6": (BLUE, "o"),
    "E4": (VERMILION, "v"),
    "E1": (GREY, "s"),
    "delta+": (BLUE, "^"),
    "delta-": (VERMILION, "<"),
    "delta_E1": (GREY, "D"),
    "delta_span": (INK, "h"),
    "E6_frozen_decoder": (PURPLE, "^"),
    "E6_near_decoder": (PURPLE, "v"),
    "E6_frozen_encoder": (PURPLE, "<"),
    "oracle": (INK, "*"),
    "diff_means": (PURPLE, "o"),
    "diff_means_shuffled": (PURPLE, "s"),
    "mean_ablation": (INK, "d"),
    "identity": (INK, "x"),
    "noise": (INK, "+"),
}
WORDS = {"logodds": "log-odds"}  # of a metric whose name is no word; others stand as they are
LEVELS = {"logodds": "nats", "accuracy": "share of questions"}  # of other metrics: probability
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
        "axes.titlelocation": "left",
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


# --- words --------------------------------------------------------------------------------------


def title(fig: Figure, text: str) -> None:
    fig.suptitle(text, x=0.01, ha="left", fontsize=11, fontweight="bold")


def caption(fig: Figure, *parts: str) -> Figure:
    text = textwrap.fill(" ".join(p for p in parts if p), 118)
    fig.supxlabel(text, x=0.01, ha="left", fontsize=8, color="#444444")
    return fig


def count(counts: pd.Series, what: str = "questions") -> str:
    """Return "n = 100 questions." or, of several, "n = 30 to 100 questions."."""
    known = counts.dropna()
    if known.empty:
        return "n not recorded."
    low, high = int(known.min()), int(known.max())
    return f"n = {low} {what}." if low == high else f"n = {low} to {high} {what}."


def level(metric: str) -> str:
    """Return an axis label for a metric itself, with its unit."""
    return f"{WORDS.get(metric, metric)} ({LEVELS.get(metric, 'probability')})"


def change(metric: str) -> str:
    """Return an axis label for a change in a metric, with its unit."""
    return f"effect on {WORDS.get(metric, metric)} ({metrics.unit_of_change(metric)[0]})"


# --- tables -------------------------------------------------------------------------------------


def need(table: pd.DataFrame, name: str, *columns: str) -> None:
    """Raise UserError unless a table has these columns and at least one row."""
    missing = [c for c in columns if c not in table]
    if missing:
        there = ", ".join(map(str, table.columns))
        raise UserError(f"The {name} lacks the column {', '.join(missing)}; it has {there}.")
    if not len(table):
        raise UserError(f"The {name} is empty: there is nothing to draw.")


def once(table: pd.DataFrame, name: str, keys: list[str], choose: str) -> None:
    """Raise UserError where a table has several rows for one key."""
    if table.duplicated(keys).any():
        which = " and ".join(keys)
        raise UserError(f"The {name} has several rows for one {which}; select one {choose} first.")


def pick(table: pd.DataFrame, name: str, **where) -> pd.DataFrame:
    """Return the rows that hold these values; UserError naming what there is where none does."""
    for column, wanted in where.items():
        need(table, name, column)
        kept = table[table[column] == wanted]
        if kept.empty:
            there = ", ".join(map(str, dict.fromkeys(table[column])))
            raise UserError(f"The {name} has no row with {column} = {wanted}; there are {there}.")
        table = kept
    return table


def in_order(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the names that are there, the known ones first and in their order."""
    present = list(dict.fromkeys(names))
    first = [n for n in known if n in present]
    return first + [n for n in present if n not in first]


# --- marks --------------------------------------------------------------------------------------


def interval(
    ax: Axes, rows: pd.DataFrame, value: str, place, look: Look, *, along: str = "x", **more
) -> None:
    """Points with their intervals low..high along one axis; an interval of nan draws the point."""
    colour, marker = look
    x = rows[value].to_numpy(dtype=float)
    low, high = (rows[end].to_numpy(dtype=float) for end in ("low", "high"))
    ends = np.vstack([x - low, high - x]).clip(min=0)
    place = np.asarray(place, dtype=float)
    across = {"x": x, "y": place, "xerr": ends}
    upwards = {"x": place, "y": x, "yerr": ends}
    where = across if along == "x" else upwards
    ax.errorbar(**where, fmt=marker, color=colour, elinewidth=1.3, **more)


def rows_by_group(
    ax: Axes,
    table: pd.DataFrame,
    row: str,
    group: str,
    value: str,
    looks: Mapping[str, Look],
    zero: bool = True,
) -> None:
    """One row per `row`, in it one point with CI per `group`, a little apart; a line at 0."""
    names = list(dict.fromkeys(table[row]))
    groups = list(dict.fromkeys(table[group]))
    apart = min(0.2, 0.7 / len(groups))
    place = {name: len(names) - 1 - i for i, name in enumerate(names)}
    if zero:
        line_at_zero(ax)
    for i, name in enumerate(groups):
        part = table[table[group] == name]
        at = part[row].map(place) + apart * ((len(groups) - 1) / 2 - i)
        interval(ax, part, value, at, looks.get(name, (INK, MARKERS[i])), label=str(name))
    ax.set_yticks(list(place.values()), names)
    ax.set_ylim(-0.6, len(names) - 0.4)


def line_at_zero(ax: Axes, across: bool = False) -> None:
    """A dashed line where there is no effect."""
    (ax.axhline if across else ax.axvline)(0, color=GREY, linewidth=0.8, linestyle="--", zorder=0.5)


def guides(ax: Axes, axis: str = "y") -> None:
    """Pale lines that lead the eye from a row's name to its marks."""
    ax.grid(axis=axis, color=PALE, linewidth=0.6)


def log_axis(ax: Axes) -> None:
    """A log axis with plain numbers at the powers of ten, at least one of them in sight."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    if floor(log10(high)) < ceil(log10(low)):
        ax.set_xlim(left=10.0 ** floor(log10(low)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def panels(n: int, most: int, row_height: float, extra: float) -> tuple[Figure, np.ndarray]:
    """A grid of n panels with one horizontal axis, the unused ones removed."""
    columns = min(n, most)
    rows = ceil(n / columns)
    size = (WIDTH, rows * row_height + extra)
    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharex=True)
    for ax in axes.ravel()[n:]:
        ax.remove()
    return fig, axes.ravel()[:n]


def legend_above(fig: Figure, ax: Axes, columns: int, **more) -> None:
    """The legend at the upper right, beside the title."""
    handles, names = ax.get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper right", ncols=columns, **more)


def legend_of_all(fig: Figure, axes: np.ndarray) -> None:
    """One legend at the upper right for what several panels show."""
    handles = {}
    for ax in axes.ravel():
        marks, names = ax.get_legend_handles_labels()
        handles |= dict(zip(names, marks, strict=True))
    fig.legend(handles.values(), handles, loc="outside upper right", ncols=len(handles))


def layer_colours(layers: Sequence[int]) -> dict[int, tuple]:
    """One colour per layer, from dark to light, so that depth reads in a greyscale print too."""
    ordered = sorted(set(layers))
    shades = np.linspace(0, 0.8, len(ordered))
    return {x: colormaps["viridis"](s) for x, s in zip(ordered, shades, strict=True)}
