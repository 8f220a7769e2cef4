"""Arrays in one small file, exactly as they were.

1. What a narrower kind of number holds without loss is kept in that kind: most scores are float32,
   as models compute them.
2. The first bytes of an array's numbers go together, then the second ones, and so on: exponents are
   alike, the last digits are not.
3. Everything is compressed as one.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

NARROWER = {"f8": ("f4",), "i8": ("i1", "i2", "i4")}
INDEX, PLANES = "index.json", "planes.bin"


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name into a .npz."""
    kept = {name: _narrowed(array) for name, array in arrays.items()}
    index = [_described(name, array, kept[name]) for name, array in arrays.items()]
    parts = {
        INDEX: json.dumps(index).encode(),
        PLANES: b"".join(_planes(array) for array in kept.values()),
    }
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in parts.items():
            # ZipInfo names no time, so that equal arrays are equal files.
            packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_LZMA)


def load(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz, of one that numpy wrote too."""
    with np.load(path, allow_pickle=False) as held:
        if INDEX not in held.files:
            return dict(held)
        index, data = json.loads(held[INDEX]), held[PLANES]
    found, start = {}, 0
    for name, kind, kept, shape, order in index:
        end = start + int(np.prod(shape)) * np.dtype(kept).itemsize
        flat = _joined(data[start:end], kept).astype(kind, copy=False)
        found[name], start = flat.reshape(shape, order=order), end
    return found


def _narrowed(array: np.ndarray) -> np.ndarray:
    """Return an array in the narrowest kind that holds it bit for bit."""
    for kind in NARROWER.get(array.dtype.str[1:], ()):
        with np.errstate(over="ignore"):
            narrow = array.astype(kind)
        if narrow.astype(array.dtype).tobytes() == array.tobytes():
            return narrow
    return array


def _described(name: str, array: np.ndarray, kept: np.ndarray) -> list[Any]:
    return [name, array.dtype.str, kept.dtype.str, list(array.shape), _order(array)]


def _order(array: np.ndarray) -> str:
    """Return how an array lies in memory, since sums over it hang on that in their last digit."""
    return "F" if array.flags.fnc else "C"


def _planes(array: np.ndarray) -> bytes:
    """Return the bytes of an array: the first ones of all its numbers, then the second ones, ..."""
    numbers = np.frombuffer(array.tobytes(order=_order(array)), np.uint8)
    return numbers.reshape(-1, array.itemsize).T.tobytes()


def _joined(planes: bytes, kind: str) -> np.ndarray:
    """Return the numbers behind `_planes`, in a row."""
    numbers = np.frombuffer(planes, np.uint8).reshape(np.dtype(kind).itemsize, -1)
    return np.frombuffer(bytearray(numbers.T.tobytes()), kind)
