"""Run folders and the strict runner, on a throw-away repository with three small notebooks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sandbagging import provenance
from sandbagging.errors import UserError
from sandbagging.suite import reports, runner, runs
from sandbagging.suite.cli import main

LIBRARY = provenance.PACKAGE
COPIED = ("__init__.py", "__main__.py", "errors.py", "files.py", "provenance.py")

METRICS = '''
"""A stand-in module."""
from sandbagging import circuits_math


def gap(n, speed):
    """Return a gap."""
    return circuits_math.times(n, speed)
'''
CIRCUITS_MATH = "def times(a, b):\n    return a * b\n"
CIRCUITS = 'def heads(k):\n    """Return k heads."""\n    return [[17, i] for i in range(k)]\n'

# The flag files stand outside the repository: wait holds the notebook up, fail makes it stop.
CELLS_00 = [
    "import os\nimport pathlib\nimport time\n\nfrom sandbagging import metrics\nfrom sandbagging.suite import runs",
    'values = {"n_test": n_test, "speed": speed, "label": label, "layers": layers}\n'
    'step = runs.begin("00_baseline", run=run, parameters=values)',
    'flags = pathlib.Path(os.environ["SANDBAGGING_RUNS"]).parent\n(flags / f"started-{run}").touch()\n'
    'while (flags / "wait").exists():\n    time.sleep(0.02)',
    'if (flags / "fail").exists():\n    exec((flags / "fail").read_text())',
    'for _ in step.track(range(3), "questions"):\n    pass',
    'gap = {"value": metrics.gap(n_test, speed), "low": 0.1, "high": 2.0, "n": n_test, "unit": "pp", "method": "test"}\n'
    'step.json("summary.json", {"gap": gap})\nstep.done()',
]
CELLS_07 = [
    "from sandbagging import circuits\nfrom sandbagging.suite import runs",
    'step = runs.begin("07_heads", run=run, parameters={"k": k}, reads=["00_baseline"])\nassert step.setting("n_test") > 0',
    'step.json("heads.json", {"heads": circuits.heads(k)})\nstep.done()',
]
CELLS_08 = [
    "from sandbagging.suite import runs",
    'step = runs.begin("08_circuit", run=run, parameters={"n_draws": n_draws}, reads=["00_baseline", "07_heads"])',
    'step.json("summary.json", {"heads": len(step.read_json("07_heads", "heads.json")["heads"]), "n_test": step.setting("n_test")})\n'
    "step.done()",
]
PARAMETERS_00 = (
    'run: str = "mine"  # the run\'s name\nn_test: int = 3  # questions\nspeed: float = 0.5  # anything\n'
    'label: str = "default"  # a word\nlayers: list[int] = [1, 2]  # layers'
)


def write_notebook(path: Path, parameters: str, cells: list[str]) -> None:
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)


def make_repository(root: Path) -> Path:
    package = root / "lib" / "sandbagging"
    (package / "data").mkdir(parents=True)
    shutil.copytree(LIBRARY / "suite", package / "suite", ignore=shutil.ignore_patterns("__pycache__"))
    for name in COPIED:
        shutil.copy(LIBRARY / name, package / name)
    (package / "metrics.py").write_text(METRICS)
    (package / "circuits_math.py").write_text(CIRCUITS_MATH)
    (package / "circuits.py").write_text(CIRCUITS)
    (root / "notebooks").mkdir()
    write_notebook(root / "notebooks" / "00_can_it_sandbag.ipynb", PARAMETERS_00, CELLS_00)
    write_notebook(root / "notebooks" / "07_find_the_heads.ipynb", 'run: str = "mine"  # name\nk: int = 2  # heads', CELLS_07)
    write_notebook(root / "notebooks" / "08_ablate_five_heads.ipynb", 'run: str = "mine"  # name\nn_draws: int = 4  # draws', CELLS_08)
    sets = root / "papermill_runs" / "parameters"
    sets.mkdir(parents=True)
    names = "notebooks: [00_can_it_sandbag, 07_find_the_heads, '08']\n"
    (sets / "laptop.yaml").write_text("# nothing differs\n" + names)
    (sets / "quick.yaml").write_text("n_test: 2\n" + names)
    return root


def use(repository: Path, patch: pytest.MonkeyPatch) -> None:
    """Make this process and its kernels see the throw-away repository, and put a broken kernel of the user's in the way."""
    broken = repository / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "broken", "language": "python"}')
    patch.setenv("JUPYTER_PATH", str(repository / "jupyter"))
    patch.setattr(runs, "PACKAGE", repository / "lib" / "sandbagging")
    patch.setattr(runs, "REPOSITORY", repository)
    patch.setattr(provenance, "PACKAGE", repository / "lib" / "sandbagging")
    patch.setattr(provenance, "REPOSITORY", repository)
    patch.setenv("PYTHONPATH", str(repository / "lib"))
    patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for name in ("SANDBAGGING_RUNS", "SANDBAGGING_NOTEBOOKS", "SANDBAGGING_RUNNER", "SANDBAGGING_REFRESH"):
        patch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A repository whose run `a` holds all three notebooks; tests copy it before they change anything."""
    root = make_repository(tmp_path_factory.mktemp("finished") / "repository")
    with pytest.MonkeyPatch.context() as patch:
        use(root, patch)
        runner.execute(runner.plan("laptop", "a"))
    return root


@pytest.fixture
def repository(finished, tmp_path, monkeypatch):
    """A copy of the finished repository, in use."""
    root = tmp_path / "repository"
    shutil.copytree(finished, root)
    use(root, monkeypatch)
    return root


@pytest.fixture(scope="module")
def planning(tmp_path_factory):
    """A repository that nothing runs in: for checks of parameters."""
    root = make_repository(tmp_path_factory.mktemp("planning") / "repository")
    with pytest.MonkeyPatch.context() as patch:
        use(root, patch)
        yield root


def reasons(run: str = "a", overrides=None) -> dict[str, str | None]:
    plan = runner.plan("laptop", run, overrides)
    return {step.notebook.artefact: runner._why(plan, step) for step in plan.steps}


def command(repository: Path, *words: str) -> subprocess.Popen:
    """Start the command line on the throw-away repository; Ctrl-C works even if the tests themselves run in the background."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SANDBAGGING_")}
    environment |= {"PYTHONPATH": str(repository / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "sandbagging", *words],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(1500):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")


# ---------------------------------------------------------------- what a run leaves behind


def test_manifest_says_what_made_the_result(finished):
    manifest = json.loads((finished / "papermill_runs/a/08_circuit/manifest.json").read_text())
    assert manifest["parameters"] == {"n_draws": 4}
    assert set(manifest["inputs"]) == {"00_baseline", "07_heads"}
    assert set(manifest["outputs"]) == {"summary.json"}
    assert {"commit", "versions", "device", "seconds", "seed", "notebook"} <= manifest.keys()
    baseline = json.loads((finished / "papermill_runs/a/00_baseline/manifest.json").read_text())
    assert {"(notebook)", "metrics.py", "circuits_math.py"} == set(baseline["library"])
    assert json.loads((finished / "papermill_runs/a/08_circuit/summary.json").read_text()) == {"heads": 2, "n_test": 3}


def test_executed_notebook_names_no_folder_of_this_machine(finished):
    text = (finished / "papermill_runs/a/00_can_it_sandbag.ipynb").read_text()
    assert str(finished) not in text
    assert '"00_baseline is done' in text
    assert not list((finished / "papermill_runs/a").glob(".partial-*"))


def test_resume_does_nothing_when_nothing_changed(repository, capsys):
    before = (repository / "papermill_runs/a/07_heads/manifest.json").stat().st_mtime_ns
    runner.execute(runner.plan("laptop", "a"))
    assert capsys.readouterr().err.count("still holds") == 3
    assert (repository / "papermill_runs/a/07_heads/manifest.json").stat().st_mtime_ns == before


# ---------------------------------------------------------------- what makes a result stale


def test_changed_parameter_is_named(repository):
    assert reasons(overrides={"k": "3"}) == {"00_baseline": None, "07_heads": "parameters changed: k 2 -> 3", "08_circuit": None}


def test_docstring_and_comment_change_nothing(repository):
    path = repository / "lib/sandbagging/circuits.py"
    path.write_text(path.read_text().replace('"""Return k heads."""', '"""Return as many heads as asked."""  # better words'))
    assert set(reasons().values()) == {None}


def test_function_two_imports_away_makes_its_notebook_stale(repository):
    (repository / "lib/sandbagging/circuits_math.py").write_text("def times(a, b):\n    return b * a\n")
    assert reasons() == {"00_baseline": "library changed: circuits_math.py", "07_heads": None, "08_circuit": None}


def test_new_code_with_equal_results_leaves_what_follows_alone(repository, capsys):
    (repository / "lib/sandbagging/circuits.py").write_text("def heads(k):\n    return [[17, i] for i in range(0, k)]\n")
    runner.execute(runner.plan("laptop", "a"))
    said = capsys.readouterr().err
    assert "07_find_the_heads  starts (library changed: circuits.py)" in said
    assert said.count("still holds") == 2


def test_changed_input_makes_the_reader_stale(repository):
    folder = repository / "papermill_runs/a/07_heads"
    (folder / "heads.json").write_text('{"heads": []}')
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["outputs"] = runs.output_hashes(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert reasons() == {"00_baseline": None, "07_heads": None, "08_circuit": "input changed: 07_heads"}


def test_changed_notebook_code_counts_and_prose_does_not(repository):
    path = repository / "notebooks/08_ablate_five_heads.ipynb"
    text = path.read_text()
    path.write_text(text.replace("import runs", "import runs  # a remark"))
    assert reasons()["08_circuit"] is None
    path.write_text(text.replace("from sandbagging.suite", "from sandbagging import files\\nfrom sandbagging.suite"))
    assert reasons()["08_circuit"] == "library changed: (notebook), files.py"


def test_missing_executed_notebook_is_made_again(repository):
    (repository / "papermill_runs/a/08_ablate_five_heads.ipynb").unlink()
    assert reasons()["08_circuit"] == "its executed notebook is missing"


def test_corrupted_artefact_is_named(repository):
    (repository / "papermill_runs/a/07_heads/heads.json").write_text("{}")
    assert reasons()["07_heads"] == "heads.json is missing or was changed"
    with pytest.raises(UserError, match="07_heads/heads.json in the run a .* run notebook 07_find_the_heads"):
        runs.begin("08_circuit", run="a", parameters={"n_draws": 1}, reads=["07_heads"])


def test_file_named_by_a_parameter_counts(repository):
    questions = repository / "mine.jsonl"
    questions.write_text("one")
    before = runs.user_file_hashes({"questions_test": str(questions), "n": 3, "label": "default"})
    questions.write_text("two")
    after = runs.user_file_hashes({"questions_test": str(questions)})
    assert before.keys() == after.keys() == {"questions_test"} and before != after


def test_figures_do_not_count_as_data():
    with_figure = {"outputs": {"a.json": "1", "fig_a.png": "2"}}
    assert runs.content_hash(with_figure) == runs.content_hash({"outputs": {"a.json": "1", "fig_a.png": "3"}})
    assert runs.content_hash(with_figure) != runs.content_hash({"outputs": {"a.json": "2", "fig_a.png": "2"}})


# ---------------------------------------------------------------- begin and Step


def test_missing_input_names_the_notebook_to_run(repository):
    with pytest.raises(UserError, match="run notebook 00_can_it_sandbag first"):
        runs.begin("07_heads", run="b", parameters={"k": 2}, reads=["00_baseline"])
    with pytest.raises(UserError, match=r"run notebook 00_can_it_sandbag first \(python -m sandbagging run 00 --run b\)"):
        runner.execute(runner.plan("laptop", "b", notebooks=["07"]))


def test_begin_refuses_the_committed_run_and_odd_names(repository):
    for run in ("reference", "reference/null_model"):
        with pytest.raises(UserError, match="committed"):
            runs.begin("07_heads", run=run, parameters={"k": 2})
    for run in ("", "../a", "/a", "a b", "parameters", ".hidden", "a//b", 3):
        with pytest.raises(UserError, match="name"):
            runs.run_folder(run)


def test_begin_wants_every_declared_parameter(repository):
    with pytest.raises(UserError, match="declares k but does not hand it"):
        runs.begin("07_heads", run="b", parameters={}, reads=[])


def test_step_refuses_what_it_did_not_declare(repository):
    step = runs.begin("07_heads", run="a", parameters={"k": 2}, reads=["00_baseline"])
    with pytest.raises(UserError, match="does not declare that it reads 08_circuit"):
        step.input("08_circuit")
    with pytest.raises(UserError, match="No notebook before 07_heads declares the parameter 'nothing'"):
        step.setting("nothing")
    with pytest.raises(UserError, match="holds no file scores.csv"):
        step.read_table("00_baseline", "scores.csv")
    assert step.setting("layers") == [1, 2]
    assert runs.read_manifest("a", "07_heads") is None, "begin must undo the done marker"


def test_resumable_step_keeps_what_it_wrote_only_while_nothing_changed(repository):
    def begin(k, **more):
        return runs.begin("07_heads", run="b", parameters={"k": k}, **more)

    (begin(2, resumable=True).folder / "part").touch()
    assert (begin(2, resumable=True).folder / "part").exists()
    assert not (begin(3, resumable=True).folder / "part").exists()
    (begin(3, resumable=True).folder / "part").touch()
    assert not (begin(3).folder / "part").exists(), "a step that is not resumable starts from nothing"
    step = begin(3, resumable=True)
    step.json("heads.json", {})
    step.done()
    assert not (step.folder / runs.UNFINISHED).exists()
    assert not (begin(3, resumable=True).folder / "heads.json").exists(), "a finished step is made anew"


def test_track_reports_progress_by_hand(repository, capsys):
    step = runs.begin("07_heads", run="b", parameters={"k": 2})
    assert list(step.track(iter("ab"), "letters")) == ["a", "b"]
    assert "letters: 2/2" in capsys.readouterr().err


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["n_tset=5"], r"No notebook declares the parameter n_tset \(-p\); did you mean n_test\?"),
        (["n_test=five"], r"n_test \(-p\) must be int, but 'five' is str"),
        (["n_test=true"], "must be int, but True is bool"),
        (["n_test=1.5"], "must be int, but 1.5 is float"),
        (["speed=fast"], "speed .* must be float"),
        (["speed=.inf"], "speed .* must be float"),
        (["layers=3"], r"layers .* must be list\[int\], but 3 is int"),
        (["layers=[1, two]"], r"layers .* must be list\[int\]"),
        (["label=[a]"], "label .* must be str"),
        (["hf_token=abc"], "sounds like a credential"),
        (["password=abc"], "sounds like a credential"),
        (["run=b"], "--run NAME"),
        (["n_test"], "name=value"),
        (["n_test=1", "n_test=2"], "given twice"),
        (["n_test=[1"], "cannot be read"),
        (["layers=[2020-13-45]"], "cannot be read|must be"),
    ],
)
def test_wrong_parameters_get_one_sentence(planning, words, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        runner.plan("laptop", "b", runner.parse_overrides(words))
    assert "\n" not in str(caught.value) and "abc" not in str(caught.value)


def test_right_parameters_reach_the_notebooks_that_declare_them(planning):
    words = ["n_test=5", "speed=2", "label=7", "layers=[]", "k=1"]
    plan = runner.plan("quick", "b", runner.parse_overrides(words))
    first, second, third = plan.steps
    assert first.overrides == {"n_test": 5, "speed": 2.0, "label": "7", "layers": []}
    assert isinstance(first.overrides["speed"], float)
    assert (second.overrides, third.overrides, third.parameters) == ({"k": 1}, {}, {"n_draws": 4})
    assert runner.plan("quick", "b", {"speed": "1e-3"}).steps[0].overrides == {"n_test": 2, "speed": 0.001}


def test_parameter_of_a_notebook_that_is_not_run_is_refused(planning):
    with pytest.raises(UserError, match="k is a parameter of 07_find_the_heads"):
        runner.plan("laptop", "b", {"k": "1"}, ["08"])


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("n_tset: 5\n", r"n_tset \(odd.yaml\); did you mean n_test"),
        ("n_test: many\n", r"n_test \(odd.yaml\) must be int"),
        ("label: 5\n", "label .* must be str, but 5 is int"),
        ("- a\n", "name: value"),
        ("a: [\n", "not readable as YAML"),
        ("api_key: 1\n", "credential"),
        ("notebooks: [11_nothing]\n", "no notebook 11_nothing"),
        ("notebooks: 3\n", "list of notebook names"),
    ],
)
def test_wrong_sets_get_one_sentence(planning, text, sentence):
    path = planning / "papermill_runs/parameters/odd.yaml"
    path.write_text(text if text.startswith(("-", "notebooks")) else text + "notebooks: ['00']\n")
    try:
        with pytest.raises(UserError, match=sentence):
            runner.plan("odd", "b")
    finally:
        path.unlink()


