"""Tables on a page: the first rows open, the rest folded; numbers with their intervals as text."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from sandbagging.statistics import Estimate, Wide

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
    left = len(table) - rows
    words = f"{left} {'more ' if rows else ''}row{'s' if left > 1 else ''}"
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


def wide(found: Mapping[str, Wide]) -> pd.DataFrame:
    """Return numbers {name: Wide} for reading: value, both intervals, and the range when one
    category is left out.
    """
    rows = {}
    for name, one in found.items():
        e, clustered = one.estimate, one.by_category
        spec = ".0%" if not e.unit else "+.2f"
        least, most = one.range
        rows[name] = {
            "value": f"{e.value:{spec}} {e.unit}".strip(),
            "95 % over questions": _ends(one.by_question, spec),
            "over categories": one.why if clustered is None else _ends(clustered, spec),
            "without one category": f"{least:{spec}} to {most:{spec}}",
        }
    return pd.DataFrame(rows).T


def _ends(e: Estimate, spec: str) -> str:
    return f"[{e.low:{spec}}, {e.high:{spec}}]"


def intervals(table: pd.DataFrame, row: str, column: str) -> pd.DataFrame:
    """Return a table of value, low, high, unit for reading: a cell "value [low, high]" for each
    pair of what the columns `row` and `column` hold.
    """
    text = [
        f"{value:{spec}} [{low:{spec}}, {high:{spec}}]"
        for value, low, high, unit in table[["value", "low", "high", "unit"]].itertuples(
            index=False
        )
        for spec in [".0%" if unit == "share" else "+.2f"]
    ]
    told = table.assign(text=text).pivot(index=row, columns=column, values="text")
    rows, columns = (list(dict.fromkeys(table[name])) for name in (row, column))
    return told.loc[rows, columns]
