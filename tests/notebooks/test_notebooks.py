"""Every notebook, run from top to bottom through the strict runner, with the quick set and with changed parameters."""

import json

import pandas as pd
import pytest

from sandbagging import runner, runs
from sandbagging.errors import UserError

CONTRACT = {
    "00_baseline": ["prompts.jsonl", "scores.csv.gz", "summary.json"],
    "01_activations": ["L07.safetensors", "L15.safetensors", "tokens.csv.gz"],
    "02_saes": ["metrics.csv"],
    "03_separation": ["separation.csv"],
    "04_swap": ["effects_by_question.csv.gz", "summary.csv"],
    "05_shuffled": ["effects_by_question.csv.gz", "summary.csv"],
    "06_specificity": ["summary.csv"],
    "07_heads": ["effects.csv", "heads.json"],
    "08_circuit": ["effects_by_question.csv.gz", "draws.csv", "subsets.csv", "summary.json"],
    "10_ledger": ["ledger.csv", "headline.json"],
}


@pytest.mark.parametrize("notebook", [n.name for n in runs.NOTEBOOKS])
def test_notebook_runs_and_keeps_the_contract(execute, runs_folder, notebook):
    manifest = execute(notebook)
    artefact = runs.notebook_of(manifest["artefact"]).artefact
    assert not set(CONTRACT[artefact]) - {p.name for p in (runs_folder / "quick" / artefact).iterdir()}
    # The name of the run is no parameter of a result, so notebook 10, which has no other, records none.
    assert (manifest["parameters"] or notebook.startswith("10")) and manifest["library"] and manifest["versions"]["torch"]
    executed = json.loads((runs_folder / "quick" / f"{notebook}.ipynb").read_text())
    outputs = [o for cell in executed["cells"] for o in cell.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs), "a notebook shows at least one figure"
    noise = ["".join(o["text"]) for o in outputs if o.get("name") == "stderr"]
    assert not noise, f"warnings and progress bars do not belong on the page: {noise[0][:300]}"
    assert str(runs_folder) not in json.dumps(executed), "a page names no folder of the machine it was made on"


def test_second_call_has_nothing_to_do(quick, capfd):
    before = {p: p.stat().st_mtime_ns for p in quick.rglob("manifest.json")}
    runner.execute(runner.plan("quick", "quick"))
    assert {p: p.stat().st_mtime_ns for p in quick.rglob("manifest.json")} == before


# Each case starts a kernel, which takes most of its time: one of a kind is in the fast tier.
CHANGED = [
    ("00", {"random_weights": True, "n_train": 6, "n_test": 20}, lambda s: s["summary"]["gate"]["open"] is False),
    pytest.param(
        "00", {"framing": "placebo", "n_train": 6, "n_test": 20}, lambda s: s["summary"]["gate"]["open"] is False, marks=pytest.mark.slow
    ),
    pytest.param(
        "00", {"framing": "contrast", "n_train": 6, "n_test": 10}, lambda s: set(s["scores"]["framing"]) == {"contrast"},
        marks=pytest.mark.slow,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("notebook", "parameters", "holds"), CHANGED, ids=["random weights", "placebo", "contrast"])
def test_changed_parameters(execute, runs_folder, notebook, parameters, holds):
    """The nulls are among them: on random weights and on the placebo framing there is no sandbagging, so the gate is closed."""
    execute(notebook, run_name="changed", **parameters)
    folder = runs_folder / "changed" / "00_baseline"
    assert holds({"scores": pd.read_csv(folder / "scores.csv.gz"), "summary": json.loads((folder / "summary.json").read_text())})


def test_heads_of_the_readers_choice(quick, execute, runs_folder):
    """A copy of the quick run, so that only notebook 08 is done again, with two heads named by hand."""
    import shutil

    shutil.copytree(quick, runs_folder / "two-heads")
    manifest = execute("08", run_name="two-heads", heads="L3H8 L20H0", draws=4)
    table = pd.read_csv(runs_folder / "two-heads" / "08_circuit" / "effects_by_question.csv.gz")
    assert manifest["parameters"]["heads"] == "L3H8 L20H0"
    assert {i for i in table["intervention"] if i.startswith("single:")} == {"single:L3H8", "single:L20H0"}


@pytest.mark.parametrize(
    ("notebook", "parameters", "words"),
    [
        pytest.param("00", {"framing": "instr_contrst"}, "instr_contrast", marks=pytest.mark.slow),
        ("01", {"layers": [30]}, "layers 0 to 29"),
        pytest.param("02", {"tags": ["*_topkk_*"]}, "nearest", marks=pytest.mark.slow),
        pytest.param("07", {"sweep_questions": 1000}, "questions", marks=pytest.mark.slow),
        ("08", {"heads": "L30H0"}, "does not exist"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_leaves_no_done_marker(quick, execute, runs_folder, notebook, parameters, words):
    import shutil

    run = "mistake"
    if not (runs_folder / run).exists():
        shutil.copytree(quick, runs_folder / run)
    artefact = runner.find_notebook(notebook).artefact
    kept = runs_folder / run / artefact
    with pytest.raises(UserError, match=words) as error:
        execute(notebook, run_name=run, **parameters)
    assert "\n" not in str(error.value).strip() or "Traceback" not in str(error.value)
    assert runs.read_manifest(run, artefact) is None
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(quick / artefact, kept)
    shutil.copy(quick / f"{runs.notebook_of(artefact).name}.ipynb", runs_folder / run)
