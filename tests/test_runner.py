"""The strict runner: pages side by side, interruptions, two runs at once, mistakes in a page."""

import json
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from throwaway import command, wait_for

from sandbagging.errors import UserError
from sandbagging.suite import reports, runner, runs
from sandbagging.suite.cli import main
from sandbagging.suite.runner import executed, execution, history, live, locks, nodes
from sandbagging.suite.runs import manifests


def test_ctrl_c_ends_the_kernel_and_leaves_no_done_marker_and_the_folder_was_locked(repository):
    (repository / "wait").touch()
    process = command(repository, "run", "00", "--run", "c")
    wait_for(repository / "started-c", process)
    with pytest.raises(
        UserError, match=f"run c is being written by another process \\({process.pid}\\)"
    ):
        runner.execute(runner.plan("laptop", "c"))
    with pytest.raises(UserError, match="Another process is writing the run c"):
        runs.begin("07_heads", {"run": "c", "k": 2})
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert kernels and psutil.wait_procs(kernels, timeout=10)[1] == []
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
    gaps = [
        json.loads((repository / f"papermill_runs/{run}/00_baseline/summary.json").read_text())[
            "gap"
        ]["value"]
        for run in "xy"
    ]
    assert gaps == [5.0, 10.0]


def test_users_mistake_in_a_notebook_is_one_sentence(repository, capsys):
    (repository / "fail").write_text(
        "from sandbagging.errors import UserError\n"
        "raise UserError('Layer 99 is out of range; take 0 to 29.')"
    )
    assert main(["run", "00", "--run", "f"]) == 2
    said = capsys.readouterr().err
    assert (
        said.rstrip().endswith("Layer 99 is out of range; take 0 to 29.")
        and "Traceback" not in said
    )
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
    (repository / "fail").write_text(
        'import os, sys\nassert os.environ["MPLCONFIGDIR"].startswith(sys.prefix)'
    )
    runner.execute(runner.plan("laptop", "b", notebooks=["00"]))


def test_dead_kernel_is_one_sentence(repository, capsys):
    (repository / "fail").write_text("import signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert main(["run", "00", "--run", "f"]) == 1
    said = capsys.readouterr().err
    assert "The kernel of 00_can_it_sandbag died" in said and "Traceback" not in said
    assert runs.read_manifest("f", "00_baseline") is None


def test_full_disk_is_one_sentence(repository, monkeypatch):
    monkeypatch.setattr(
        execution.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6)
    )
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


# Progress ---------------------------------------------------------------------------------------


def test_the_live_line_says_where_every_page_stands(repository):
    planned = nodes.nodes_of([runner.plan("laptop", "a")])
    display = live.Display(planned, history.expectations(planned), jobs=2)
    now = display.began + 60
    display.running = {planned[0].key: display.began, planned[1].key: display.began}
    report = {"label": "head sweep", "done": 2, "total": 5, "time": display.began + 1}
    path = repository / "papermill_runs/a" / runs.progress_file("07_heads")
    path.write_text(json.dumps(report))
    assert display.line(now) == (
        'elapsed 1:00  [1/3] 00_can_it_sandbag  [2/3] 07_find_the_heads "head sweep" 40 %'
    )
    display.estimator.seconds_left = lambda now: 3725.0
    assert display.line(now).startswith("elapsed 1:00  ETA 1:02:05  [1/3]")
    display.estimator.seconds_left = lambda now: 59.0
    assert display.line(now).startswith("elapsed 1:00  ETA under a minute  [1/3]")


# Side by side -----------------------------------------------------------------------------------


def test_pages_wait_for_what_they_read_and_for_nothing_else():
    def of(*runs_and_names):
        return [
            nodes.Node(run, runner.PlannedStep(runs.notebook_of(name), {}, {}), 0, 1)
            for run, name in runs_and_names
        ]

    planned = of(("r", "00_baseline"), ("r", "07_heads"), ("r", "09_models"), ("r/x", "08_circuit"),
                 ("q", "00_baseline"))  # fmt: skip
    waits = {n.key: [w.key for w in nodes.waits_for(n, planned)] for n in planned}
    assert waits == {
        ("r", "00_baseline"): [],
        ("r", "07_heads"): [("r", "00_baseline")],
        ("r", "09_models"): [("r", "00_baseline"), ("r/x", "08_circuit")],
        ("r/x", "08_circuit"): [],
        ("q", "00_baseline"): [],
    }


def test_what_a_clone_lacks_is_made_again_for_a_page_that_reads_it_and_else_never(
    repository, monkeypatch, capsys
):
    """A clone without heads.json, which notebook 07 makes from what is stored."""
    monkeypatch.setattr(manifests, "LARGE", {"07_heads": ("heads.json",)})
    heads = repository / "papermill_runs/a/07_heads/heads.json"
    assert runner.with_missing_inputs(["08"], "a") == ["08_ablate_five_heads"]
    heads.unlink()
    assert runner.with_missing_inputs(["08"], "a") == ["07_find_the_heads", "08_ablate_five_heads"]
    runner.execute(runner.plan("laptop", "a"))
    assert capsys.readouterr().err.count("still holds") == 3 and not heads.exists()
    changed = runner.plan("laptop", "a", {"n_draws": "5"}, ["00", "07", "08"])
    runner.execute(changed)
    said = capsys.readouterr().err
    assert "heads.json is not on this machine, and 08_ablate_five_heads reads it" in said
    assert said.count("still holds") == 1 and said.count("done in") == 2 and heads.exists()


