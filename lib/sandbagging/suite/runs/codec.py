"""Results as files and arguments as keys: values of a few plain kinds, at full precision.

`write` keeps a value as one .npz: its arrays, and a tree of everything else as JSON. `digest` names
an argument by its content.
"""

import dataclasses
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.suite.runs import planes

TREE = "tree.json"


def write(path: Path, value: Any, home: Path) -> None:
    """Write a value to an .npz file whole or not at all; TypeError for an unknown kind.

    A `files.Folder` in it is named from `home`, so that it is found again on another machine.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(_encoded(_homeless(value, home), arrays), ensure_ascii=False)
    arrays[TREE] = np.frombuffer(tree.encode(), dtype=np.uint8)
    with files.atomic_path(path) as temporary:
        planes.save(temporary, arrays)


def read(path: Path, home: Path) -> Any:
    """Return the value that `write` wrote."""
    arrays = planes.load(path)
    value = _decoded(json.loads(arrays[TREE].tobytes().decode()), arrays)
    return _mapped(value, lambda f: files.Folder(home / f.path, f.hashes))


def _homeless(value: Any, home: Path) -> Any:
    root = home.resolve()
    return _mapped(value, lambda f: files.Folder(f.path.resolve().relative_to(root), f.hashes))


def _mapped(value: Any, change: Callable[[files.Folder], files.Folder]) -> Any:
    """Return a value with every Folder in it changed; records of the library hold none."""
    if isinstance(value, files.Folder):
        return change(value)
    if isinstance(value, dict):
        return {k: _mapped(v, change) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_mapped(v, change) for v in value)
    return value


def _encoded(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value as JSON; what JSON lacks is a list headed by its kind: ["tuple", ...]."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return ["list", *(_encoded(item, arrays) for item in value)]
    if isinstance(value, dict):
        pairs = ([_encoded(k, arrays), _encoded(v, arrays)] for k, v in value.items())
        return ["dict", *pairs]
    if isinstance(value, pd.DataFrame):
        return ["table", _encoded(dict(_columns(value)), arrays), len(value)]
    fields = _fields(value)
    if fields is not None:
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        return ["record", name, *(_encoded(item, arrays) for item in fields)]
    if isinstance(value, tuple):
        return ["tuple", *(_encoded(item, arrays) for item in value)]
    return _array(value, arrays)


def _array(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    kind = "tensor" if type(value).__module__ == "torch" else "array"
    array = value.detach().cpu().numpy() if kind == "tensor" else value
    if not isinstance(array, np.ndarray):
        raise TypeError(f"a stored result cannot hold a {type(value).__name__}")
    if array.dtype == object or array.dtype.kind in "US":
        return ["texts", list(array.shape), *(_encoded(item, arrays) for item in array.ravel())]
    name = f"a{len(arrays)}"
    arrays[name] = array
    return [kind, name]


def _columns(table: pd.DataFrame):
    """Yield a table's columns as arrays; text and mixed columns as lists."""
    if not isinstance(table.index, pd.RangeIndex) or table.index.start or table.index.step != 1:
        raise TypeError("a stored table has no index of its own; reset it first")
    for name in table.columns:
        column = table[name]
        plain = column.dtype.kind in "biuf" and isinstance(column.dtype, np.dtype)
        yield name, column.to_numpy() if plain else [_plain(item) for item in column]


def _plain(item: Any) -> Any:
    return None if item is pd.NA or item is pd.NaT else item


def _fields(value: Any, compared: bool = False) -> list[Any] | None:
    """Return the fields of a record of the library, in order, or None for what is no record;
    `compared` leaves out those that do not count in its equality, such as a question's aliases.
    """
    if not type(value).__module__.startswith("sandbagging."):
        return None
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, files.Folder):
        return [value.path.as_posix(), value.hashes]
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if field.compare or not compared]
        return [getattr(value, field.name) for field in fields]
    return None


