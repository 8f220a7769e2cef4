"""E6 and its rivals: medians and labels by hand, guards and verdicts by toy numbers, edits by a
second route.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import activations, metrics
from sandbagging.errors import UserError
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.swaps import edits, interventions, medians, sites
from sandbagging.swaps.medians import TrainCodes

FRAMING = "instr_contrast"


class ReluSae:
    """A small SAE with hand-set weights: a third of its latents are active."""

    def __init__(self, d_model, d_sae=64):
        generator = torch.Generator().manual_seed(0)
        self.W = torch.nn.functional.normalize(
            torch.randn(d_sae, d_model, generator=generator), dim=1
        )

    def encode(self, x):
        return (x @ self.W.T - 0.3).relu()

    def decode(self, codes):
        return codes @ self.W * 0.2


def prompts(n=8, d=6, shift=2.0, seed=0):
    """Train rows in which genuine and sandbag prompts differ along the first dimension."""
    generator = torch.Generator().manual_seed(seed)
    genuine, sandbag = (
        torch.randn(n, d, generator=generator),
        torch.randn(n, d, generator=generator),
    )
    genuine[:, 0] += shift
    return TrainCodes(
        genuine,
        sandbag,
        np.array([f"q{i}" for i in range(n)]),
        np.array([f"q{i}" for i in range(n)]),
    )


# --- medians and labels ---------------------------------------------------------------------------


def test_median_conventions_by_hand():
    codes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [2.0, 5.0, 0.0], [4.0, 9.0, 8.0]])
    assert medians.median_code(codes).tolist() == [1.0, 4.0, 0.0]
    assert medians.median_code(codes, "lower").tolist() == [0.0, 3.0, 0.0]
    assert (
        medians.median_code(codes[:3]).tolist()
        == medians.median_code(codes[:3], "lower").tolist()
        == [0.0, 3.0, 0.0]
    )
    assert torch.equal(medians.median_code(codes), codes.quantile(0.5, dim=0))
    assert np.array_equal(medians.median_code(codes).numpy(), np.median(codes.numpy(), axis=0))


def test_on_the_jump_the_convention_decides():
    """Half of the prompts have the latent at 4, half at 0: average 2, lower 0."""
    half = torch.tensor([[4.0], [0.0], [4.0], [0.0]])
    assert (
        medians.median_code(half).item() == 2.0 and medians.median_code(half, "lower").item() == 0.0
    )


def test_balanced_shuffles_are_balanced_and_plain_ones_keep_the_total():
    for seed in range(20):
        labels = medians.shuffled_labels(8, 12, seed)
        assert labels[:8].sum() == 4 and labels[8:].sum() == 6
        assert medians.shuffled_labels(8, 12, seed, balanced=False).sum() == 8
    assert any(
        medians.shuffled_labels(8, 12, seed, balanced=False)[:8].sum() != 4 for seed in range(20)
    )
    assert np.array_equal(medians.shuffled_labels(8, 12, 3), medians.shuffled_labels(8, 12, 3))


@pytest.mark.parametrize("counts", [(7, 8), (8, 7)])
def test_odd_counts_are_refused_for_balanced_shuffles_alone(counts):
    with pytest.raises(UserError, match="even"):
        medians.shuffled_labels(*counts, seed=0)
    assert medians.shuffled_labels(*counts, seed=0, balanced=False).sum() == counts[0]


def test_prompts_are_relabelled_never_tokens():
    """Two tokens of one prompt always carry the same label, in the order in which prompts stand."""
    train = TrainCodes(
        torch.zeros(4, 2),
        torch.zeros(3, 2),
        np.array(["b", "b", "a", "a"]),
        np.array(["b", "a", "a"]),
    )
    labels = train.labelled(np.array([True, False, False, True]))
    assert labels.tolist() == [True, True, False, False, False, True, True]


def test_e1_with_the_true_labels_is_e6():
    train, sae = prompts(), ReluSae(6)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    e6 = interventions.e6_and_e4(x, sae, train)["E6", "kept", 0]
    assert torch.equal(interventions.e1_with_labels(x, sae, train, np.arange(16) < 8), e6)
    e4 = interventions.e6_and_e4(x, sae, train)["E4", "kept", 0]
    assert torch.equal(interventions.e1_with_labels(x, sae, train, np.arange(16) >= 8), e4)


def test_balanced_codes_lie_midway_and_plain_ones_follow_the_majority():
    train, sae = prompts(n=20, shift=6.0), ReluSae(6)
    balanced = medians.shuffle_places(sae, train, range(40))
    plain = medians.shuffle_places(sae, train, range(40), balanced=False)
    assert 0.3 < balanced["place"].mean() < 0.7 and set(balanced["share"]) == {0.5}
    assert plain["place"].std() > 2 * balanced["place"].std()
    assert plain["place"].corr(plain["share"]) > 0.8


# --- interventions --------------------------------------------------------------------------------


def test_swaps_by_hand():
    """One latent per dimension: f(x) = relu(x), D(c) = c + 1, so every number can be read off."""
    sae = SimpleNamespace(encode=lambda x: x.relu(), decode=lambda c: c + 1)
    train = TrainCodes(
        torch.tensor([[4.0, -1], [6, -1]]),
        torch.tensor([[1.0, 2], [1, 4]]),
        np.arange(2),
        np.arange(2),
    )
    x = torch.tensor([[2.0, -3.0]])
    new = interventions.e6_and_e4(x, sae, train)
    assert new["E6", "kept", 0].tolist() == [[5.0, -3.0]]  # x + (5+1, 0+1) - (2+1, 0+1)
    assert new["E6", "dropped", 0].tolist() == [[6.0, 1.0]]
    assert new["E4", "kept", 0].tolist() == [[1.0, 0.0]]
    assert new["delta+", "kept", 0].tolist() == [[6.0, -6.0]] and new[
        "delta-", "kept", 0
    ].tolist() == [[-2.0, 0.0]]
    assert new["identity", "dropped", 0].tolist() == [[3.0, 1.0]]
    rivals = interventions.without_sae(x, train, oracle=x + 9, seeds=[])
    assert rivals["diff_means", "", 0].tolist() == [[6.0, -7.0]] and rivals[
        "oracle", "", 0
    ].tolist() == [[11.0, 6.0]]
    assert rivals["mean_ablation", "", 0].tolist() == [[3.0, 1.0]]


def test_a_swap_for_the_own_code_changes_nothing():
    sae, x = ReluSae(6), torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    for row in x:
        assert torch.allclose(
            edits.swap_code(row[None], sae, sae.encode(row)), row[None], atol=1e-6
        )


def test_noise_is_as_long_as_the_change_it_stands_for():
    x = torch.randn(5, 16, generator=torch.Generator().manual_seed(3))
    like = x * torch.arange(5)[:, None]
    found = interventions.noise(x, like, range(3))
    for new in found.values():
        assert torch.allclose((new - x).norm(dim=1), (like - x).norm(dim=1), atol=1e-5)
    first, second, _ = found.values()
    assert not torch.allclose(first, second) and torch.equal(
        first, interventions.noise(x, like, [0])["noise", "", 0]
    )
    with pytest.raises(UserError, match="noise_seeds"):
        interventions.noise(x, like, [])
    with pytest.raises(UserError, match="e1_seeds"):
        interventions.e1(x, ReluSae(16), prompts(d=16), [])


# --- the same edit by two routes ------------------------------------------------------------------


@pytest.fixture
def trained(tiny_llama, tiny_questions):
    """Model, questions, and train codes at layer 1 (the toys are train and test at once: only
    routes are compared here).
    """
    resid, table = activations.collect_all(
        tiny_llama,
        {"train": tiny_questions, "test": tiny_questions},
        ["genuine", "sandbag"],
        FRAMING,
        [1],
    )
    return tiny_llama, tiny_questions, resid[1], table


@pytest.mark.parametrize("position", ["last", "all"])
def test_a_part_started_above_equals_a_whole_edited_pass(trained, position):
    model, questions, resid, table = trained
    (site,) = sites.find_sites(model, questions, FRAMING, [1], [position])
    train, sae = medians.train_codes(resid, table, position), ReluSae(model.d_model)
    new = (
        interventions.e6_and_e4(site.x, sae, train)
        | interventions.e1(site.x, sae, train, range(2))
        | interventions.e1_variants(site.x, sae, train, [0])
    )
    found = sites.effects_at(model, site, new)
    for (name, term, seed), values in new.items():
        whole = {
            HookPoint("resid_post", 1): lambda h, values=values: edits.replace_rows(
                h, site.rows, values[None]
            )
        }
        final, _ = hook_points.forward(model, site.pack, edits=whole, dense=True)
        expected = (
            metrics.p_full(metrics.answer_logprobs(model, site.pack, final))[0].double().numpy()
        )
        rows = found[
            (found["intervention"] == name)
            & (found["error_term"] == term)
            & (found["seed"] == seed)
            & (found["metric"] == "p_full")
        ]
        assert rows["question_id"].tolist() == [q.id for q in questions]
        assert np.abs(rows["value"].to_numpy() - expected).max() < 1e-5
    assert (found["value"] != found["baseline"]).any()


def test_an_edit_at_the_last_layer_but_one_reaches_only_what_it_should(trained):
    """An edit at the last prompt token of one question leaves every other question's score
    alone.
    """
    model, questions, _, _ = trained
    (site,) = sites.find_sites(model, questions, FRAMING, [1])
    x = site.x.clone()
    x[3] += 1
    found = sites.effects_at(model, site, {("push", "", 0): x})
    changed = found.loc[(found["value"] - found["baseline"]).abs() > 1e-6, "question_id"]
    assert set(changed) == {questions[3].id}


def test_an_edit_at_the_last_layer_equals_a_whole_edited_pass(trained):
    """Nothing attends to what the last block writes, so only the first answer token, read at the
    edited row, can change.
    """
    model, questions, _, _ = trained
    last = model.n_layers - 1
    (site,) = sites.find_sites(model, questions, FRAMING, [last])
    x = site.x + torch.randn(site.x.shape, generator=torch.Generator().manual_seed(4))
    found = sites.effects_at(model, site, {("push", "", 0): x})
    whole = {HookPoint("resid_post", last): lambda h: edits.replace_rows(h, site.rows, x[None])}
    final, _ = hook_points.forward(model, site.pack, edits=whole, dense=True)
    expected = metrics.p_full(metrics.answer_logprobs(model, site.pack, final))[0].double().numpy()
    value = found.loc[found["metric"] == "p_full", "value"].to_numpy()
    assert np.abs(value - expected).max() < 1e-5 < np.abs(value - site.baseline["p_full"]).max()


def test_twice_the_same_numbers_and_nothing_changed_on_the_way(trained):
    model, questions, resid, table = trained
    (site,) = sites.find_sites(model, questions, FRAMING, [1])
    train, sae = medians.train_codes(resid, table), ReluSae(model.d_model)
    before = [t.clone() for t in (site.resid, resid, train.genuine, train.sandbag)]
    new = interventions.e6_and_e4(site.x, sae, train)
    kept = {key: value.clone() for key, value in new.items()}
    first, second = sites.effects_at(model, site, new), sites.effects_at(model, site, new)
    pd.testing.assert_frame_equal(first, second)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, (site.resid, resid, train.genuine, train.sandbag), strict=True)
    )
    assert all(torch.equal(kept[key], new[key]) for key in new)
    (again,) = sites.find_sites(model, questions, FRAMING, [1])
    assert all(np.array_equal(site.baseline[m], again.baseline[m]) for m in metrics.JUDGED)


def test_batches_do_not_change_effects(trained, monkeypatch):
    model, questions, resid, table = trained
    (site,) = sites.find_sites(model, questions, FRAMING, [1])
    new = interventions.e6_and_e4(site.x, ReluSae(model.d_model), medians.train_codes(resid, table))
    together = sites.effects_at(model, site, new)
    monkeypatch.setattr(sites, "TOKENS_AT_ONCE", 1)
    assert np.abs(sites.effects_at(model, site, new)["value"] - together["value"]).max() < 1e-6


def test_what_comes_to_the_same_x_is_run_once(trained, monkeypatch):
    model, questions, _, _ = trained
    (site,) = sites.find_sites(model, questions, FRAMING, [1])
    seen, measure = [], metrics.measure
    monkeypatch.setattr(
        metrics, "measure", lambda *a, **k: seen.append(len(k["start"][1])) or measure(*a, **k)
    )
    pushed = site.x + 1
    new = {
        ("E6", "kept", 0): pushed,
        ("E4", "kept", 0): pushed.clone(),
        ("noise", "", 0): site.x - 1,
        ("delta+", "kept", 0): site.x + 0,
    }
    found = sites.effects_at(model, site, new)
    wide = found.pivot_table(index="question_id", columns="intervention", values="value")
    assert sum(seen) == 2
    assert (wide["E6"] == wide["E4"]).all() and (wide["E6"] != wide["noise"]).any()
    unmoved = found[found["intervention"] == "delta+"]
    assert (unmoved["value"] == unmoved["baseline"]).all()


@pytest.mark.parametrize("position", ["last", "all"])
def test_stored_rows_are_those_of_the_clean_run(trained, position):
    model, questions, resid, table = trained
    # another order than that of the table
    (site,) = sites.find_sites(model, questions[::-1], FRAMING, [1], [position])
    assert torch.allclose(sites.same_rows(resid, table, "sandbag", site), site.x, atol=1e-4)
    # a test row
    one_less = table.drop(table.index[(table["condition"] == "genuine") & table["is_last"]][-1])
    if position == "all":
        assert sites.same_rows(resid, one_less, "genuine", site) is None


def test_train_codes_take_train_prompts_without_the_shared_prefix(trained):
    _, questions, resid, table = trained
    last, everywhere = medians.train_codes(resid, table), medians.train_codes(resid, table, "all")
    assert len(last.genuine) == len(last.sandbag) == len(questions)
    rows = table[
        (table["split"] == "train")
        & (table["condition"] == "sandbag")
        & (table["question_id"] != "")
    ]
    assert torch.equal(everywhere.sandbag, resid[rows["row"].to_list()])


def test_what_cannot_be_judged_is_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="at least 10"):
        sites.find_sites(tiny_llama, tiny_questions[:9], FRAMING, [1])
    with pytest.raises(UserError, match="does not exist"):
        sites.find_sites(tiny_llama, tiny_questions, FRAMING, [4])
    for positions in (["first"], []):
        with pytest.raises(UserError, match="last, all or both"):
            sites.find_sites(tiny_llama, tiny_questions, FRAMING, [1], positions)
