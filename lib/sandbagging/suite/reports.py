"""What runs have written, read for the terminal: the headline table, the state of a run, two runs side by side."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sandbagging.errors import UserError
from sandbagging.suite import runner, runs


def headline(run: str) -> str:
    """Return a run's headline table as text, or an empty text where the last notebook has not been run."""
    path = runs.run_folder(run) / "10_ledger" / "headline.json"
    if not path.is_file():
        return ""
    rows = [(str(row["finding"]), str(row["value_text"]), str(row["verdict"])) for row in json.loads(path.read_text())]
    return _aligned([("finding", "measured", "verdict"), *rows])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of texts as columns; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _existing_run(run: str) -> Path:
    folder = runs.run_folder(run)
    if not any((folder / notebook.artefact).is_dir() for notebook in runs.NOTEBOOKS):
        known = sorted({path.parents[1].relative_to(runs.runs_folder()).as_posix() for path in runs.runs_folder().glob("**/manifest.json")})
        raise UserError(f"There is no run {run}; {runner.nearest(run, known, 'the runs are')}")
    return folder


def status(run: str) -> pd.DataFrame:
    """Return one row per notebook of a run: whether it is done, whether it still holds, and its seconds."""
    _existing_run(run)
    rows = []
    for notebook in runs.NOTEBOOKS:
        manifest = runs.read_manifest(run, notebook.artefact)
        if manifest is None:
            state = f"failed, see {runner.failed_path(run, notebook).name}" if runner.failed_path(run, notebook).exists() else "not done"
        elif not runner.executed_path(run, notebook).is_file():
            state = "done, but its executed notebook is missing"
        else:
            reason = runs.why_stale(run, notebook)
            state = f"done, but {reason}" if reason else "done"
        rows.append({"notebook": notebook.name, "state": state, "seconds": manifest["seconds"] if manifest else None})
    return pd.DataFrame(rows)


def _estimates(value: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every number with an interval in a summary, with its path."""
    if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _estimates(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _estimates(item, f"{name}[{index}]")


def _summary(run: str) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(_existing_run(run).glob("*/summary.json")):
        found.update({f"{path.parent.name}: {name}": estimate for name, estimate in _estimates(json.loads(path.read_text()), "")})
    return found


def _interval(estimate: dict[str, Any] | None) -> str:
    if estimate is None or not isinstance(estimate["value"], int | float):
        return "-"
    low, high = estimate["low"], estimate["high"]
    interval = "" if low is None or high is None else f" [{low:.4g}, {high:.4g}]"
    return f"{estimate['value']:.4g}{interval} {estimate.get('unit') or ''}".rstrip()


def compare(first: str, second: str) -> str:
    """Return the summary numbers of two runs side by side as text: value [low, high] each, and second minus first."""
    a, b = _summary(first), _summary(second)
    if not a and not b:
        raise UserError(f"Neither {first} nor {second} holds a summary yet; run the notebooks first.")
    rows = [("number", first, second, "difference")]
    for name in dict.fromkeys([*a, *b]):
        pair = [estimate["value"] for estimate in (a.get(name), b.get(name)) if estimate and isinstance(estimate["value"], int | float)]
        rows.append((name, _interval(a.get(name)), _interval(b.get(name)), f"{pair[1] - pair[0]:+.4g}" if len(pair) == 2 else "-"))
    return _aligned(rows)