def _decoded(tree: Any, arrays: Any) -> Any:
    if not isinstance(tree, list):
        return tree
    kind, *rest = tree
    if kind in ("array", "tensor"):
        return arrays[rest[0]] if kind == "array" else _tensor(arrays[rest[0]])
    if kind == "texts":
        flat = np.empty(len(rest) - 1, dtype=object)
        flat[:] = [_decoded(item, arrays) for item in rest[1:]]
        return flat.reshape(rest[0])
    if kind == "dict":
        return {_decoded(k, arrays): _decoded(v, arrays) for k, v in rest}
    if kind == "table":
        columns = _decoded(rest[0], arrays)
        return pd.DataFrame(columns, index=pd.RangeIndex(rest[1]))
    if kind == "record":
        return _record(rest[0])(*(_decoded(item, arrays) for item in rest[1:]))
    items = [_decoded(item, arrays) for item in rest]
    return items if kind == "list" else tuple(items)


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def _record(name: str) -> Callable[..., Any]:
    """Return the class of a record, which must be one of this library: the name is a file's."""
    module, _, path = name.partition(":")
    if not module.startswith("sandbagging."):
        raise UserError(
            f"A stored result names {module}, which is no part of this library; measure it again."
        )
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not (
        isinstance(found, type) and (issubclass(found, tuple) or dataclasses.is_dataclass(found))
    ):
        raise UserError(f"A stored result names {name}, which is no record; measure it again.")
    return found


# Keys


def digest(value: Any) -> str:
    """Return a name for a value's content, the same in every process and on every machine."""
    return hashlib.sha256(_described(value).encode()).hexdigest()


def _described(value: Any) -> str:
    """Return a text that tells a value from every other: kind and content."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return f"{type(value).__name__}:{value!r}"
    if hasattr(value, "identity"):  # a model
        return f"identity:{value.identity}:{getattr(value, 'dtype', None)}"
    if isinstance(value, files.Folder):
        return f"files:{sorted(value.hashes.items())}"
    if isinstance(value, Path):
        return f"path:{_content(value)}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{_described(k)}={_described(v)}" for k, v in value.items()) + "}"
    if isinstance(value, pd.DataFrame):
        return "table:" + ",".join(
            f"{k}={_described(v)}" for k, v in _columns(value.reset_index(drop=True))
        )
    fields = _fields(value, compared=True)
    if fields is not None:
        return f"{type(value).__qualname__}(" + ",".join(map(_described, fields)) + ")"
    if isinstance(value, list | tuple | range):
        return "[" + ",".join(map(_described, value)) + "]"
    if isinstance(value, set | frozenset):
        return "set[" + ",".join(sorted(map(_described, value))) + "]"
    if callable(value):
        return f"code:{_source(value)}" + "".join(map(_described, _closed_over(value)))
    if isinstance(value, slice):
        return f"slice:{value}"
    return _described_array(value)


def _described_array(value: Any) -> str:
    array = value.detach().cpu().numpy() if type(value).__module__ == "torch" else value
    if not isinstance(array, np.ndarray):
        raise TypeError(f"no key can be made of a {type(value).__name__}")
    if array.dtype == object:
        return _described(array.tolist())
    data = np.ascontiguousarray(array).tobytes()
    return f"array:{array.dtype}:{array.shape}:{hashlib.sha256(data).hexdigest()}"


def _content(path: Path) -> str:
    if path.is_file():
        return files.sha256(path)
    inside = sorted(p for p in path.rglob("*") if p.is_file())
    return str([(p.relative_to(path).as_posix(), files.sha256(p)) for p in inside])


def _closed_over(function: Callable) -> list[Any]:
    """Return what a function takes from the function that made it: which heads an edit zeroes, for
    one.
    """
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return [value for value in held if value is not function]


def _source(function: Callable) -> str:
    try:
        return provenance.source_hash(inspect.cleandoc("\n" + inspect.getsource(function)))
    except (OSError, SyntaxError):
        name = getattr(function, "__name__", function)
        raise UserError(
            f"The source of {name} cannot be read, so its results cannot be kept; "
            "define it with def in a file or a cell."
        ) from None
