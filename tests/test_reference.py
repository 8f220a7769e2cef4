"""The committed reference run is what this code makes, whole, and small."""

import json
from functools import cache
from pathlib import Path

import pytest
import yaml

from sandbagging import files
from sandbagging.suite import runner, runs, stale

ROOT = Path(__file__).parents[1] / "papermill_runs"
REFERENCE = ROOT / "reference"
SETS = {"reference": "reference"}
SETS |= {
    f"reference/{name}": of
    for name, (of, _) in runner.NESTED.items()
    if (REFERENCE / name).is_dir()  # the others are to come: see below
}

pytestmark = pytest.mark.skipif(
    not (REFERENCE / "10_ledger" / "manifest.json").exists(),
    reason="the reference run is being made anew",
)


@pytest.fixture(autouse=True)
def committed_run(monkeypatch):
    monkeypatch.delenv("SANDBAGGING_RUNS", raising=False)


def committed() -> list[Path]:
    """The files of the run that the repository holds."""
    here = [path for path in REFERENCE.rglob("*") if path.is_file()]
    return [path for path in here if not _stays_home(path)]


def _stays_home(path: Path) -> bool:
    place = path.relative_to(REFERENCE)
    nested = len(place.parts) > 1 and not place.parts[0][:2].isdigit()
    weights = path.suffix == ".safetensors" or path.name.startswith(".")
    run = f"reference/{place.parts[0]}" if nested else "reference"
    return (
        weights
        or runs.stays_home(run, path.parent.name, path.name)
        or (nested and path.suffix == ".ipynb")
    )


def manifests(run: str) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in (ROOT / run).glob("*/manifest.json")}


def values_of(run: str) -> dict:
    return yaml.safe_load((ROOT / "parameters" / f"{SETS[run]}.yaml").read_text())


def name_of(run: str, artefact: str) -> str:
    return f"{run}/{artefact}".removeprefix("reference/")


@cache
def behind() -> dict[str, str]:
    return stale.behind("reference")


def test_every_nested_run_is_there_unless_work_is_under_way():
    to_come = [name for name in runner.NESTED if not (REFERENCE / name).is_dir()]
    assert not to_come or stale.listed("reference"), f"run make refresh: {to_come}"


@pytest.mark.parametrize("run", SETS)
def test_every_notebook_of_the_set_is_there(run):
    chosen = values_of(run).get("notebooks")
    expected = {n.artefact for n in runs.NOTEBOOKS if chosen is None or n.name in chosen}
    assert set(manifests(run)) == expected
    # Nested runs are committed as tables and manifests, without their pages.
    if run == "reference":
        pages = [ROOT / run / f"{runs.notebook_of(a).name}.ipynb" for a in expected]
        assert all(page.exists() for page in pages)


def test_made_by_this_code_but_for_what_is_listed_as_stale():
    """What `make refresh` would do again: nothing, or what STALE.md lists while work goes on."""
    said = set(stale.listed("reference"))
    unlisted, fresh = set(behind()) - said, said - set(behind())
    way_out = "make refresh, or python -m sandbagging status reference --write-stale"
    reasons = [f"{artefact}: {behind()[artefact]}" for artefact in sorted(unlisted)]
    assert not unlisted, f"{reasons} are behind the code: {way_out}"
    assert not fresh, f"{sorted(fresh)} are listed in {stale.NAME} and hold: {way_out}"


@pytest.mark.parametrize("run", SETS)
def test_made_with_this_set(run):
    values = values_of(run)
    for artefact, manifest in manifests(run).items():
        assert manifest["commit"] and manifest["versions"] and manifest["device"]
        if name_of(run, artefact) in behind():
            continue
        given = manifest["parameters"]
        for name in given.keys() & values.keys():
            assert values[name] == given[name], f"{run}/{artefact}: {name}"
        # Notebook 11 makes planted models of several seeds.
        assert manifest["seed"] == 0 or given["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("run", SETS)
def test_files_are_those_that_were_written(run):
    for artefact, manifest in manifests(run).items():
        for name, digest in manifest["outputs"].items():
            path = ROOT / run / artefact / name
            assert _stays_home(path) or files.sha256(path) == digest, f"{run}/{artefact}/{name}"


def test_all_of_it_is_made_from_nothing_within_150_minutes_on_two_cores():
    whole = runner.from_nothing(runner.reference_plans(), jobs=2)
    alone = runner.from_nothing(runner.reference_plans(), jobs=1)
    total = sum(whole.of_runs.values())
    assert alone.seconds == pytest.approx(total) == sum(whole.of_pages.values())
    assert total / 2 <= whole.seconds < min(total, 150 * 60)
    # The second route: what each result took alone, and what was told around it.
    decoy = REFERENCE / "decoy"
    records = [json.loads(path.read_text()) for path in decoy.glob("*/stored/*.json")]
    told = [m["seconds"] - m["seconds_measuring"] for m in manifests("reference/decoy").values()]
    expected = sum(record["quiet_seconds"] for record in records) + sum(told)
    assert whole.of_runs["reference/decoy"] == pytest.approx(expected, abs=3)
    assert "minutes of one core, by run" in runner.told(whole)


def test_small_and_without_weights_or_machine_paths():
    assert sum(path.stat().st_size for path in committed()) < 20e6
    assert not [path for path in committed() if path.suffix in {".pt", ".bin", ".gguf"}]
    # Results of slow measurements are kept as numbers; nothing else is binary but pictures.
    arrays = [path for path in committed() if path.suffix == ".npz"]
    assert all(runs.STORED in path.parts for path in arrays)
    texts = [p for p in committed() if p.suffix in {".json", ".jsonl", ".csv", ".ipynb", ".md"}]
    folders = ("/home/", "/Users/", "/root/", "/tmp/")
    assert not [p for p in texts if any(name in p.read_text() for name in folders)]


def test_every_figure_is_there_as_data_too():
    figures = sorted(REFERENCE.glob("[01]*/fig_*.png"))
    assert len(figures) > 30
    for figure in figures:
        assert len(figure.with_suffix(".csv").read_text().splitlines()) > 2, figure
