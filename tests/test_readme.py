"""The README's numbers are the committed run's, and what it names exists."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from sandbagging.suite import ledger, runs
from sandbagging.suite.cli import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "papermill_runs" / "reference"
BEGIN, END = "<!-- headline:begin -->", "<!-- headline:end -->"

reference = pytest.mark.skipif(
    not (REFERENCE / "10_ledger" / "headline.json").exists(),
    reason="the reference run is being made anew",
)


@reference
def test_table_is_that_of_the_reference_run(monkeypatch):
    monkeypatch.delenv("SANDBAGGING_RUNS", raising=False)
    shown = README.split(BEGIN)[1].split(END)[0].strip()
    assert shown == ledger.headline_markdown("reference"), (
        "paste `ledger.headline_markdown('reference')` between the README's two marks"
    )


def test_a_committed_run_that_is_behind_the_code_is_told_and_no_other():
    link = "(papermill_runs/reference/STALE.md)"
    stale = (REFERENCE / "STALE.md").exists()
    assert (link in README) == stale, "add or remove README's line on STALE.md"


def test_table_has_one_place():
    assert README.count(BEGIN) == README.count(END) == 1 and README.index(BEGIN) < README.index(END)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    of_the_run = "papermill_runs/reference"
    here = [
        link
        for link in links
        if "://" not in link and (REFERENCE.exists() or not link.startswith(of_the_run))
    ]
    missing = [link for link in here if not (ROOT / link).exists()]
    assert not missing


def test_every_notebook_is_in_the_reading_order():
    named = re.findall(r"\(notebooks/(\w+)\.ipynb\)", README)
    assert named == [notebook.name for notebook in runs.NOTEBOOKS]


def test_commands_and_sets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target
    for line in re.findall(r"^P (.+?)(?:\s+#.*)?$", README, re.M):
        parser().parse_args(shlex.split(line))
    sets = {path.stem for path in (ROOT / "papermill_runs" / "parameters").glob("*.yaml")}
    assert sets <= set(re.findall(r"`(\w+)`", README))


def test_speeds_are_those_of_the_benchmarks():
    """Each measured number stands in README near the name of what it was measured against."""
    results = ROOT / "tests" / "benchmarks" / "results"
    training, battery, sweep = (
        json.loads((results / f"{name}.json").read_text())
        for name in ("sae_training", "battery", "sweep")
    )
    said = " ".join(README.split())
    exact = [row for row in training if "exactly" in row["name"]]
    share = {row["name"].split(":")[0]: row["ours_s"] / row["peer_s"] for row in exact}
    assert share.keys() == {"topk", "gated", "jumprelu"}
    for architecture, value in share.items():
        assert re.search(rf"\b{value:.2f} \({architecture}\)", said, re.IGNORECASE), architecture
    begins = [said.index(word) for word in ("the battery of", "the sweep over", "on an H100")]
    for rows, begin, end in zip((battery, sweep), begins, begins[1:], strict=False):
        for row in rows:
            peer = {"transformers": "by hand", "careful": "by hand"}
            name = row["peer"].split()[0]
            near = rf"\b{row['ratio']:.0f} times[^.;]*?{peer.get(name, name)}"
            assert re.search(near, said[begin:end]), row["peer"]
    assert f"{100 * sweep[0]['useful_share_of_matrix_product']:.0f} %" in said


def test_free_answers_are_as_fast_as_said():
    results = ROOT / "tests" / "benchmarks" / "results" / "answers.json"
    rows = json.loads(results.read_text())
    alone, stopped, batches = rows
    assert not any(row["texts_different"] for row in rows)
    assert alone["ratio"] >= 8 and alone["ours_s"] <= 90
    said = " ".join(README.split())
    said = said[said.index("free answers to 168") : said.index("on an H100")]
    assert f"take {alone['ours_s']:.0f} seconds" in said
    assert f"{alone['ratio']:.0f} times as fast as `generate` one prompt at a time" in said
    assert f"{stopped['ratio']:.0f} times where that stops" in said
    assert f"{batches['ratio']:.0f} times as fast as `generate` on padded batches" in said


def test_seconds_on_a_gpu_are_those_of_its_benchmark():
    results = ROOT / "tests" / "benchmarks" / "results" / "card_model.json"
    rows = [row for row in json.loads(results.read_text()) if row["name"].endswith("float32")]
    said = " ".join(README.split()).split("on an H100")[1].split("## Limits")[0]
    assert len(rows) == 3 and all("H100" in row["device"] for row in rows)
    for row in rows:
        assert f"{row['ours_s']:.1f} seconds" in said, row["name"]
        assert f"{row['ratio']:.0f} times as fast as" in said, row["peer"]


def test_no_placeholder_stands_in_it():
    assert not re.search(r"OWNER|REPOSITORY|TODO|FIXME|\bXXX\b", README)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_prose_is_wrapped(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "<"))]
    # A link may be longer than a line.
    assert not [line for line in lines if len(line) > 100 and " " in line.strip()]


def test_citation_file_is_whole():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    assert {"2509.20393", "2407.14435"} <= {
        reference["url"].rsplit("/", 1)[-1] for reference in citation["references"]
    }
