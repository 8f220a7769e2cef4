"""Two runs value by value: every table and every JSON file of both.

Rows of a table are matched by the fewest of their first columns of names and counts that tell them
apart, items of a JSON list likewise; ids stay text. Two numbers are equal if they agree in all the
digits that both files hold. Wall times are not compared, nor are manifests and the notes of stored
results, which say what made a result.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sandbagging.suite.runs.places import MANIFEST, STORED

ENDINGS = (".csv", ".csv.gz", ".json", ".jsonl")
TIMES = ("seconds", "quiet_seconds")
TABLE_DIGITS = 6  # what tables are written with at least, where trailing zeros are cut off
JSON_DIGITS = 15
NUMBER = re.compile(r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
COUNT = re.compile(r"-?(0|[1-9]\d*)")


class Difference(NamedTuple):
    """One value that differs: where it stands, what both runs hold, and by which share."""

    file: str
    where: str
    first: str
    second: str
    relative: float  # |first − second| over the larger of both; nan where one is no number


class Compared(NamedTuple):
    """One file of both runs: how many values were compared, and which of them differ."""

    file: str
    values: int
    differences: list[Difference]  # the largest first, texts last
    only_first: list[str]  # values that the other run does not hold
    only_second: list[str]


def largest_first(differences: Iterable[Difference]) -> list[Difference]:
    """Return differences by their size, those of texts last."""
    return sorted(differences, key=lambda d: (isnan(d.relative), -d.relative))


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files that are compared, by their name below a run's folder; nested runs too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        aside = any(part.startswith(".") or part == STORED for part in name.parts)
        if path.name.endswith(ENDINGS) and path.name != MANIFEST and not aside:
            found[name.as_posix()] = path
    return found


def compare_folders(first: Path, second: Path) -> list[Compared]:
    """Return each file that both folders hold, compared, in the order of their names."""
    a, b = files_of(first), files_of(second)
    return [compare_files(name, a[name], b[name]) for name in a if name in b]


def compare_files(name: str, first: Path, second: Path) -> Compared:
    """Return one file of both runs, compared value by value."""
    if name.endswith((".csv", ".csv.gz")):
        a, b, digits = *_tables(first, second), TABLE_DIGITS
    else:
        a, b, digits = _json_values(first), _json_values(second), JSON_DIGITS
    both = a.index.intersection(b.index)
    columns = [c for c in a.columns if c in b.columns and c not in TIMES]
    differences = []
    for column in columns:
        differences += _differences(name, column, a.loc[both, column], b.loc[both, column], digits)
    only = [_names(x, y, both) for x, y in ((a, b), (b, a))]
    return Compared(name, len(both) * len(columns), largest_first(differences), *only)


def _names(table: pd.DataFrame, other: pd.DataFrame, both: pd.Index) -> list[str]:
    """Return the columns and rows of a table that the other does not hold, as words."""
    columns = [f"column {c}" for c in table.columns if c not in other.columns and c not in TIMES]
    return columns + [str(row) for row in table.index.difference(both, sort=False)]


# Equal or not -------------------------------------------------------------------------------------


def _differences(
    file: str, column: str, a: pd.Series, b: pd.Series, least: int
) -> Iterator[Difference]:
    """Yield where two columns of the same rows differ."""
    numeric = _is_number(a) & _is_number(b) & (not column.endswith("id"))
    x, y = (pd.to_numeric(c.where(numeric), errors="coerce").to_numpy(float) for c in (a, b))
    size, gap = np.maximum(np.abs(x), np.abs(y)), np.abs(x - y)
    digits = min(JSON_DIGITS, max(least, min(_digits(a[numeric]), _digits(b[numeric]))))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = 10.0 ** (np.floor(np.log10(size)) - digits + 1)
        relative = np.where(size > 0, gap / size, 0.0)
    # Half a unit of the last digit that both hold, and a hair for the arithmetic itself.
    close = (gap == 0) | (gap <= 0.5000001 * unit)
    counts = numeric & a.map(_is_count) & b.map(_is_count)
    equal = np.where(numeric & ~counts, close, a == b)
    for i in np.flatnonzero(~equal):
        where = f"{column} [{a.index[i]}]" if column else str(a.index[i])
        share = float(relative[i]) if numeric.iloc[i] else nan
        yield Difference(file, where, a.iloc[i], b.iloc[i], share)


def _is_number(texts: pd.Series) -> pd.Series:
    return texts.map(lambda text: NUMBER.fullmatch(text) is not None).astype(bool)


def _is_count(text: str) -> bool:
    return COUNT.fullmatch(text) is not None


def _digits(texts: pd.Series) -> int:
    """Return the largest number of significant digits that some texts of numbers hold."""
    mantissas = texts.str.replace(r"[eE].*$|[-+.]", "", regex=True).str.lstrip("0")
    return int(mantissas.str.len().max()) if len(texts) else 0


# Rows and items by name ---------------------------------------------------------------------------


def _tables(first: Path, second: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return two tables of texts, rows named by the same columns."""
    a, b = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (first, second))
    shared = [column for column in a.columns if column in b.columns]
    keys = _keys(a[shared], b[shared])
    return _named(a, keys), _named(b, keys)


def _keys(*tables: pd.DataFrame) -> list[str]:
    """Return the fewest first columns of names and counts whose values tell all rows apart."""
    keys: list[str] = []
    apart = [1] * len(tables)
    for column in tables[0].columns:
        if all(n == len(table) for n, table in zip(apart, tables, strict=True)):
            break
        if not all(_can_name(column, table[column]) for table in tables):
            continue
        more = [len(table[[*keys, column]].drop_duplicates()) for table in tables]
        if more > apart:
            keys, apart = [*keys, column], more
    return keys


def _can_name(column: str, texts: pd.Series) -> bool:
    """Return whether a column holds names or counts, and no measured numbers."""
    measured = _is_number(texts) & ~texts.map(_is_count)
    return column not in TIMES and (column.endswith("id") or not measured.any())


def _named(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Return a table whose rows are named by some columns, or by their number where these tie."""
    names = _joined(table, keys)
    repeated = names.groupby(names).cumcount().astype(str)
    tied = names.duplicated(keep=False)
    names = names.where(~tied, names + " #" + repeated)
    return table.drop(columns=list(keys)).set_axis(names)


def _json_values(path: Path) -> pd.DataFrame:
    """Return every value of a JSON file by its path; items of lists by what names them."""
    text = path.read_text(encoding="utf-8")
    lines = path.name.endswith(".jsonl")
    content = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    values = {path: json.dumps(value, ensure_ascii=False) for path, value in _flat(content, "")}
    return pd.DataFrame({"": pd.Series(values, dtype=object)})


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each single value with its path, such as verdicts[topk_L7, last].gap_e1.value."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in TIMES:
                yield from _flat(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for label, item in zip(labels(value), value, strict=True):
            yield from _flat(item, f"{name}[{label}]")
    else:
        yield name, value


def labels(items: Sequence[Any]) -> list[str]:
    """Return a name for each item of a list: by its texts and counts, or by its place."""
    places = [str(i) for i in range(len(items))]
    if not items or not all(isinstance(item, dict) for item in items):
        return places
    single = [{k: str(v) for k, v in item.items() if isinstance(v, str | int)} for item in items]
    table = pd.DataFrame(single).fillna("")
    names = _joined(table, _keys(table))
    return places if names.duplicated().any() else list(names)


def _joined(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """Return the texts of some columns as one, row by row."""
    if not columns:
        return pd.Series("", index=table.index, dtype=object)
    first, *rest = columns
    return table[first].str.cat([table[column] for column in rest], sep=", ")
