"""A file is written whole or not at all, and a full disk is one sentence."""

import contextlib
import json
import resource

import pandas as pd
import pytest

from sandbagging import errors, files
from sandbagging.errors import UserError


@contextlib.contextmanager
def full_disk():
    """A limit on the size of files stands in for a disk that is full after 2000 bytes; nothing may be printed meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("ending", ["json", "csv"])
def test_full_disk_keeps_the_old_file_and_leaves_no_half_one(tmp_path, ending):
    path = tmp_path / f"table.{ending}"
    path.write_text("old")
    with pytest.raises(UserError, match="free some space"), full_disk():
        if ending == "json":
            files.write_json(path, list(range(5000)))
        else:
            files.write_csv(path, pd.DataFrame({"x": range(5000)}))
    assert path.read_text() == "old" and names(tmp_path) == [path.name]


def test_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_folder_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Could not write"):
        files.write_json(tmp_path / "file" / "below" / "a.json", {})


def test_tables_keep_six_significant_digits(tmp_path):
    table = pd.DataFrame({"x": [1 / 3, 2e-9, 123456.789], "name": ["a", "b", "c"]})
    for name in ("table.csv", "table.csv.gz"):
        files.write_csv(tmp_path / name, table)
        assert pd.read_csv(tmp_path / name)["x"].tolist() == [0.333333, 2e-9, 123457.0]


def test_equal_tables_are_equal_files(tmp_path):
    table = pd.DataFrame({"x": range(100)})
    for name in ("one.csv.gz", "two.csv.gz"):
        files.write_csv(tmp_path / name, table)
    assert files.sha256(tmp_path / "one.csv.gz") == files.sha256(tmp_path / "two.csv.gz")


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert names(tmp_path) == []
    files.write_json(tmp_path / "a.json", {"x": 1.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1.5}


def test_nearest_name():
    assert errors.nearest("instr_contrst", ["instr", "instr_contrast", "caps"]) == "instr_contrast"
    assert errors.nearest("LLAMA", ["smollm2", "llama-3.2-1b"]) == "llama-3.2-1b"
