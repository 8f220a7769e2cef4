"""Every notebook, run from top to bottom through the strict runner, on a planted model, and with
changed parameters on both.
"""

import json
import subprocess
import sys

import pytest

from sandbagging import files
from sandbagging.errors import UserError
from sandbagging.suite import runner, runs

RUN = "organism"  # the parameter set, and the run's name
CONTRACT = {
    "00_baseline": ["prompts.jsonl", "scores.csv.gz", "summary.json"],
    "01_activations": ["L00.safetensors", "L02.safetensors", "tokens.csv.gz"],
    "02_saes": ["metrics.csv"],
    "03_separation": ["separation.csv"],
    "04_swap": ["effects_by_question.csv.gz", "summary.csv", "guards.csv", "fits.csv.gz",
                "untrained.csv", "doses.csv", "answers.jsonl", "summary.json"],
    "05_shuffled": ["between.csv", "seeds.csv", "places.csv", "summary.json"],
    "06_specificity": ["verdicts.csv", "beside_card.csv", "summary.json"],
    "07_heads": ["effects.csv", "heads.json", "mlps.csv", "nodes.csv", "other_routes.csv"],
    "08_circuit": ["effects_by_question.csv.gz", "shares.csv", "rivals.csv", "draws.csv",
                   "parts.csv", "positions.csv", "paths.csv", "answers.jsonl", "summary.json"],
    "09_models": ["models.csv", "summary.json"],
    "10_ledger": ["ledger.csv", "headline.json"],
    "11_planted": ["recovery.csv", "summary.json"],
}  # fmt: skip


@pytest.mark.parametrize("notebook", [n.name for n in runs.NOTEBOOKS])
def test_notebook_runs_and_keeps_the_contract(execute, runs_folder, notebook):
    manifest = execute(notebook)
    artefact = runs.notebook_of(manifest["artefact"]).artefact
    assert not set(CONTRACT[artefact]) - {p.name for p in (runs_folder / RUN / artefact).iterdir()}
    # The name of the run is no parameter of a result, so notebooks 06 and 10, which have no other,
    # record none.
    assert manifest["parameters"] or notebook.startswith(("06", "10"))
    assert manifest["library"] and manifest["versions"]["torch"]
    executed = json.loads((runs_folder / RUN / f"{notebook}.ipynb").read_text())
    outputs = [o for cell in executed["cells"] for o in cell.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs), (
        "a notebook shows at least one figure"
    )
    noise = ["".join(o["text"]) for o in outputs if o.get("name") == "stderr"]
    assert not noise, f"warnings and progress bars do not belong on the page: {noise[0][:300]}"
    assert str(runs_folder) not in json.dumps(executed), (
        "a page names no folder of the machine it was made on"
    )


def test_second_call_has_nothing_to_do(story, capfd):
    before = {p: p.stat().st_mtime_ns for p in story.rglob("manifest.json")}
    runner.execute(runner.plan(RUN, RUN))
    assert {p: p.stat().st_mtime_ns for p in story.rglob("manifest.json")} == before


