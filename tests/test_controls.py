"""E6 and its rivals: medians and labels by hand, guards and verdicts by toy numbers, edits by a second route."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import activations, controls, hook_points, interventions, metrics
from sandbagging.controls import Guards, TrainCodes
from sandbagging.errors import UserError
from sandbagging.hook_points import HookPoint
from sandbagging.statistics import Estimate

FRAMING = "instr_contrast"
FINE = Guards(nnz_genuine=20, nnz_sandbag=20, norm_delta=5.0, norm_change=6.0, norm_x=80.0, fvu=0.2)


class ReluSae:
    """A small SAE with hand-set weights: a third of its latents are active."""

    def __init__(self, d_model, d_sae=64):
        generator = torch.Generator().manual_seed(0)
        self.W = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=generator), dim=1)

    def encode(self, x):
        return (x @ self.W.T - 0.3).relu()

    def decode(self, codes):
        return codes @ self.W * 0.2


def prompts(n=8, d=6, shift=2.0, seed=0):
    """Train rows in which genuine and sandbag prompts differ along the first dimension."""
    generator = torch.Generator().manual_seed(seed)
    genuine, sandbag = torch.randn(n, d, generator=generator), torch.randn(n, d, generator=generator)
    genuine[:, 0] += shift
    return TrainCodes(genuine, sandbag, np.array([f"q{i}" for i in range(n)]), np.array([f"q{i}" for i in range(n)]))


# --- medians and labels ---------------------------------------------------------------------------


def test_median_conventions_by_hand():
    codes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [2.0, 5.0, 0.0], [4.0, 9.0, 8.0]])
    assert controls.median_code(codes).tolist() == [1.0, 4.0, 0.0]
    assert controls.median_code(codes, "lower").tolist() == [0.0, 3.0, 0.0]
    assert controls.median_code(codes[:3]).tolist() == controls.median_code(codes[:3], "lower").tolist() == [0.0, 3.0, 0.0]
    assert torch.equal(controls.median_code(codes), codes.quantile(0.5, dim=0))
    assert np.array_equal(controls.median_code(codes).numpy(), np.median(codes.numpy(), axis=0))


def test_on_the_jump_the_convention_decides():
    """Half of the prompts have the latent at 4, half at 0: average 2, lower 0."""
    half = torch.tensor([[4.0], [0.0], [4.0], [0.0]])
    assert controls.median_code(half).item() == 2.0 and controls.median_code(half, "lower").item() == 0.0


def test_balanced_shuffles_are_balanced_and_plain_ones_keep_the_total():
    for seed in range(20):
        labels = controls.shuffled_labels(8, 12, seed)
        assert labels[:8].sum() == 4 and labels[8:].sum() == 6
        assert controls.shuffled_labels(8, 12, seed, balanced=False).sum() == 8
    assert any(controls.shuffled_labels(8, 12, seed, balanced=False)[:8].sum() != 4 for seed in range(20))
    assert np.array_equal(controls.shuffled_labels(8, 12, 3), controls.shuffled_labels(8, 12, 3))


@pytest.mark.parametrize("counts", [(7, 8), (8, 7)])
def test_odd_counts_are_refused_for_balanced_shuffles_alone(counts):
    with pytest.raises(UserError, match="even"):
        controls.shuffled_labels(*counts, seed=0)
    assert controls.shuffled_labels(*counts, seed=0, balanced=False).sum() == counts[0]


def test_prompts_are_relabelled_never_tokens():
    """Two tokens of one prompt always carry the same label, in the order in which prompts stand."""
    train = TrainCodes(torch.zeros(4, 2), torch.zeros(3, 2), np.array(["b", "b", "a", "a"]), np.array(["b", "a", "a"]))
    labels = train.labelled(np.array([True, False, False, True]))
    assert labels.tolist() == [True, True, False, False, False, True, True]


def test_e1_with_the_true_labels_is_e6():
    train, sae = prompts(), ReluSae(6)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    e6 = controls.e6_and_e4(x, sae, train)["E6", "kept", 0]
    assert torch.equal(controls.e1_with_labels(x, sae, train, np.arange(16) < 8), e6)
    e4 = controls.e6_and_e4(x, sae, train)["E4", "kept", 0]
    assert torch.equal(controls.e1_with_labels(x, sae, train, np.arange(16) >= 8), e4)


def test_balanced_codes_lie_midway_and_plain_ones_follow_the_majority():
    train, sae = prompts(n=20, shift=6.0), ReluSae(6)
    balanced = controls.shuffle_places(sae, train, range(40))
    plain = controls.shuffle_places(sae, train, range(40), balanced=False)
    assert 0.3 < balanced["place"].mean() < 0.7 and set(balanced["share"]) == {0.5}
    assert plain["place"].std() > 2 * balanced["place"].std()
    assert plain["place"].corr(plain["share"]) > 0.8


# --- interventions --------------------------------------------------------------------------------


def test_swaps_by_hand():
    """One latent per dimension: f(x) = relu(x), D(c) = c + 1, so every number can be read off."""
    sae = SimpleNamespace(encode=lambda x: x.relu(), decode=lambda c: c + 1)
    train = TrainCodes(torch.tensor([[4.0, -1], [6, -1]]), torch.tensor([[1.0, 2], [1, 4]]), np.arange(2), np.arange(2))
    x = torch.tensor([[2.0, -3.0]])
    new = controls.e6_and_e4(x, sae, train)
    assert new["E6", "kept", 0].tolist() == [[5.0, -3.0]]  # x + (5+1, 0+1) - (2+1, 0+1)
    assert new["E6", "dropped", 0].tolist() == [[6.0, 1.0]]
    assert new["E4", "kept", 0].tolist() == [[1.0, 0.0]]
    assert new["delta+", "kept", 0].tolist() == [[6.0, -6.0]] and new["delta-", "kept", 0].tolist() == [[-2.0, 0.0]]
    assert new["identity", "dropped", 0].tolist() == [[3.0, 1.0]]
    rivals = controls.without_sae(x, train, oracle=x + 9, seeds=[])
    assert rivals["diff_means", "", 0].tolist() == [[6.0, -7.0]] and rivals["oracle", "", 0].tolist() == [[11.0, 6.0]]
    assert rivals["mean_ablation", "", 0].tolist() == [[3.0, 1.0]]


def test_a_swap_for_the_own_code_changes_nothing():
    sae, x = ReluSae(6), torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    for row in x:
        assert torch.allclose(interventions.swap_code(row[None], sae, sae.encode(row)), row[None], atol=1e-6)


def test_noise_is_as_long_as_the_change_it_stands_for():
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    like = x * torch.arange(5)[:, None]
    found = controls.noise(x, like, range(3))
    for new in found.values():
        assert torch.allclose((new - x).norm(dim=1), (like - x).norm(dim=1), atol=1e-5)
    first, second, _ = found.values()
    assert not torch.allclose(first, second) and torch.equal(first, controls.noise(x, like, [0])["noise", "", 0])
    with pytest.raises(UserError, match="noise_seeds"):
        controls.noise(x, like, [])
    with pytest.raises(UserError, match="e1_seeds"):
        controls.e1(x, ReluSae(16), prompts(d=16), [])


# --- the same edit by two routes -------------------------------------------------------------------


@pytest.fixture
def trained(tiny_llama, tiny_questions):
    """Model, questions, and train codes at layer 1 (the toys are train and test at once: only routes are compared here)."""
    resid, table = activations.collect_all(
        tiny_llama, {"train": tiny_questions, "test": tiny_questions}, ["genuine", "sandbag"], FRAMING, [1]
    )
    return tiny_llama, tiny_questions, resid[1], table


@pytest.mark.parametrize("position", ["last", "all"])
def test_a_part_started_above_equals_a_whole_edited_pass(trained, position):
    model, questions, resid, table = trained
    (site,) = controls.sites(model, questions, FRAMING, [1], [position])
    train, sae = controls.train_codes(resid, table, position), ReluSae(model.d_model)
    new = controls.e6_and_e4(site.x, sae, train) | controls.e1(site.x, sae, train, range(2)) | controls.e1_variants(site.x, sae, train, [0])
    found = controls.effects(model, site, new)
    for (name, term, seed), values in new.items():
        whole = {HookPoint("resid_post", 1): lambda h, values=values: interventions.replace_rows(h, site.rows, values[None])}
        final, _ = hook_points.run(model, site.pack, edits=whole, dense=True)
        expected = metrics.p_full(metrics.answer_logprobs(model, site.pack, final))[0].double().numpy()
        rows = found[
            (found["intervention"] == name) & (found["error_term"] == term) & (found["seed"] == seed) & (found["metric"] == "p_full")
        ]
        assert rows["question_id"].tolist() == [q.id for q in questions]
        assert np.abs(rows["value"].to_numpy() - expected).max() < 1e-5
    assert (found["value"] != found["baseline"]).any()


def test_an_edit_at_the_last_layer_but_one_reaches_only_what_it_should(trained):
    """An edit at the last prompt token of one question leaves every other question's score alone."""
    model, questions, _, _ = trained
    (site,) = controls.sites(model, questions, FRAMING, [1])
    x = site.x.clone()
    x[3] += 1
    found = controls.effects(model, site, {("push", "", 0): x})
    changed = found.loc[(found["value"] - found["baseline"]).abs() > 1e-6, "question_id"]
    assert set(changed) == {questions[3].id}