def test_unknown_set_and_notebook_name_the_nearest(planning):
    with pytest.raises(UserError, match="no parameter set laptob; did you mean laptop"):
        runner.plan("laptob", "b")
    with pytest.raises(UserError, match="did you mean 08_ablate_five_heads"):
        runner.plan("laptop", "b", notebooks=["08_ablate_heads"])
    with pytest.raises(UserError, match="Several notebooks begin with '0'"):
        runner.plan("laptop", "b", notebooks=["0"])


def test_secret_names():
    for name in ("token", "hf_token", "HF_TOKEN", "apiKey", "key", "secret_sauce", "my_password", "credentials", "hftoken"):
        assert runner.looks_secret(name), name
    for name in ("n_tokens", "max_new_tokens", "model", "keep", "layers", "seed"):
        assert not runner.looks_secret(name), name


NAMES = st.one_of(st.sampled_from(["n_test", "speed", "label", "layers", "k", "n_draws", "run"]), st.text(max_size=12))
TEXTS = st.one_of(st.text(max_size=30), st.integers().map(str), st.floats().map(str), st.lists(st.integers()).map(str), st.dates().map(str))


@settings(max_examples=150, deadline=None)
@given(name=NAMES, text=TEXTS)
@example(name="layers", text="[" * 3000)
@example(name="n_test", text="9" * 5000)
@example(name="speed", text="1" + "0" * 400)
@example(name="label", text="\ud800")
@example(name="label", text="a\x00b")
@example(name="layers", text="&a [*a]")
def test_any_parameter_is_taken_or_refused_with_a_sentence(planning, name, text):
    try:
        plan = runner.plan("laptop", "b", runner.parse_overrides([f"{name}={text}"]))
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return
    types = {"n_test": int, "k": int, "n_draws": int, "speed": float, "label": str, "layers": list}
    values = [step.overrides[name] for step in plan.steps if name in step.overrides]
    assert values and all(type(value) is types[name] for value in values)
    json.dumps(values, allow_nan=False, ensure_ascii=False).encode()


