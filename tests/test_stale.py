"""The list of what is behind the code: written from the manifests, read back, gone when empty."""

import json

import pytest

from sandbagging.suite import runs, stale
from sandbagging.suite.cli import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run with notebook 00, and one nested in it, both as this code makes them."""
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    notebook = runs.notebook_of("00_baseline")
    declared = runs.declared_names(runs.notebook_path(notebook))
    for run in ("mine", "mine/null_model"):
        artefact = runs.run_folder(run) / "00_baseline"
        artefact.mkdir(parents=True)
        (artefact / "summary.json").write_text("{}")
        manifest = {"parameters": dict.fromkeys(declared, 0), "inputs": {}, "files": {},
                    "outputs": runs.output_hashes(artefact), "seconds": 1,
                    "library": runs.library_hashes(notebook)}  # fmt: skip
        (artefact / runs.MANIFEST).write_text(json.dumps(manifest))
    return tmp_path / "mine"


def change(folder, place: str, **fields) -> None:
    path = folder / place / runs.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_what_holds_is_not_listed(folder, capsys):
    assert stale.write("mine") == stale.listed("mine") == {}
    assert not (folder / stale.NAME).exists()


def test_one_line_says_which_artefact_and_why(folder):
    library = json.loads((folder / "null_model/00_baseline" / runs.MANIFEST).read_text())["library"]
    older = {name: "0" for name in list(library)[:6]}
    change(folder, "null_model/00_baseline", library=library | older)
    assert main(["status", "mine", "--write-stale"]) == 0
    (artefact,), (why,) = zip(*stale.listed("mine").items(), strict=True)
    assert artefact == "null_model/00_baseline"
    first = sorted(older)[0]
    assert first in why and why.endswith("and 3 more")
    assert f"\n- {artefact}: {why}\n" in (folder / stale.NAME).read_text()


def test_a_parameter_that_came_or_went_is_a_reason(folder):
    given = json.loads((folder / "00_baseline" / runs.MANIFEST).read_text())["parameters"]
    change(folder, "00_baseline", parameters=given | {"gone": 1})
    assert stale.behind("mine") == {"00_baseline": "parameters changed: gone"}


def test_the_file_goes_once_nothing_is_behind(folder):
    library = json.loads((folder / "00_baseline" / runs.MANIFEST).read_text())["library"]
    change(folder, "00_baseline", library={})
    stale.write("mine")
    assert set(stale.listed("mine")) == {"00_baseline"}
    change(folder, "00_baseline", library=library)
    assert main(["status", "mine", "--write-stale"]) == 0
    assert not (folder / stale.NAME).exists()


def test_figures_of_nested_runs_may_be_missing_and_tables_may_not(folder):
    for place in ("00_baseline", "null_model/00_baseline"):
        change(folder, place, outputs={"fig_gate.png": "0" * 64})
    assert stale.behind("mine") == {"00_baseline": "fig_gate.png is missing or was changed"}
    change(folder, "null_model/00_baseline", outputs={"scores.csv.gz": "0" * 64})
    assert "null_model/00_baseline" in stale.behind("mine")