def test_twice_the_same_numbers_and_nothing_changed_on_the_way(trained):
    model, questions, resid, table = trained
    (site,) = controls.sites(model, questions, FRAMING, [1])
    train, sae = controls.train_codes(resid, table), ReluSae(model.d_model)
    before = [t.clone() for t in (site.resid, resid, train.genuine, train.sandbag)]
    new = controls.e6_and_e4(site.x, sae, train)
    kept = {key: value.clone() for key, value in new.items()}
    first, second = controls.effects(model, site, new), controls.effects(model, site, new)
    pd.testing.assert_frame_equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(before, (site.resid, resid, train.genuine, train.sandbag), strict=True))
    assert all(torch.equal(kept[key], new[key]) for key in new)
    (again,) = controls.sites(model, questions, FRAMING, [1])
    assert all(np.array_equal(site.baseline[m], again.baseline[m]) for m in controls.METRICS)


def test_batches_do_not_change_effects(trained, monkeypatch):
    model, questions, resid, table = trained
    (site,) = controls.sites(model, questions, FRAMING, [1])
    new = controls.e6_and_e4(site.x, ReluSae(model.d_model), controls.train_codes(resid, table))
    together = controls.effects(model, site, new)
    monkeypatch.setattr(controls, "TOKENS_AT_ONCE", 1)
    assert np.abs(controls.effects(model, site, new)["value"] - together["value"]).max() < 1e-6


