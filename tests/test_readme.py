"""The README's numbers are the committed run's, and what it names exists."""

import json
import re
from pathlib import Path

import pytest
import yaml

from sandbagging.suite import ledger, runs
from sandbagging.suite.cli import _parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
REFERENCE = ROOT / "papermill_runs" / "reference"
BEGIN, END = "<!-- headline:begin -->", "<!-- headline:end -->"

reference = pytest.mark.skipif(not (REFERENCE / "10_ledger" / "headline.json").exists(), reason="the reference run is being made anew")


@reference
def test_table_is_that_of_the_reference_run(monkeypatch):
    monkeypatch.delenv("SANDBAGGING_RUNS", raising=False)
    shown = README.split(BEGIN)[1].split(END)[0].strip()
    assert shown == ledger.headline_markdown("reference"), "paste `ledger.headline_markdown('reference')` between the README's two marks"


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
    here = [link for link in links if "://" not in link and (REFERENCE.exists() or not link.startswith(of_the_run))]
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
        _parser().parse_args([word.strip('"') for word in re.findall(r'"[^"]*"|\S+?="[^"]*"|\S+', line)])
    sets = {path.stem for path in (ROOT / "papermill_runs" / "parameters").glob("*.yaml")}
    assert sets <= set(re.findall(r"`(\w+)`", README))


def test_speeds_are_those_of_the_benchmarks():
    rows = {name: json.loads((ROOT / f"tests/benchmarks/results/{name}.json").read_text()) for name in ("sae_training", "battery", "sweep")}
    share = {row["name"].split(":")[0]: row["ours_s"] / row["peer_s"] for row in rows["sae_training"] if "exactly" in row["name"]}
    battery, sweep = ({row["peer"].split()[0]: row["ratio"] for row in rows[name]} for name in ("battery", "sweep"))
    said = " ".join(README.split())
    assert f"takes {share['topk']:.2f} (TopK), {share['gated']:.2f} (gated) and {share['jumprelu']:.2f} (JumpReLU)" in said
    assert f"is {battery['transformers']:.0f} times as fast as a careful loop by hand and {battery['TransformerLens']:.0f} times" in said
    for text in (
        f"{sweep['careful']:.0f} times as fast",
        f"{sweep['nnsight']:.0f} times as a plain",
        f"{sweep['TransformerLens']:.0f} times as",
    ):
        assert text in said
    assert f"at {rows['sweep'][0]['useful_share_of_matrix_product']:.0%}".replace("%", " %") in said


def test_citation_file_is_whole():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["license"] == "MIT"
    assert {"2509.20393", "2407.14435"} <= {reference["url"].rsplit("/", 1)[-1] for reference in citation["references"]}
