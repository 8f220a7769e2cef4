"""Read single files of other runs, such as those that are nested in this one."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from sandbagging import files
from sandbagging.errors import UserError
from sandbagging.suite import runs


def read_json(run: str, artefact: str, name: str = "summary.json") -> Any:
    """Return a JSON value of a finished artefact of any run.

    Raises UserError as `path_of` does.
    """
    return json.loads(path_of(run, artefact, name).read_text())


def read_table(run: str, artefact: str, name: str) -> pd.DataFrame:
    """Return a table of a finished artefact of any run; raises UserError as `path_of` does."""
    return files.read_csv(path_of(run, artefact, name))


def path_of(run: str, artefact: str, name: str) -> Path:
    """Return where a file of a finished artefact lies.

    Only this file is held against the manifest, since nested runs are committed without figures.
    Raises UserError where it is missing or was changed after it was written.
    """
    path = runs.run_folder(run) / artefact / name
    manifest = runs.read_manifest(run, artefact)
    if manifest is None or not path.is_file():
        raise UserError(f"{artefact}/{name} in the run {run} is missing; {_again(run, artefact)}.")
    if files.sha256(path) != manifest["outputs"][name]:
        changed = "was changed after it was written"
        raise UserError(f"{artefact}/{name} in the run {run} {changed}; {_again(run, artefact)}.")
    return path


def _again(run: str, artefact: str) -> str:
    notebook = runs.notebook_of(artefact).name
    return f"run that notebook again (python -m sandbagging run {notebook[:2]} --run {run})"