@pytest.mark.parametrize("position", ["last", "all"])
def test_stored_rows_are_those_of_the_clean_run(trained, position):
    model, questions, resid, table = trained
    (site,) = controls.sites(model, questions[::-1], FRAMING, [1], [position])  # another order than that of the table
    assert torch.allclose(controls.same_rows(resid, table, "sandbag", site), site.x, atol=1e-4)
    one_less = table.drop(table.index[(table["condition"] == "genuine") & table["is_last"]][-1])  # a test row
    if position == "all":
        assert controls.same_rows(resid, one_less, "genuine", site) is None


def test_train_codes_take_train_prompts_without_the_shared_prefix(trained):
    _, questions, resid, table = trained
    last, everywhere = controls.train_codes(resid, table), controls.train_codes(resid, table, "all")
    assert len(last.genuine) == len(last.sandbag) == len(questions)
    rows = table[(table["split"] == "train") & (table["condition"] == "sandbag") & (table["question_id"] != "")]
    assert torch.equal(everywhere.sandbag, resid[rows["row"].to_list()])


def test_what_cannot_be_judged_is_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="at least 10"):
        controls.sites(tiny_llama, tiny_questions[:9], FRAMING, [1])
    with pytest.raises(UserError, match="last one"):
        controls.sites(tiny_llama, tiny_questions, FRAMING, [3])
    for positions in (["first"], []):
        with pytest.raises(UserError, match="last, all or both"):
            controls.sites(tiny_llama, tiny_questions, FRAMING, [1], positions)


# --- guards: one fake to flag and one truth to spare each -------------------------------------------


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"nnz_genuine": 0, "nnz_sandbag": 0, "norm_delta": 0.0}, "all zero"),
        ({"norm_delta": 0.05}, "same point"),
        ({}, ""),
        ({"nnz_genuine": 0}, ""),
    ],
)
def test_degenerate(changes, why):
    found = controls.degenerate(FINE._replace(**changes))
    assert (why in found) if why else found == ""


def test_two_clusters_flags_a_block_flip_and_spares_one_cloud():
    rng = np.random.default_rng(0)
    flipping = np.concatenate([rng.normal(0, 0.1, 10), rng.normal(3, 0.1, 10)])
    assert controls.two_clusters(flipping)
    assert sum(controls.two_clusters(rng.normal(0, 1, 20)) for _ in range(500)) < 10
    assert not controls.two_clusters(np.zeros(20)) and not controls.two_clusters(np.array([0.0, 0, 3, 3]))
    assert not controls.two_clusters(np.r_[rng.normal(0, 0.1, 19), 5.0])  # one outlier is no cluster


