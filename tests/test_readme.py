"""The README's numbers are the committed run's, and what it names exists."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from sandbagging import files
from sandbagging.suite import ledger, robustness, runs
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


# The five lines -----------------------------------------------------------------------------------

# Which line stands for a claim that is tried on several axes.
CLAIM_OF = {1: "answers_wrongly", 2: "heads_most"}


def five_lines() -> list[str]:
    text = README.split("<!-- lines:begin -->")[1].split("<!-- lines:end -->")[0]
    return text.strip().splitlines()


def test_the_finding_is_five_lines():
    assert [line[:3] for line in five_lines()] == [f"{i}. " for i in range(1, 6)]


def summary(artefact: str) -> dict:
    return json.loads((REFERENCE / artefact / "summary.json").read_text())


@reference
def test_the_five_lines_hold_the_numbers_of_the_reference_run():
    told, heads, way, swaps, about = five_lines()
    right = {c: found["right"] for c, found in summary("00_baseline")["gate"]["shares"].items()}
    wrong, correct = (f"{100 * right[c]:.0f}" for c in ("sandbag", "genuine"))
    assert f"{wrong} right answers in 100 instead of {correct}" in told

    circuit = summary("08_circuit")
    zeroed, restored = circuit["answers_zeroed"]["sandbag"], circuit["share_restored"]["logodds"]
    assert f"{100 * zeroed['right']:.0f} in 100 are right again" in heads
    assert zeroed["change"]["low"] > 0 and len(circuit["heads"]) == 5
    parts = files.read_csv(REFERENCE / "08_circuit" / "parts.csv")
    alone = parts.loc[parts["quantity"] == "alone", "value"]
    assert alone.max() > restored["value"] / 2 and "one does most of it" in heads
    value, low, high = (f"{100 * restored[end]:.0f}" for end in ("value", "low", "high"))
    assert f"*restore* {value} % [{low}, {high}]" in README

    one_by_one = circuit["leading"]
    closed, back = (one_by_one[f"share_{of}"]["logodds"] for of in ("closed", "restored"))
    left = one_by_one["answers"]["genuine"]["right"]
    said = " ".join(README.split())
    assert f"close {100 * closed['value']:.0f} % of it, yet restore none" in said
    assert f"{100 * left:.0f} right answers in 100 are left where {correct} should be" in said
    assert back["high"] <= 0

    ways = files.read_csv(REFERENCE / "08_circuit" / "replacements.csv")
    ways = ways[(ways["set"] == "joint") & (ways["metric"] == "logodds")]
    mean = ways[(ways["way"] == "mean genuine") & (ways["quantity"] == "share_restored")]
    assert f"a mean restores {100 * mean['value'].item():.0f} %, not {value}, " in way
    assert summary("07_heads")["patching_names_others"] and "patching names others" in way

    doses = files.read_csv(REFERENCE / "04_swap" / "doses.csv")
    sandbag, genuine = (doses[doses["condition"] == c] for c in ("sandbag", "genuine"))
    assert (sandbag.loc[sandbag["intervention"] == "E6", "low"] <= 0).all()
    means = [t[(t["intervention"] == "diff_means") & (t["strength"] == 1)] for t in
             (sandbag, genuine)]  # fmt: skip
    best, cost = (t[t["layer"] == t["layer"].max()].iloc[0] for t in means)
    assert f"one direction does ({100 * best['right_share']:.0f}), at a cost" in swaps
    assert best["low"] > 0 and cost["high"] < 0
    of_models = files.read_csv(REFERENCE / "10_ledger" / "ledger.csv")["verdict"]
    assert "none was run" in about and not of_models.isin(("replicated", "not replicated")).any()


@reference
def test_the_axes_on_which_a_claim_holds_stand_beside_it(monkeypatch):
    monkeypatch.delenv("SANDBAGGING_RUNS", raising=False)
    for i, line in enumerate(five_lines(), 1):
        held = robustness.axes_held(CLAIM_OF[i]) if i in CLAIM_OF else None
        beside = re.findall(r" \[(\d+)/(\d+)\]$", line)
        expected = [] if held is None else [tuple(map(str, held))]
        assert beside == expected, f"end line {i} with [k/n], the axes of robustness.csv: {held}"


@reference
def test_which_heads_other_wordings_name_is_said(monkeypatch):
    monkeypatch.delenv("SANDBAGGING_RUNS", raising=False)
    cells = robustness.read()
    cells = cells[cells["axis"] == "wording"].set_index("claim")
    assert (cells.loc["heads_carry", "says"] == robustness.HOLDS).all()
    again = sorted({int(words[0]) for words in cells.loc["same_heads", "measured"]})
    assert f"other wordings name {again[0]} or {again[-1]} again" in " ".join(README.split())
    swap = robustness.held_in_words("any_basis")
    assert f"the deepest SAE swap needs no trained SAE, which {swap}." in README


# The rest -----------------------------------------------------------------------------------------


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


def test_the_sweep_of_all_nodes_is_as_fast_as_said():
    path = ROOT / "tests" / "benchmarks" / "results" / "nodes.json"
    if not path.is_file():
        pytest.skip("tests/benchmarks/bench_nodes.py has not been run on a quiet machine yet")
    said = " ".join(README.split()).partition("the sweep over all nodes")[2].partition(";")[0]
    least = {"TransformerLens": 40, "careful": 3}
    rows = {row["peer"].split()[0]: row for row in json.loads(path.read_text())}
    assert rows.keys() == least.keys()
    for peer, row in rows.items():
        assert row["name"].startswith("sweep of 270 heads and 30 MLPs, 40 questions")
        assert row["ratio"] >= least[peer] and row["mlps_share_of_heads"] <= 1 / 3
        assert re.search(rf"\b{row['ratio']:.0f} times[^.;]*?{peer}", said), peer


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
