"""The strict runner: pages side by side, interruptions, two runs at once, mistakes inside a page."""

import json
import shutil
import signal

import pytest
from throwaway import command, wait_for

from sandbagging.errors import UserError
from sandbagging.suite import reports, runner, runs
from sandbagging.suite.cli import main
from sandbagging.suite.runner import execution


def test_ctrl_c_leaves_no_done_marker_and_the_folder_was_locked(repository):
    (repository / "wait").touch()
    process = command(repository, "run", "00", "--run", "c")
    wait_for(repository / "started-c", process)
    with pytest.raises(UserError, match=f"run c is being written by another process \\({process.pid}\\)"):
        runner.execute(runner.plan("laptop", "c"))
    with pytest.raises(UserError, match="Another process is writing the run c"):
        runs.begin("07_heads", {"run": "c", "k": 2})
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert said.rstrip().endswith("Interrupted; run the same command to go on."), said
    assert "Traceback" not in said
    assert runs.read_manifest("c", "00_baseline") is None
    assert not (repository / "papermill_runs/c/00_can_it_sandbag.ipynb").exists()


def test_killed_run_is_not_done_and_goes_on(repository):
    (repository / "wait").touch()
    process = command(repository, "run", "00", "--run", "k")
    wait_for(repository / "started-k", process)
    process.kill()
    process.communicate()
    # The kernel has lost its runner: even if it gets to its end, its work must not count.
    (repository / "wait").unlink()
    assert runs.read_manifest("k", "00_baseline") is None
    runner.execute(runner.plan("laptop", "k", notebooks=["00"]))
    assert runs.read_manifest("k", "00_baseline") is not None
    assert not list((repository / "papermill_runs/k").glob(".partial-*"))


def test_two_runs_at_once_are_both_right(repository):
    first = command(repository, "run", "00", "--run", "x", "-p", "n_test=10")
    second = command(repository, "run", "00", "--run", "y", "-p", "n_test=20")
    for process in (first, second):
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    gaps = [json.loads((repository / f"papermill_runs/{run}/00_baseline/summary.json").read_text())["gap"]["value"] for run in "xy"]
    assert gaps == [5.0, 10.0]


def test_users_mistake_in_a_notebook_is_one_sentence(repository, capsys):
    (repository / "fail").write_text("from sandbagging.errors import UserError\nraise UserError('Layer 99 is out of range; take 0 to 29.')")
    assert main(["run", "00", "--run", "f"]) == 2
    said = capsys.readouterr().err
    assert said.rstrip().endswith("Layer 99 is out of range; take 0 to 29.") and "Traceback" not in said
    assert (repository / "papermill_runs/f/00_can_it_sandbag.failed.ipynb").exists()
    assert not (repository / "papermill_runs/f/00_can_it_sandbag.ipynb").exists()


def test_other_error_names_notebook_cell_and_file(repository, capsys):
    (repository / "fail").write_text("1 / 0")
    assert main(["run", "00", "--run", "f"]) == 1
    said = capsys.readouterr().err
    assert "00_can_it_sandbag stopped in cell 6: ZeroDivisionError: division by zero" in said
    assert "00_can_it_sandbag.failed.ipynb" in said and "Traceback" not in said
    assert "failed, see 00_can_it_sandbag.failed.ipynb" in reports.status("f").to_string()


def test_kernels_keep_matplotlibs_list_of_fonts_in_their_own_environment(repository, monkeypatch):
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    (repository / "fail").write_text('import os, sys\nassert os.environ["MPLCONFIGDIR"].startswith(sys.prefix)')
    runner.execute(runner.plan("laptop", "b", notebooks=["00"]))


def test_dead_kernel_is_one_sentence(repository, capsys):
    (repository / "fail").write_text("import signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert main(["run", "00", "--run", "f"]) == 1
    said = capsys.readouterr().err
    assert "The kernel of 00_can_it_sandbag died" in said and "Traceback" not in said
    assert runs.read_manifest("f", "00_baseline") is None


def test_full_disk_is_one_sentence(repository, monkeypatch):
    monkeypatch.setattr(execution.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match="Only 1 MB are free"):
        runner.execute(runner.plan("laptop", "b"))


def test_committed_run_needs_refresh(repository):
    with pytest.raises(UserError, match="only `make refresh` writes it"):
        runner.execute(runner.plan("laptop", "reference"))
    assert not (repository / "papermill_runs/reference").exists()


def test_status_compare_and_headline(repository, capsys):
    status = reports.status("a").set_index("notebook")["state"]
    assert status["00_can_it_sandbag"] == "done" and status["10_what_survived"] == "not done"
    shutil.copytree(repository / "papermill_runs/a", repository / "papermill_runs/b")
    summary = repository / "papermill_runs/b/00_baseline/summary.json"
    summary.write_text(summary.read_text().replace("1.5", "1.75"))
    assert main(["compare", "a", "b"]) == 0
    said = capsys.readouterr().out
    assert "  gap        1.5 [0.1, 2]  1.75 [0.1, 2]  +0.25 pp" in said
    assert "00_baseline/summary.json: gap.value" in said
    assert reports.headline("a") == ""
    (repository / "papermill_runs/a/10_ledger").mkdir()
    rows = [{"finding": "gap", "value_text": "+13.7 pp", "verdict": "found"}]
    (repository / "papermill_runs/a/10_ledger/headline.json").write_text(json.dumps(rows))
    assert reports.headline("a").splitlines()[-1] == "gap      +13.7 pp  found"
    assert main(["status", "aa"]) == 2
    assert "There is no run aa" in capsys.readouterr().err
