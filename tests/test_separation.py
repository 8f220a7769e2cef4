"""What separates: the measured functions against their parts, and what is told, by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import activations, files, metrics, saes, statistics
from sandbagging.files import Folder
from sandbagging.saes import comparison, probing, separation
from sandbagging.saes.separation import Chosen
from sandbagging.statistics import Estimate
from sandbagging.swaps import latents, sites

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
    last = separation.last_codes(folder, folder, tag, ["genuine", "sandbag"])
    assert np.allclose(last["sandbag"], codes["sandbag"], atol=1e-5)
    assert len(last["genuine"]) == len(asked)
    alone = statistics.separation_table(codes, PAIRS, n_flips=20, seed=3)
    there = table[table["tag"] == tag].reset_index(drop=True)
    pd.testing.assert_frame_equal(there[list(alone)], alone, rtol=1e-4)
    assert list(dict.fromkeys(table["tag"])) == [*TAGS, "diff_means_L2", "diff_means_L1"]
    along = table[table["tag"].str.startswith("diff_means")]
    assert (along["n_active"] == 1).all() and len(along) == 2 * len(PAIRS) * 2


def test_the_chosen_latent_is_the_best_on_train_and_judged_on_test(stored):
    folder, _ = stored
    chosen = separation.chosen_latents(folder, folder, TAGS, PAIRS)
    for tag in TAGS:
        train = [plain_codes(folder, tag, c, "train").astype(float) for c in PAIRS[0]]
        best = statistics.cohens_dz(*train)
        assert chosen[tag].latent == np.nanargmax(np.abs(best.d))
        test = [plain_codes(folder, tag, c, "test")[:, chosen[tag].latent] for c in PAIRS[1]]
        again = statistics.dz_ci(*test, best.s0)
        assert chosen[tag].on_test["genuine vs placebo"].value == pytest.approx(again.value)


def test_words_and_detectors_are_read_from_the_same_codes(stored):
    folder, _ = stored
    words, n_places = separation.words_of_the_cue(folder, folder, dict.fromkeys(TAGS, 5), folder)
    assert list(words["tag"]) == TAGS and n_places > 0
    for row in words.to_dict("records"):
        means = [
            plain_codes(folder, row["tag"], c, "test")[:, 5].mean() for c in ("sandbag", "genuine")
        ]
        assert [row["sandbag"], row["genuine"]] == pytest.approx(means, abs=1e-5)
    found = separation.detectors(folder, folder, TAGS, PAIRS[:1], seed=1)
    by_split = [
        {t: {c: plain_codes(folder, t, c, split) for c in PAIRS[0]} for t in TAGS}
        for split in ("train", "test")
    ]
    alone = probing.probing_table(*by_split, PAIRS[:1], seed=1)
    pd.testing.assert_frame_equal(found, alone, rtol=1e-4)


def test_a_latent_taken_out_is_the_edit_written_out(tiny_llama, stored):
    folder, _ = stored
    asked = [*stored[1]]
    tag = TAGS[1]
    (site,) = sites.find_sites(tiny_llama, asked, FRAMING, [1])
    sae = saes.load(folder / tag)
    latent = int(sae.encode(site.x).mean(0).argmax())
    out = latents.taken_out(tiny_llama, asked, FRAMING, folder, tag, latent)
    x = site.x - sae.encode(site.x)[:, [latent]] @ sae.W_dec[[latent]]
    alone = sites.effects_at(tiny_llama, site, {("latent removed", "", 0): x}, tag=tag)
    assert np.allclose(out.effects["value"], alone["value"], atol=1e-6)
    assert (out.effects["value"] != out.effects["baseline"]).any()
    assert (out.raises, out.lowers) == probing.direct_tokens(tiny_llama, sae.W_dec[latent])


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


def test_above_null_and_beside_the_means():
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
    assert comparison.along_means(table).to_dict() == {
        ("genuine vs sandbag", 1): 1.5,
        (other, 1): 9,
    }
    assert comparison.means_as_sharp(table, "genuine vs sandbag") == 1  # as sharp as b alone
    assert comparison.means_as_sharp(table, other) == 2


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
    assert comparison.disagreements(pairs) == 2
    assert comparison.ratios(pairs)["l0"] == 2
    none = comparison.matched(table[table["tag"] == "alone"], quality())
    assert comparison.disagreements(none) == 0 and comparison.ratios(none) == {}


def test_who_leads_by_auroc():
    found = pd.DataFrame(
        {
            "tag": ["t1", "j1", "t2", "j2"],
            "pair": "genuine vs placebo",
            "by": "best_latent",
            "at_l0": "own",
            "value": [0.5, 0.9, 0.7, 0.9],
        }
    )
    lead = comparison.leads(found, quality(), "genuine vs placebo")
    assert lead == {("best_latent", "own"): pytest.approx(0.3)}
    assert comparison.leads(found[found["tag"] == "t1"], quality(), "genuine vs placebo") == {}


def d_z(value, half=0.5):
    return Estimate(value, value - half, value + half, 20, "SD", "by hand")


def test_who_responds_to_the_placebo():
    first, also = "genuine vs sandbag", "genuine vs placebo"
    chosen = {
        "t1": Chosen(3, 5.0, {first: d_z(5.0), also: d_z(-0.6)}),  # clear of 0, and more than 0.5
        "t2": Chosen(4, 9.0, {first: d_z(9.0), also: d_z(0.6)}),  # clear of 0, but below 0.9
        "j1": Chosen(5, 0.1, {first: d_z(0.1), also: d_z(3.0)}),  # not clear where it was chosen
    }
    assert comparison.clear_of_zero(chosen, first) == {"t1", "t2"}
    assert comparison.responding(chosen, first, also) == {"t1"}
    told = comparison.chosen_rows(chosen)
    assert list(told["tag"]) == ["t1", "t2", "j1"] * 2 and told["value"].iloc[3] == -0.6
    assert comparison.chosen_table(chosen).loc["t2", "d_z on train"] == "9.00"
    assert comparison.as_entries(chosen)["j1"]["latent"] == 5


def test_the_candidate_is_the_middle_layers_mixed_topk_sae():
    table = quality().assign(tag=lambda t: t["tag"] + "_mixed", layer=[1, 1, 2, 2, 3, 3])
    chosen = {f"{t}_mixed": Chosen(0, 1.0, {}) for t in ("t1", "j1", "t2", "j2")}
    assert comparison.candidate(chosen, table) == "t2_mixed"
    del chosen["t2_mixed"]
    assert comparison.candidate(chosen, table) == "t1_mixed"
    assert comparison.candidate({}, table) is None
