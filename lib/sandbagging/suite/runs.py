"""Run folders: one folder per run, one artefact per notebook, and a manifest that is written last and means "done".

A notebook calls `begin` at its top, writes through the returned `Step`, and calls `Step.done` at its end.
The runner that executes notebooks one after the other is in `runner.py`.
"""

import ast
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.suite import sources

PACKAGE = provenance.PACKAGE
REPOSITORY = provenance.REPOSITORY
MANIFEST = "manifest.json"
PROGRESS = ".progress.json"
UNFINISHED = ".unfinished.json"  # what a resumable step was begun with
SCRATCH = ".scratch"
LOCK = ".lock"
SECONDS_BETWEEN_PROGRESS = 0.5

# These modules carry results and messages but compute nothing, so a change in them makes no result stale.
PLUMBING = ("errors.py", "provenance.py", "suite/runs.py", "suite/runner.py", "suite/sources.py")


class Notebook(NamedTuple):
    """One room of the story: the notebook's name, the artefact it writes, and the artefacts it reads."""

    name: str
    artefact: str
    reads: tuple[str, ...]
    reads_nested: bool = False  # it also reads notebooks 00 and 08 of the runs that are nested in this one


NOTEBOOKS = (
    Notebook("00_can_it_sandbag", "00_baseline", ()),
    Notebook("01_collect_activations", "01_activations", ("00_baseline",)),
    Notebook("02_train_saes", "02_saes", ("01_activations",)),
    Notebook("03_what_separates", "03_separation", ("01_activations", "02_saes")),
    Notebook("04_full_sae_swap_E6", "04_swap", ("00_baseline", "01_activations", "02_saes")),
    Notebook("05_shuffled_labels_E1", "05_shuffled", ("00_baseline", "01_activations", "02_saes", "04_swap")),
    Notebook("06_reversed_direction_E4", "06_specificity", ("00_baseline", "01_activations", "02_saes", "04_swap", "05_shuffled")),
    Notebook("07_find_the_heads", "07_heads", ("00_baseline",)),
    Notebook("08_ablate_five_heads", "08_circuit", ("00_baseline", "07_heads")),
    Notebook("09_other_models", "09_models", ("00_baseline", "08_circuit"), reads_nested=True),
    Notebook(
        "10_what_survived",
        "10_ledger",
        (
            "00_baseline",
            "01_activations",
            "02_saes",
            "03_separation",
            "04_swap",
            "05_shuffled",
            "06_specificity",
            "07_heads",
            "08_circuit",
            "09_models",
        ),
        reads_nested=True,
    ),
    Notebook("11_planted_truth", "11_planted", ()),
)


# ---------------------------------------------------------------- where things lie


def runs_folder() -> Path:
    """Return the folder that holds all runs: the environment variable SANDBAGGING_RUNS, or papermill_runs in the repository."""
    return Path(os.environ.get("SANDBAGGING_RUNS") or REPOSITORY / "papermill_runs")


def notebooks_folder() -> Path:
    """Return the folder of the notebooks: the environment variable SANDBAGGING_NOTEBOOKS, or notebooks in the repository."""
    return Path(os.environ.get("SANDBAGGING_NOTEBOOKS") or REPOSITORY / "notebooks")


def run_folder(run: str) -> Path:
    """Return the folder of a run by its name, nested as in reference/null_model if need be; UserError for what is no plain name."""
    parts = run.split("/") if isinstance(run, str) else [""]
    if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", part) for part in parts) or parts[0] in ("parameters", "profiles"):
        raise UserError(f"A run's name is made of letters, digits, '-', '_' and '.', such as mine-laptop; {run!r} is not.")
    return runs_folder().joinpath(*parts)


def notebook_of(artefact: str) -> Notebook:
    """Return the notebook that writes an artefact; UserError if none does."""
    name = artefact.rsplit("/", 1)[-1]
    for notebook in NOTEBOOKS:
        if notebook.artefact == name:
            return notebook
    raise UserError(f"No notebook writes {artefact!r}; the artefacts are {', '.join(n.artefact for n in NOTEBOOKS)}.")


def notebook_path(notebook: Notebook) -> Path:
    """Return the path of a notebook's source, which is never the executed copy."""
    return notebooks_folder() / f"{notebook.name}.ipynb"


# ---------------------------------------------------------------- manifests


def read_manifest(run: str, artefact: str) -> dict[str, Any] | None:
    """Return the manifest of an artefact, or None where the artefact is not done."""
    try:
        return json.loads((run_folder(run) / artefact / MANIFEST).read_text())
    except (OSError, ValueError):
        return None


def output_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of an artefact by its relative name; the manifest and hidden files do not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and str(name) != MANIFEST and not any(part.startswith(".") for part in name.parts):
            found[name.as_posix()] = files.sha256(path)
    return found


