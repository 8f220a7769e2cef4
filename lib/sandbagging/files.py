"""Write whole files or none: a temporary name in the same folder, then a rename."""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import platformdirs
from safetensors import SafetensorError

from sandbagging.errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name if the block succeeds and vanishes
    if it fails.

    Raises UserError when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The ending stays at the end, since writers choose their format (or compression) by it.
        handle, name = tempfile.mkstemp(prefix=".partial-", suffix="-" + path.name, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """Yield a new folder beside `folder` that takes its name if the block succeeds and vanishes if
    it fails.

    `replace` puts it in the place of what stood there at the start. What another process has put
    there meanwhile stands. Raises UserError where `folder` holds something and is not to be
    replaced, when the disk is full, and where nothing can be written.
    """
    folder = Path(folder)
    if not replace and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists already and is not empty; name a new folder.")
    unfinished = None
    try:
        before = _inode(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        yield unfinished
        unfinished.chmod(0o755)
        if _inode(folder) == before:
            _take_name(unfinished, folder)
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, error) from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)


def _inode(path: Path) -> int | None:
    """Return what tells a file or folder from another one of the same name, None where none is."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _take_name(new: Path, folder: Path) -> None:
    """Rename a folder; what had its name steps aside first and comes back if the rename fails."""
    if not folder.exists():
        os.replace(new, folder)
        return
    aside = new.with_name(new.name + "-old")
    os.replace(folder, aside)
    try:
        os.replace(new, folder)
    except BaseException:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _not_written(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"Could not write {path}: {reason}; free some space or choose another folder."
    )


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write bytes whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON whole or not at all; NaN is refused."""
    write_bytes(
        path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    )


def write_csv(path: Path | str, table: pd.DataFrame) -> None:
    """Write a table as CSV (gzip if the name ends in .gz), six significant digits, whole or not at
    all.
    """
    data = table.to_csv(index=False, float_format="%.6g").encode()
    # Neither time nor name in the gzip header: equal tables are equal files, so that hashes can be
    # compared.
    write_bytes(path, gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)


def sha256(path: Path | str) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return where models are kept: $SANDBAGGING_CACHE, else the user's cache directory."""
    chosen = os.environ.get("SANDBAGGING_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("sandbagging"))


@dataclass(frozen=True)
class Folder:
    """A folder and the sha256 of its files by name; the files need not be on this machine until they are read."""

    path: Path
    hashes: dict[str, str]

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file or folder in it."""
        return self.path / name

    @classmethod
    def of(cls, path: Path, *names: str) -> "Folder":
        """Return a folder with the hashes of the files of some names, as they are now."""
        return cls(Path(path), {name: sha256(Path(path) / name) for name in sorted(names)})
