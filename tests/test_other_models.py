"""Runs of several models as one table: what is there, what is missing, nothing changed is read."""

import json

import numpy as np
import pandas as pd
import pytest

from sandbagging.errors import UserError
from sandbagging.models.registry import REGISTRY
from sandbagging.statistics import Estimate
from sandbagging.suite import ledger, other_models, plots, runs
from sandbagging.suite.runs import manifests


def fields(mean: float, n: int = 40) -> dict:
    return Estimate(mean, mean - 1, mean + 1, n, "pp").as_dict()


def made(
    run: str,
    model: str,
    *,
    random_weights: bool = False,
    opened: bool = True,
    joint: float = 10.0,
    portion: float = 6.0,
) -> None:
    """Write what notebooks 00 and 08 of a run leave behind, with made-up numbers."""
    gate = {"grade": "answers wrongly" if opened else "no", "gap_p_full": fields(9.0)}
    circuit = {
        "heads": [[5, 4], [12, 2]],
        "joint": fields(joint),
        "joint_neutral": fields(joint - portion),
        "specific_portion": fields(portion),
        "random_uniform": {"rank_p": 0.01},
        "survives": {"value": opened},
    }
    settings = {"model": model, "random_weights": random_weights, "framing": "instr_contrast"}
    heads = {"found": [[5, 4]]}
    for artefact, name, content in (
        ("00_baseline", "summary", {"gate": gate}),
        ("07_heads", "heads", heads),
        ("08_circuit", "summary", circuit),
    ):
        folder = runs.run_folder(run) / artefact
        folder.mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps(content))
        manifest = {"parameters": settings, "outputs": runs.output_hashes(folder)}
        (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    made("mine", "smollm2-135m-instruct")
    made(
        "mine/pythia-160m", "pythia-160m", random_weights=True, opened=False, joint=0.1, portion=0.1
    )
    made("mine/organism-heads", "organism-heads", joint=50.0, portion=49.0)
    return tmp_path


def test_runs_that_are_there_come_first_and_the_rest_say_how_to_get_them(folder):
    table = other_models.table("mine")
    assert table["run"].dropna().tolist() == ["mine", "mine/organism-heads", "mine/pythia-160m"]
    assert table["weights"][:3].tolist() == ["real", "planted", "random"] and table["grade"][
        :3
    ].tolist() == ["answers wrongly", "answers wrongly", "no"]
    first = table.iloc[0]
    assert (
        first["joint_effect"],
        first["joint_effect_low"],
        first["joint_effect_n"],
        first["heads"],
        first["n_found"],
    ) == (
        10,
        9,
        40,
        "L5H4 L12H2",
        1,
    )
    assert first["neutral_effect"] == first["joint_effect"] - first["specific_portion"] == 4
    missing = table[table["missing"].notna()].set_index("model")
    there = {
        "smollm2-135m-instruct",
        "organism-heads",
    }  # Pythia's random weights stand in for no real ones
    assert set(missing.index) == set(REGISTRY) - there and missing["joint_effect"].isna().all()
    assert "-p model=pythia-160m" in missing.loc["pythia-160m", "missing"]
    assert (
        "accept its licence at https://huggingface.co/meta-llama/Llama-3.2-1B"
        in missing.loc["llama-3.2-1b", "missing"]
    )
    assert missing.loc["pythia-160m", "revision"] == "50f5173d932e8e61f858120bcb800b97af589f46"


def test_a_changed_file_is_refused(folder):
    path = folder / "mine" / "organism-heads" / "08_circuit" / "summary.json"
    path.write_text(path.read_text().replace("50.0", "51.0"))
    with pytest.raises(
        UserError, match="08_circuit/summary.json in the run mine/organism-heads was changed"
    ):
        other_models.table("mine")


def test_a_nested_run_without_figures_is_read(folder):
    """Figures of nested runs are not committed, so a fresh clone has to do without them."""
    artefact = folder / "mine" / "organism-heads" / "08_circuit"
    manifest = json.loads((artefact / "manifest.json").read_text())
    manifest["outputs"]["fig_draws.png"] = "0" * 64
    (artefact / "manifest.json").write_text(json.dumps(manifest))
    assert "mine/organism-heads" in set(other_models.table("mine")["run"])


def test_a_run_without_notebook_08_does_not_count(folder):
    (folder / "mine" / "organism-heads" / "08_circuit" / "manifest.json").unlink()
    assert other_models.table("mine")["run"].dropna().tolist() == ["mine", "mine/pythia-160m"]


def test_only_the_named_runs(folder):
    assert other_models.table("mine", ["pythia-160m"])["run"].dropna().tolist() == [
        "mine",
        "mine/pythia-160m",
    ]
    with pytest.raises(
        UserError, match="no finished run tinyllama; inside it are mine/organism-heads"
    ):
        other_models.table("mine", ["tinyllama"])


@pytest.mark.parametrize(
    ("grade", "survives", "low", "expected"),
    [
        ("no", True, 1, "no sandbagging to explain"),
        ("less sure", False, 1, "no circuit"),
        ("less sure", True, 0.1, "a circuit, specific to sandbagging"),
        ("answers wrongly", True, -0.1, "a circuit, not shown to be specific"),
    ],
)
def test_a_word_for_each_run(grade, survives, low, expected):
    there = pd.DataFrame(
        [
            {
                "grade": grade,
                "survives": survives,
                "specific_portion_low": low,
            }
        ]
    )
    assert other_models.says(there).tolist() == [expected]


def test_planted_models_are_held_to_how_they_were_built():
    """Each truth is spared and each of two fakes flagged.

    The fakes are a head found where none matters alone, and a null with a grade.
    """
    rows = [
        ("a", "organism-heads", "answers wrongly", 3),
        ("b", "organism-direction", "answers wrongly", 0),
        ("c", "organism-null", "no", 0),
        ("d", "organism-direction", "answers wrongly", 1),
        ("e", "organism-null", "less sure", 0),
    ]
    there = pd.DataFrame(rows, columns=["run", "model", "grade", "n_found"]).assign(
        weights="planted", framing="instr_pref"
    )
    there.loc[5] = ["f", "tinyllama", "less sure", 9, "random", "contrast"]
    assert other_models.as_built(there) == {"a": True, "b": True, "c": True, "d": False, "e": False}
    assert other_models.is_null(there).tolist() == [False] * 5 + [True]


def test_notebook_09_is_stale_once_a_nested_run_is_new(folder):
    before = manifests.nested_hashes("mine")
    made("mine/tinyllama", "tinyllama")
    assert set(manifests.nested_hashes("mine")) - set(before) == {"mine/tinyllama"}


def test_beside_the_card(folder):
    published = {entry["claim"]: entry for entry in ledger.published()}
    beside = other_models.beside_card(other_models.table("mine"), published)
    real = beside[beside["weights"] == "real"].set_index("model")
    assert (
        real.loc["llama-3.2-1b", "the card"] == "joint +13.71 pp, specific +7.72 pp"
        and real.loc["llama-3.2-1b", "gap"] == "missing"
    )
    assert real.loc["pythia-410m", "the card"] == "specific portion about zero or negative"
    random = beside[beside["weights"] == "random"].iloc[0]
    assert (
        random["model"] == "pythia-160m" and random["the card"] == ""
    )  # random weights are not the card's model
    assert random["specific_portion"] == "+0.10 [-0.90, +1.10]"


def test_figure_draws_what_is_there_and_the_card_where_it_has_a_number(folder):
    card = {"llama-3.2-1b": {"joint_effect": 13.71, "specific_portion": 7.72}}
    fig = plots.other_models(other_models.table("mine"), card)
    names = [[text.get_text() for text in fig.axes[i].get_yticklabels()] for i in (0, 3)]
    assert names[0] == ["smollm2-135m-instruct", "pythia-160m (random)", "llama-3.2-1b"]
    assert names[1] == ["organism-heads (planted)"]
    drawn = [line for line in fig.axes[1].lines if line.get_label() == "the card"][0]
    assert np.allclose(drawn.get_xdata(), [13.71]) and np.allclose(drawn.get_ydata(), [0])
