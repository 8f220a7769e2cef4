"""The committed reference run is what this code makes, whole, and small."""

import json
from pathlib import Path

import pytest
import yaml

from sandbagging import files
from sandbagging.suite import runs

ROOT = Path(__file__).parents[1] / "papermill_runs"
REFERENCE = ROOT / "reference"
OTHERS = ("organism-heads", "organism-direction", "organism-null", "pythia-160m")
SETS = {"reference": "reference", "reference/null_model": "null_model", "reference/placebo": "placebo", "reference/grid42": "grid42"}
SETS |= {f"reference/{name}": "other_model" for name in OTHERS}

pytestmark = pytest.mark.skipif(not (REFERENCE / "10_ledger" / "manifest.json").exists(), reason="the reference run is being made anew")


def stays_home(path: Path) -> bool:
    """Whether a file is left out of the repository: weights; of nested runs the prompts, and the figures, which their pages show."""
    nested = len(path.relative_to(REFERENCE).parts) == 3 and path.suffix != ".ipynb"
    return path.suffix == ".safetensors" or (nested and (path.name.startswith("fig_") or path.name == "prompts.jsonl"))


def manifests(run: str) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in (ROOT / run).glob("*/manifest.json")}


@pytest.mark.parametrize("run", SETS)
def test_every_notebook_of_the_set_is_there(run):
    chosen = yaml.safe_load((ROOT / "parameters" / f"{SETS[run]}.yaml").read_text()).get("notebooks")
    expected = {n.artefact for n in runs.NOTEBOOKS if chosen is None or n.name in chosen}
    assert set(manifests(run)) == expected
    assert all((ROOT / run / f"{runs.notebook_of(a).name}.ipynb").exists() for a in expected)


@pytest.mark.parametrize("run", SETS)
def test_made_by_this_code_with_this_set(run):
    """What `make refresh` would do again: nothing. Comments and docstrings do not count."""
    values = yaml.safe_load((ROOT / "parameters" / f"{SETS[run]}.yaml").read_text())
    for artefact, manifest in manifests(run).items():
        assert manifest["library"] == runs.library_hashes(runs.notebook_of(artefact)), f"{run}/{artefact} is stale: make refresh"
        for name, value in manifest["parameters"].items():
            assert name not in values or values[name] == value, f"{run}/{artefact}: {name}"
        assert manifest["commit"] and manifest["versions"] and manifest["device"]
        assert manifest["seed"] == 0 or manifest["parameters"]["seeds"] == [0, 1, 2]  # notebook 11 makes planted models of several seeds


@pytest.mark.parametrize("run", SETS)
def test_files_are_those_that_were_written(run):
    for artefact, manifest in manifests(run).items():
        for name, digest in manifest["outputs"].items():
            path = ROOT / run / artefact / name
            assert stays_home(path) or files.sha256(path) == digest, f"{run}/{artefact}/{name}"


def test_small_and_without_weights_or_machine_paths():
    committed = [p for p in REFERENCE.rglob("*") if p.is_file() and not stays_home(p) and not p.name.startswith(".")]
    assert sum(p.stat().st_size for p in committed) < 15e6
    assert not [p for p in committed if p.suffix in {".pt", ".bin", ".gguf", ".npz"}]
    texts = [p.read_text() for p in committed if p.suffix in {".json", ".jsonl", ".csv", ".ipynb"}]
    assert not [t[:80] for t in texts if "/home/" in t or "/Users/" in t or "/root/" in t or "/tmp/" in t]


def test_every_figure_is_there_as_data_too():
    figures = sorted(REFERENCE.glob("[01]*/fig_*.png"))
    assert len(figures) > 30
    for figure in figures:
        assert len(figure.with_suffix(".csv").read_text().splitlines()) > 2, figure
