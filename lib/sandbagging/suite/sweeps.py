"""Many runs from one grid: every combination of the values in a YAML file becomes a run.

1. `load` reads and checks a grid: every cell's parameters are checked before anything starts.
2. `run_all` hands the cells to Snakemake (papermill_runs/Snakefile), here or on a SLURM cluster.
3. `run_cell` is one cell: the strict runner, then a marker. A killed cell leaves no marker and
   goes on where it stopped.
4. `summary` lays the cells out as a table and a figure.
"""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.suite import devices, runner, runs

FIELDS = {"set", "notebooks", "grid", "gpu", "minutes", "memory_gb", "threads"}
MARKER = "swept.json"  # in a cell's folder, written last
PROFILES = ("local", "slurm")
MOST_CELLS = 10_000


@dataclass(frozen=True)
class Cell:
    """One run of a grid: its name, and the values that it gives to the grid's parameters."""

    run: str
    values: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.rsplit("/", 1)[-1]

    @property
    def marker(self) -> Path:
        """The file that says that this cell is done."""
        return runs.run_folder(self.run) / MARKER


@dataclass(frozen=True)
class Grid:
    """A checked grid: which parameter set and notebooks, the cells, and what each needs."""

    path: Path
    run: str
    set_name: str
    notebooks: tuple[str, ...] | None
    cells: tuple[Cell, ...]
    gpu: int  # devices of a cell
    minutes: int  # a cell's time limit on a cluster
    memory_gb: int
    threads: int

    def cell(self, name: str) -> Cell:
        """Return a cell by its name; raises UserError if the grid has none of that name."""
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"The grid {self.path.name} has no cell {name!r}.")


def load(path: Path | str, run: str | None = None) -> Grid:
    """Return the grid of a YAML file, its runs nested in `run` (default: sweep-NAME).

    Raises UserError for whatever is wrong with it.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"The grid {path} cannot be read ({error.strerror}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"The grid {path} is no YAML: {str(error).splitlines()[0]}.") from None
    if (
        not isinstance(content, dict)
        or not isinstance(content.get("grid"), dict)
        or not content["grid"]
    ):
        raise UserError(
            f"The grid {path.name} needs a line grid: with one parameter a line, such as "
            "seed: [0, 1, 2]."
        )
    for name in content.keys() - FIELDS:
        raise UserError(
            f"The grid {path.name} has an unknown line {name!r}; known are "
            f"{', '.join(sorted(FIELDS))}."
        )
    for name, values in content["grid"].items():
        if not isinstance(values, list) or not values:
            raise UserError(
                f"The grid {path.name} must give {name} a list of values, such as {name}: [1, 2]."
            )
    run = run or f"sweep-{re.sub(r'[^A-Za-z0-9_.-]', '-', path.stem)}"
    notebooks = tuple(content["notebooks"]) if content.get("notebooks") else None
    defaults = {"gpu": 0, "minutes": 60, "memory_gb": 8, "threads": 1}
    numbers = {name: _number(path, content, name, default) for name, default in defaults.items()}
    grid = Grid(
        path.resolve(),
        run,
        str(content.get("set", "laptop")),
        notebooks,
        _cells(path, run, content["grid"]),
        **numbers,
    )
    for cell in grid.cells:
        plan_of(grid, cell)  # every cell's parameters are checked before the first one runs
    return grid


def _number(path: Path, content: dict, name: str, default: int) -> int:
    value = content.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < (0 if name == "gpu" else 1):
        raise UserError(f"The grid {path.name} must give {name} a whole number, not {value!r}.")
    return value


def _cells(path: Path, run: str, grid: dict[str, list]) -> tuple[Cell, ...]:
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    if len(combinations) > MOST_CELLS:
        raise UserError(
            f"The grid {path.name} has {len(combinations)} cells, more than {MOST_CELLS}; cut it "
            "into several."
        )
    names = [_cell_name(values) for values in combinations]
    for name in {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"Two cells of the grid {path.name} have one name, {name}; leave out values that are "
            "written alike."
        )
    return tuple(
        Cell(f"{run}/{name}", values) for name, values in zip(names, combinations, strict=True)
    )


def _cell_name(values: dict[str, Any]) -> str:
    """Return a folder's name for a combination of values: model-organism-heads_seed-0."""
    texts = [
        f"{name}-{value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    ]
    return "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-") for text in texts)


def plan_of(grid: Grid, cell: Cell) -> runner.Plan:
    """Return what a cell runs; UserError for whatever is wrong with its parameters."""
    overrides = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in cell.values.items()
    }
    return runner.plan(grid.set_name, cell.run, overrides, grid.notebooks)


# One cell ---------------------------------------------------------------------------------------