def content_hash(manifest: dict[str, Any]) -> str:
    """Return one hash over an artefact's data, so that a rerun with equal data leaves what follows valid; figures do not count."""
    lines = [f"{name} {digest}" for name, digest in sorted(manifest["outputs"].items()) if not name.startswith("fig_")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def nested_runs(run: str) -> list[str]:
    """Return the runs that are nested in a run and have come through notebook 08, by name."""
    folder = run_folder(run)
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [name for name in (f"{run}/{part}" for part in inside if re.match(r"[A-Za-z0-9_]", part)) if read_manifest(name, "08_circuit")]


def _nested_hashes(run: str) -> dict[str, str]:
    found = {}
    for name in nested_runs(run):
        manifests = [read_manifest(name, artefact) for artefact in ("00_baseline", "08_circuit")]
        found[name] = "".join(content_hash(m)[:16] for m in manifests if m)
    return found


def damaged_file(run: str, artefact: str, manifest: dict[str, Any]) -> str | None:
    """Return the name of the first file of an artefact that is missing or differs from its manifest, or None."""
    folder = run_folder(run) / artefact
    for name, digest in manifest["outputs"].items():
        path = folder / name
        if not path.is_file() or files.sha256(path) != digest:
            return name
    return None


def _checked_manifest(run: str, artefact: str) -> dict[str, Any]:
    """Return the manifest of an input; UserError that names the notebook to run where it is missing or damaged."""
    way_out = f"run notebook {notebook_of(artefact).name} first (python -m sandbagging run {notebook_of(artefact).name[:2]} --run {run})"
    manifest = read_manifest(run, artefact)
    if manifest is None:
        raise UserError(f"The run {run} holds no finished {artefact}: {way_out}.")
    damaged = damaged_file(run, artefact, manifest)
    if damaged:
        raise UserError(f"{artefact}/{damaged} in the run {run} is missing or was changed after it was written: {way_out}.")
    return manifest


# ---------------------------------------------------------------- what a result depends on


def _has_tag(cell: dict[str, Any], *tags: str) -> bool:
    return bool(set(tags) & set(cell.get("metadata", {}).get("tags", [])))


def _cell_source(cell: dict[str, Any]) -> str:
    """Return a cell's code without the lines that only the notebook understands (% and !)."""
    source = "".join(cell["source"])
    return "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))


def _code_cells(path: Path) -> list[dict[str, Any]]:
    try:
        return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    except FileNotFoundError:
        raise UserError(f"The notebook {path.name} is not in {path.parent}; restore it with: git checkout notebooks.") from None
    except (ValueError, KeyError):
        raise UserError(f"The notebook {path.name} cannot be read as a notebook; restore it with: git checkout notebooks.") from None


def notebook_code(path: Path) -> str:
    """Return all the code of a notebook but its parameters cell."""
    return "\n".join(_cell_source(cell) for cell in _code_cells(path) if not _has_tag(cell, "parameters", "injected-parameters"))


def declared_names(path: Path) -> list[str]:
    """Return the names that a notebook's parameters cell declares, in order; `run`, the run's name, is not counted."""
    names = []
    for cell in _code_cells(path):
        if _has_tag(cell, "parameters"):
            for node in ast.parse(_cell_source(cell)).body:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
                names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name != "run"]


def library_hashes(notebook: Notebook) -> dict[str, str]:
    """Return the hash of all that a notebook tells: its own code, the library's files behind it, data files."""
    path = notebook_path(notebook)
    code = notebook_code(path)
    hashes = {"(notebook)": sources.source_hash(code), **sources.closure(code, skip=PLUMBING)}
    texts = [code, *((PACKAGE / name).read_text(encoding="utf-8") for name in hashes if name.endswith(".py"))]
    # Questions are data, but a changed question changes every number after it. Other data counts where it is named.
    for path in sorted((PACKAGE / "data").glob("*.*")):
        if (path.suffix == ".jsonl" and "questions.py" in hashes) or any(path.name in text for text in texts):
            hashes[f"data/{path.name}"] = files.sha256(path)[:16]
    return dict(sorted(hashes.items()))


def user_file_hashes(parameters: dict[str, Any]) -> dict[str, str]:
    """Return the sha256 of every file that a parameter names (relative names count from the notebooks' folder)."""
    found = {}
    for name, value in parameters.items():
        if isinstance(value, str) and value and len(value) < 1000:
            path = notebooks_folder() / Path(value).expanduser()
            if path.is_file():
                found[name] = files.sha256(path)
    return found


