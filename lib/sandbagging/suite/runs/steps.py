"""One notebook's work in one run: `begin` at its top, `Step` for files, `done` at its end."""

import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import pandas as pd

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.suite import parameters
from sandbagging.suite.runs import manifests, places, readings
from sandbagging.suite.runs.pictures import small_png
from sandbagging.suite.runs.places import MANIFEST, SCRATCH, STORED, run_folder
from sandbagging.suite.runs.staleness import library_hashes, user_file_hashes
from sandbagging.suite.runs.store import Store, written_files

SECONDS_BETWEEN_PROGRESS = 0.5


class Subject(NamedTuple):
    """Which model a run asks, and what."""

    lm: Any  # a models.Model
    asked: dict[str, list]  # split -> questions


@dataclass
class Step:
    """One notebook's work in one run: where its inputs lie and where its outputs go."""

    artefact: str
    run: str
    parameters: dict[str, Any]
    inputs: dict[str, dict[str, Any]]
    started: float = field(default_factory=time.time)
    _last_progress: float = 0.0

    def __post_init__(self) -> None:
        self.store = Store(self.run, self.artefact)

    @property
    def folder(self) -> Path:
        """The folder that this step writes."""
        return run_folder(self.run) / self.artefact

    # What is asked, and what is measured

    def subject(self, **n_of_split: int) -> Subject:
        """Return the model and the questions of this run, by the settings of notebook 00.

        `train=40` asks another number of a split's questions than notebook 00 did.
        """
        from sandbagging import models, questions

        name, seed = self.setting("model"), self.setting("seed")
        models.check_framing(name, self.setting("framing"))
        asked = {}
        for split in ("train", "test"):
            whole = models.questions_of(name, split, self.setting(f"questions_{split}"))
            asked[split] = (whole, n_of_split.get(split, self.setting(f"n_{split}")))
        questions.check_disjoint(asked["train"][0], asked["test"][0])
        chosen = {s: questions.subset(whole, n, seed) for s, (whole, n) in asked.items()}
        random_weights, adapter = self.setting("random_weights"), self.setting("adapter")
        lm = models.load(name, adapter=adapter, random_weights=random_weights, seed=seed)
        return Subject(lm, chosen)

    def measure(self, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Return function(*args, **kwargs), out of the store where it was measured before.

        `progress`, `keep` (a folder to resume from) and `into` (this step's folder) are filled in.
        """
        return self.store.measure(function, *args, progress=self.progress, **kwargs)

    # Reading

    def input(self, artefact: str) -> Path:
        """Return the folder of an input; UserError if this notebook does not read it."""
        if artefact not in self.inputs:
            raise UserError(
                f"{self.artefact} does not read {artefact}; add it to NOTEBOOKS in "
                "suite/runs/places.py."
            )
        return run_folder(self.run) / artefact

    def files(self, artefact: str, *globs: str) -> files.Folder:
        """Return an input's files of some names, with the hashes that its manifest states.

        They need not be on this machine until something is computed from them.
        """
        folder, outputs = self.input(artefact), self.inputs[artefact]["outputs"]
        chosen = {n: h for n, h in outputs.items() if any(Path(n).match(glob) for glob in globs)}
        if not chosen:
            raise UserError(f"{artefact} in the run {self.run} holds no file {' or '.join(globs)}.")
        return files.Folder(folder, chosen)

    def setting(self, name: str) -> Any:
        """Return the value that this notebook or one upstream gave a parameter (the nearest wins).

        Raises UserError if none declares it.
        """
        if name in self.parameters:
            return self.parameters[name]
        waiting, seen = list(self.inputs.items()), set()
        while waiting:
            artefact, manifest = waiting.pop(0)
            if name in manifest["parameters"]:
                return manifest["parameters"][name]
            seen.add(artefact)
            for upstream in manifest["inputs"]:
                parent = (
                    manifests.read_manifest(self.run, upstream) if upstream not in seen else None
                )
                if parent:
                    waiting.append((upstream, parent))
        raise UserError(
            f"No notebook before {self.artefact} declares the parameter {name!r} "
            f"in the run {self.run}."
        )

    def read_table(self, artefact: str, name: str) -> pd.DataFrame:
        """Return a table of an input artefact, ids and other text as text."""
        return files.read_csv(self._existing(artefact, name))

    def read_json(self, artefact: str, name: str) -> Any:
        """Return a JSON value of an input artefact."""
        return json.loads(self._existing(artefact, name).read_text(encoding="utf-8"))

    def _existing(self, artefact: str, name: str) -> Path:
        path = self.input(artefact) / name
        if not path.is_file():
            source = places.notebook_of(artefact).name
            raise UserError(
                f"{artefact} in the run {self.run} holds no file {name}; "
                f"run notebook {source} again."
            )
        return path

    def gate(self) -> Any:
        """Return the `gate.Gate` that notebook 00 has found: every later page begins with it."""
        from sandbagging.gate import Gate

        return Gate.from_dict(self.read_json("00_baseline", "summary.json")["gate"])

    # Writing

    def table(self, name: str, table: pd.DataFrame) -> None:
        """Write a table as CSV (gzip if the name ends in .gz), six significant digits."""
        files.write_csv(self.folder / name, table)

    def json(self, name: str, value: Any) -> None:
        """Write a value as JSON; an Estimate becomes its six fields."""
        files.write_json(self.folder / name, plain(value))

    def figure(self, name: str, figure: Any) -> Any:
        """Save a figure as PNG at 120 dpi and what it shows as a table; return the figure."""
        from sandbagging.suite.plots import data

        drawn = io.BytesIO()
        figure.savefig(
            drawn, format="png", dpi=120, bbox_inches="tight", metadata={"Software": None}
        )
        files.write_bytes(self.folder / name, small_png(drawn.getvalue()))
        files.write_csv((self.folder / name).with_suffix(".csv"), data.drawn(figure))
        return figure

    # On the way

    def progress(self, label: str, done: int, total: int) -> None:
        """Tell the runner (by hand: the reader) how far a long loop has come, in its own units."""
        now = time.time()
        if now - self._last_progress < SECONDS_BETWEEN_PROGRESS and done < total:
            return
        self._last_progress = now
        if os.environ.get("SANDBAGGING_RUNNER"):
            report = {
                "artefact": self.artefact,
                "label": label,
                "done": done,
                "total": total,
                "time": now,
            }
            files.write_json(run_folder(self.run) / places.progress_file(self.artefact), report)
        else:
            print(
                f"\r{label}: {done}/{total}   ",
                end="" if done < total else "\n",
                file=sys.stderr,
                flush=True,
            )

    def done(self) -> None:
        """Write the manifest, last and whole: from now on this artefact counts as done."""
        _refuse_orphan()
        self.store.prune()
        shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)
        seconds = round(time.time() - self.started, 1)
        outputs, notebook = manifests.output_hashes(self.folder), places.notebook_of(self.artefact)
        manifest = {
            "artefact": self.artefact,
            "notebook": notebook.name,
            "parameters": self.parameters,
            "inputs": {
                name: manifests.content_hash(upstream) for name, upstream in self.inputs.items()
            },
            "files": user_file_hashes(self.parameters),
            "outputs": outputs,
            "library": library_hashes(notebook),
            "measured": self.store.used,
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "device": provenance.device(),
            "seconds": seconds,
            "seconds_measuring": round(self.store.seconds, 1),
            "seed": self._seed(),
        }
        beside = manifests.hashes_beside(self.run, notebook)
        if beside:
            manifest["nested"] = beside
        files.write_json(self.folder / MANIFEST, manifest)
        print(
            f"{self.artefact} is done: {len(outputs)} files in the run {self.run}, {seconds:.0f} s."
        )

    def _seed(self) -> Any:
        try:
            return self.setting("seed")
        except UserError:
            return None


def begin(artefact: str, names: MutableMapping[str, Any]) -> Step:
    """Start a notebook's step: check its inputs, clear its folder, return the Step.

    names: the notebook's own (`globals()`), of which `run` and the declared parameters are taken.
    Stored results stay, so that what was measured before is not measured again. Raises UserError
    for an input that is missing or damaged (it names the notebook to run), for a run that another
    process is writing, and for the committed reference run outside `make refresh`.
    """
    notebook, run = places.notebook_of(artefact), names["run"]
    folder = run_folder(run) / artefact
    refuse_reference(run)
    _refuse_locked(run)
    _refuse_orphan()
    given = _parameters(notebook, names)
    inputs = {name: manifests.checked_manifest(run, name) for name in notebook.reads}
    _clear(folder)
    readings.register()
    return Step(artefact, run, given, inputs)


def _parameters(notebook: places.Notebook, names: MutableMapping[str, Any]) -> dict[str, Any]:
    """Return the declared parameters, each in its type.

    Plain papermill hands over text: what a text means ("false", "[1]") takes its place in `names`.
    """
    declared = parameters.declared(places.notebook_path(notebook))
    missing = [name for name in declared if name not in names]
    if missing:
        raise UserError(
            f"{notebook.name} declares {', '.join(missing)}, and no cell has given a value; "
            "run its parameters cell first."
        )
    values = parameters.checked(declared, {name: names[name] for name in declared})
    names.update(values)
    return values


def _clear(folder: Path) -> None:
    """Empty an artefact's folder but for stored results, what they wrote, and unfinished loops."""
    kept = {folder / name for name in written_files(folder)}
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in sorted(folder.rglob("*"), reverse=True) if folder.exists() else ():
        aside = path.relative_to(folder).parts[0] in (STORED, SCRATCH)
        if path.is_file() and not aside and path not in kept:
            path.unlink()
        elif path.is_dir() and not aside and not any(path.iterdir()):
            path.rmdir()
    folder.mkdir(parents=True, exist_ok=True)


def refuse_reference(run: str) -> None:
    """Raise UserError for the committed reference run, unless `make refresh` is at work."""
    if run.split("/")[0] == "reference" and os.environ.get("SANDBAGGING_REFRESH") != "1":
        raise UserError(
            "The run named reference is the committed one and only `make refresh` writes it; "
            "choose another name."
        )


def _refuse_locked(run: str) -> None:
    """Raise UserError when the runner writes this run and this is not the runner's own kernel."""
    path = run_folder(run) / places.LOCK
    if os.environ.get("SANDBAGGING_RUNNER") or not path.exists():
        return
    try:
        filelock.FileLock(path, timeout=0).acquire().lock.release()
    except filelock.Timeout:
        raise UserError(
            f"Another process is writing the run {run}; wait for it to end or choose another name."
        ) from None


def _refuse_orphan() -> None:
    """Raise UserError in a kernel whose runner was killed: its results must not count."""
    runner = os.environ.get("SANDBAGGING_RUNNER")
    if runner and int(runner) not in (os.getpid(), os.getppid()):
        raise UserError(
            "The runner that started this notebook has ended; run the same command again."
        )


def plain(value: Any) -> Any:
    """Return a value as what JSON knows: estimates, numpy numbers, tuples, paths; NaN is None."""
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
