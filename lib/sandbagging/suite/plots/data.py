"""What a figure shows, as a table: for readers who cannot see it, and to draw it in another way."""

from collections.abc import Iterator
from math import nan

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.ticker import FixedLocator

COLUMNS = [
    "panel", "x_axis", "y_axis", "series", "kind", "x", "y", "x_end", "y_end", "value", "x_name",
    "y_name",
]  # fmt: skip


def drawn(figure: Figure) -> pd.DataFrame:
    """Return what is drawn in data coordinates, one row a mark, in the axes' own units.

    kind: point (of a line or a scatter), interval (from x, y to x_end, y_end), bar (its corner and
    the opposite one) or cell (of a heat map, with its value). x_name and y_name are the tick's
    label where an axis has names in place of numbers. A named rule across the panel is a point, a
    band an interval, with nan along the panel.
    """
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    rows = [row for panel, ax in enumerate(panels) for row in _panel(panel, ax)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _panel(panel: int, ax: Axes) -> Iterator[dict]:
    title = ax.get_title() or ax.get_title(loc="left")
    axes = {"x_axis": _flat(ax.get_xlabel()), "y_axis": _flat(ax.get_ylabel())}
    place = {"panel": _flat(title) or panel, **axes}
    names = {axis: _names(getattr(ax, f"{axis}axis")) for axis in "xy"}
    for mark in _marks(ax):
        where = {f"{axis}_name": _name_of(mark[axis], names[axis]) for axis in "xy"}
        yield place | mark | where


def _marks(ax: Axes) -> Iterator[dict]:
    series = _series(ax)
    for line in ax.lines:
        if line.get_transform() == ax.transData:
            for x, y in _numbers(line.get_xydata()):
                yield {"series": series(line), "kind": "point", "x": x, "y": y}
        elif _label(line) and _is_rule(ax, line):  # without a name, as at zero, it is no datum
            yield {"series": _label(line), "kind": "point", **_across(ax, line)[0]}
    for marks in ax.collections:
        if isinstance(marks, LineCollection):
            for (x, y), *_, (x_end, y_end) in (s for s in marks.get_segments() if len(s) > 1):
                ends = {"x": x, "y": y, "x_end": x_end, "y_end": y_end}
                yield {"series": series(marks), "kind": "interval"} | ends
        elif isinstance(marks, PathCollection):
            for x, y in _numbers(marks.get_offsets()):
                yield {"series": series(marks), "kind": "point", "x": x, "y": y}
        elif isinstance(marks, QuadMesh) and marks.get_array() is not None:
            yield from _cells(_numbers(marks.get_array()), marks.get_coordinates())
    for bar in ax.patches:
        if isinstance(bar, StepPatch):
            values, edges, _ = bar.get_data()
            for y_end, x, x_end in zip(values, edges, edges[1:], strict=False):
                ends = {"x": x, "y": 0.0, "x_end": x_end, "y_end": y_end}
                yield {"series": _label(bar), "kind": "bar"} | ends
        elif isinstance(bar, Rectangle) and bar.get_data_transform() != ax.transData:
            low, high = _across(ax, bar)
            ends = {"x_end": high["x"], "y_end": high["y"]}
            yield {"series": _label(bar), "kind": "interval"} | low | ends
        elif isinstance(bar, Rectangle):
            (x, y), (x_end, y_end) = bar.get_bbox().get_points()
            ends = {"x": x, "y": y, "x_end": x_end, "y_end": y_end}
            yield {"series": series(bar), "kind": "bar"} | ends
    for image in ax.images:
        values = _numbers(image.get_array())
        for row, column in np.ndindex(values.shape[:2]):
            value = float(np.mean(values[row, column]))
            yield {"series": "", "kind": "cell", "x": column, "y": row, "value": value}


def _numbers(values) -> np.ndarray:
    return np.ma.filled(np.ma.asarray(values, float), np.nan)


def _is_rule(ax: Axes, line) -> bool:
    return line.get_transform() in (ax.get_xaxis_transform(), ax.get_yaxis_transform())


def _across(ax: Axes, mark) -> list[dict[str, float]]:
    """Return the ends of a rule or a band in x and y, nan along the panel."""
    if isinstance(mark, Rectangle):
        ends, to_screen = mark.get_bbox().get_points(), mark.get_data_transform()
    else:
        ends, to_screen = _numbers(mark.get_xydata())[[0, -1]], mark.get_transform()
    along = to_screen == ax.get_yaxis_transform(), to_screen == ax.get_xaxis_transform()
    return [
        {axis: nan if free else float(v) for axis, free, v in zip("xy", along, end, strict=True)}
        for end in ends
    ]


def _cells(values: np.ndarray, corners: np.ndarray) -> Iterator[dict]:
    """Yield the cells of a heat map at their middles; `corners` is [row + 1, column + 1, 2]."""
    values = values.reshape(corners.shape[0] - 1, corners.shape[1] - 1)
    middle = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    for at in np.ndindex(values.shape):
        x, y = middle[at]
        yield {"series": "", "kind": "cell", "x": x, "y": y, "value": values[at]}


def _series(ax: Axes):
    """Return what names a mark; points with intervals, and bars, are named together."""
    together = {}
    for container in ax.containers:
        parts = _parts(container) if isinstance(container, ErrorbarContainer) else container
        together |= {id(part): container for part in parts}

    def name(artist) -> str:
        container = together.get(id(artist), artist)
        first = container[0] if isinstance(container, BarContainer) else artist  # of a histogram
        return _label(artist) or _label(container) or _label(first)

    return name


def _parts(container: ErrorbarContainer) -> list:
    line, caps, bars = container.lines
    return [line, *caps, *bars]


def _label(artist) -> str:
    text = str(artist.get_label())
    return "" if text.startswith("_") else _flat(text)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _names(axis: Axis) -> dict[float, str]:
    """Return the texts of an axis that has names in place of numbers, by position."""
    if not isinstance(axis.get_major_locator(), (FixedLocator, StrCategoryLocator)):
        return {}
    ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    return {float(at): _flat(label.get_text()) for at, label in ticks}


def _name_of(value: float, names: dict[float, str]) -> str:
    """Return the name nearest to a place; marks of a row stand a little above or below its tick."""
    if not names or not np.isfinite(value):
        return ""
    nearest = min(names, key=lambda at: abs(at - value))
    return names[nearest] if abs(nearest - value) <= 0.5 else ""
