"""Which artefacts of the committed run are behind the code, written down while work is under way.

`write` puts them into RUN/STALE.md, one line each with the reason, and removes the file where none
is; `listed` reads them back. A test holds the file against `behind`.
"""

import re
from pathlib import Path

from sandbagging import files
from sandbagging.suite import runs

NAME = "STALE.md"
LINE = re.compile(r"^- (\S+): (.+)$", re.MULTILINE)
HEAD = """# Behind the code

These artefacts were made by earlier code. `make refresh` makes them again, and this file goes once
none is left. `python -m sandbagging status {run} --write-stale` writes it.

"""
MOST = 3  # changed files that one line names


def behind(run: str) -> dict[str, str]:
    """Return {artefact: why} of what has to be made again in a run and in those nested in it.

    Artefacts are named as below the run's folder, such as null_model/00_baseline.
    """
    folder, found = runs.run_folder(run), {}
    for path in sorted(folder.glob("**/" + runs.MANIFEST)):
        place = path.parent.relative_to(folder)
        holder = "/".join((run, *place.parts[:-1]))
        why = _why(holder, runs.notebook_of(place.name))
        if why:
            found[place.as_posix()] = why
    return found


def _why(run: str, notebook: runs.Notebook) -> str | None:
    given = set(runs.read_manifest(run, notebook.artefact)["parameters"])
    declared = set(runs.declared_names(runs.notebook_path(notebook)))
    if given != declared:
        return f"parameters changed: {', '.join(sorted(given ^ declared))}"
    why = runs.why_stale(run, notebook)
    if why is None or why.count(", ") < MOST:
        return why
    parts = why.split(", ")
    return f"{', '.join(parts[:MOST])} and {len(parts) - MOST} more"


def write(run: str) -> dict[str, str]:
    """Write a run's STALE.md, or remove it where nothing is behind; return what was written."""
    found, path = behind(run), runs.run_folder(run) / NAME
    if not found:
        path.unlink(missing_ok=True)
        return found
    lines = [f"- {artefact}: {why}\n" for artefact, why in found.items()]
    files.write_bytes(path, (HEAD.format(run=run) + "".join(lines)).encode())
    return found


def listed(run: str) -> dict[str, str]:
    """Return {artefact: why} as a run's STALE.md states it; empty where there is none."""
    path: Path = runs.run_folder(run) / NAME
    return dict(LINE.findall(path.read_text(encoding="utf-8"))) if path.is_file() else {}
