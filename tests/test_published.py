"""The retold figures of the model card are complete, well-formed and agree where the card's do."""

import re
from pathlib import Path

import pytest
import yaml

import sandbagging

FIELDS = ["claim", "kind", "text", "section", "model", "value", "low", "high", "n", "unit", "note"]
MODELS = {"llama-3.2-1b", "smollm2-135m", "tinyllama", "pythia-160m", "pythia-410m", "all"}


@pytest.fixture(scope="module")
def entries() -> list[dict]:
    path = Path(sandbagging.__file__).parent / "data" / "published.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def value(entries):
    return {entry["claim"]: entry["value"] for entry in entries}


def test_entries_are_well_formed(entries):
    assert len({entry["claim"] for entry in entries}) == len(entries)
    for entry in entries:
        assert list(entry) == FIELDS, entry["claim"]
        assert entry["kind"] in {"finding", "recipe", "inventory"} and entry["model"] in MODELS
        assert entry["text"].endswith(".") and "\n" not in entry["text"]
        assert isinstance(entry["section"], str) and isinstance(entry["unit"], str)
        assert entry["value"] is None or isinstance(entry["value"], int | float | list)
        assert (entry["low"] is None) == (entry["high"] is None)
        assert entry["n"] is None or isinstance(entry["n"], int)
        # What has no figure must say why.
        assert entry["value"] is not None or entry["note"]
        for head in (
            entry["value"] if entry["unit"] == "heads" and isinstance(entry["value"], list) else []
        ):
            assert re.fullmatch(r"L\d+H\d+", head)


def test_figures_agree_where_the_card_says_they_do(value):
    assert value["specific_portion"] == pytest.approx(
        value["joint_effect"] - value["neutral_effect"], abs=0.005
    )
    assert value["specific_share"] == round(100 * value["specific_portion"] / value["joint_effect"])
    assert value["redundancy"] == round(100 * (1 - value["joint_effect"] / value["sum_of_singles"]))
    assert value["jumprelu_win_share"] == round(100 * value["jumprelu_wins"] / 27)
    assert value["joint_effect_five_questions"] == pytest.approx(
        100 * (value["p_sandbag_after"] - value["p_sandbag"]), abs=0.05
    )
    assert set(value["best_three_heads"]) | set(value["dispensable_heads"]) == set(
        value["five_heads"]
    )
    assert value["zeroed_weights"] == 5 * 64 * value["d_in"]
    assert value["d_sae"] == value["expansion"] * value["d_in"]
    parts = ("jumprelu_sae_count", "topk_sae_count", "gated_sae_count", "expansion_8_sae_count")
    assert sum(value[part] for part in parts) == value["sae_count"] == 42


def test_slips_of_the_card_are_marked(entries, value):
    note = {entry["claim"]: entry["note"] for entry in entries}
    assert (
        value["jumprelu_sae_count"] + value["topk_sae_count"] != value["sae_count"]
        and "slip" in note["topk_sae_count"]
    )
    assert value["jumprelu_wins"] + value["topk_wins"] != 27 and "unaccounted" in note["topk_wins"]
    assert "16384" in note["d_sae"] and "42 of 50" in note["neutral_questions"]


# Typed from the card and its sister cards, section by section: (section, unit, figures). Figures
# that belong together stand together.
CARD = [
    ("What this repo contains", "SAEs", [42, 9, 27]),
    ("What this repo contains", "layers", [[4, 8, 12]]),
    ("What this repo contains", "conditions", [3]),
    ("Architecture and training", "dimensions", [2048]),
    ("Architecture and training", "latents", [8192, 64]),
    ("Architecture and training", "latents per dimension", [4]),
    ("Architecture and training", "epochs", [300]),
    ("Architecture and training", "activations", [128]),
    ("Architecture and training", "per step", [3e-4]),
    ("Architecture and training", "loss per unit of L1", [1e-3]),
    ("Architecture and training", "activation", [0]),
    ("Architecture and training", "s per SAE", [40, 500]),
    ("§24, §26, §31", "pp", [0.15]),
    ("§24, §26, §31", "cells", [9]),
    ("§24, §26, §31", "layers", [[7, 15, 22], [5, 11, 16]]),
    ("§28", "pp", [13.71, 11.28, 16.24]),
    ("§28.4", "pp", [14.85, 3.71]),
    ("§28.4", "draws", [20]),
    ("§28.2", "pp", [13.88, 22.55]),
    ("§28.2", "%", [39]),
    ("§28.2", "heads", [["L0H6", "L8H14", "L4H3"], ["L0H3", "L1H26"]]),
    ("Where the deception circuit lives", "heads", [["L0H6", "L0H3", "L1H26", "L4H3", "L8H14"], 4]),
    ("§29 / U6", "pp", [5.99]),
    ("§29 / U6", "questions", [42]),
    ("§30", "pp", [7.72]),
    ("§30", "%", [56]),
    ("§32", "pairs", [22, 4]),
    ("§32", "%", [81]),
    ("§32", "Cohen's d", [9.76, 4.69]),
    ("§32", "ratio", [20, 50]),
    ("edited-model card", "pp", [6.7, 7.3, 6.5, 4.9, 5.0, 18.3]),
    ("edited-model card", "probability", [0.536, 0.368, 0.551]),
    ("edited-model card", "weights", [655360]),
    ("edited-model card", "%", [0.053]),
    ("TinyLlama card", "SAEs", [18]),
]
COUNTS = [
    ("§28", 50),
    ("§28.4", 20),
    ("§32", 27),
    ("§29 / U6", 50),
    ("edited-model card", 5),
    ("§24, §26, §31", 9),
]  # the card's n


@pytest.mark.parametrize(("section", "unit", "figures"), CARD)
def test_every_figure_of_the_card_stands_on_the_ledger(entries, section, unit, figures):
    there = [
        e[name]
        for e in entries
        if (e["section"], e["unit"]) == (section, unit)
        for name in ("value", "low", "high")
    ]
    assert [figure for figure in figures if figure not in there] == []


@pytest.mark.parametrize(("section", "n"), COUNTS)
def test_every_count_of_the_card_stands_on_the_ledger(entries, section, n):
    assert n in [e["n"] for e in entries if e["section"] == section]


def test_models_about_zero_stand_on_the_ledger(entries):
    about_zero = {e["model"] for e in entries if e["section"] == "§30" and e["value"] is None}
    assert about_zero == {"tinyllama", "pythia-160m", "pythia-410m"}
