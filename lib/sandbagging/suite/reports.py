"""What runs have written, read for the terminal.

`headline` is notebook 10's table, `status` the state of a run, `compare` two runs side by side.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from sandbagging.errors import UserError, nearest
from sandbagging.statistics import Estimate
from sandbagging.suite import comparison, runner, runs
from sandbagging.suite.comparison import Compared, Difference

SMALLEST, SMALLEST_NAME = 12, 28  # characters of a column, and of the first one

Summaries = dict[tuple[str, str], Estimate]  # by artefact and name


def headline(run: str) -> str:
    """Return a run's headline table as text; empty where notebook 10 has not been run."""
    path = runs.run_folder(run) / "10_ledger" / "headline.json"
    if not path.is_file():
        return ""
    keys = ("finding", "value_text", "verdict")
    lines = [tuple(str(row[key]) for key in keys) for row in json.loads(path.read_text())]
    return aligned([("finding", "measured", "verdict"), *lines])


def aligned(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Return rows of texts as columns, the first row as the head.

    Where they are wider than `width`, the first column gives way, then the widest one.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while width and sum(widths) + 2 * len(widths) - 2 > width and max(widths) > SMALLEST:
        widths[0 if widths[0] > SMALLEST_NAME else widths.index(max(widths))] -= 1
    rows = [[_cut(text, w) for text, w in zip(row, widths, strict=True)] for row in rows]
    cells = [[text.ljust(w) for text, w in zip(row, widths, strict=True)] for row in rows]
    head, *lines = ["  ".join(row).rstrip() for row in cells]
    return "\n".join([head, "  ".join("-" * w for w in widths), *lines])


def _cut(text: str, width: int) -> str:
    """Return a text without its middle where it is too long; both ends of a name say most."""
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


# The state of a run -------------------------------------------------------------------------------


def _existing_run(run: str) -> Path:
    folder = runs.run_folder(run)
    if not any((folder / notebook.artefact).is_dir() for notebook in runs.NOTEBOOKS):
        done = runs.runs_folder().glob("**/manifest.json")
        known = {path.parents[1].relative_to(runs.runs_folder()).as_posix() for path in done}
        hint = f"did you mean {nearest(run, sorted(known))}?" if known else "no run is there yet."
        raise UserError(f"There is no run {run}; {hint}")
    return folder


def status(run: str) -> pd.DataFrame:
    """Return one row per notebook of a run: is it done, does it still hold, and its seconds."""
    _existing_run(run)
    lines = []
    for notebook in runs.NOTEBOOKS:
        manifest = runs.read_manifest(run, notebook.artefact)
        seconds = manifest["seconds"] if manifest else None
        state = _state(run, notebook, manifest)
        lines.append({"notebook": notebook.name, "state": state, "seconds": seconds})
    return pd.DataFrame(lines)


def _state(run: str, notebook: runs.Notebook, manifest: dict | None) -> str:
    failed = runner.failed_path(run, notebook)
    if manifest is None:
        return f"failed, see {failed.name}" if failed.exists() else "not done"
    kept = runner.executed_path(run, notebook).is_file() or not runner.keeps_notebooks(run)
    if not kept:
        return "done, but its executed notebook is missing"
    reason = runs.why_stale(run, notebook)
    return f"done, but {reason}" if reason else "done"


# Two runs side by side ----------------------------------------------------------------------------


def compare(first: str, second: str, *, tables: bool = False, width: int | None = None) -> str:
    """Return two runs side by side as text, fitted to a width (default: the terminal's).

    First the numbers of the summaries that differ, with their intervals; then one line per artefact
    on every value of every table and JSON file; then the largest difference of each file.
    `tables`: one line per file, and everything that differs.

    Raises UserError for an unknown run, and where neither run holds a summary.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    a, b = _existing_run(first), _existing_run(second)
    x, y = _summaries(a), _summaries(b)
    if not x and not y:
        raise UserError(
            f"Neither {first} nor {second} holds a summary yet; run the notebooks first."
        )
    numbers = _side_by_side(x, y)
    compared = comparison.compare_folders(a, b)
    alone = [sorted(x.keys() - y.keys()) for x, y in _both_ways(a, b)]
    names = first, second
    parts = [
        aligned([("number", first, second, "difference"), *numbers], width) if numbers else "",
        aligned(_counts(compared, names, alone, by_file=tables), width),
        _differing(compared, names, width, every=tables),
        _total(compared, names, alone),
    ]
    if tables:
        parts[2:2] = [
            f"only in {n}: {', '.join(f)}" for n, f in zip(names, alone, strict=True) if f
        ]
    return "\n\n".join(part for part in parts if part)


def _both_ways(a: Path, b: Path) -> list[tuple[dict, dict]]:
    x, y = comparison.files_of(a), comparison.files_of(b)
    return [(x, y), (y, x)]


def _summaries(folder: Path) -> Summaries:
    """Return every number with an interval in a run's summaries, by artefact and name."""
    return {
        (path.parent.name, name): estimate
        for path in sorted(folder.glob("*/summary.json"))
        for name, estimate in _estimates(json.loads(path.read_text()), "")
    }


def _estimates(value: Any, name: str) -> Iterator[tuple[str, Estimate]]:
    """Yield every number with an interval in a summary, with its name."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        if isinstance(value["value"], int | float) and not isinstance(value["value"], bool):
            yield name, Estimate.from_dict({"n": 0, **value})
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _estimates(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for label, item in zip(comparison.labels(value), value, strict=True):
            yield from _estimates(item, f"{name}[{label}]")


def _side_by_side(a: Summaries, b: Summaries) -> list[tuple[str, ...]]:
    """Return the numbers that differ as texts, below a line with the name of their artefact."""
    lines, last = [], ""
    for artefact, name in dict.fromkeys([*a, *b]):
        x, y = a.get((artefact, name)), b.get((artefact, name))
        texts = [f"{e:short .4g}" if e else "-" for e in (x, y)]
        if texts[0] != texts[1]:
            lines += [(artefact, "", "", "")] if artefact != last else []
            last, change = artefact, "-"
            if x and y:
                change = f"{y.value - x.value:+.4g} {x.unit}".rstrip()
            lines.append((f"  {name}", *texts, change))
    return lines


def _counts(
    compared: Sequence[Compared],
    names: Sequence[str],
    alone: Sequence[Sequence[str]],
    by_file: bool,
) -> list[tuple[str, ...]]:
    """Return the table of what was compared, one line per file or per artefact."""

    def place(file: str) -> str:
        return file if by_file else artefact_of(file)

    only = [[place(file) for file in files] for files in alone]
    groups = {name: list(part) for name, part in groupby(compared, lambda c: place(c.file))}
    lines = [("file" if by_file else "artefact", "values", "equal", "largest relative difference",
              *(f"only in {name}" for name in names))]  # fmt: skip
    for name in sorted({*groups, *only[0], *only[1]}):
        part = groups.get(name, [])
        values, differing = sum(c.values for c in part), sum(len(c.differences) for c in part)
        missing = [sum(len(c.only_first) for c in part), sum(len(c.only_second) for c in part)]
        rest = [_only(n, files.count(name)) for n, files in zip(missing, only, strict=True)]
        most = comparison.largest_first(d for c in part for d in c.differences[:1])
        lines.append((name, f"{values}", f"{values - differing}", _share(most[:1]), *rest))
    return lines


def artefact_of(file: str) -> str:
    """Return the artefact that a file belongs to, with the run that it is nested in."""
    return re.sub(r"(^|/)(\d\d_[^/]*)/.*", r"\1\2", file)


def _only(values: int, files: int) -> str:
    said = [f"{n} {what}" for n, what in ((files, "files"), (values, "values")) if n]
    return ", ".join(said) or "-"


def _share(largest: Sequence[Difference]) -> str:
    return "".join("text" if isnan(d.relative) else f"{d.relative:.2g}" for d in largest) or "-"


def _differing(compared: Sequence[Compared], names: Sequence[str], width: int, every: bool) -> str:
    """Return the largest difference of each file as text, or every one."""
    differences = [d for c in compared for d in c.differences[: None if every else 1]]
    lines = [(f"{d.file}: {d.where}", d.first, d.second, _share([d]))
             for d in comparison.largest_first(differences)]  # fmt: skip
    return aligned([("differs", *names, "relative"), *lines], width) if lines else ""


def _total(
    compared: Sequence[Compared], names: Sequence[str], alone: Sequence[Sequence[str]]
) -> str:
    """Return what the comparison found, as one sentence."""
    values, differing = sum(c.values for c in compared), sum(len(c.differences) for c in compared)
    said = f"{len(compared)} files in both runs hold {values} values: {values - differing} equal"
    largest = comparison.largest_first(d for c in compared for d in c.differences[:1])
    if largest and isnan(largest[0].relative):
        said += f", {differing} texts different"
    elif largest:
        said += f", {differing} different, by at most {largest[0].relative:.2g} of the value"
    files = [f"{len(f)} files only in {n}" for n, f in zip(names, alone, strict=True) if f]
    return "; ".join([said, *files]) + "."
