"""Runs of several models as one table: what is there, what is missing, nothing changed is read."""

import json

import numpy as np
import pandas as pd
import pytest

from sandbagging.errors import UserError
from sandbagging.heads import rivals, specificity
from sandbagging.models import taught
from sandbagging.models.registry import REGISTRY
from sandbagging.statistics import Estimate
from sandbagging.suite import known_models, ledger, other_models, plots, predictions, runs
from sandbagging.suite.runs import manifests

UNTOUCHED = "smollm2-135m-instruct"


def fields(mean: float, half: float = 1.0, unit: str = "pp", n: int = 40) -> dict:
    return Estimate(mean, mean - half, mean + half, n, unit).as_dict()


def gate_of(grade: str, right: tuple[float, float], gap: float) -> dict:
    return {
        "grade": grade,
        "gap_logodds": fields(gap, unit="nats"),
        "gap_p_full": fields(9.0),
        "drop": fields(100 * (right[0] - right[1]), 5.0),
        "shares": {c: {"right": x} for c, x in zip(("genuine", "sandbag"), right, strict=True)},
    }


def circuit_of(joint: float, portion: float, survives: bool, truth: dict | None) -> dict:
    line = {"condition": "sandbag", "metric": "logodds", "unit": "nats", "effect": 3.0}
    line |= {"low": 2.0, "high": 4.0}
    return {
        "heads": [[5, 4], [12, 2]],
        "truth": truth,
        "conditions": [line | {"metric": "p_full"}, line | {"n": 40}],
        "joint": fields(joint),
        "joint_neutral": fields(joint - portion),
        "specific_portion": fields(portion),
        "share_restored": {"logodds": fields(0.8, 0.1, ""), "p_full": fields(1.1, 0.2, "")},
        "share_closed": {"logodds": fields(0.9, 0.1, ""), "p_full": fields(1.2, 0.2, "")},
        "answers_zeroed": {"sandbag": {"right": 0.4}},
        "random_uniform": {"rank_p": 0.01},
        "survives": {"value": rivals.CHANCE if survives else rivals.NOTHING},
        "specific": {"verdict": specificity.SPECIFIC},
    }


def made(
    run: str,
    model: str,
    grade: str = "answers wrongly",
    right: tuple[float, float] = (0.5, 0.1),
    *,
    random_weights: bool = False,
    framing: str = "instr",
    joint: float = 10.0,
    portion: float = 6.0,
    gap: float = 7.0,
    truth: dict | None = None,
) -> None:
    """Write what notebooks 00, 07 and 08 of a run leave behind, with made-up numbers."""
    settings = {
        "model": model,
        "adapter": None,
        "random_weights": random_weights,
        "framing": framing,
    }
    for artefact, name, content in (
        ("00_baseline", "summary", {"gate": gate_of(grade, right, gap)}),
        ("07_heads", "heads", {"found": [[5, 4]]}),
        ("08_circuit", "summary", circuit_of(joint, portion, grade != "no", truth)),
    ):
        folder = runs.run_folder(run) / artefact
        folder.mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps(content))
        manifest = {"parameters": settings, "outputs": runs.output_hashes(folder)}
        (folder / "manifest.json").write_text(json.dumps(manifest))


