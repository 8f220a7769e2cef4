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
    return UserError(f"Could not write {path}: {reason}; free some space or choose another folder.")


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


# Columns that hold text whatever it looks like: a question called 00001 is no number, and a missing
# word is "", not NaN. What a column of another name holds is inferred.
TEXT_COLUMNS = frozenset(
    "architecture at at_l0 by chosen_on claim code condition device error_term framing heads "
    "hook_name id intervention kind method metric model option pair quantity question question_id "
    "reason replacement revision role rule run section series shuffle split tag text to unit "
    "variant verdict weights why wording".split()
)


def read_csv(path: Path | str) -> pd.DataFrame:
    """Return a table that `write_csv` wrote; the columns TEXT_COLUMNS hold text, as it was.

    Raises UserError where the file cannot be read as a table.
    """
    try:
        names = pd.read_csv(path, nrows=0).columns
        text = {name: str for name in names if name in TEXT_COLUMNS}
        missing = {name: [""] for name in names if name not in TEXT_COLUMNS}
        return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"The table {path} could not be read ({error}); run the notebook that writes it again."
        ) from error


def joined(
    left: pd.DataFrame, right: pd.DataFrame, on: str | list[str], how: str = "one_to_one"
) -> pd.DataFrame:
    """Return two tables side by side, every row of `left` with its partner in `right`.

    how: "one_to_one", "many_to_one" where rows of `left` may share a partner and rows of `right`
    may be left over, or "some_to_one" where rows of `left` may have none besides: what it would
    bring is then missing. Raises UserError where a row would get lost or stand twice.
    """
    keys = [on] if isinstance(on, str) else list(on)
    for table, side in ((left, "left"), (right, "right")):
        twice = table[keys][table.duplicated(keys)]
        if len(twice) and (side == "right" or how == "one_to_one"):
            raise UserError(
                f"{len(twice)} rows of the {side} table stand twice by {', '.join(keys)} "
                f"({_row(twice)}); take one of each."
            )
    try:
        table = left.merge(right, on=keys, how="left", indicator="_side")
    except ValueError:
        raise UserError(
            f"{', '.join(keys)} is text in one table and a number in the other; read both with "
            "files.read_csv."
        ) from None
    alone = table.loc[table["_side"] != "both", keys]
    if not len(alone) and how == "one_to_one" and len(right) > len(left):
        side = right[keys].merge(left[keys], on=keys, how="left", indicator="_side")
        alone = side.loc[side["_side"] != "both", keys]
    if len(alone) and how != "some_to_one":
        raise UserError(
            f"{len(alone)} rows have no partner by {', '.join(keys)} ({_row(alone)}); both tables "
            "must be of the same questions and settings."
        )
    return table.drop(columns="_side")


def _row(table: pd.DataFrame) -> str:
    """Return the first row of a table in words."""
    return ", ".join(f"{name} {value!r}" for name, value in table.iloc[0].items())


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
    """A folder and the sha256 of its files by name; the files need not be on this machine until
    they are read.
    """

    path: Path
    hashes: dict[str, str]

    def __truediv__(self, name: str) -> Path:
        """Return the path of a file or folder in it; UserError for what is known but not here."""
        inside = [known for known in self.hashes if known == name or known.startswith(f"{name}/")]
        absent = [known for known in inside if not (self.path / known).is_file()]
        if absent:
            raise UserError(
                f"{self.path.name}/{absent[0]} is not on this machine, since activations and "
                "weights are not committed: run notebook "
                f"{self.path.name[:2]} again with --remeasure."
            )
        return self.path / name

    @classmethod
    def of(cls, path: Path, *names: str) -> "Folder":
        """Return a folder with the hashes of the files of some names, as they are now."""
        return cls(Path(path), {name: sha256(Path(path) / name) for name in sorted(names)})
