"""Tables on a page: the first rows open, the rest folded."""

from math import isnan
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
    rounded = table.map(lambda value: _rounded(value, digits))
    counted = isinstance(table.index, pd.RangeIndex) and table.index.name is None
    whole = rounded.to_string(index=not counted)
    if len(table) <= rows:
        return Shown(_html(rounded, not counted), whole)
    more = f"<details><summary>{len(table) - rows} more rows</summary>{{}}</details>"
    folded = more.format(_html(rounded[rows:], not counted))
    return Shown(_html(rounded[:rows], not counted) + folded, whole)


def _rounded(value: object, digits: int) -> object:
    """Return a number as text, and nothing for one that is not defined."""
    if not isinstance(value, float):
        return value
    return "" if isnan(value) else f"{value:.{digits}f}"


def _html(table: pd.DataFrame, index: bool) -> str:
    return table.to_html(index=index, border=0, na_rep="", justify="left")