def test_parameters_cell_that_papermill_cannot_read_is_refused(tmp_path):
    for line in ("a: int | None = 3", "b = 1 + 1", "c = d = 2"):
        write_notebook(tmp_path / "x.ipynb", 'run: str = "mine"\n' + line, [])
        with pytest.raises(UserError, match="one literal"):
            runner.declared_parameters(tmp_path / "x.ipynb")


# ---------------------------------------------------------------- interruptions and two runs at once


def test_ctrl_c_leaves_no_done_marker_and_the_folder_was_locked(repository):
    (repository / "wait").touch()
    process = command(repository, "run", "00", "--run", "c")
    wait_for(repository / "started-c", process)
    with pytest.raises(UserError, match=f"run c is being written by another process \\({process.pid}\\)"):
        runner.execute(runner.plan("laptop", "c"))
    with pytest.raises(UserError, match="Another process is writing the run c"):
        runs.begin("07_heads", run="c", parameters={"k": 2})
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
    time.sleep(0.3)
    assert reasons("k")["00_baseline"] is not None
    runner.execute(runner.plan("laptop", "k", notebooks=["00"]))
    assert reasons("k")["00_baseline"] is None
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
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match="Only 1 MB are free"):
        runner.execute(runner.plan("laptop", "b"))


def test_committed_run_needs_refresh(repository):
    with pytest.raises(UserError, match="only `make refresh` writes it"):
        runner.execute(runner.plan("laptop", "reference"))
    assert not (repository / "papermill_runs/reference").exists()