def test_guards_by_hand():
    sae = SimpleNamespace(encode=lambda x: x.relu(), decode=lambda c: c * 2)
    x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    found = controls.guards(x, sae, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert (found.nnz_genuine, found.nnz_sandbag, found.norm_delta, found.norm_x) == (1, 0, 2.0, 3.5)
    assert found.norm_change == pytest.approx((4 + 68**0.5) / 2)  # (2, 0) against (6, 0) and against (0, 8)
    assert found.fvu == pytest.approx(25 / 12.5)  # errors (3, 0), (0, 4); spread about (1.5, 2)


# --- the decision table: every line is reached once -------------------------------------------------


def effect(value, half=0.5):
    return Estimate(value, value - half, value + half, 100, "pp", "by hand")


@pytest.mark.parametrize(
    "expected, case",
    [
        ("no sandbagging to explain", {"gate_open": False, "degenerate_why": "both median codes are all zero"}),
        ("degenerate", {"degenerate_why": "both median codes are all zero"}),
        ("destructive", {"e6": effect(2.0), "identity": effect(-2.5)}),
        ("destructive", {"e6": effect(-1.0), "noise": effect(-3.0)}),
        ("specific", {}),
        ("reversed", {"e6": effect(-3.0), "gap_e1": effect(-2.0), "gap_e4": effect(-4.0)}),
        ("equivalent", {"gap_e1": effect(0.0, 0.05), "gap_e4": effect(0.0, 0.05), "equivalent": True}),
        ("cannot be said", {"gap_e1": effect(0.3), "gap_e4": effect(0.4)}),
        # What must be spared: a gap with the CI above 0 on one side only, and a restoration that noise exceeds.
        ("cannot be said", {"gap_e4": effect(0.3)}),
        ("cannot be said", {"noise": effect(7.0)}),
        ("specific", {"identity": effect(-2.5)}),
    ],
)
def test_every_line_of_the_decision_table(expected, case):
    plain = {"gate_open": True, "degenerate_why": "", "e6": effect(5.0), "identity": effect(-0.2), "noise": effect(-0.3),
             "gap_e1": effect(2.0), "gap_e4": effect(4.0), "equivalent": False, "detectable": 0.8}  # fmt: skip
    found = controls.verdict(**(plain | case))
    assert found.verdict == expected and found.reason
    assert expected in [name for name, _ in controls.DECISIONS]


def made_up(values, n=100, seeds=8, sd=0.4, seed_sd=0.02, gap_sd=0.02, seed=0):
    """Effects by question, in pp, with a given mean per intervention; all share the questions' own ups and downs."""
    rng = np.random.default_rng(seed)
    shared, rows = rng.normal(0, sd, n), []
    for (name, term), mean in values.items():
        for s in range(seeds if name == "E1" else 1):
            own = mean + shared + rng.normal(0, gap_sd, n) + (rng.normal(0, seed_sd) if name == "E1" else 0)
            for metric in controls.METRICS:
                rows.append(pd.DataFrame({"question_id": [f"q{i:03d}" for i in range(n)], "condition": "sandbag", "layer": 7, "tag": TAG,
                                          "position": "last", "error_term": term, "intervention": name, "seed": s, "metric": metric,
                                          "baseline": 0.4, "value": 0.4 + own / 100}))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


TAG = "v4_tiny_topk_L7_mixed"
TRUE = {("E6", "kept"): 5.0, ("E1", "kept"): 2.5, ("E4", "kept"): 0.0, ("identity", "dropped"): -0.1, ("noise", ""): -0.2}


@pytest.mark.parametrize(
    "expected, changes, guards",
    [
        ("specific", {}, FINE),
        ("degenerate", {}, FINE._replace(nnz_genuine=0, nnz_sandbag=0)),
        ("destructive", {("identity", "dropped"): -9.0}, FINE),
        ("reversed", {("E6", "kept"): -5.0}, FINE),
        ("equivalent", {("E1", "kept"): 5.0, ("E4", "kept"): 5.0}, FINE),
    ],
)
def test_judging_made_up_effects(expected, changes, guards):
    found = controls.judge(made_up(TRUE | changes), guards, gate_open=True)
    assert found["verdict"] == expected
    assert controls.judge(made_up(TRUE | changes), guards, gate_open=False)["verdict"] == "no sandbagging to explain"


def test_too_noisy_to_be_called_equivalent():
    """The same true gap of 0 with more spread between questions: not seen is not equal."""
    flat = TRUE | {("E1", "kept"): 5.0, ("E4", "kept"): 5.0}
    found = controls.judge(made_up(flat, gap_sd=4.0), FINE, gate_open=True)
    assert found["verdict"] == "cannot be said" and found["detectable"] > controls.MARGIN_PP


def test_seeds_in_two_clusters_are_degenerate():
    table = made_up(TRUE)
    flipped = (table["intervention"] == "E1") & (table["seed"] % 2 == 0)
    table.loc[flipped, "value"] += 0.03
    found = controls.judge(table, FINE, gate_open=True)
    assert found["verdict"] == "degenerate" and "two clusters" in found["reason"]


def test_gaps_are_paired_and_both_spreads_are_shown():
    found = controls.judge(made_up(TRUE, sd=5.0, seed_sd=0.5), FINE, gate_open=True)
    assert found["gap_e4"].value == pytest.approx(5.0, abs=0.05)
    assert found["gap_e4"].high - found["gap_e4"].low < 0.1 < found["e6"].high - found["e6"].low  # unpaired would be as wide as e6
    assert found["gap_e1_seeds"].high - found["gap_e1_seeds"].low > 2 * (found["gap_e1"].high - found["gap_e1"].low)
    assert 0.2 < found["seed_sd"] < 1.0 and found["n_seeds"] == 8


# --- tables ---------------------------------------------------------------------------------------


def test_summary_gaps_and_guards_stand_beside_each_other(tmp_path):
    table = made_up(TRUE)
    summary = controls.summarise(table)
    assert summary.set_index(["intervention", "metric"]).loc[("E6", "p_full"), "effect_pp"] == pytest.approx(5.0, abs=0.2)
    gaps = controls.gaps(table)
    assert set(gaps["intervention"]) == {"E6-E1", "E6-E4"} and set(gaps["metric"]) == set(controls.METRICS)
    judged = controls.judge_all(table, {(7, TAG, "last"): FINE}, gate_open=True)
    guarded = controls.guard_table({(7, TAG, "last"): FINE})
    assert controls.read_guards(guarded) == {(7, TAG, "last"): FINE}
    both = controls.with_guards(pd.concat([summary, gaps]), guarded, judged)
    assert both[both["error_term"] == "kept"]["verdict"].eq("specific").all() and both["nnz_genuine"].eq(20).all()
    table.to_csv(tmp_path / "effects.csv", index=False)
    back = controls.stored_effects(pd.read_csv(tmp_path / "effects.csv"))
    assert controls.by_question(back, "noise", "") == pytest.approx(controls.by_question(table, "noise", ""))


def test_summary_is_the_mean_with_the_bootstrap_of_one_column():
    table = made_up(TRUE, n=20)
    row = controls.summarise(table, seed=3).set_index(["intervention", "metric"]).loc[("E1", "p_full")]
    expected = controls.statistics.mean_ci(controls.by_question(table, "E1", "kept"), seed=3)
    assert (row["effect_pp"], row["low"], row["high"]) == pytest.approx((expected.value, expected.low, expected.high))


def test_e1_is_half_a_dose():
    found = controls.between(made_up(TRUE))
    assert found["share"] == pytest.approx(0.5, abs=0.02) and found["above"] == 0 and not found["two_clusters"]


def test_first_verdicts_wait_for_the_rivals():
    guarded = controls.guard_table({(7, "a", "last"): FINE, (7, "a", "all"): FINE._replace(nnz_genuine=0, nnz_sandbag=0)})
    assert controls.first_verdicts(guarded, True)["verdict"].tolist() == ["not judged before notebook 06", "degenerate"]
    assert set(controls.first_verdicts(guarded, False)["verdict"]) == {"no sandbagging to explain"}


def test_an_effect_that_is_not_there_is_named():
    with pytest.raises(UserError, match="delta_E1"):
        controls.by_question(made_up(TRUE), "delta_E1", "kept")


def test_short_tags():
    tags = [f"v4_smollm2_{a}_L{layer}_mixed" for a, layer in itertools.product(("topk_k32", "jumprelu"), (7, 15))]
    assert [controls.short_tag(t) for t in tags] == ["L7 topk_k32 mixed", "L15 topk_k32 mixed", "L7 jumprelu mixed", "L15 jumprelu mixed"]
