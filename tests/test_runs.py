"""Run folders: what a run leaves behind, what makes a result stale, `begin` and `Step`."""

import json

import pytest

from sandbagging.errors import UserError
from sandbagging.suite import runner, runs
from sandbagging.suite.runner import execution, nodes


def reasons(run: str = "a", overrides=None) -> dict[str, str | None]:
    planned = nodes.nodes_of([runner.plan("laptop", run, overrides)])
    return {node.step.notebook.artefact: execution.why(node) for node in planned}


# ---------------------------------------------------------------- what a run leaves behind


def test_manifest_says_what_made_the_result(finished):
    manifest = json.loads((finished / "papermill_runs/a/08_circuit/manifest.json").read_text())
    assert manifest["parameters"] == {"n_draws": 4}
    assert set(manifest["inputs"]) == {"00_baseline", "07_heads"}
    assert set(manifest["outputs"]) == {"summary.json"}
    assert {"commit", "versions", "device", "seconds", "seed", "notebook"} <= manifest.keys()
    baseline = json.loads((finished / "papermill_runs/a/00_baseline/manifest.json").read_text())
    assert {"(notebook)", "(words)", "metrics.py", "circuits_math.py"} == set(baseline["library"])
    assert json.loads((finished / "papermill_runs/a/08_circuit/summary.json").read_text()) == {
        "heads": 2,
        "n_test": 3,
    }


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
    assert reasons(overrides={"k": "3"}) == {
        "00_baseline": None,
        "07_heads": "parameters changed: k 2 -> 3",
        "08_circuit": None,
    }


def test_docstring_and_comment_change_nothing(repository):
    path = repository / "lib/sandbagging/circuits.py"
    path.write_text(
        path.read_text().replace(
            '"""Return k heads."""', '"""Return as many heads as asked."""  # better words'
        )
    )
    assert set(reasons().values()) == {None}


def test_function_two_imports_away_makes_its_notebook_stale(repository):
    (repository / "lib/sandbagging/circuits_math.py").write_text(
        "def times(a, b):\n    return b * a\n"
    )
    assert reasons() == {
        "00_baseline": "library changed: circuits_math.py",
        "07_heads": None,
        "08_circuit": None,
    }


def test_new_code_with_equal_results_leaves_what_follows_alone(repository, capsys):
    (repository / "lib/sandbagging/circuits.py").write_text(
        "def heads(k):\n    return [[17, i] for i in range(0, k)]\n"
    )
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
    assert reasons() == {
        "00_baseline": None,
        "07_heads": None,
        "08_circuit": "input changed: 07_heads",
    }


def test_changed_notebook_code_counts_and_prose_does_not(repository):
    path = repository / "notebooks/08_ablate_five_heads.ipynb"
    text = path.read_text()
    path.write_text(text.replace("import runs", "import runs  # a remark"))
    assert reasons()["08_circuit"] is None
    path.write_text(
        text.replace(
            "from sandbagging.suite", "from sandbagging import files\\nfrom sandbagging.suite"
        )
    )
    assert reasons()["08_circuit"] == "library changed: (notebook), files.py"


def test_missing_executed_notebook_is_made_again(repository):
    (repository / "papermill_runs/a/08_ablate_five_heads.ipynb").unlink()
    assert reasons()["08_circuit"] == "its executed notebook is missing"


def test_corrupted_artefact_is_named(repository):
    (repository / "papermill_runs/a/07_heads/heads.json").write_text("{}")
    assert reasons()["07_heads"] == "heads.json is missing or was changed"
    with pytest.raises(
        UserError, match="07_heads/heads.json in the run a .* run notebook 07_find_the_heads"
    ):
        runs.begin("08_circuit", {"run": "a", "n_draws": 1})


def test_file_named_by_a_parameter_counts(repository):
    questions = repository / "mine.jsonl"
    questions.write_text("one")
    before = runs.user_file_hashes({"questions_test": str(questions), "n": 3, "label": "default"})
    questions.write_text("two")
    after = runs.user_file_hashes({"questions_test": str(questions)})
    assert before.keys() == after.keys() == {"questions_test"} and before != after


def test_figures_do_not_count_as_data():
    with_figure = {"outputs": {"a.json": "1", "fig_a.png": "2"}}
    assert runs.content_hash(with_figure) == runs.content_hash(
        {"outputs": {"a.json": "1", "fig_a.png": "3"}}
    )
    assert runs.content_hash(with_figure) != runs.content_hash(
        {"outputs": {"a.json": "2", "fig_a.png": "2"}}
    )


