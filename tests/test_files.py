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
    """A limit on the size of files stands in for a disk that is full after 2000 bytes; nothing may
    be printed meanwhile.
    """
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
    assert errors.nearest("llama", []) == ""


# Whole folders ------------------------------------------------------------------------------------


def filled(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a").write_text(text)


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
    with files.atomic_folder(tmp_path / "new") as unfinished:
        filled(unfinished, "whole")
        assert not (tmp_path / "new").exists()
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(tmp_path / "half") as unfinished:
        filled(unfinished, "half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["new"] and (tmp_path / "new" / "a").read_text() == "whole"


def test_what_is_there_is_replaced_only_if_asked(tmp_path):
    filled(tmp_path / "x", "old")
    with (
        pytest.raises(UserError, match="not empty; name a new folder"),
        files.atomic_folder(tmp_path / "x"),
    ):
        pytest.fail("it began to write")
    with pytest.raises(ValueError), files.atomic_folder(tmp_path / "x", replace=True) as unfinished:
        filled(unfinished, "new")
        raise ValueError
    assert (tmp_path / "x" / "a").read_text() == "old"
    with files.atomic_folder(tmp_path / "x", replace=True) as unfinished:
        filled(unfinished, "new")
    assert names(tmp_path) == ["x"] and (tmp_path / "x" / "a").read_text() == "new"


@pytest.mark.parametrize("before", ["nothing", "empty", "old"])
def test_a_faster_rivals_folder_stands(tmp_path, before):
    if before != "nothing":
        (tmp_path / "x").mkdir()
    if before == "old":
        filled(tmp_path / "x", "old")
    with files.atomic_folder(tmp_path / "x", replace=True) as unfinished:
        filled(unfinished, "slow")
        with files.atomic_folder(tmp_path / "x", replace=True) as rival:
            filled(rival, "fast")
    assert names(tmp_path) == ["x"] and (tmp_path / "x" / "a").read_text() == "fast"


def test_weights_on_a_full_disk_are_one_sentence(tmp_path):
    import torch
    from safetensors.torch import save_file

    with (
        pytest.raises(UserError, match="free some space"),
        full_disk(),
        files.atomic_folder(tmp_path / "x") as unfinished,
    ):
        save_file({"w": torch.zeros(5000)}, unfinished / "w.safetensors")
    assert names(tmp_path) == []


# Tables -------------------------------------------------------------------------------------------

IDS = ["1", "2", "00001", "a,b", 'q"x', "1.0", "NA", "nan", "", "True"]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_ids_come_back_as_they_were(tmp_path, name):
    table = pd.DataFrame(
        {"question_id": IDS, "tag": "", "x": range(len(IDS)), "y": [0.5, None] * 5}
    )
    files.write_csv(tmp_path / name, table)
    back = files.read_csv(tmp_path / name)
    assert back["question_id"].tolist() == IDS and back["tag"].tolist() == [""] * len(IDS)
    assert back["x"].tolist() == list(range(len(IDS)))
    assert back["y"].isna().tolist() == [False, True] * 5


def test_ids_that_are_all_numbers_stay_text(tmp_path):
    files.write_csv(tmp_path / "t.csv", pd.DataFrame({"question_id": ["1", "2"], "split": "test"}))
    assert files.read_csv(tmp_path / "t.csv")["question_id"].tolist() == ["1", "2"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'a,b\n"1,2\n3'])
def test_a_damaged_table_is_one_sentence(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match="could not be read") as error:
        files.read_csv(tmp_path / "t.csv")
    assert "\n" not in str(error.value)


def test_a_join_keeps_every_row_once():
    left = pd.DataFrame({"id": ["1", "2", "2"], "x": [1, 2, 3]})
    right = pd.DataFrame({"id": ["2", "1"], "y": [20, 10]})
    assert files.joined(left, right, "id", "many_to_one")["y"].tolist() == [10, 20, 20]
    assert files.joined(left[:2], right, "id")["y"].tolist() == [10, 20]
    with pytest.raises(UserError, match="id '2'"):
        files.joined(left, right, "id")
    with pytest.raises(UserError, match="no partner by id .*'1'"):
        files.joined(left, right[:1], "id", "many_to_one")
    with pytest.raises(UserError, match="no partner by id .*'1'"):
        files.joined(left[1:2], right, "id")
    beside = files.joined(left, right[:1], "id", "some_to_one")
    assert list(beside.index) == [0, 1, 2]
    assert beside.loc[beside["y"].notna(), "id"].unique().tolist() == right["id"][:1].tolist()
    with pytest.raises(UserError, match="right table stand twice"):
        files.joined(right, left, ["id"], "some_to_one")
    with pytest.raises(UserError, match="right table stand twice"):
        files.joined(right, left, ["id"], "many_to_one")
    with pytest.raises(UserError, match="text in one table and a number in the other"):
        files.joined(left[:2], right.assign(id=[2, 1]), "id")
