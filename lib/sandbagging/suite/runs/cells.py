"""What stands in a notebook's source: its code, its words, and the parameters that it declares."""

import ast
import json
from pathlib import Path
from typing import Any

from sandbagging.errors import UserError

PARAMETERS = {"parameters", "injected-parameters"}


def notebook_cells(path: Path) -> list[dict[str, Any]]:
    """Return a notebook's cells; UserError where the file is missing or is no notebook."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["cells"]
    except FileNotFoundError:
        wrong = f"The notebook {path.name} is not in {path.parent}"
    except (ValueError, KeyError):
        wrong = f"The notebook {path.name} cannot be read as a notebook"
    raise UserError(f"{wrong}; restore it with: git checkout notebooks.")


def is_reading(cell: dict[str, Any]) -> bool:
    """Return whether a cell is prose with numbers: a code cell that begins with %%."""
    return cell["cell_type"] == "code" and "".join(cell["source"]).startswith("%%")


def _has_tag(cell: dict[str, Any], tags: set[str]) -> bool:
    return bool(tags & set(cell.get("metadata", {}).get("tags", [])))


def _code(cell: dict[str, Any]) -> str:
    """Return a cell's code without the lines that only the notebook understands (% and !)."""
    lines = "".join(cell["source"]).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))


def code_cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells that hold code; readings are words."""
    return [c for c in notebook_cells(path) if c["cell_type"] == "code" and not is_reading(c)]


def notebook_code(path: Path) -> str:
    """Return all the code of a notebook but its parameters cell."""
    return "\n".join(_code(cell) for cell in code_cells(path) if not _has_tag(cell, PARAMETERS))


def notebook_words(path: Path) -> str:
    """Return all the prose of a notebook, readings with their places for numbers included."""
    wordy = (c for c in notebook_cells(path) if c["cell_type"] == "markdown" or is_reading(c))
    return "\n\n".join("".join(cell["source"]) for cell in wordy)


def declared_names(path: Path) -> list[str]:
    """Return the names that a notebook's parameters cell declares, in order, but for `run`."""
    names = []
    for cell in code_cells(path):
        if _has_tag(cell, {"parameters"}):
            for node in ast.parse(_code(cell)).body:
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name != "run"]
