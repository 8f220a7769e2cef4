"""Grids of runs: what is refused before anything starts, cells that survive a kill, devices held apart, and the hand-over to SLURM."""

import json
import os
import sys

import pytest

from sandbagging import runs, sweeps
from sandbagging.__main__ import main
from sandbagging.errors import UserError

GRID = """
set: organism
notebooks: ["00"]
grid:
  model: [organism-heads, organism-null]
  seed: [0, 1]
minutes: 5
memory_gb: 2
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path / "runs"))
    return tmp_path


def written(folder, text: str = GRID):
    path = folder / "small.yaml"
    path.write_text(text)
    return path


def test_every_combination_is_a_cell_with_a_name_of_its_own(folder):
    grid = sweeps.load(written(folder))
    expected = [f"model-organism-{variant}_seed-{seed}" for variant in ("heads", "null") for seed in (0, 1)]
    assert [cell.name for cell in grid.cells] == expected
    assert grid.run == "sweep-small" and grid.cells[1].values == {"model": "organism-heads", "seed": 1}
    assert (grid.gpu, grid.minutes, grid.memory_gb) == (0, 5, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("set: organism", "needs a line grid"),
        ("grid: {sed: [0]}", "sed"),
        ("grid: {seed: 0}", "must give seed a list"),
        ("grid: {seed: [0, zero]}", "seed"),
        ("grid: {seed: [0, 0]}", "have one name"),
        ("grid: {seed: [0]}\nset: organisn", "did you mean organism?"),
        ("grid: {seed: [0]}\ngpus: 1", "unknown line 'gpus'"),
        ("grid: {seed: [0]}\nminutes: soon", "must give minutes a whole number"),
        ("grid: {n_test: [" + ",".join(map(str, range(20, 120))) + "], seed: [" + ",".join(map(str, range(101))) + "]}", "more than 10000"),
        ("grid: [", "is no YAML"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_one_sentence_before_anything_starts(folder, text, words, capsys):
    assert main(["sweep", str(written(folder, text))]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (folder / "runs").exists()


def test_a_grid_that_is_not_there(folder):
    with pytest.raises(UserError, match="cannot be read"):
        sweeps.load(folder / "none.yaml")


def test_list_and_unknown_cell(folder, capsys):
    path = str(written(folder))
    assert main(["sweep", path, "--list"]) == 0 and capsys.readouterr().out.count("to do") == 4
    assert main(["sweep", path, "--cell", "seed-7"]) == 2 and "has no cell 'seed-7'" in capsys.readouterr().err


# Devices ------------------------------------------------------------------------------------------------------------------


def test_devices_are_held_by_one_cell_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(sweeps.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with sweeps.devices(1) as first:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")  # as another process would see it
        with sweeps.devices(1) as second:
            assert (first, second) == (["4"], ["7"]) and os.environ["CUDA_VISIBLE_DEVICES"] == "7"
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
            with pytest.raises(UserError, match="all but 0 are in use"), sweeps.devices(1):
                pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with sweeps.devices(2) as both:  # given back
        assert both == ["4", "7"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    with pytest.raises(UserError, match="asks for 3 GPUs and 2 are here"), sweeps.devices(3):
        pass


def test_a_cluster_assigns_its_own_devices(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with sweeps.devices(1) as taken:
        assert taken == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "2"


# Cells ---------------------------------------------------------------------------------------------------------------------


def done(cell: sweeps.Cell, gap: float) -> None:
    """Write what a finished cell leaves behind, with a made-up gap."""
    folder = runs.run_folder(cell.run) / "00_baseline"
    folder.mkdir(parents=True)
    found = {"value": gap, "low": gap - 1, "high": gap + 1, "n": 20}
    (folder / "summary.json").write_text(json.dumps({"gate": {"gap_p_full": found}}))
    (folder / "manifest.json").write_text(json.dumps({"outputs": runs.output_hashes(folder), "parameters": {}, "inputs": {}}))
    cell.marker.write_text("{}")


def test_summary_lays_the_cells_out(folder):
    grid = sweeps.load(written(folder))
    for cell, gap in zip(grid.cells[:3], (50.0, 51.0, 0.1), strict=True):
        done(cell, gap)
    found = sweeps.summary(grid)
    assert found["gap"].tolist()[:3] == [50, 51, 0.1] and found["done"].tolist() == [True, True, True, False]
    assert found["gap_low"][1] == 50 and found["joint_effect"].isna().all()
    assert (runs.run_folder(grid.run) / "summary.csv").exists() and (runs.run_folder(grid.run) / "summary.png").exists()


def test_a_cell_that_no_longer_holds_is_done_again(folder):
    grid = sweeps.load(written(folder))
    assert not sweeps.holds(grid, grid.cells[0])
    done(grid.cells[0], 50.0)
    assert not sweeps.holds(grid, grid.cells[0])  # its manifest was not made by this code with these parameters


def test_without_snakemake_the_way_out_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "snakemake", None)
    with pytest.raises(UserError, match=r"pip install -e"):
        sweeps.run(sweeps.load(written(folder)))