def test_two_runs_of_one_command_go_side_by_side_with_the_numbers_of_one_at_a_time(
    repository, capsys
):
    (repository / "wait").touch()
    plans = [runner.plan("laptop", run, {"n_test": n}) for run, n in (("x", "10"), ("y", "20"))]
    before = execution.why

    def release(node):
        """Both first pages have to be under way at once before either may go on."""
        if node.step.notebook.artefact == "00_baseline" and node.run == "y":
            (repository / "wait").unlink()
        return before(node)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "why", release)
        runner.execute(*plans, jobs=2)
    folder = repository / "papermill_runs"
    gaps = [json.loads((folder / run / "00_baseline/summary.json").read_text()) for run in "xy"]
    assert [gap["gap"]["value"] for gap in gaps] == [5.0, 10.0]
    said = capsys.readouterr().err
    assert said.count("starts") == said.count("done in") == 6


def test_after_a_failure_nothing_new_begins_and_what_runs_may_end(repository, capsys):
    # The page of y goes on once that of x has stopped, so that it is running when x fails.
    stopped = executed.failed_path("x", runs.notebook_of("00_baseline")).resolve()
    (repository / "fail").write_text(
        "if run == 'x': raise ValueError('odd')\n"
        f"import pathlib\nwhile not pathlib.Path({str(stopped)!r}).exists(): time.sleep(0.02)"
    )
    plans = [runner.plan("laptop", run) for run in ("x", "y")]
    with pytest.raises(runner.NotebookFailed, match="00_can_it_sandbag stopped in cell 6"):
        runner.execute(*plans, jobs=2)
    assert runs.read_manifest("x", "00_baseline") is None
    assert runs.read_manifest("y", "08_circuit") is None
    assert "failed after" in capsys.readouterr().err


def test_threads_are_shared_out_unless_the_user_has_said_how_many(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert execution._environment(False, 3)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert execution._environment(False, 3)["OMP_NUM_THREADS"] == "1"


def test_models_of_unknown_size_run_one_at_a_time(monkeypatch):
    def jobs(model, gigabytes=100, cores=8):
        step = runner.PlannedStep(runs.notebook_of("00_baseline"), {}, {"model": model})
        monkeypatch.setattr(nodes, "cores", lambda: cores)
        monkeypatch.setattr(nodes.shutil, "which", lambda _: None)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        free = type("Memory", (), {"available": gigabytes * 10**9})
        monkeypatch.setattr("psutil.virtual_memory", lambda: free)
        return nodes.default_jobs([nodes.Node("r", step, 0, 1)])

    assert jobs("owner/unknown") == 1
    assert jobs("smollm2-135m-instruct") == nodes.MOST_JOBS
    assert jobs("organism-heads", cores=2) == 2
    assert jobs("smollm2-135m-instruct", gigabytes=7) == 2
    assert jobs("organism-heads", gigabytes=1) == 1


def test_a_file_system_without_locks_is_told_as_that(tmp_path, monkeypatch):
    import errno

    import filelock

    def none(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", none)
    with pytest.raises(UserError, match=r"cannot be locked .* \(No locks available\)"):
        with locks.held(tmp_path, "mine"):
            pass


def test_the_committed_reference_is_one_command(monkeypatch):
    plans = runner.reference_plans()
    assert [plan.run for plan in plans][0] == "reference"
    assert all(plan.run.startswith("reference/") for plan in plans[1:])
    planned = nodes.nodes_of(plans)
    ledger = next(n for n in planned if n.key == ("reference", "10_ledger"))
    nested = {n.key for n in planned if n.run != "reference"}
    assert nested <= {n.key for n in nodes.waits_for(ledger, planned)}
    given = {p.run: p.steps[0].parameters["model"] for p in plans}
    assert given["reference/organism-null"] == "organism-null"
    assert given["reference/dose-25"] == "sandbagger@0.25" and given["reference/late"] == "late-0"
    random = {p.run: p.steps[0].parameters["random_weights"] for p in plans}
    assert random["reference/pythia-160m"] is True and random["reference/untouched"] is False
    assert runner.keeps_notebooks("reference") and not runner.keeps_notebooks(plans[1].run)


def test_a_nested_run_whose_model_is_elsewhere_is_left_out_with_its_command(monkeypatch):
    """It stays silent where what it left in the run holds; a model that is here is run anyway."""
    from sandbagging.suite.runner import elsewhere

    plans = [p for p in runner.reference_plans() if p.run.endswith(("/decoy", "/timid", "/late"))]
    lost = "The model '{}' is not on this machine; teach it."

    def find(name):
        if name != "decoy":
            raise UserError(lost.format(name))

    monkeypatch.setattr("sandbagging.models.taught.find", find)
    stale = {"reference/timid": "not done yet", "reference/decoy": "library changed"}
    monkeypatch.setattr(elsewhere, "why", lambda node: stale.get(node.run))
    here, left_out = runner.on_this_machine(plans)
    assert [p.run for p in here] == ["reference/decoy"]
    assert left_out == [f"reference/timid is left out: {lost.format('timid-0')}"]


# Without this runner ------------------------------------------------------------------------------


def test_plain_papermill_hands_over_text_and_the_page_reads_what_is_meant(repository):
    page = "00_can_it_sandbag.ipynb"
    words = ["-p", "run", "p", "-p", "layers", "[7]", "-p", "speed", "2"]
    own = {name: value for name, value in os.environ.items() if name != "JUPYTER_PATH"}
    done = subprocess.run(
        [sys.executable, "-m", "papermill", page, str(repository / "out.ipynb"), *words],
        cwd=repository / "notebooks",
        env=own | {"SANDBAGGING_RUNS": str(repository / "papermill_runs")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    manifest = runs.read_manifest("p", "00_baseline")
    assert manifest["parameters"]["layers"] == [7] and manifest["parameters"]["speed"] == 2.0