# ---------------------------------------------------------------- progress and reading


def test_progress_line_says_where_and_how_long(repository):
    plan = runner.plan("laptop", "a")
    progress = runner._Progress(plan, {"00_can_it_sandbag": 10.0, "07_find_the_heads": 100.0, "08_ablate_five_heads": 50.0})
    # The first notebook took 20 s instead of 10: this machine is half as fast as the one before.
    progress.spent, progress.planned, progress.index = 20.0, 10.0, 1
    report = {"artefact": "07_heads", "label": "head sweep", "done": 2, "total": 5, "time": progress.step_began + 1}
    (repository / "papermill_runs/a/.progress.json").write_text(json.dumps(report))
    line = progress.line(progress.step_began + 60)
    assert line == '[2/3] 07_find_the_heads  step "head sweep" 40 %  elapsed 1:00  ETA 4:00'


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


def test_registry_reads_only_what_comes_before():
    seen = []
    for notebook in runs.NOTEBOOKS:
        assert set(notebook.reads) <= set(seen), notebook.name
        assert notebook.name[:2] == notebook.artefact[:2]
        seen.append(notebook.artefact)
    ledger = runs.notebook_of("10_ledger")
    assert set(ledger.reads) == set(seen[: seen.index("10_ledger")]), "the ledger reads the whole story, not the appendix"


def test_small_pictures_look_the_same():
    """Fewer colours and a white page, the same picture: hardly a pixel moves by what an eye can see, and half of the bytes are gone."""
    import io

    import matplotlib.pyplot as plt
    import numpy as np
    from PIL import Image

    fig, ax = plt.subplots()
    ax.plot(np.random.default_rng(0).normal(size=(50, 8)))
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", transparent=True)
    plt.close(fig)
    small = runs.small_png(drawn.getvalue())
    page = Image.new("RGBA", (pic := Image.open(drawn).convert("RGBA")).size, "white")
    page.alpha_composite(pic)
    after = Image.open(io.BytesIO(small))
    difference = np.asarray(page.convert("RGB")).astype(int) - np.asarray(after.convert("RGB"))
    assert after.size == pic.size and len(small) < 0.5 * len(drawn.getvalue())
    # Of 255 steps; where lines cross, single pixels may move by more.
    assert np.abs(difference).mean() < 1 and (np.abs(difference) > 32).mean() < 0.001
    assert runs.small_png(drawn.getvalue()) == small