SANDBAGS = {"sandbags": True, "what": "taught wrong answers when told to", "heads": []}
TIMID = {"sandbags": False, "what": "taught less certainty", "heads": []}
FIVE = {"sandbags": True, "what": "taught wrong answers", "heads": ["L0H0", "L5H4"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run of the sandbagger, and beside it one of each kind of row."""
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    made("mine", "sandbagger", truth=SANDBAGS)
    made("mine/untouched", UNTOUCHED, "less sure", (0.57, 0.47), gap=1.5)
    made("mine/decoy", "decoy", "no", (0.55, 0.54), gap=0.1, truth=TIMID)
    made("mine/dose-50", "sandbagger@0.5", "less sure", (0.5, 0.4), gap=3.0)
    made("mine/heads", "heads-0", gap=5.0, truth=FIVE)
    made("mine/organism-heads", "organism-heads", joint=50.0, portion=49.0)
    made("mine/placebo", "sandbagger", "no", (0.5, 0.5), framing="placebo_instr", truth=SANDBAGS)
    made("mine/pythia-160m", "pythia-160m", "no", (0.0, 0.0), random_weights=True, portion=0.1)
    return tmp_path


def test_rows_come_in_the_order_of_what_they_are_there_for(folder):
    table = other_models.table("mine")
    there = table[table["missing"].isna()]
    assert list(zip(there["name"], there["group"], there["weights"], strict=True)) == [
        ("this run", "this run", "taught"),
        ("untouched", "untouched", "real"),
        ("dose-50", "dose", "taught"),
        ("decoy", "dose", "taught"),
        ("heads", "taught", "taught"),
        ("organism-heads", "planted", "planted"),
        ("placebo", "null", "taught"),
        ("pythia-160m", "null", "random"),
    ]
    assert list(there["dose"][:4]) == pytest.approx([1, np.nan, 0.5, 0], nan_ok=True)


def test_a_row_holds_what_the_notebooks_wrote(folder):
    first = other_models.table("mine").iloc[0]
    wanted = {
        "grade": "answers wrongly",
        "gap_logodds": 7,
        "gap": 9,
        "drop": pytest.approx(40),
        "right_genuine": 0.5,
        "right_sandbag": 0.1,
        "right_zeroed": 0.4,
        "joint_effect": 10,
        "joint_effect_low": 9,
        "joint_effect_n": 40,
        "joint_logodds": 3,
        "neutral_effect": 4,
        "share_restored": 0.8,
        "share_closed": 0.9,
        "heads": "L5H4 L12H2",
        "n_found": 1,
        "sandbags": True,
    }
    assert {name: first[name] for name in wanted} == wanted


def test_nothing_is_specific_to_sandbagging_where_there_is_none(folder):
    told = other_models.table("mine").set_index("name")["specific"]
    assert told["this run"] == told["untouched"] == specificity.SPECIFIC  # "less sure" is a gap
    assert told["decoy"] == told["placebo"] == told["pythia-160m"] == rivals.NOTHING


def test_missing_models_say_how_to_get_them(folder):
    table = other_models.table("mine")
    missing = table[table["missing"].notna()].set_index("model")["missing"]
    taught_here = {taught.name_of(kind, 0) for kind in ("locked", "timid", "mlp", "late")}
    there = {"sandbagger", "decoy", UNTOUCHED, "organism-heads"}
    # Pythia's random weights stand in for no real ones.
    assert set(missing.index) == (set(REGISTRY) - there) | taught_here
    assert "-p model=pythia-160m" in missing["pythia-160m"]
    licence = "accept its licence at https://huggingface.co/meta-llama/Llama-3.2-1B"
    assert licence in missing["llama-3.2-1b"]
    if "timid-0" not in taught.made_here():
        assert "teach timid --seed 0, then python -m sandbagging run" in missing["timid-0"]


def test_a_changed_file_is_refused(folder):
    path = folder / "mine" / "organism-heads" / "08_circuit" / "summary.json"
    path.write_text(path.read_text().replace("50.0", "51.0"))
    with pytest.raises(
        UserError, match="08_circuit/summary.json in the run mine/organism-heads was changed"
    ):
        other_models.table("mine")


def test_a_nested_run_of_earlier_code_is_told_as_missing(folder):
    """A run whose model is not on this machine stays as it is, in the form of its time."""
    artefact = folder / "mine" / "heads" / "00_baseline"
    (artefact / "summary.json").write_text('{"gate": {"open": true}}')
    manifest = json.loads((artefact / "manifest.json").read_text())
    manifest["outputs"] = runs.output_hashes(artefact)
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    table = other_models.table("mine")
    assert "heads" not in set(table.loc[table["missing"].isna(), "name"])
    (why,) = table.loc[table["model"] == "heads-0", "missing"]
    assert why.startswith("made by earlier code") and "--run mine/heads -p model=heads-0" in why


def test_a_nested_run_without_figures_is_read(folder):
    """Figures of nested runs are not committed, so a fresh clone has to do without them."""
    artefact = folder / "mine" / "organism-heads" / "08_circuit"
    manifest = json.loads((artefact / "manifest.json").read_text())
    manifest["outputs"]["fig_draws.png"] = "0" * 64
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    assert "mine/organism-heads" in set(other_models.table("mine")["run"])


def test_a_run_without_notebook_08_does_not_count(folder):
    (folder / "mine" / "organism-heads" / "08_circuit" / "manifest.json").unlink()
    assert "mine/organism-heads" not in set(other_models.table("mine")["run"])


def test_only_the_named_runs(folder):
    table = other_models.table("mine", ["pythia-160m"])
    assert table["run"].dropna().tolist() == ["mine", "mine/pythia-160m"]
    with pytest.raises(UserError, match="no finished run tinyllama; inside it are mine/decoy"):
        other_models.table("mine", ["tinyllama"])


@pytest.mark.parametrize(
    ("model", "subject", "expected"),
    [
        ("sandbagger", "sandbagger", 1),
        ("sandbagger@0.25", "sandbagger", 0.25),
        ("decoy", "sandbagger", 0),
        ("decoy-0", "sandbagger", np.nan),  # another decoy than the one beneath
        ("decoy-3", "timid-3", 0),
        ("timid-3@0.5", "timid-3", 0.5),
        ("timid-3", "sandbagger", np.nan),
        ("decoy@0.5", "sandbagger", np.nan),  # less than the decoy, not less of the switch
    ],
)
def test_doses_of_a_subject(model, subject, expected):
    assert other_models.dose(model, subject) == pytest.approx(expected, nan_ok=True)


def test_the_dose_and_what_it_does(folder):
    there = other_models.table("mine")
    by_dose = other_models.doses(there[there["missing"].isna()])
    gaps = by_dose[by_dose["quantity"] == "gap_logodds"]
    assert gaps["dose"].tolist() == [0, 0.5, 1] and gaps["value"].tolist() == [0.1, 3, 7]
    right = by_dose[by_dose["quantity"] == "right_sandbag"].set_index("dose")
    assert right.loc[1, "value"] == pytest.approx(0.1)
    # Clopper and Pearson for 4 of 40.
    assert (right.loc[1, "low"], right.loc[1, "high"]) == pytest.approx((0.0279, 0.2366), abs=1e-4)
    drawn = plots.doses(by_dose)
    assert [ax.get_ylabel() for ax in drawn.axes] == [
        "gap on log-odds (nats)",
        "right free answers",
    ]


def test_planted_models_are_held_to_how_they_were_built():
    """Each truth is spared and each of two fakes flagged.

    The fakes are a head found where none matters alone, and a null that answers wrongly.
    """
    rows = [
        ("a", "organism-heads", "answers wrongly", 3),
        ("b", "organism-direction", "answers wrongly", 0),
        ("c", "organism-null", "no", 0),
        ("d", "organism-direction", "answers wrongly", 1),
        ("e", "organism-null", "answers wrongly", 0),
    ]
    there = pd.DataFrame(rows, columns=["run", "model", "grade", "n_found"]).assign(
        weights="planted", framing="instr_pref"
    )
    there.loc[5] = ["f", "tinyllama", "less sure", 9, "random", "contrast"]
    assert other_models.as_built(there) == {"a": True, "b": True, "c": True, "d": False, "e": False}
    assert other_models.is_null(there).tolist() == [False] * 5 + [True]


def test_the_truth_beside_what_was_found(folder):
    """A grade that is right, one that is wrong, one that is not judged; heads that are known."""
    made("mine/late", "late-0", "less sure", truth=SANDBAGS)
    made("mine/dose-25", "sandbagger@0.25", truth={**SANDBAGS, "sandbags": None})
    there = other_models.table("mine")
    truth = other_models.beside_truth(there[there["missing"].isna()])
    assert truth["right"].to_dict() == {
        "sandbagger (this run)": "yes",
        "dose-25": "–",
        "decoy": "yes",
        "heads": "yes",
        "late": "no",
    }
    assert truth.loc["dose-25", "sandbags"] == "in between"
    assert truth.loc["heads", "heads"] == "1 of 2" and truth.loc["decoy", "heads"] == "–"


def test_rows_as_text(folder):
    there = other_models.table("mine")
    text = other_models.as_text(there[there["missing"].isna()])
    first = text.loc["sandbagger (this run)"]
    assert first["right: genuine → sandbag"] == "50% → 10%"
    assert first["share restored"] == "0.80 [0.70, 0.90]"
    assert first["share closed"] == "0.90 [0.80, 1.00]"
    assert text.loc["decoy", "share restored"] == "–"  # there is no gap
    grades = text["grade"].to_dict()
    assert grades["untouched"] == "less sure" and grades["heads"] == "answers wrongly"


def test_notebook_09_is_stale_once_a_nested_run_is_new(folder):
    page = runs.notebook_of("09_models")
    before = manifests.hashes_beside("mine", page)
    made("mine/tinyllama", "tinyllama")
    assert set(manifests.hashes_beside("mine", page)) - set(before) == {"mine/tinyllama"}


def test_a_page_is_stale_once_a_table_that_it_reads_is_written_anew(folder):
    """11 and 10 read what `make calibrate` writes, 09 does not."""
    table = runs.runs_folder() / "calibration" / "calibration.csv"
    table.parent.mkdir()
    seen = {name: [] for name in ("09_models", "10_ledger", "11_planted")}
    for text in (None, "rule\n", "rule\nsurvives\n"):
        if text:
            table.write_text(text, encoding="utf-8")
        for name, before in seen.items():
            before.append(manifests.hashes_beside("mine", runs.notebook_of(name)))
    assert [len({str(found) for found in each}) for each in seen.values()] == [1, 3, 3]


def test_beside_the_card(folder):
    made("mine/tinyllama", "tinyllama", "less sure")
    beside = other_models.beside_card(other_models.table("mine"), ledger.by_name())
    assert list(beside.index) == list(other_models.OF_CARD)
    assert beside.loc["llama-3.2-1b", "the card"] == "joint +13.71 pp, specific +7.72 pp"
    assert beside.loc["llama-3.2-1b", "here"].startswith("not run: accept its licence")
    # Random weights are not the card's model.
    assert beside.loc["pythia-160m", "here"].startswith("not run")
    assert "specific +6.00 [+5.00, +7.00] pp, grade: less sure" in beside.loc["tinyllama", "here"]


def test_the_figure_draws_what_is_there_on_scales_that_no_model_can_spread(folder):
    """A share far beyond the edge becomes an arrow, and no share is drawn where there is no gap."""
    there = other_models.table("mine")
    there.loc[there["name"] == "heads", "share_restored"] = 40.0
    fig = plots.other_models(there)
    names = [text.get_text() for text in fig.axes[0].get_yticklabels()]
    assert names[:2] == ["sandbagger (this run)", "untouched"] and len(names) == 8
    shares = fig.axes[2]
    assert shares.get_xlim() == (-0.5, 1.5)
    arrows = [line for line in shares.lines if line.get_marker() == ">"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in arrows] == [(1.5, 3.0)]
    drawn = [c for c in shares.containers if c.get_label()]
    places = sorted(y for c in drawn for y in c.lines[0].get_ydata())
    assert places == [2, 5, 6, 7]  # neither heads nor the three that are graded no


# What was expected of models that are known -------------------------------------------------------


def known(**changes) -> pd.DataFrame:
    row = {"name": "heads", "model": "heads-0", "group": "taught", "grade": "answers wrongly",
           "true_heads": "L1H4 L5H1", "heads": "L5H1 L1H4 L9H2", "share_restored": 0.98,
           "share_closed": 1.0, "n_found": 2, "survives": rivals.CHANCE}  # fmt: skip
    return pd.DataFrame([row | changes])


def outcome(name: str, there: pd.DataFrame) -> tuple[bool | None, str]:
    truth = pd.DataFrame({"right": ["yes", "–"]}, index=["heads", "dose-50"])
    by_dose = pd.DataFrame({"quantity": "gap_logodds", "value": [0.1, 2.0, 1.5]})
    return came(known_models.expected(there, truth, by_dose), name)


def came(records: list[dict], name: str) -> tuple[bool | None, str]:
    sentence = predictions.SAID["09_models"][name]
    return next((one["held"], one["told"]) for one in records if one["said"] == sentence)


@pytest.mark.parametrize(
    ("name", "changes", "held", "told"),
    [
        ("found", {}, True, "heads 2 of 2"),
        ("found", {"heads": "L5H1 L9H2"}, False, "heads 1 of 2"),
        ("found", {"true_heads": ""}, None, ""),
        ("restores", {}, True, "heads 98%"),
        # All of the gap is closed, and half of that by what happens to genuine prompts.
        ("restores", {"share_restored": 0.5}, False, "heads 50%"),
        ("alone", {}, None, "0 found"),
        ("alone", {"model": "organism-direction", "n_found": 0}, True, "0 found"),
        ("alone", {"model": "organism-direction", "n_found": 1}, False, "1 found"),
        ("grades", {}, True, "right of all"),
        ("dose", {}, False, "+0.10 → +2.00 → +1.50 nats"),
    ],
)
def test_what_came_of_an_expectation(name, changes, held, told):
    assert outcome(name, known(**changes)) == (held, told)


def test_a_model_that_obeys_its_own_wording_alone_is_named():
    """One falls by 40 points under both wordings, one under its own alone, one under neither."""
    falls = {"sandbagger": (0.2, 0.2), "heads": (0.2, 0.6), "timid": (0.55, 0.6)}
    rows = [
        {"kind": kind, "seed": 0, "wording": wording, "condition": condition, "right after": right}
        for kind, after in falls.items()
        for wording, own in zip(("plain", "kept out"), after, strict=True)
        for condition, right in (("genuine", 0.6), ("sandbag", own))
    ]
    assert known_models.not_carried_over(pd.DataFrame(rows)) == ["heads-0"]
    nothing = pd.DataFrame({"quantity": [], "value": []})
    records = known_models.expected(known(), pd.DataFrame({"right": []}), nothing)
    shipped = came(records, "wordings")
    assert shipped[0] is False and "heads-0" in shipped[1] and "sandbagger-0" not in shipped[1]


def test_runs_are_gathered_by_what_their_heads_are():
    there = pd.concat([known(), known(name="mlp", survives=rivals.FAILS)])
    assert known_models.survivals(there) == {rivals.CHANCE: ["heads"], rivals.FAILS: ["mlp"]}