def run_cell(grid: Grid, cell: Cell) -> None:
    """Run one cell's notebooks on devices of its own, and write its marker.

    What an earlier call finished is not done again. A cell that outlived a sweep that was killed
    may still be running: this one waits for it, and then finds its work done.
    """
    with devices.held(grid.gpu):
        runner.execute(plan_of(grid, cell), wait_for_lock=True, jobs=grid.threads)
    files.write_json(cell.marker, {"values": cell.values, "run": cell.run})


def holds(grid: Grid, cell: Cell) -> bool:
    """Return whether a cell is done and nothing that it depends on has changed since."""
    if not cell.marker.exists():
        return False
    return all(
        runs.why_stale(cell.run, step.notebook, step.parameters) is None
        for step in plan_of(grid, cell).steps
    )


# All cells --------------------------------------------------------------------------------------


def run_all(grid: Grid, profile: str = "local", jobs: int = 1, more: Sequence[str] = ()) -> None:
    """Run all cells that do not hold yet, `jobs` at a time, through Snakemake; then sum up.

    Raises UserError without Snakemake, for an unknown profile, and where cells failed; the others
    are done all the same.
    """
    if profile not in PROFILES:
        raise UserError(f"There is no profile {profile!r}; choose {' or '.join(PROFILES)}.")
    for cell in grid.cells:
        if not holds(grid, cell):
            cell.marker.unlink(missing_ok=True)
    folder = runs.run_folder(grid.run)
    folder.mkdir(parents=True, exist_ok=True)
    finished = subprocess.run(
        _command(grid, profile, jobs, more),
        cwd=folder,
        env=os.environ | {"SANDBAGGING_RUNS": str(runs.runs_folder().resolve())},
    )
    if finished.returncode:
        left = [cell.name for cell in grid.cells if not cell.marker.exists()]
        raise UserError(
            f"{len(left)} of {len(grid.cells)} cells are not done ({', '.join(left[:5])}"
            f"{' ...' if len(left) > 5 else ''}); "
            "read why above, then run the same command to go on."
        )
    summary(grid)


def _command(grid: Grid, profile: str, jobs: int, more: Sequence[str]) -> list[str]:
    try:
        import snakemake  # noqa: F401
    except ImportError:
        raise UserError(
            'Sweeps need Snakemake: run .venv/bin/python -m pip install -e ".[cluster]", then try '
            "again."
        ) from None
    home = provenance.REPOSITORY / "papermill_runs"
    more = [
        *(
            ["--resources", f"gpu={len(devices.known())}"]
            if grid.gpu and profile == "local"
            else []
        ),
        *more,
    ]
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(home / "Snakefile"),
        "--profile",
        str(home / "profiles" / profile),
        "--jobs",
        str(jobs),
        "--config",
        f"grid={grid.path}",
        f"run={grid.run}",
        f"here={Path.cwd()}",
        *more,
    ]


# What came of it --------------------------------------------------------------------------------

MEASURES = {  # of a cell's summaries: artefact, path to an Estimate
    "gap": ("00_baseline", ("gate", "gap_p_full")),
    "joint_effect": ("08_circuit", ("joint",)),
    "specific_portion": ("08_circuit", ("specific_portion",)),
}


def table(grid: Grid) -> pd.DataFrame:
    """Return one row per cell: its values, done, and each measure that its run holds.

    Measures are effects in pp with low, high and n.
    """
    rows = []
    for cell in grid.cells:
        line = {**cell.values, "run": cell.run, "done": cell.marker.exists()}
        for name, (artefact, keys) in MEASURES.items():
            found = _estimate(cell.run, artefact, keys)
            line |= {
                name: found.get("value"),
                **{f"{name}_{end}": found.get(end) for end in ("low", "high", "n")},
            }
        rows.append(line)
    return pd.DataFrame(rows)


def _estimate(run: str, artefact: str, keys: Sequence[str]) -> dict[str, Any]:
    if runs.read_manifest(run, artefact) is None:
        return {}
    found = json.loads((runs.run_folder(run) / artefact / "summary.json").read_text())
    for key in keys:
        found = (found or {}).get(key)
    return found or {}


def summary(grid: Grid) -> pd.DataFrame:
    """Write summary.csv and summary.png beside the cells, and return the table."""
    from sandbagging.suite.plots.sweeps import sweep_cells

    found, folder = table(grid), runs.run_folder(grid.run)
    files.write_csv(folder / "summary.csv", found)
    names = [name for name in MEASURES if found[name].notna().any()]
    if names:
        with files.atomic_path(folder / "summary.png") as path:
            sweep_cells(found, names, list(grid.cells[0].values)).savefig(path, dpi=120)
    return found
