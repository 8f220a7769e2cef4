"""Manifests: what an artefact holds and what made it; written last, so a manifest means "done"."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from sandbagging import files
from sandbagging.errors import UserError
from sandbagging.suite.runs import store
from sandbagging.suite.runs.places import (
    MANIFEST,
    STORED,
    Notebook,
    notebook_of,
    run_folder,
    runs_folder,
)


def read_manifest(run: str, artefact: str) -> dict[str, Any] | None:
    """Return the manifest of an artefact, or None where the artefact is not done."""
    try:
        return json.loads((run_folder(run) / artefact / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def output_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of an artefact by its relative name.

    The manifest, hidden files and stored results do not count; what those wrote beside themselves
    does, even where it is not on this machine (weights are not committed).
    """
    found = dict(store.written_files(folder))
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        aside = name.parts[0] == STORED or any(part.startswith(".") for part in name.parts)
        if path.is_file() and str(name) != MANIFEST and not aside:
            found[name.as_posix()] = files.sha256(path)
    return dict(sorted(found.items()))


def content_hash(manifest: dict[str, Any]) -> str:
    """Return one hash over an artefact's data; figures do not count.

    A rerun with equal data so leaves what follows valid.
    """
    outputs = sorted(manifest["outputs"].items())
    lines = [f"{name} {digest}" for name, digest in outputs if not name.startswith("fig_")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def nested_runs(run: str) -> list[str]:
    """Return the runs that are nested in a run and have come through notebook 08, by name."""
    folder = run_folder(run)
    inside = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    names = [f"{run}/{part}" for part in inside if re.match(r"[A-Za-z0-9_]", part)]
    return [name for name in names if read_manifest(name, "08_circuit")]


def hashes_beside(run: str, notebook: Notebook) -> dict[str, str]:
    """Return one hash of each nested run that a notebook reads, over what it reads of it, and one
    of each table that a command of its own makes.
    """
    tables = {name: runs_folder() / name for name in notebook.reads_tables}
    found = {name: files.sha256(path)[:16] for name, path in tables.items() if path.is_file()}
    for name in nested_runs(run) if notebook.reads_nested else ():
        manifests = [read_manifest(name, artefact) for artefact in ("00_baseline", "08_circuit")]
        found[name] = "".join(content_hash(m)[:16] for m in manifests if m)
    return found


# And figures: from what is stored, in a minute.
MADE_AGAIN = ("prompts.jsonl", "answers.jsonl", "effects.csv", "effects_by_question.csv.gz")
# The largest tables, which no later page but those of the swaps reads.
LARGE = {
    "04_swap": ("answers.jsonl", "effects_by_question.csv.gz"),
    "07_heads": ("effects_by_question.csv.gz",),
}


def stays_home(run: str, artefact: str, name: str) -> bool:
    """Return whether a file of an artefact is not committed: what is made again from what is
    stored.
    """
    if "/" in run:
        return name.startswith("fig_") or name in MADE_AGAIN
    return name in LARGE.get(artefact, ())


def absent_files(run: str, artefact: str) -> list[str]:
    """Return the files of an artefact, but for figures, that are not committed and not here: its
    notebook makes them again from what is stored.
    """
    folder, manifest = run_folder(run) / artefact, read_manifest(run, artefact)
    names = [
        name
        for name in (manifest or {"outputs": {}})["outputs"]
        if stays_home(run, artefact, name) and not name.startswith("fig_")
    ]
    return [name for name in names if not (folder / name).is_file()]


def damaged_file(run: str, artefact: str, manifest: dict[str, Any]) -> str | None:
    """Return the name of the first file of an artefact that is missing or was changed, or None.

    What is not committed may be missing: what stored results wrote (activations, weights), and what
    `stays_home`; with --remeasure the former must be here.
    """
    folder = run_folder(run) / artefact
    written = store.written_files(folder)
    for name, digest in manifest["outputs"].items():
        path = folder / name
        left_out = written.get(name) == digest and not store.remeasuring()
        may_be_missing = left_out or stays_home(run, artefact, name)
        if not path.is_file() and may_be_missing:
            continue
        if not path.is_file() or files.sha256(path) != digest:
            return name
    return None


def checked_manifest(run: str, artefact: str) -> dict[str, Any]:
    """Return the manifest of an input; UserError naming the notebook to run where it is damaged."""
    source = notebook_of(artefact).name
    way_out = f"run notebook {source} first (python -m sandbagging run {source[:2]} --run {run})"
    manifest = read_manifest(run, artefact)
    if manifest is None:
        raise UserError(f"The run {run} holds no finished {artefact}: {way_out}.")
    damaged = damaged_file(run, artefact, manifest)
    if damaged:
        raise UserError(
            f"{artefact}/{damaged} in the run {run} is missing or was changed after it was "
            f"written: {way_out}."
        )
    return manifest
