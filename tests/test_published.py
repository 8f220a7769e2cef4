"""The retold figures of the model card are complete, well-formed and agree with each other where the card's do."""

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
        for head in entry["value"] if entry["unit"] == "heads" and isinstance(entry["value"], list) else []:
            assert re.fullmatch(r"L\d+H\d+", head)


def test_figures_agree_where_the_card_says_they_do(value):
    assert value["specific_portion"] == pytest.approx(value["joint_effect"] - value["neutral_effect"], abs=0.005)
    assert value["specific_share"] == round(100 * value["specific_portion"] / value["joint_effect"])
    assert value["redundancy"] == round(100 * (1 - value["joint_effect"] / value["sum_of_singles"]))
    assert value["jumprelu_win_share"] == round(100 * value["jumprelu_wins"] / 27)
    assert value["joint_effect_five_questions"] == pytest.approx(100 * (value["p_sandbag_after"] - value["p_sandbag"]), abs=0.05)
    assert set(value["best_three_heads"]) | set(value["dispensable_heads"]) == set(value["five_heads"])
    assert value["zeroed_weights"] == 5 * 64 * value["d_in"]
    assert value["d_sae"] == value["expansion"] * value["d_in"]
    parts = ("jumprelu_sae_count", "topk_sae_count", "gated_sae_count", "expansion_8_sae_count")
    assert sum(value[part] for part in parts) == value["sae_count"] == 42


def test_slips_of_the_card_are_marked(entries, value):
    note = {entry["claim"]: entry["note"] for entry in entries}
    assert value["jumprelu_sae_count"] + value["topk_sae_count"] != value["sae_count"] and "slip" in note["topk_sae_count"]
    assert value["jumprelu_wins"] + value["topk_wins"] != 27 and "unaccounted" in note["topk_wins"]
    assert "16384" in note["d_sae"] and "42 of 50" in note["neutral_questions"]
