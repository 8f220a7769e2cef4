"""Grids of runs: what is refused, cells that survive a kill, devices held apart, SLURM."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fake_slurm
import pytest

from sandbagging.errors import UserError
from sandbagging.suite import devices, runs, sweeps
from sandbagging.suite.cli import main

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
    expected = [
        f"model-organism-{variant}_seed-{seed}" for variant in ("heads", "null") for seed in (0, 1)
    ]
    assert [cell.name for cell in grid.cells] == expected
    assert grid.run == "sweep-small" and grid.cells[1].values == {
        "model": "organism-heads",
        "seed": 1,
    }
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
        (
            "grid: {n_test: ["
            + ",".join(map(str, range(20, 120)))
            + "], seed: ["
            + ",".join(map(str, range(101)))
            + "]}",
            "more than 10000",
        ),
        ("grid: [", "is no YAML"),
    ],
)
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
    assert (
        main(["sweep", path, "--cell", "seed-7"]) == 2
        and "has no cell 'seed-7'" in capsys.readouterr().err
    )


# Devices ----------------------------------------------------------------------------------------


def test_devices_are_held_by_one_cell_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with devices.held(1) as first:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")  # as another process would see it
        with devices.held(1) as second:
            assert (first, second) == (["4"], ["7"]) and os.environ["CUDA_VISIBLE_DEVICES"] == "7"
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
            with pytest.raises(UserError, match="all but 0 are in use"), devices.held(1):
                pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with devices.held(2) as both:  # given back
        assert both == ["4", "7"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    with pytest.raises(UserError, match="asks for 3 GPUs and 2 are here"), devices.held(3):
        pass


def test_a_device_that_another_user_once_held_can_be_held(monkeypatch):
    """Their lock file may only be read. Root may write all, so it becomes somebody else here."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with tempfile.TemporaryDirectory() as shared:
        os.chmod(shared, 0o755)
        monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: shared)
        theirs = Path(shared) / "sandbagging-gpu-4.lock"
        theirs.touch()
        theirs.chmod(0o444)
        me = os.geteuid()
        try:
            if me == 0:
                os.seteuid(65534)
            with devices.held(1) as taken:
                assert taken == ["4"]
        finally:
            os.seteuid(me)


