"""Two runs side by side, on hand-made runs: what was planted is named, and nothing else is."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

from sandbagging.errors import UserError
from sandbagging.suite import comparison, reports
from sandbagging.suite.cli import main

SCORES = """question_id,split,condition,p_full,count
007,test,genuine,0.500001,3
7,test,genuine,0.25,3
007,test,sandbag,-1.25e-05,4
"""
DRAWS = "kind,index,effect_pp,seconds\nuniform,0,1.5,10\nuniform,1,-2.25,11\n"
SUMMARY = {
    "gate": {"value": 8.7, "low": 6.2, "high": 11.3, "n": 100, "unit": "pp"},
    "cells": [
        {"tag": "topk_L7", "position": "last", "gap": {"value": 1.0, "low": 0.5, "high": 1.5}},
        {"tag": "topk_L7", "position": "all", "gap": {"value": 2.0, "low": 1.5, "high": 2.5}},
    ],
    "heads": [[5, 4], [12, 2]],
    "id": "007",
    "seconds": 3.5,
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Two equal runs, a and b, with one nested run each."""
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    for inside in ("08_circuit", "null_model/00_baseline"):
        place = tmp_path / "a" / inside
        place.mkdir(parents=True)
        (place / "scores.csv.gz").write_bytes(gzip.compress(SCORES.encode()))
        (place / "draws.csv").write_text(DRAWS)
        (place / "summary.json").write_text(json.dumps(SUMMARY))
        (place / "manifest.json").write_text(json.dumps({"seconds": 1}))
        (place / "stored").mkdir()
        (place / "stored" / "sweep-0123.json").write_text(json.dumps({"commit": "0123"}))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    return tmp_path


def compared(folder: Path) -> dict[str, comparison.Compared]:
    return {c.file: c for c in comparison.compare_folders(folder / "a", folder / "b")}


def change(path: Path, old: str, new: str) -> None:
    packed = path.suffix == ".gz"
    text = (gzip.decompress(path.read_bytes()) if packed else path.read_bytes()).decode()
    assert text.count(old) == 1
    changed = text.replace(old, new).encode()
    path.write_bytes(gzip.compress(changed) if packed else changed)


def test_equal_runs_are_equal_in_every_value(folder):
    found = compared(folder)
    assert set(found) == {f"{inside}/{name}" for inside in ("08_circuit", "null_model/00_baseline")
                          for name in ("scores.csv.gz", "draws.csv", "summary.json")}  # fmt: skip
    assert not any(c.differences or c.only_first or c.only_second for c in found.values())
    # Three rows of split, p_full and count, named by id and condition; 16 values behind names.
    assert found["08_circuit/scores.csv.gz"].values == 9
    assert found["08_circuit/summary.json"].values == 5 + 2 * 5 + 4 + 1


@pytest.mark.parametrize(
    ("file", "old", "new", "where", "relative"),
    [
        ("scores.csv.gz", "0.500001", "0.500006", "p_full [007, genuine]", 1e-5),
        ("scores.csv.gz", "-1.25e-05", "1.25e-05", "p_full [007, sandbag]", 2.0),
        ("scores.csv.gz", ",4\n", ",5\n", "count [007, sandbag]", 0.2),
        ("draws.csv", "-2.25,", "-2.25001,", "effect_pp [1]", 1e-5 / 2.25001),
        ("summary.json", '"value": 2.0', '"value": 2.00000000001', "cells[all].gap.value", 5e-12),
        ("summary.json", "[12, 2]", "[12, 3]", "heads[1][1]", 1 / 3),
    ],
)
def test_one_planted_difference_is_named_and_everything_else_spared(
    folder, file, old, new, where, relative
):
    change(folder / "b" / "08_circuit" / file, old, new)
    found = compared(folder)
    (difference,) = [d for c in found.values() for d in c.differences]
    assert (difference.file, difference.where) == (f"08_circuit/{file}", where)
    assert difference.relative == pytest.approx(relative, rel=1e-3)


def test_equal_to_the_digits_that_both_hold(folder):
    """One run holds six digits and the other more; only a change of the sixth counts."""
    change(folder / "b/08_circuit/scores.csv.gz", "0.500001", "0.50000149999")
    assert not compared(folder)["08_circuit/scores.csv.gz"].differences
    change(folder / "b/08_circuit/scores.csv.gz", "0.50000149999", "0.50000151")
    (difference,) = compared(folder)["08_circuit/scores.csv.gz"].differences
    assert (difference.first, difference.second) == ("0.500001", "0.50000151")


def test_ids_are_text(folder):
    """007 and 7 are two questions, in a table and in JSON, and 007 is not 7."""
    change(folder / "b/08_circuit/scores.csv.gz", "007,test,sandbag", "7,test,sandbag")
    change(folder / "b/08_circuit/summary.json", '"id": "007"', '"id": "7"')
    found = compared(folder)
    table = found["08_circuit/scores.csv.gz"]
    assert (table.only_first, table.only_second) == (["007, sandbag"], ["7, sandbag"])
    (difference,) = found["08_circuit/summary.json"].differences
    assert (difference.where, difference.first, difference.second) == ("id", '"007"', '"7"')


def test_what_only_one_run_holds_is_told(folder, capsys):
    (folder / "b/08_circuit/draws.csv").rename(folder / "b/08_circuit/other.csv")
    change(folder / "b/08_circuit/scores.csv.gz", ",count\n", ",number\n")
    change(folder / "b/08_circuit/summary.json", '"position": "all"', '"position": "first"')
    found = compared(folder)
    assert found["08_circuit/scores.csv.gz"].only_first == ["column count"]
    assert len(found["08_circuit/summary.json"].only_second) == 5
    said = reports.compare("a", "b", tables=True, width=120)
    assert "only in a: 08_circuit/draws.csv" in said and "only in b: 08_circuit/other.csv" in said
    assert "1 files, 6 values" in reports.compare("a", "b", width=120)


def test_wall_times_are_no_results(folder):
    change(folder / "b/08_circuit/draws.csv", ",11\n", ",99\n")
    change(folder / "b/08_circuit/summary.json", '"seconds": 3.5', '"seconds": 99')
    assert not any(c.differences for c in compared(folder).values())


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_report_fits_the_terminal_and_names_rows(folder, width, monkeypatch, capsys):
    change(folder / "b/08_circuit/summary.json", '"value": 2.0', '"value": 2.25')
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["compare", "a", "b"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.split("\n\n")[0].splitlines())) <= width
    assert re.search(r"cells\[all\]\.gap +2 \[1\.5, 2\.5\] +2\.25 \[1\.5, 2\.5\] +\+0\.25", said)
    assert re.search(r"08_circuit +\d+ +\d+ +0\.11 ", said), "2.25 - 2 is 11 % of 2.25"
    assert "8.7" not in said, "what is the same is not listed"


def test_all_differences_are_listed_where_asked_for(folder):
    for old, new in (("0.500001", "0.6"), ("0.25,", "0.35,")):
        change(folder / "b/08_circuit/scores.csv.gz", old, new)
    every = reports.compare("a", "b", tables=True, width=160)
    assert "p_full [007, genuine]" in every and "p_full [7, genuine]" in every
    largest = reports.compare("a", "b", width=160)
    assert "p_full [007, genuine]" not in largest and "p_full [7, genuine]" in largest


def test_misuse_is_one_sentence(folder):
    with pytest.raises(UserError, match="There is no run c"):
        reports.compare("a", "c")
    for path in folder.rglob("summary.json"):
        path.unlink()
    with pytest.raises(UserError, match="holds a summary yet"):
        reports.compare("a", "b")
