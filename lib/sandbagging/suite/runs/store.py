"""What is slow to compute, stored once: under a key of the function's source and its arguments.

A stored result is two files in an artefact's folder `stored`: NAME-KEY.npz holds the value, and
NAME-KEY.json, written last, how it was made. Figures, words, tables and verdict rules are outside
the key.
"""

import inspect
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.suite.runs import codec, places, sources
from sandbagging.suite.runs.places import SCRATCH, STORED

FILLED_IN = ("progress", "keep", "into")  # arguments that a step fills in: they decide no number
REMEASURE = "SANDBAGGING_REMEASURE"


@dataclass
class Store:
    """The stored results of one artefact in one run."""

    run: str
    artefact: str
    used: dict[str, str] = field(
        default_factory=dict
    )  # name of a result -> "stored", or why it was measured
    seconds: float = 0.0  # spent on measuring

    @property
    def artefact_folder(self) -> Path:
        return places.run_folder(self.run) / self.artefact

    @property
    def folder(self) -> Path:
        return self.artefact_folder / STORED

    def measure(
        self, function: Callable, *args: Any, progress: Callable | None = None, **kwargs: Any
    ) -> Any:
        """Return function(*args, **kwargs), out of the store if its key is known, else computed.

        Raises UserError for a damaged stored result, unless SANDBAGGING_REMEASURE is 1.
        """
        made = _made(function, args, kwargs)
        name = f"{function.__name__}-{made['key'][:16]}"
        if self._find(name) and not self._damaged(name):
            self.used[name] = "stored"
            return codec.read(self.folder / f"{name}.npz", self.artefact_folder)
        self.used[name] = self._why(made)
        began, worked = time.time(), time.process_time()
        value = function(*args, **kwargs, **self._filled_in(function, kwargs, name, progress))
        seconds, worked = time.time() - began, time.process_time() - worked
        self.seconds += seconds
        quiet = seconds if "cuda" in provenance.device() else min(seconds, worked)
        times = {"seconds": round(seconds, 1), "quiet_seconds": round(quiet, 1)}
        self._keep(name, value, made | times)
        return value

    def _filled_in(
        self, function: Callable, given: dict, name: str, progress: Callable | None
    ) -> dict[str, Any]:
        fill = {
            "progress": progress,
            "keep": self.artefact_folder / SCRATCH / name,
            "into": self.artefact_folder,
        }
        wanted = inspect.signature(function).parameters
        return {k: v for k, v in fill.items() if k in wanted and k not in given}

    def _find(self, name: str) -> bool:
        """Return whether a result is here, if need be copied from another run of the family."""
        if (self.folder / f"{name}.json").is_file():
            return True
        top = places.run_folder(self.run.split("/")[0])
        for other in sorted(top.glob(f"**/{self.artefact}/{STORED}/{name}.json")):
            source = Store(self.run, self.artefact)
            if _record(other).get("files") or source._wrong(
                other.with_suffix(".npz"), _record(other)
            ):
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in (other.with_suffix(".npz"), other):
                shutil.copyfile(path, self.folder / path.name)
            return True
        return False

    def _wrong(self, path: Path, record: dict[str, Any]) -> str:
        """Return the name of a file of a result that is missing or changed, or "".

        Files that the function wrote into the artefact may be missing, since weights are not
        committed, unless it is to be measured again.
        """
        if not path.is_file() or files.sha256(path) != record.get("sha256"):
            return path.name
        for name, known in record.get("files", {}).items():
            there = self.artefact_folder / name
            if not there.is_file() and not remeasuring():
                continue
            if not there.is_file() or files.sha256(there) != known:
                return name
        return ""

    def _damaged(self, name: str) -> bool:
        wrong = self._wrong(self.folder / f"{name}.npz", _record(self.folder / f"{name}.json"))
        if wrong and not remeasuring():
            raise UserError(
                f"{self.artefact}/{STORED}/{wrong} in the run {self.run} is damaged or was "
                "changed: restore the file, or run the same command with --remeasure to compute "
                "it again."
            )
        return bool(wrong)

    def _why(self, made: dict[str, Any]) -> str:
        """Return why a result has to be measured: what differs from the last of this function."""
        mine = sorted(
            self.folder.glob(f"{made['function'].rsplit(':', 1)[1]}-*.json"), key=os.path.getmtime
        )
        for path in reversed(mine):
            old = _record(path)
            for part in ("sources", "arguments"):
                before, now = old.get(part, {}), made[part]
                changed = sorted(
                    n for n in before.keys() | now.keys() if before.get(n) != now.get(n)
                )
                if changed:
                    return f"changed: {', '.join(changed)}"
        return "new"

    def _keep(self, name: str, value: Any, record: dict[str, Any]) -> None:
        path = self.folder / f"{name}.npz"
        codec.write(path, value, self.artefact_folder)
        written = _written_by(value, self.artefact_folder)
        record |= {"sha256": files.sha256(path), "files": written, "commit": provenance.commit()}
        files.write_json(
            path.with_suffix(".json"),
            record | {"versions": provenance.versions(), "device": provenance.device()},
        )
        shutil.rmtree(self.artefact_folder / SCRATCH / name, ignore_errors=True)

    def prune(self) -> None:
        """Remove the stored results, and the files they wrote, that this step did not use."""
        kept = {f for n in self.used for f in _record(self.folder / f"{n}.json").get("files", {})}
        for path in self.folder.glob("*.json"):
            if path.stem not in self.used:
                for name in _record(path).get("files", {}).keys() - kept:
                    (self.artefact_folder / name).unlink(missing_ok=True)
                path.unlink()
                path.with_suffix(".npz").unlink(missing_ok=True)

    def files(self) -> dict[str, str]:
        """Return {file: sha256} of what stored results wrote into the artefact, here or not."""
        return written_files(self.artefact_folder)


def remeasuring() -> bool:
    """Return whether what is damaged or absent is to be measured again (--remeasure)."""
    return os.environ.get(REMEASURE) == "1"


def written_files(artefact_folder: Path) -> dict[str, str]:
    """Return {file: sha256} of what an artefact's stored results wrote beside their values."""
    found: dict[str, str] = {}
    for path in sorted((artefact_folder / STORED).glob("*.json")):
        found |= _record(path).get("files", {})
    return found


def _made(function: Callable, args: tuple, kwargs: dict) -> dict[str, Any]:
    """Return what decides a result: function, sources, arguments, and one key over all."""
    bound = inspect.signature(function).bind_partial(*args, **kwargs)
    bound.apply_defaults()
    arguments = {n: codec.digest(v)[:16] for n, v in bound.arguments.items() if n not in FILLED_IN}
    made = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "sources": sources.of_function(function),
        "arguments": arguments,
    }
    return made | {"key": codec.digest(made)}


def _record(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _written_by(value: Any, folder: Path) -> dict[str, str]:
    """Return {file: sha256} of what a function says it wrote: each `files.Folder` in its value."""
    found: dict[str, str] = {}
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, files.Folder):
            below = item.path.resolve().relative_to(folder.resolve())
            found |= {(below / name).as_posix(): known for name, known in item.hashes.items()}
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
    return found
