"""Whether a finished artefact still holds, and why not."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sandbagging import files, provenance
from sandbagging.suite.runs import sources
from sandbagging.suite.runs.cells import notebook_code, notebook_words
from sandbagging.suite.runs.manifests import (
    content_hash,
    damaged_file,
    hashes_beside,
    read_manifest,
)
from sandbagging.suite.runs.places import (
    Notebook,
    name_and_scale,
    notebook_path,
    notebooks_folder,
)

# These files carry results and messages but compute nothing: a change in them makes nothing stale.
PLUMBING = ("errors.py", "provenance.py", "progress.py", "suite/runs/", "suite/runner/")
# An adapter's files, by the names that peft gives them.
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
TAUGHT = "taught model"  # the adapter of one in the cache, among the hashes of files


def library_hashes(notebook: Notebook) -> dict[str, str]:
    """Return the hashes of all that a page tells: code, words, library and data files."""
    page = notebook_path(notebook)
    code, words = notebook_code(page), notebook_words(page)
    hashes = sources.closure(code, skip=PLUMBING)
    texts = [code, *((provenance.PACKAGE / name).read_text(encoding="utf-8") for name in hashes)]
    # A file of data counts where code names it: questions.py names the packaged questions.
    for path in sorted((provenance.PACKAGE / "data").glob("*.*")):
        if any(path.name in text for text in texts):
            hashes[f"data/{path.name}"] = files.sha256(path)[:16]
    hashes["(words)"] = hashlib.sha256(words.encode()).hexdigest()[:16]
    hashes["(notebook)"] = provenance.source_hash(code)
    return dict(sorted(hashes.items()))


def user_file_hashes(parameters: dict[str, Any]) -> dict[str, str]:
    """Return the sha256 of every file that a parameter names, relative to the notebooks' folder."""
    found = {}
    for name, value in parameters.items():
        if isinstance(value, str) and value and len(value) < 1000:
            path = notebooks_folder() / Path(value).expanduser()
            if path.is_file():
                found[name] = files.sha256(path)
    return found | _adapter_hashes(parameters)


def _adapter_hashes(parameters: dict[str, Any]) -> dict[str, str]:
    """Return the hash of the adapter that `adapter` names, and of that behind a taught model's name
    where it is on this machine.
    """
    # By their places alone: to ask models.taught would import torch, which takes seconds.
    adapter, model = (name_and_scale(str(parameters.get(n) or ""))[0] for n in ("adapter", "model"))
    folders = {
        "adapter": notebooks_folder() / Path(adapter).expanduser() if adapter else None,
        "model": provenance.PACKAGE / "data" / "adapters" / model if model else None,
        TAUGHT: files.cache_folder() / "taught" / model if model else None,
    }
    found = {}
    for name, folder in folders.items():
        there = [folder / file for file in ADAPTER if folder and (folder / file).is_file()]
        if there:
            whole = " ".join(files.sha256(path) for path in there)
            found[name] = hashlib.sha256(whole.encode()).hexdigest()
    return found


def _files_changed(run: str, manifest: dict[str, Any]) -> bool:
    """Return whether a file behind a parameter is another than it was.

    A taught model that is not on this machine has not changed, and that of the committed run was
    taught on another.
    """
    now, before = user_file_hashes(manifest["parameters"]), dict(manifest["files"])
    if TAUGHT not in now or run.split("/")[0] == "reference":
        now.pop(TAUGHT, None)
        before.pop(TAUGHT, None)
    return now != before


def why_stale(run: str, notebook: Notebook, parameters: dict[str, Any] | None = None) -> str | None:
    """Return why a finished artefact has to be made again, in words, or None if it still holds.

    Without `parameters` they are not compared.
    """
    manifest = read_manifest(run, notebook.artefact)
    if manifest is None:
        return "not done yet"
    changes = [] if parameters is None else _changed(manifest["parameters"], parameters)
    if changes:
        return "parameters changed: " + ", ".join(changes)
    for name, digest in manifest["inputs"].items():
        upstream = read_manifest(run, name)
        if upstream is None or content_hash(upstream) != digest:
            return f"input changed: {name}"
    if manifest.get("nested", {}) != hashes_beside(run, notebook):
        return "a nested run, or a table of another command, is new or changed"
    now, before = library_hashes(notebook), manifest["library"]
    changed = sorted(n for n in now.keys() | before.keys() if now.get(n) != before.get(n))
    if changed:
        return "library changed: " + ", ".join(changed)
    if _files_changed(run, manifest):
        return "a file named by a parameter changed"
    damaged = damaged_file(run, notebook.artefact, manifest)
    return f"{damaged} is missing or was changed" if damaged else None


def _changed(before: dict[str, Any], parameters: dict[str, Any]) -> list[str]:
    changes = []
    for name, value in json.loads(json.dumps(parameters)).items():
        if name not in before:
            changes.append(f"{name} is new")
        elif before[name] != value:
            changes.append(f"{name} {_short(before[name])} -> {_short(value)}")
    return changes


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
