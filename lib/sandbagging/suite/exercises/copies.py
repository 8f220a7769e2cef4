"""Learners' copies of the exercises, whose sources lie in notebooks/exercises."""

import copy
import json
from pathlib import Path

from sandbagging import files
from sandbagging.errors import UserError, nearest
from sandbagging.suite import runs

FOLDED = """<details><summary>Solution (after you have tried)</summary>

```python
{}
```

</details>"""


def folder() -> Path:
    """Return the folder of the exercises' sources."""
    return runs.notebooks_folder() / "exercises"


def names() -> list[str]:
    """Return the names of all exercises, in order."""
    return sorted(path.stem for path in folder().glob("*.ipynb"))


def find(name: str) -> Path:
    """Return an exercise's source by its name or number; raises UserError for an unknown one."""
    fits = [known for known in names() if name in (known, *known.split("_", 1))]
    if len(fits) != 1:
        raise UserError(
            f"There is no exercise {name!r}; did you mean {nearest(name, names())}? "
            f"There are: {', '.join(names())}."
        )
    return folder() / f"{fits[0]}.ipynb"


def without_solutions(notebook: dict) -> dict:
    """Return a notebook whose cells tagged `solution` hold their stub.

    The solution is folded away below it.
    """
    cells = []
    for cell in copy.deepcopy(notebook["cells"]):
        if "solution" not in cell["metadata"].get("tags", []):
            cells.append(cell)
            continue
        solution = "".join(cell["source"])
        cell["source"], cell["metadata"] = cell["metadata"]["stub"], {}
        prose = {"cell_type": "markdown", "id": cell["id"] + "-s", "metadata": {}}
        cells += [cell, prose | {"source": FOLDED.format(solution)}]
    return notebook | {"cells": cells}


def learners_copy(name: str, target: Path | str | None = None) -> Path:
    """Write the learner's copy of an exercise (default: NAME.ipynb in the current folder).

    Raises UserError where the file is there already.
    """
    source = find(name)
    target = Path(target or f"{source.stem}.ipynb")
    if target.exists():
        raise UserError(
            f"{target} is there already and may hold your work; name another file with --to."
        )
    files.write_json(target, without_solutions(json.loads(source.read_text())))
    return target
