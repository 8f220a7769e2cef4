"""Parameters of notebooks: which are declared, of which types, and whether what is given fits.

1. `declared` reads the parameters cell of a notebook.
2. `checked` holds values against it: each comes back in its own type, or UserError says in one
   sentence what is wrong. The command line, the parameter sets and `runs.begin` all ask it.
"""

import ast
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import pydantic
import yaml

from sandbagging.errors import UserError, nearest

# A parameter is stored in the executed notebook for all to read, so nothing secret may be one.
SECRET_PARTS = (
    "secret", "password", "passwd", "passphrase", "credential", "apikey", "token", "key",
)  # fmt: skip
HARMLESS_PARTS = ("tokens", "keys")

TYPES = {
    "str": str, "int": int, "float": float, "bool": bool, "None": None,
    "list": list, "dict": dict, "Optional": Optional,
}  # fmt: skip
STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Parameter:
    """One parameter as a notebook declares it."""

    name: str
    annotation: str
    default: Any


def proposal(name: str, known: Sequence[str], what: str) -> str:
    """Return the end of a sentence that proposes the nearest known name, or lists them all."""
    best = nearest(name, known)
    if difflib.SequenceMatcher(None, name.lower(), best.lower()).ratio() >= 0.5:
        return f"did you mean {best}?"
    return f"{what}: {', '.join(known) or 'none'}."


# What a notebook declares -----------------------------------------------------------------------


def declared(path: Path) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, by name; `run`, the run's name, is not one.

    Raises UserError for a parameters cell that plain papermill could not read: each line has to
    hold one name, one simple type and one literal.
    """
    found = {}
    for statement in ast.parse(_parameters_cell(path)).body:
        parameter = _declaration(statement)
        if parameter is None:
            raise UserError(
                f"The parameters cell of {path.name} must hold one literal per line, such as "
                f"n_test: int = 80; see the line {ast.unparse(statement)!r}."
            )
        found[parameter.name] = parameter
    if "run" not in found:
        raise UserError(
            f"The parameters cell of {path.name} must declare run, the name of the run."
        )
    del found["run"]
    return found


def _parameters_cell(path: Path) -> str:
    """Return the source of the cells that are tagged `parameters`."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        tagged = [c for c in cells if "parameters" in c.get("metadata", {}).get("tags", [])]
        sources = ["".join(cell["source"]) for cell in tagged]
    except FileNotFoundError:
        problem = f"is not in {path.parent}"
    except (ValueError, KeyError):
        problem = "cannot be read as a notebook"
    else:
        return "\n".join(sources)
    raise UserError(f"The notebook {path.name} {problem}; restore it with: git checkout notebooks.")


def _declaration(statement: ast.stmt) -> Parameter | None:
    """Return what one line declares, or None if it is not of the form name: type = literal."""
    if isinstance(statement, ast.AnnAssign):
        target, annotation = statement.target, ast.unparse(statement.annotation)
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target, annotation = statement.targets[0], None
    else:
        return None
    one_line = statement.lineno == statement.end_lineno
    try:
        default = ast.literal_eval(statement.value)
        parameter = Parameter(target.id, annotation or _type_of(default), default)
        _adapter(parameter.annotation)
    except (ValueError, TypeError, AttributeError, NameError, SyntaxError):
        return None
    return parameter if one_line else None


def _adapter(annotation: str) -> pydantic.TypeAdapter:
    """Return the strict check of an annotated type; NameError for a type that has no place here."""
    if not re.fullmatch(r"[\w\[\], ]+", annotation):
        raise SyntaxError(f"{annotation} is no simple type")
    return pydantic.TypeAdapter(eval(annotation, {"__builtins__": {}}, TYPES), config=STRICT)


def _type_of(value: Any) -> str:
    """Return a type's name as in an annotation, with the type of its elements for a list."""
    if isinstance(value, list | tuple):
        inner = " | ".join(sorted({type(item).__name__ for item in value}))
        return f"list[{inner}]" if inner else "list"
    return "None" if value is None else type(value).__name__


# Whether a value fits ---------------------------------------------------------------------------


def checked(
    parameters: Mapping[str, Parameter], values: Mapping[str, Any], where: str = "given"
) -> dict[str, Any]:
    """Return each value in its parameter's type; UserError names the expected and the given type.

    A text that stands for a number, a list or a truth value is read as what it means, since plain
    papermill hands over text: "false" is False, "[1]" is [1], "1e-3" is 0.001. `where` says in the
    sentence who gave the values. Names that are not declared pass through unread.
    """
    return {
        name: check_value(parameters[name], value, where) if name in parameters else value
        for name, value in values.items()
    }


def check_value(parameter: Parameter, value: Any, where: str) -> Any:
    """Return one value in its parameter's type; UserError as in `checked`."""
    meant = _meant(parameter, value)
    if meant is None and parameter.default is None:
        return None
    try:
        fitting = _adapter(parameter.annotation).validate_python(meant)
        _refuse_unstorable(fitting)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise UserError(
            f"The parameter {parameter.name} ({where}) must be {parameter.annotation}, "
            f"but {_shown(value)} is {_type_of(value)}."
        ) from None
    return fitting


def _shown(value: Any) -> str:
    """Return a value as it would be typed, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return "so large a number"
    return text if len(text) <= 60 else text[:57] + "..."


def _meant(parameter: Parameter, value: Any) -> Any:
    """Return what a text stands for where the notebook wants something other than text."""
    if isinstance(value, tuple):
        value = list(value)
    if not isinstance(value, str) or "str" in re.split(r"\W+", parameter.annotation)[:1]:
        return value
    # YAML reads 1e-3 as text, which nobody means.
    if re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value.strip()):
        return float(value) if parameter.annotation == "float" and _is_float(value) else value
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refuse_unstorable(value: Any) -> None:
    """Raise ValueError or TypeError for what JSON cannot hold: dates, broken characters."""
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def looks_secret(name: str) -> bool:
    """Return whether a parameter's name sounds like a credential; hf_token does, n_tokens not."""
    words = re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    parts = [part for part in words if part not in HARMLESS_PARTS]
    return any(p.endswith(SECRET_PARTS) or p.startswith(SECRET_PARTS[:6]) for p in parts)


# What stands after -p -----------------------------------------------------------------------------


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """Split `name=value` words into a mapping of texts; UserError without '=' or given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise UserError(
                f"-p takes name=value, such as -p n_test=80; {text.split('=')[0]!r} is not "
                "of that form."
            )
        if name in found:
            raise UserError(f"-p {name} is given twice; keep one.")
        found[name] = value
    return found


def literal(name: str, text: str, parameter: Parameter | None) -> Any:
    """Read the text after -p name= as YAML; where the notebook wants a text, it stays one."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(
            f"The value of -p {name} cannot be read; write it as in YAML, such as 5, 0.1, text, "
            "true or [1, 2]."
        ) from None
    if parameter is not None and parameter.annotation == "str":
        return value if isinstance(value, str) or isinstance(value, list | dict) else text
    return value
