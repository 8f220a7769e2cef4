"""What a figure shows, as a table: for readers who cannot see it, and to draw it in another way."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator

COLUMNS = [
    "panel", "x_axis", "y_axis", "series", "kind", "x", "y", "x_end", "y_end", "value", "x_name",
    "y_name",
]  # fmt: skip


def drawn(figure: Figure) -> pd.DataFrame:
    """Return what is drawn in data coordinates, one row a mark, in the axes' own units.

    kind: point (of a line or a scatter), interval (from x, y to x_end, y_end), bar (its corner and
    the opposite one) or cell (of a heat map, with its value). x_name and y_name are the tick's
    label where an axis has names in place of numbers.
    """
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    rows = [row for panel, ax in enumerate(panels) for row in _panel(panel, ax)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _panel(panel: int, ax: Axes) -> Iterator[dict]:
    title = ax.get_title() or ax.get_title(loc="left") or panel
    place = {"panel": title, "x_axis": ax.get_xlabel(), "y_axis": ax.get_ylabel()}
    names = {axis: _names(getattr(ax, f"{axis}axis")) for axis in "xy"}
    for mark in _marks(ax):
        where = {f"{axis}_name": _name_of(mark[axis], names[axis]) for axis in "xy"}
        yield place | mark | where


def _marks(ax: Axes) -> Iterator[dict]:
    series = _series(ax)
    for line in ax.lines:
        if line.get_transform() == ax.transData:  # else a rule across the panel
            for x, y in _numbers(line.get_xydata()):
                yield {"series": series(line), "kind": "point", "x": x, "y": y}
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
        if isinstance(bar, Rectangle):
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
        own = _label(artist)
        return own or _label(together.get(id(artist), artist))

    return name


def _parts(container: ErrorbarContainer) -> list:
    line, caps, bars = container.lines
    return [line, *caps, *bars]


def _label(artist) -> str:
    text = str(artist.get_label())
    return "" if text.startswith("_") else text


def _names(axis: Axis) -> dict[float, str]:
    """Return the texts of an axis that has names in place of numbers, by position."""
    if not isinstance(axis.get_major_locator(), (FixedLocator, StrCategoryLocator)):
        return {}
    ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    return {float(at): label.get_text() for at, label in ticks}


def _name_of(value: float, names: dict[float, str]) -> str:
    """Return the name nearest to a place; marks of a row stand a little above or below its tick."""
    if not names or not np.isfinite(value):
        return ""
    nearest = min(names, key=lambda at: abs(at - value))
    return names[nearest] if abs(nearest - value) <= 0.5 else ""