def test_plain_papermill_works_and_tells_the_parameters(story, runs_folder, tmp_path):
    """Without this suite's own runner, which is stricter: papermill's command line, from the
    notebooks' folder.
    """
    import shutil

    shutil.copytree(story, runs_folder / "plain")
    manifest = runs_folder / "plain" / "10_ledger" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    page, out = "10_what_survived.ipynb", str(tmp_path / "out.ipynb")
    command = [sys.executable, "-m", "papermill", page, out, "-p", "run", "plain"]
    done = subprocess.run(command, cwd=runs.notebooks_folder(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert manifest.stat().st_mtime_ns > before and runs.read_manifest("plain", "10_ledger")
    command = [sys.executable, "-m", "papermill", "--help-notebook", "08_ablate_five_heads.ipynb"]
    said = subprocess.run(
        command, cwd=runs.notebooks_folder(), capture_output=True, text=True
    ).stdout
    assert "draws: int (default 50)" in said and "random sets of each kind" in said


def closed(s):
    return s["summary"]["gate"]["open"] is False


# Set, changed parameters, what must hold. Each case starts a kernel, which takes most of its time:
# some of each kind are slow.
CHANGED = {
    "random weights": ("quick", {"random_weights": True, "n_train": 6, "n_test": 20}, closed),
    "planted null": ("organism", {"model": "organism-null"}, closed),
    "planted placebo": ("organism", {"framing": "placebo_pref"}, closed),
    "placebo": ("quick", {"framing": "placebo", "n_train": 6, "n_test": 20}, closed),
    "contrast": (
        "quick",
        {"framing": "contrast", "n_train": 6, "n_test": 10},
        lambda s: set(s["scores"]["framing"]) == {"contrast"},
    ),
}
FAST = ("planted null",)


@pytest.mark.parametrize(
    "case", [c if c in FAST else pytest.param(c, marks=pytest.mark.slow) for c in CHANGED]
)
def test_changed_parameters(execute, runs_folder, case):
    """The nulls are among them: where nothing makes the model sandbag, the gate is closed."""
    set_name, parameters, holds = CHANGED[case]
    execute("00", set_name=set_name, run_name="changed", **parameters)
    folder = runs_folder / "changed" / "00_baseline"
    summary = json.loads((folder / "summary.json").read_text())
    assert holds({"scores": files.read_csv(folder / "scores.csv.gz"), "summary": summary})


def test_heads_of_the_readers_choice(story, execute, runs_folder):
    """A copy of the run, so that only notebook 08 is done again, with two heads named by hand."""
    import shutil

    shutil.copytree(story, runs_folder / "two-heads")
    manifest = execute("08", run_name="two-heads", heads="L3H7 L0H2", draws=4)
    table = files.read_csv(runs_folder / "two-heads" / "08_circuit" / "effects_by_question.csv.gz")
    assert manifest["parameters"]["heads"] == "L3H7 L0H2"
    singles = {i for i in table["intervention"] if i.startswith("single:")}
    assert singles == {"single:L3H7", "single:L0H2"}


@pytest.fixture(scope="module")
def few_views(story, execute, runs_folder):
    """A copy of the run whose notebooks 07 and 08 are done again without their side views."""
    import shutil

    shutil.copytree(story, runs_folder / "few-views")
    for notebook in ("07", "08"):
        execute(notebook, run_name="few-views", side_views=False)
    return runs_folder / "few-views"


def test_side_views_are_left_out_and_the_main_numbers_are_the_same(story, few_views):
    left_out = {
        "07_heads": {"curve.csv", "other_routes.csv"},
        "08_circuit": {
            "positions.csv", "paths.csv", "replacements.csv", "attention.csv", "logits.csv"
        },
    }  # fmt: skip
    for artefact, missing in left_out.items():
        there = [
            {p.name for p in (run / artefact).glob("*.csv") if "fig_" not in p.name}
            for run in (story, few_views)
        ]
        assert there[0] - there[1] == missing
    whole, plain = (
        json.loads((run / "08_circuit" / "summary.json").read_text()) for run in (story, few_views)
    )
    assert set(whole) - set(plain) == {"shapley", "best_three"}
    # Other batches add up in another order: float32 differs in the seventh digit.
    for effect in ("joint", "joint_genuine", "specific_portion"):
        assert plain[effect]["value"] == pytest.approx(whole[effect]["value"], abs=1e-3)
    page = json.loads((few_views / "08_ablate_five_heads.ipynb").read_text())
    shown = [o.get("data", {}) for c in page["cells"] for o in c.get("outputs", [])]
    said = ["".join(data.get("text/markdown", "")) for data in shown]
    assert sum("Left out in this run" in text for text in said) == 3


@pytest.mark.slow
def test_09_and_10_need_no_side_views(few_views, execute):
    for notebook in ("09", "10"):
        execute(notebook, run_name="few-views")
    models = files.read_csv(few_views / "09_models" / "models.csv")
    assert models["share_restored"][0] > 0.9
    ledger = files.read_csv(few_views / "10_ledger" / "ledger.csv").set_index("claim")
    assert ledger.loc["joint_effect", "measured"] == pytest.approx(models["joint_effect"][0])


@pytest.mark.parametrize(
    ("notebook", "parameters", "words"),
    [
        pytest.param("00", {"framing": "instr_contrast"}, "was trained on", marks=pytest.mark.slow),
        pytest.param("01", {"layers": [30]}, "layers 0 to 4", marks=pytest.mark.slow),
        pytest.param("02", {"tags": ["*_topkk_*"]}, "nearest", marks=pytest.mark.slow),
        pytest.param("07", {"sweep_questions": 1000}, "questions", marks=pytest.mark.slow),
        pytest.param("07", {"n_heads": 1000}, "between 1 and", marks=pytest.mark.slow),
        ("08", {"heads": "L30H0"}, "does not exist"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_no_done_marker(
    story, execute, runs_folder, notebook, parameters, words
):
    import shutil

    run = "mistake"
    if not (runs_folder / run).exists():
        shutil.copytree(story, runs_folder / run)
    artefact = runner.find_notebook(notebook).artefact
    kept = runs_folder / run / artefact
    with pytest.raises(UserError, match=words) as error:
        execute(notebook, run_name=run, **parameters)
    assert "\n" not in str(error.value).strip() or "Traceback" not in str(error.value)
    assert runs.read_manifest(run, artefact) is None
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(story / artefact, kept)
    shutil.copy(story / f"{runs.notebook_of(artefact).name}.ipynb", runs_folder / run)
