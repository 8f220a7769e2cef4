"""What separates: the measured functions against their parts, and what is told, by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import activations, files, metrics, saes, statistics
from sandbagging.files import Folder
from sandbagging.saes import comparison, separation

FRAMING = "instr_contrast"
TAGS = ["v4_tiny_topk_k8_L2_mixed", "v4_tiny_topk_k8_L1_mixed"]
PAIRS = [("genuine", "sandbag"), ("genuine", "placebo")]


# Measured, from files as a run leaves them --------------------------------------------------------


@pytest.fixture
def stored(tiny_llama, tiny_questions, tmp_path):
    """Activations of three conditions and two SAEs, in one folder."""
    asked = {"train": tiny_questions[:6], "test": tiny_questions[2:]}
    conditions = ("genuine", "sandbag", "placebo")
    resid, table = activations.collect_all(tiny_llama, asked, conditions, FRAMING, (1, 2))
    activations.save(tmp_path, resid)
    files.write_csv(tmp_path / "tokens.csv.gz", table)
    found = metrics.records(tiny_llama, asked, conditions, FRAMING)
    metrics.write_records(tmp_path / "prompts.jsonl", found)
    for tag in TAGS:
        sae = saes.untrained(tag, resid[saes.parse_tag(tag).layer])
        recipe = saes.parse_tag(tag).recipe(tiny_llama.d_model)
        saes.save(sae, tmp_path / tag, saes.describe(recipe, model_name="tiny", dataset="toys"))
    return Folder.of(tmp_path), asked["test"]


def plain_codes(stored, tag, condition, split):
    """Codes at the last prompt tokens, by the table's rows one by one."""
    table = files.read_csv(stored / "tokens.csv.gz")
    resid = activations.load(stored, saes.parse_tag(tag).layer)
    sae = saes.load(stored / tag)
    rows = table[table["is_last"] & (table["split"] == split) & (table["condition"] == condition)]
    rows = rows.sort_values("question_id")["row"]
    return np.stack([sae.encode(resid[[row]])[0].numpy() for row in rows])


def test_separation_is_that_of_its_codes_and_of_one_direction(stored):
    folder, asked = stored
    table = separation.separation(folder, folder, TAGS, PAIRS, n_flips=20, seed=3)
    tag = TAGS[0]
    codes = {c: plain_codes(folder, tag, c, "test") for c in ("genuine", "sandbag", "placebo")}
    assert len(codes["genuine"]) == len(asked)
    alone = statistics.separation_table(codes, PAIRS, n_flips=20, seed=3)
    there = table[table["tag"] == tag].reset_index(drop=True)
    pd.testing.assert_frame_equal(there[list(alone)], alone, rtol=1e-4)
    assert list(dict.fromkeys(table["tag"])) == [*TAGS, "diff_means_L2", "diff_means_L1"]
    along = table[table["tag"].str.startswith("diff_means")]
    assert (along["n_active"] == 1).all() and len(along) == 2 * len(PAIRS) * 2


def test_an_untrained_sae_is_that_which_training_begins_with():
    tokens = 7 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) + 3
    sae = saes.untrained("v4_tiny_topk_k8_L1_mixed", tokens)
    scaled, scale = saes.training_data(tokens)
    recipe = saes.parse_tag("v4_tiny_topk_k8_L1_mixed").recipe(16)
    first = saes.new_sae(recipe, 1, scaled.mean(0))
    assert torch.allclose(sae.b_dec, tokens.mean(0), atol=1e-4)
    with torch.no_grad():
        again = first.decode(first.encode(scaled)) / scale
    assert torch.allclose(sae.decode(sae.encode(tokens)), again, atol=1e-3)


# Told, by hand-set numbers ------------------------------------------------------------------------


def rows(tag, layer, d_max, null, pair="genuine vs sandbag", d="dz", **more):
    numbers = {"d_mean_active": 1.0, "d_mean_all": 0.1, "l0": 5.0, "n_active": 3} | more
    return {"tag": tag, "layer": layer, "pair": pair, "d": d, "d_max": d_max, **numbers,
            "null_d_max": null}  # fmt: skip


def test_latents_above_their_null_are_counted_by_d_z():
    other = "genuine vs placebo"
    table = pd.DataFrame(
        [
            rows("a", 1, -2.0, 1.0),
            rows("b", 1, 0.5, 1.0),
            rows("a", 1, 0.2, 1.0, pair=other),
            rows("b", 1, 0.2, 1.0, pair=other),
            rows("a", 1, 9.0, 1.0, d="dav"),
            rows("diff_means_L1", 1, -1.5, 1.0),
            rows("diff_means_L1", 1, 9.0, 1.0, pair=other),
        ]
    )
    assert comparison.above_null(table) == {"genuine vs sandbag": 1, other: 0}


def quality():
    names = ["t1", "j1", "t2", "j2", "k16", "alone"]
    return pd.DataFrame(
        {
            "tag": names,
            "architecture": ["topk", "jumprelu", "topk", "jumprelu", "topk", "topk"],
            "condition": ["mixed"] * 5 + ["genuine_only"],
            "layer": [1, 1, 2, 2, 2, 2],
            "k": [64, np.nan, 64, np.nan, 16, 64],
        }
    )


def test_pairs_are_matched_and_ties_are_to_two_decimals():
    sizes = {
        "dz": {"t1": 1.0, "j1": -2.0, "t2": 3.001, "j2": 3.004, "k16": 9.0, "alone": 1.0},
        "dav": {"t1": 2.0, "j1": 1.0, "t2": 1.0, "j2": 2.0, "k16": 9.0, "alone": 1.0},
    }
    layer = quality().set_index("tag")["layer"]
    table = pd.DataFrame(
        [
            rows(t, layer[t], value, 1.0, d=d, l0=4.0 if t[0] == "j" else 2.0)
            for d, by_tag in sizes.items()
            for t, value in by_tag.items()
        ]
    )
    pairs = comparison.matched(table, quality())
    assert len(pairs) == 4 and pairs["d_max"].loc[("dz", 1, "mixed"), "jumprelu"] == 2
    tally = comparison.wins(pairs)
    assert tally.loc["dz"].to_dict() == {"JumpReLU": 1, "TopK": 0, "ties": 1}
    assert tally.loc["dav"].to_dict() == {"JumpReLU": 1, "TopK": 1, "ties": 0}
    assert comparison.share_won(tally)["dz"].value == 0.5
    assert comparison.ratios(pairs)["l0"] == 2
    none = comparison.matched(table[table["tag"] == "alone"], quality())
    assert comparison.ratios(none) == {}
