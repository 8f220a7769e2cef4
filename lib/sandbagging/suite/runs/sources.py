"""Which source a result depends on: the library's files behind it, hashed by what they do.

1. `closure` follows the imports of some code, file by file; a package's face is looked through.
2. `provenance.file_hash` hashes a file without docstrings, comments, layout and the text of errors.
"""

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from sandbagging import provenance

NAME = "sandbagging"


# These files carry values, messages and names to and fro, and compute none.
CARRIERS = ("errors.py", "files.py", "progress.py", "provenance.py")


def closure(code: str, skip: Iterable[str] = ()) -> dict[str, str]:
    """Return {file: hash} of the library's files that some code imports, directly or not.

    Files are named as below the package, such as heads/sweep.py; those that `skip` names, or that
    lie in a folder it names ("suite/"), are left out together with what only they import.
    """
    hashes: dict[str, str] = {}
    waiting = list(_imported(code))
    while waiting:
        path = waiting.pop()
        name = path.relative_to(provenance.PACKAGE).as_posix()
        if name in hashes or any(
            name == s or (s.endswith("/") and name.startswith(s)) for s in skip
        ):
            continue
        hashes[name] = provenance.file_hash(path)
        waiting += _imported(path.read_text(encoding="utf-8"))
    return dict(sorted(hashes.items()))


def of_function(function: Callable) -> dict[str, str]:
    """Return {file: hash} of the file that defines a function and of all that it imports."""
    path = Path(inspect.getsourcefile(inspect.unwrap(function)))
    own = path.relative_to(provenance.PACKAGE).as_posix()
    code = path.read_text(encoding="utf-8")
    return {own: provenance.file_hash(path), **closure(code, skip=CARRIERS)}


# Imports


def _imported(code: str) -> list[Path]:
    """Return the library's files that some code imports anywhere, functions and types too."""
    tree = ast.parse(code)
    found: set[Path] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == NAME
            and not node.level
        ):
            for alias in node.names:
                found |= set(_files(node.module, alias.name, tree, alias.asname or alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == NAME:
                    package, _, last = alias.name.rpartition(".")
                    local = alias.asname or alias.name.split(".")[0]
                    found |= set(_files(package, last, tree, local))
    return sorted(found)


def _files(module: str, name: str, tree: ast.AST, local: str) -> Iterator[Path]:
    """Yield the files behind `from module import name`: a module, a package or a thing in one."""
    inside = _place(f"{module}.{name}" if module else name)
    if inside is not None and inside.name != "__init__.py":
        yield inside
    elif inside is not None:
        yield from _through(inside, _attributes(tree, local))
    else:
        place = _place(module)
        if place is not None:
            yield from _through(place, {name}) if place.name == "__init__.py" else (place,)


def _place(module: str) -> Path | None:
    """Return the file of a module or the __init__.py of a package, or None."""
    path = provenance.PACKAGE.joinpath(*module.split(".")[1:])
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file() and (path != provenance.PACKAGE or candidate.name == "__init__.py"):
            return candidate
    return None


def _attributes(tree: ast.AST, local: str) -> set[str] | None:
    """Return the attributes that code uses of a package; None where it hands the package around."""
    nodes = [
        n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    ]
    used = [n for n in nodes if n.value.id == local]
    names = sum(isinstance(n, ast.Name) and n.id == local for n in ast.walk(tree))
    return {n.attr for n in used} if len(used) == names else None


def _through(face: Path, names: set[str] | None) -> Iterator[Path]:
    """Yield the files behind some names of a package (None: all of them)."""
    table = _face(face)
    for name in table if names is None else names:
        submodule = face.parent / f"{name}.py"
        if name in table:
            yield table[name]
        elif submodule.is_file():
            yield submodule
        elif (face.parent / name / "__init__.py").is_file():
            yield from _through(face.parent / name / "__init__.py", None)
    # What a face defines itself counts for all who come through it.
    if _defines(face.read_text(encoding="utf-8")):
        yield face


def _face(path: Path) -> dict[str, Path]:
    """Return the file behind each name of a package's face: imported, or lazy by a dict."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(NAME):
            for alias in node.names:
                inside, place = _place(f"{node.module}.{alias.name}"), _place(node.module)
                if inside or place:
                    found[alias.asname or alias.name] = inside or place
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if all(
                    isinstance(x, ast.Constant) and isinstance(x.value, str) for x in (key, value)
                ):
                    place = _place(value.value.split(":")[0])
                    if place:
                        found[key.value] = place
    return found


def _defines(source: str) -> bool:
    """Return whether a face does more than import and list names."""
    plain = (ast.Import, ast.ImportFrom, ast.Assign, ast.Expr)
    return any(not isinstance(node, plain) for node in ast.parse(source).body)
