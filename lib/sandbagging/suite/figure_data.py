"""What a figure shows, as a table: for readers who cannot see it, and for whoever wants to draw it in another way."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryLocator
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator

COLUMNS = ["panel", "x_axis", "y_axis", "series", "kind", "x", "y", "x_end", "y_end", "value", "x_name", "y_name"]


def drawn(figure: Figure) -> pd.DataFrame:
    """Return what is drawn in data coordinates, one row a mark, in the axes' own units.

    kind: point (of a line or a scatter), interval (from x, y to x_end, y_end), bar (its corner and the opposite one) or cell (of a
    heat map, with its value). x_name and y_name are the tick's label where an axis has names in place of numbers.
    """
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    rows = [row for panel, ax in enumerate(panels) for row in _panel(panel, ax)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _panel(panel: int, ax: Axes) -> Iterator[dict]:
    place = {"panel": ax.get_title() or ax.get_title(loc="left") or panel, "x_axis": ax.get_xlabel(), "y_axis": ax.get_ylabel()}
    names = {axis: _names(getattr(ax, f"{axis}axis")) for axis in "xy"}
    for mark in _marks(ax):
        where = {f"{axis}_name": _name_of(mark[axis], names[axis]) for axis in "xy"}
        yield place | mark | where


def _marks(ax: Axes) -> Iterator[dict]:
    for line in ax.lines:
        if line.get_transform() == ax.transData:  # else a rule across the panel
            for x, y in np.ma.filled(np.ma.asarray(line.get_xydata(), float), np.nan):
                yield {"series": _label(line), "kind": "point", "x": x, "y": y}
    for marks in ax.collections:
        if isinstance(marks, LineCollection):
            for (x, y), *_, (x_end, y_end) in (segment for segment in marks.get_segments() if len(segment) > 1):
                yield {"series": _label(marks), "kind": "interval", "x": x, "y": y, "x_end": x_end, "y_end": y_end}
        elif isinstance(marks, PathCollection):
            for x, y in np.ma.filled(np.ma.asarray(marks.get_offsets(), float), np.nan):
                yield {"series": _label(marks), "kind": "point", "x": x, "y": y}
        elif isinstance(marks, QuadMesh) and marks.get_array() is not None:
            yield from _cells(np.ma.filled(np.ma.asarray(marks.get_array(), float), np.nan), marks.get_coordinates())
    for bar in ax.patches:
        if isinstance(bar, Rectangle):
            (x, y), (x_end, y_end) = bar.get_bbox().get_points()
            yield {"series": _label(bar), "kind": "bar", "x": x, "y": y, "x_end": x_end, "y_end": y_end}
    for image in ax.images:
        values = np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)
        for row, column in np.ndindex(values.shape[:2]):
            yield {"series": "", "kind": "cell", "x": column, "y": row, "value": float(np.mean(values[row, column]))}


def _cells(values: np.ndarray, corners: np.ndarray) -> Iterator[dict]:
    """Yield the cells of a heat map at their middles; `corners` is [row + 1, column + 1, 2]."""
    values = values.reshape(corners.shape[0] - 1, corners.shape[1] - 1)
    middle = (corners[:-1, :-1] + corners[1:, 1:]) / 2
    for at in np.ndindex(values.shape):
        yield {"series": "", "kind": "cell", "x": middle[at][0], "y": middle[at][1], "value": values[at]}


def _label(artist) -> str:
    text = str(artist.get_label())
    return "" if text.startswith("_") else text


def _names(axis: Axis) -> dict[float, str]:
    """Return the texts of an axis that has names in place of numbers, by position."""
    names = {float(at): label.get_text() for at, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)}
    return names if isinstance(axis.get_major_locator(), (FixedLocator, StrCategoryLocator)) else {}


def _name_of(value: float, names: dict[float, str]) -> str:
    """Return the name nearest to a place; marks of one row stand a little above or below its tick."""
    if not names or not np.isfinite(value):
        return ""
    nearest = min(names, key=lambda at: abs(at - value))
    return names[nearest] if abs(nearest - value) <= 0.5 else ""