def why_stale(run: str, notebook: Notebook, parameters: dict[str, Any] | None = None) -> str | None:
    """Return why a finished artefact has to be made again, in words, or None if it still holds; None for `parameters`: not compared."""
    manifest = read_manifest(run, notebook.artefact)
    if manifest is None:
        return "not done yet"
    changes = []
    if parameters is not None:
        before = manifest["parameters"]
        for name, value in json.loads(json.dumps(parameters)).items():
            if name not in before:
                changes.append(f"{name} is new")
            elif before[name] != value:
                changes.append(f"{name} {_short(before[name])} -> {_short(value)}")
    if changes:
        return "parameters changed: " + ", ".join(changes)
    for name, digest in manifest["inputs"].items():
        upstream = read_manifest(run, name)
        if upstream is None or content_hash(upstream) != digest:
            return f"input changed: {name}"
    if notebook.reads_nested and manifest.get("nested", {}) != _nested_hashes(run):
        return "a nested run is new or changed"
    library = library_hashes(notebook)
    changed = sorted(name for name in library.keys() | manifest["library"].keys() if library.get(name) != manifest["library"].get(name))
    if changed:
        return "library changed: " + ", ".join(changed)
    if user_file_hashes(manifest["parameters"]) != manifest["files"]:
        return "a file named by a parameter changed"
    damaged = damaged_file(run, notebook.artefact, manifest)
    return f"{damaged} is missing or was changed" if damaged else None


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def small_png(png: bytes) -> bytes:
    """Return a picture with at most 256 colours on white, as PNG: figures of lines and text need no more, and it is a third as large."""
    from PIL import Image  # matplotlib's own dependency

    picture = Image.open(io.BytesIO(png)).convert("RGBA")
    page = Image.new("RGBA", picture.size, "white")
    page.alpha_composite(picture)
    small = io.BytesIO()
    page.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, format="PNG", optimize=True)
    return small.getvalue()


# ---------------------------------------------------------------- one step


@dataclass
class Step:
    """One notebook's work in one run: where its inputs lie and where its outputs go."""

    artefact: str
    run: str
    parameters: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    started: float = field(default_factory=time.time)
    _last_progress: float = 0.0

    @property
    def folder(self) -> Path:
        """The folder that this step writes."""
        return run_folder(self.run) / self.artefact

    @property
    def scratch(self) -> Path:
        """A folder for what a resumable step has finished so far; it is no part of the artefact and goes when the step is done."""
        return self.folder / SCRATCH

    def input(self, artefact: str) -> Path:
        """Return the folder of an input; UserError if `begin` was not told that it is read."""
        if artefact not in self.inputs:
            raise UserError(f"{self.artefact} does not declare that it reads {artefact}; add it to reads in runs.begin.")
        return run_folder(self.run) / artefact

    def setting(self, name: str) -> Any:
        """Return the value that a notebook upstream gave a parameter (the nearest wins); UserError if none declares it."""
        waiting, seen = list(self.inputs.items()), set()
        while waiting:
            artefact, manifest = waiting.pop(0)
            if name in manifest["parameters"]:
                return manifest["parameters"][name]
            seen.add(artefact)
            for upstream in manifest["inputs"]:
                parent = read_manifest(self.run, upstream) if upstream not in seen else None
                if parent:
                    waiting.append((upstream, parent))
        raise UserError(f"No notebook before {self.artefact} declares the parameter {name!r} in the run {self.run}.")

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table as CSV (gzip if the name ends in .gz), six significant digits."""
        files.write_csv(self.folder / name, table)

    def json(self, name: str, value: Any) -> None:
        """Write a value as JSON; an Estimate becomes its six fields."""
        files.write_json(self.folder / name, plain(value))

    def figure(self, name: str, figure: Any) -> None:
        """Save a figure as PNG at 120 dpi, and what it shows as a table beside it; the figure stays open: the notebook shows it too."""
        from sandbagging.suite import figure_data

        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None})
        files.write_bytes(self.folder / name, small_png(drawn.getvalue()))
        files.write_csv((self.folder / name).with_suffix(".csv"), figure_data.drawn(figure))

    def read_table(self, artefact: str, name: str) -> pd.DataFrame:
        """Return a table of an input artefact."""
        return pd.read_csv(self._existing(artefact, name))

    def read_json(self, artefact: str, name: str) -> Any:
        """Return a JSON value of an input artefact."""
        return json.loads(self._existing(artefact, name).read_text())

    def _existing(self, artefact: str, name: str) -> Path:
        path = self.input(artefact) / name
        if not path.is_file():
            raise UserError(f"{artefact} in the run {self.run} holds no file {name}; run notebook {notebook_of(artefact).name} again.")
        return path

    def progress(self, label: str, done: int, total: int) -> None:
        """Tell the runner (or, by hand, the reader) how far a long loop has come; `done` and `total` count the loop's own units."""
        now = time.time()
        if now - self._last_progress < SECONDS_BETWEEN_PROGRESS and done < total:
            return
        self._last_progress = now
        if os.environ.get("SANDBAGGING_RUNNER"):
            report = {"artefact": self.artefact, "label": label, "done": done, "total": total, "time": now}
            files.write_json(run_folder(self.run) / PROGRESS, report)
        else:
            print(f"\r{label}: {done}/{total}   ", end="" if done < total else "\n", file=sys.stderr, flush=True)

    def track(self, items: Iterable, label: str) -> Iterator:
        """Yield the items one by one and report progress after each."""
        items = items if isinstance(items, Sequence) else list(items)
        for index, item in enumerate(items):
            yield item
            self.progress(label, index + 1, len(items))

    def done(self) -> None:
        """Write the manifest, last and whole: from now on this artefact counts as done."""
        _refuse_orphan()
        seconds = round(time.time() - self.started, 1)
        outputs = output_hashes(self.folder)
        notebook = notebook_of(self.artefact)
        manifest = {
            "artefact": self.artefact,
            "notebook": notebook.name,
            "parameters": self.parameters,
            "inputs": {name: content_hash(upstream) for name, upstream in self.inputs.items()},
            "files": user_file_hashes(self.parameters),
            "outputs": outputs,
            "library": library_hashes(notebook),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "device": provenance.device(),
            "seconds": seconds,
            "seed": self._seed(),
        }
        if notebook.reads_nested:
            manifest["nested"] = _nested_hashes(self.run)
        files.write_json(self.folder / MANIFEST, manifest)
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        print(f"{self.artefact} is done: {len(outputs)} files in the run {self.run}, {seconds:.0f} s.")

    def _seed(self) -> Any:
        try:
            return self.parameters["seed"] if "seed" in self.parameters else self.setting("seed")
        except UserError:
            return None