def test_a_cluster_assigns_its_own_devices(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    with devices.held(1) as taken:
        assert taken == [] and os.environ["CUDA_VISIBLE_DEVICES"] == "2"


# Cells ------------------------------------------------------------------------------------------


def done(cell: sweeps.Cell, gap: float) -> None:
    """Write what a finished cell leaves behind, with a made-up gap."""
    folder = runs.run_folder(cell.run) / "00_baseline"
    folder.mkdir(parents=True)
    found = {"value": gap, "low": gap - 1, "high": gap + 1, "n": 20}
    (folder / "summary.json").write_text(json.dumps({"gate": {"gap_p_full": found}}))
    (folder / "manifest.json").write_text(
        json.dumps({"outputs": runs.output_hashes(folder), "parameters": {}, "inputs": {}})
    )
    cell.marker.write_text("{}")


def test_summary_lays_the_cells_out(folder):
    grid = sweeps.load(written(folder))
    for cell, gap in zip(grid.cells[:3], (50.0, 51.0, 0.1), strict=True):
        done(cell, gap)
    found = sweeps.summary(grid)
    assert found["gap"].tolist()[:3] == [50, 51, 0.1] and found["done"].tolist() == [
        True,
        True,
        True,
        False,
    ]
    assert found["gap_low"][1] == 50 and found["joint_effect"].isna().all()
    assert (runs.run_folder(grid.run) / "summary.csv").exists() and (
        runs.run_folder(grid.run) / "summary.png"
    ).exists()


def test_a_cell_that_no_longer_holds_is_done_again(folder):
    grid = sweeps.load(written(folder))
    assert not sweeps.holds(grid, grid.cells[0])
    done(grid.cells[0], 50.0)
    assert not sweeps.holds(
        grid, grid.cells[0]
    )  # its manifest was not made by this code with these parameters


# Through Snakemake ------------------------------------------------------------------------------


def sweep(folder, path, *more: str) -> subprocess.Popen:
    """The command line's sweep, as a process group of its own."""
    command = [sys.executable, "-m", "sandbagging", "sweep", str(path), *more]
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def manifests(run: str) -> dict[str, int]:
    """When each finished artefact of a sweep was written."""
    return {str(p): p.stat().st_mtime_ns for p in runs.run_folder(run).glob("*/*/manifest.json")}


@pytest.mark.notebook
def test_cells_are_handed_over_to_slurm_with_what_they_ask_for(folder, planted_bases, monkeypatch):
    """Fake scheduler, real cells. Asked again, nothing is left to hand over."""
    grid = sweeps.load(written(folder, GRID.replace("[0, 1]", "[0]") + "gpu: 1\n"))
    monkeypatch.setenv(
        "PATH", f"{fake_slurm.install(folder / 'slurm')}{os.pathsep}{os.environ['PATH']}"
    )
    soon = [
        "--slurm-init-seconds-before-status-checks",
        "2",
        "--seconds-between-status-checks",
        "2",
    ]
    sweeps.run_all(grid, "slurm", 2, soon)
    calls = (folder / "slurm" / "calls.log").read_text().splitlines()
    handed = [call for call in calls if call.startswith("sbatch")]
    assert len(handed) == 2 and any("srun" in call for call in calls)
    assert all(
        f" {asked} " in call
        for call in handed
        for asked in ("--gpus=1", "-t 5", "--mem 2000", "--cpus-per-task=1")
    )
    assert [p.read_text().strip() for p in sorted((folder / "slurm" / "jobs").glob("*.state"))] == [
        "COMPLETED",
        "COMPLETED",
    ]
    table = sweeps.table(grid)
    assert (
        table["done"].all() and table["gap"][0] > 40 and abs(table["gap"][1]) < 1
    )  # a planted model, and its null
    before = manifests(grid.run)
    sweeps.run_all(grid, "slurm", 2, soon)
    assert (
        manifests(grid.run) == before
        and (folder / "slurm" / "calls.log").read_text().count("sbatch --parsable") == 2
    )


@pytest.mark.slow
def test_twelve_cells_three_at_a_time_are_not_mixed_up(folder, planted_bases):
    grid = sweeps.load(
        written(folder, GRID.replace("seed: [0, 1]", "n_test: [20, 21, 22, 23, 24, 25]"))
    )
    process = sweep(folder, grid.path, "--jobs", "3")
    assert process.wait() == 0, process.stderr.read()[-3000:]
    table = sweeps.table(grid)
    assert len(table) == 12 and table["done"].all()
    assert table["gap_n"].tolist() == table["n_test"].tolist()  # each cell has its own parameters
    assert ((table["gap"] > 40) == (table["model"] == "organism-heads")).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "whole_group", [True, False], ids=["power cut", "only the sweep is killed"]
)
def test_a_killed_sweep_goes_on_and_nothing_is_done_twice(folder, planted_bases, whole_group):
    grid = sweeps.load(written(folder))
    process = sweep(folder, grid.path, "--jobs", "2")
    end = time.time() + 300
    while not manifests(grid.run) and time.time() < end:
        time.sleep(0.5)
    time.sleep(8)  # the next cells are under way
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    before = manifests(grid.run)
    process = sweep(folder, grid.path, "--jobs", "2")
    assert process.wait() == 0, process.stderr.read()[-3000:]
    after = manifests(grid.run)
    assert before and len(after) == 4 and all(after[path] == made for path, made in before.items())
    table = sweeps.table(grid)
    assert (
        table["done"].all() and ((table["gap"] > 40) == (table["model"] == "organism-heads")).all()
    )


def test_without_snakemake_the_way_out_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "snakemake", None)
    with pytest.raises(UserError, match=r"pip install -e"):
        sweeps.run_all(sweeps.load(written(folder)))