# ---------------------------------------------------------------- begin and Step


def test_missing_input_names_the_notebook_to_run(repository):
    with pytest.raises(UserError, match="run notebook 00_can_it_sandbag first"):
        runs.begin("07_heads", {"run": "b", "k": 2})
    with pytest.raises(
        UserError,
        match=r"run notebook 00_can_it_sandbag first \(python -m sandbagging run 00 --run b\)",
    ):
        runner.execute(runner.plan("laptop", "b", notebooks=["07"]))


def test_begin_refuses_the_committed_run_and_odd_names(repository):
    for run in ("reference", "reference/null_model"):
        with pytest.raises(UserError, match="committed"):
            runs.begin("07_heads", {"run": run, "k": 2})
    for run in ("", "../a", "/a", "a b", "parameters", ".hidden", "a//b", 3):
        with pytest.raises(UserError, match="name"):
            runs.run_folder(run)


def test_begin_wants_every_declared_parameter(repository):
    with pytest.raises(UserError, match="declares k, and no cell has given a value"):
        runs.begin("07_heads", {"run": "a"})


def test_step_refuses_what_it_did_not_declare(repository):
    step = runs.begin("07_heads", {"run": "a", "k": 2})
    with pytest.raises(UserError, match="07_heads does not read 08_circuit"):
        step.input("08_circuit")
    with pytest.raises(
        UserError, match="No notebook before 07_heads declares the parameter 'nothing'"
    ):
        step.setting("nothing")
    with pytest.raises(UserError, match="holds no file scores.csv"):
        step.read_table("00_baseline", "scores.csv")
    assert step.setting("layers") == [1, 2]
    assert runs.read_manifest("a", "07_heads") is None, "begin must undo the done marker"


def test_begin_empties_the_folder_but_for_what_was_measured(repository):
    def begin():
        return runs.begin("07_heads", {"run": "a", "k": 2})

    folder = begin().folder
    assert not (folder / "heads.json").exists(), "a finished step is made anew"
    kept = [folder / "stored" / "sweep-1.npz", folder / ".scratch" / "sweep-2" / "L00.npz"]
    for path in [*kept, folder / "table.csv", folder / "old" / "fig.png"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    begin()
    assert all(path.exists() for path in kept)
    assert sorted(p.name for p in folder.iterdir()) == [".scratch", "stored"]


def test_progress_by_hand_is_printed(repository, capsys):
    step = runs.begin("07_heads", {"run": "a", "k": 2})
    step.progress("letters", 2, 2)
    assert "letters: 2/2" in capsys.readouterr().err


def test_registry_reads_only_what_comes_before():
    seen = []
    for notebook in runs.NOTEBOOKS:
        assert set(notebook.reads) <= set(seen), notebook.name
        assert notebook.name[:2] == notebook.artefact[:2]
        seen.append(notebook.artefact)
    ledger = runs.notebook_of("10_ledger")
    assert set(ledger.reads) == set(seen[: seen.index("10_ledger")]), (
        "the ledger reads the whole story, not the appendix"
    )


def test_small_pictures_look_the_same():
    """Fewer colours, the same picture: no pixel moves by what an eye sees, half of the bytes go."""
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


# What plain papermill hands over ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "meant"),
    [("n_test", "5", 5), ("speed", "1e-3", 0.001), ("layers", "[1]", [1]), ("label", "7", "7")],
)
def test_a_text_is_what_it_means_in_the_notebook_too(repository, name, text, meant):
    names = {"run": "a", "n_test": 3, "speed": 0.5, "label": "x", "layers": [1]} | {name: text}
    step = runs.begin("00_baseline", names)
    assert step.parameters[name] == names[name] == meant
    assert type(names[name]) is type(meant)


def test_a_text_of_no_meaning_is_one_sentence(repository):
    names = {"run": "a", "n_test": 3, "speed": 0.5, "label": "x", "layers": "*_topk_*"}
    with pytest.raises(UserError, match=r"layers \(given\) must be list\[int\], but '\*_topk_\*'"):
        runs.begin("00_baseline", names)
    assert runs.read_manifest("a", "00_baseline") is not None, "nothing was touched"