def begin(artefact: str, *, run: str, parameters: dict[str, Any], reads: Sequence[str] = (), resumable: bool = False) -> Step:
    """Start a notebook's step: check its inputs, empty its folder, and return the Step to write through.

    A resumable step finds what it wrote before it was cut off, if its parameters, inputs and library are still the same.
    Raises UserError for an input that is missing or damaged (it names the notebook to run), for a run that another process
    is writing, and for the committed reference run outside `make refresh`.
    """
    notebook = notebook_of(artefact)
    folder = run_folder(run) / artefact
    refuse_reference(run)
    _refuse_locked(run)
    _refuse_orphan()
    try:
        parameters = {name: value for name, value in json.loads(json.dumps(parameters, allow_nan=False)).items() if name != "run"}
    except (TypeError, ValueError):
        raise UserError(f"The parameters of {artefact} must be plain numbers, strings, lists and mappings.") from None
    forgotten = [name for name in declared_names(notebook_path(notebook)) if name not in parameters]
    if forgotten:
        raise UserError(f"{notebook.name} declares {', '.join(forgotten)} but does not hand it to runs.begin; add it to parameters there.")
    inputs = {name: _checked_manifest(run, name) for name in reads}
    begun = {"parameters": parameters, "inputs": {name: content_hash(manifest) for name, manifest in inputs.items()},
             "library": library_hashes(notebook)}  # fmt: skip
    if folder.exists() and not (resumable and _can_resume(folder, begun)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if resumable:
        files.write_json(folder / UNFINISHED, begun)
    return Step(artefact, run, parameters, inputs)


def _can_resume(folder: Path, begun: dict[str, Any]) -> bool:
    """Return whether a folder holds the unfinished work of the same step."""
    try:
        return not (folder / MANIFEST).exists() and json.loads((folder / UNFINISHED).read_text()) == begun
    except (OSError, ValueError):
        return False


def refuse_reference(run: str) -> None:
    """Raise UserError for the committed reference run, unless `make refresh` is at work."""
    if run.split("/")[0] == "reference" and os.environ.get("SANDBAGGING_REFRESH") != "1":
        raise UserError("The run named reference is the committed one and only `make refresh` writes it; choose another name.")


def _refuse_locked(run: str) -> None:
    """Raise UserError when the runner is writing this run and this is not the runner's own kernel."""
    path = run_folder(run) / LOCK
    if os.environ.get("SANDBAGGING_RUNNER") or not path.exists():
        return
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"Another process is writing the run {run}; wait for it to end or choose another run name.") from None


def _refuse_orphan() -> None:
    """Raise UserError in a kernel whose runner was killed: its results must not count."""
    runner = os.environ.get("SANDBAGGING_RUNNER")
    if runner and int(runner) not in (os.getpid(), os.getppid()):
        raise UserError("The runner that started this notebook has ended; run the same command again.")


def plain(value: Any) -> Any:
    """Return a value with estimates, numpy numbers, tuples and paths turned into what JSON knows; NaN becomes None."""
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, pd.DataFrame):
        return plain(value.to_dict(orient="records"))
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
