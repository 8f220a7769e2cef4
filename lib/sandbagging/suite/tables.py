"""Tables on a page: the first rows open, the rest folded."""

import re
from typing import NamedTuple

import pandas as pd

ROWS = 8  # at most so many are open


class Shown(NamedTuple):
    """A table as a notebook shows it: HTML on a page, text in a terminal."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def shown(table: pd.DataFrame, rows: int = ROWS, digits: int = 3) -> Shown:
    """Return a table for a page: `rows` rows open, the rest folded, numbers to `digits` places.

    An index without a name that only counts the rows is left out.
    """
    rounded = table.apply(lambda column: _rounded(column, digits))
    counted = isinstance(table.index, pd.RangeIndex) and table.index.name is None
    whole = rounded.to_string(index=not counted)
    if len(table) <= rows:
        return Shown(_html(rounded, not counted), whole)
    words = f"{len(table) - rows} more rows" if rows else f"{len(table)} rows"
    rest = _html(rounded[rows:], not counted)
    folded = f"<details><summary>{words}</summary>{rest}</details>"
    return Shown((_html(rounded[:rows], not counted) if rows else "") + folded, whole)


def _rounded(column: pd.Series, digits: int) -> pd.Series:
    """Return a column for reading: floats as text, without places where all are whole numbers."""
    floats = [value for value in column if isinstance(value, float) and value == value]
    places = 0 if all(value.is_integer() for value in floats) else digits
    return column.map(lambda value: _number(value, places) if isinstance(value, float) else value)


def _number(value: float, places: int) -> str:
    if value != value:
        return ""
    return f"{value:.0e}" if 0 < abs(value) < 0.5 * 10**-places else f"{value:.{places}f}"


def _html(table: pd.DataFrame, index: bool) -> str:
    with pd.option_context("display.max_colwidth", None):  # texts are not cut
        html = table.to_html(index=index, border=0, na_rep="", justify="left")
    return re.sub("<td>(?=[^<]*[A-Za-z]{2})", '<td style="text-align: left">', html)  # words
