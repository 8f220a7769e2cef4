"""SAEs: what a reader of the weights can check by hand, and that sae-lens does the same."""

import dataclasses
import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import sparse_tokens

from sandbagging import saes
from sandbagging.errors import UserError
from sandbagging.saes import evaluation, training

D_IN = 16
SETTINGS = {"steps": 60, "batch": 32, "lr": 3e-3}


def recipe(arch="topk", **settings):
    k = {"k": 4} if arch == "topk" else {}
    jumprelu = (
        {"kernel": "rectangle", "bandwidth": 0.5, "init_threshold": 0.3}
        if arch == "jumprelu"
        else {}
    )
    return saes.Recipe("tiny", arch, 3, "mixed", D_IN, **{**SETTINGS, **k, **jumprelu, **settings})


@pytest.fixture(scope="module")
def activations():
    """Raw activations [token d_model]: sparse sums of fixed directions, an offset, and a norm far
    from sqrt(d_model).
    """
    return sparse_tokens(400, 64, D_IN, scale=40, offset=25)


@pytest.fixture(scope="module", params=saes.ARCHITECTURES)
def trained(request, activations):
    """recipe, training SAE, its history, inference SAE, factor."""
    tokens, scale = saes.training_data(activations)
    made = recipe(request.param)
    sae, history = saes.train(made, tokens, history_every=20)
    return made, sae, history, saes.fold_scaling(sae, scale), scale


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    made, _, _, sae, _ = trained
    path = tmp_path_factory.mktemp("saes") / saes.tag(made)
    saes.save(
        sae, path, saes.describe(made, model_name="tiny-llama", dataset="questions_train.jsonl")
    )
    return path


def topk_folder(path, **changes):
    """A hand-made TopK folder; a setting changed to None is left out."""
    config = {
        "architecture": "topk",
        "d_in": D_IN,
        "d_sae": 64,
        "k": 4,
        "normalize_activations": "none",
        "apply_b_dec_to_input": True,
    }
    config = {name: value for name, value in {**config, **changes}.items() if value is not None}
    path.mkdir(parents=True, exist_ok=True)
    (path / "cfg.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.nn.functional.normalize(torch.randn(64, D_IN, generator=generator), dim=1)
    save_file(
        {
            "W_dec": W_dec,
            "W_enc": W_dec.T.contiguous(),
            "b_enc": torch.zeros(64),
            "b_dec": torch.zeros(D_IN),
        },
        weights_file(path),
    )
    return path


def weights_file(path):
    return path / "sae_weights.safetensors"


# Tags and recipes


@pytest.mark.parametrize("model", ["smollm", "llama", "tinyllama"])
@pytest.mark.parametrize(
    "arch",
    [
        "jumprelu",
        "topk",
        "topk_k16",
        "topk_k256",
        "gated",
        "x8_gated",
        "x8_k64",
        "x8_k256",
        "x2_jumprelu",
    ],
)
@pytest.mark.parametrize("condition", saes.CONDITIONS)
def test_tags_round_trip(model, arch, condition):
    name = f"v4_{model}_{arch}_L12_{condition}"
    fields = saes.parse_tag(name)
    assert saes.tag(fields) == name
    assert saes.tag(fields.recipe(d_in=2048)) == name
    assert (fields.k is None) == arch.endswith(("jumprelu", "gated"))
    assert fields.expansion == (int(arch[1]) if arch[0] == "x" else 4)


# The list at the end of the card, in its order.
CARDS_OWN = """
gated_L8_genuine_only gated_L8_mixed gated_L8_sandbagging_only jumprelu_L12_genuine_only
jumprelu_L12_mixed jumprelu_L12_sandbagging_only jumprelu_L4_genuine_only jumprelu_L4_mixed
jumprelu_L4_sandbagging_only jumprelu_L8_genuine_only jumprelu_L8_mixed
jumprelu_L8_sandbagging_only topk_L12_genuine_only topk_L12_mixed topk_L12_sandbagging_only
topk_L4_genuine_only topk_L4_mixed topk_L4_sandbagging_only topk_L8_genuine_only topk_L8_mixed
topk_L8_sandbagging_only topk_k128_L8_genuine_only topk_k128_L8_mixed
topk_k128_L8_sandbagging_only topk_k16_L8_genuine_only topk_k16_L8_mixed
topk_k16_L8_sandbagging_only topk_k256_L12_genuine_only topk_k256_L12_mixed
topk_k256_L12_sandbagging_only topk_k256_L4_genuine_only topk_k256_L4_mixed
topk_k256_L4_sandbagging_only topk_k256_L8_genuine_only topk_k256_L8_mixed
topk_k256_L8_sandbagging_only topk_k32_L8_genuine_only topk_k32_L8_mixed
topk_k32_L8_sandbagging_only x8_gated_L8_mixed x8_k256_L8_mixed x8_k64_L8_mixed
""".split()


def test_the_table_makes_the_cards_own_list_of_forty_two():
    made = saes.card_tags("llama", [4, 8, 12])
    assert len(made) == 42 and sorted(made) == sorted(f"v4_llama_{name}" for name in CARDS_OWN)
    assert all(saes.tag(saes.parse_tag(name)) == name for name in made)
    assert "v4_smollm2_x8_k64_L15_mixed" in saes.card_tags("smollm2", [7, 15, 22])


def test_short_tags():
    tags = [f"v4_smollm2_{a}_L{layer}_mixed" for a in ("topk_k32", "jumprelu") for layer in (7, 15)]
    assert [saes.short_tag(t) for t in tags] == [
        "L7 topk_k32 mixed",
        "L15 topk_k32 mixed",
        "L7 jumprelu mixed",
        "L15 jumprelu mixed",
    ]


def test_globs_choose_among_the_cards_tags():
    choose = lambda *globs: saes.matching(globs, "smollm2", [7, 15, 22])  # noqa: E731
    assert len(choose("*")) == 42 and len(choose("*_jumprelu_*", "v4_smollm2_topk_L*")) == 18
    assert choose("*x8*") == [
        "v4_smollm2_x8_gated_L15_mixed",
        "v4_smollm2_x8_k64_L15_mixed",
        "v4_smollm2_x8_k256_L15_mixed",
    ]
    assert choose("v4_smollm2_topk_k8_L3_mixed") == [
        "v4_smollm2_topk_k8_L3_mixed"
    ]  # a whole tag need not be one of the card's
    with pytest.raises(UserError, match="nearest is 'v4_smollm2_gated_L15_mixed'"):
        choose("*gatted_L15_mixed*")


def test_card_defaults():
    made = saes.parse_tag("v4_llama_topk_L8_mixed").recipe(d_in=2048)
    assert (made.k, made.d_sae, made.epochs, made.batch, made.lr) == (64, 8192, 300, 128, 3e-4)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("v4_smollm_topk_L15_mixd", "v4_smollm_topk_L15_mixed"),
        ("v4_smollm_jumprelo_L15_genuine_only", "v4_smollm_jumprelu_L15_genuine_only"),
        ("v4_llama_topk_k64_L8_mixed", "v4_llama_topk_L8_mixed"),
        ("v4_llama_topk_L08_mixed", "v4_llama_topk_L8_mixed"),
        ("v4_llama_jumprelu_k64_L8_mixed", "v4_llama_jumprelu_L8_mixed"),
        ("v4_llama_topk_k0_L8_mixed", "v4_llama_topk"),
        ("nonsense", "v4_"),
        ("", "v4_"),
    ],
)
def test_unknown_tag_names_the_nearest(wrong, nearest):
    with pytest.raises(UserError, match=f"nearest is '{nearest}"):
        saes.parse_tag(wrong)


def test_tag_outside_the_known_ones_is_refused():
    with pytest.raises(UserError, match="'v4_a_topk_L1_mixed'"):
        saes.parse_tag("v4_a_topk_L2_mixed", known=["v4_a_topk_L1_mixed", "v4_a_jumprelu_L9_mixed"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": 65}, "k = 65"),
        ({"k": None}, "needs k"),
        ({"architecture": "gated"}, "no other recipe takes one"),
        ({"architecture": "standard", "k": None}, "standard"),
        ({"kernel": "box"}, "gaussian"),
        ({"condition": "all"}, "all"),
        ({"lr": 0.0}, "lr"),
        ({"steps": 0}, "steps"),
    ],
)
def test_contradictory_recipe_is_refused(changes, reason):
    fields = {
        "model": "m",
        "architecture": "topk",
        "layer": 1,
        "condition": "mixed",
        "d_in": D_IN,
        "k": 4,
    }
    with pytest.raises(UserError, match=reason):
        saes.Recipe(**{**fields, **changes})


# Data


def test_select_tokens_by_condition_and_split():
    rows = [(c, s) for c in ("genuine", "sandbag", "neutral", "placebo") for s in ("train", "test")]
    table = pd.DataFrame(rows, columns=["condition", "split"]).assign(
        row=range(8), question_id="q1"
    )
    assert saes.select_tokens(table, "genuine_only").tolist() == [0]
    assert saes.select_tokens(table, "genuine_only", genuine="neutral").tolist() == [4]
    assert saes.select_tokens(table, "sandbagging_only", split="test").tolist() == [3]
    assert saes.select_tokens(table, "sandbagging_only", sandbag="placebo").tolist() == [6]
    assert saes.select_tokens(table.sample(frac=1, random_state=0), "mixed").tolist() == [0, 2, 4]
    # The shared prefix is trained on, and never judged on, whether its empty name was read back
    # from a file or not.
    for nameless in ("", None):
        prefix = table.assign(question_id=nameless)
        assert saes.select_tokens(prefix, "genuine_only").tolist() == [0]
        with pytest.raises(UserError, match="No tokens"):
            saes.select_tokens(prefix, "genuine_only", split="test")
    with pytest.raises(UserError, match="No tokens"):
        saes.select_tokens(table[table.split == "test"], "mixed")


def test_scaling_brings_the_mean_norm_to_the_root_of_the_width(activations):
    tokens, scale = saes.training_data(activations)
    assert float(tokens.norm(dim=1).mean()) == pytest.approx(math.sqrt(D_IN), rel=1e-5)
    same, _ = saes.training_data(activations[:10], scale)
    assert torch.equal(same, tokens[:10])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (torch.zeros(0, D_IN), "at least two"),
        (torch.ones(1, D_IN), "at least two"),
        (torch.zeros(9, D_IN), "zero"),
        (torch.full((9, D_IN), torch.nan), "NaN"),
        (torch.full((9, D_IN), torch.inf), "infinity"),
        (torch.ones(9), "token d_model"),
    ],
)
def test_unusable_activations_are_refused(bad, reason):
    with pytest.raises(UserError, match=reason):
        saes.training_data(bad)


def test_tokens_of_another_width_are_refused():
    with pytest.raises(UserError, match="width 16.*width 8"):
        saes.train(recipe(), torch.randn(50, 8))


# Training


def test_history_and_loss_falls(trained):
    _, _, history, _, _ = trained
    assert history.columns.tolist() == ["step", "loss", "fvu", "l0"]
    assert history["step"].tolist() == [0, 20, 40, 59]
    assert history["fvu"].iloc[-1] < 0.7 * history["fvu"].iloc[0]


def test_decoder_rows_are_unit_norm_after_training_and_after_loading(trained, folder):
    for sae in (trained[1], trained[3], saes.load(folder)):
        assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5)


def test_thresholds_move_in_training(activations):
    tokens, _ = saes.training_data(activations)
    made = recipe("jumprelu")
    sae, _ = saes.train(made, tokens)
    moved = (sae.threshold - made.init_threshold).abs()
    assert (moved > 1e-3).float().mean() > 0.9
    assert sae.threshold.std() > 1e-3


def test_threshold_gradient_equals_the_closed_form_on_hand_set_numbers():
    """With K the rectangle of width 1: d/dtheta of z*H(z - theta) is -(theta/eps) K, of H(z -
    theta) -(1/eps) K (Rajamanoharan 2024).

    Finite differences of the smoothed activation would give z/eps for the first, and so pass a
    wrong one.
    """
    from sae_lens.saes.jumprelu_sae import JumpReLU, Step

    # theta = 0.5, eps = 0.4: the kernel is 1 for z in 0.3 ... 0.7, so the first and third token
    # count and the others do not.
    z, theta, eps = (
        torch.tensor([[0.4], [0.2], [0.6], [0.9]]),
        torch.tensor([0.5], requires_grad=True),
        0.4,
    )
    upstream = torch.tensor([[1.0], [10.0], [3.0], [10.0]])
    (JumpReLU.apply(z, theta, eps, False) * upstream).sum().backward()
    assert theta.grad.item() == pytest.approx(-(0.5 / 0.4) * (1.0 + 3.0))
    theta.grad = None
    (Step.apply(z, theta, eps, False) * upstream).sum().backward()
    assert theta.grad.item() == pytest.approx(-(1 / 0.4) * (1.0 + 3.0))


def test_topk_has_k_active_latents(activations):
    tokens, scale = saes.training_data(activations)
    sae = saes.fold_scaling(saes.train(recipe(), tokens)[0], scale)
    assert ((sae.encode(activations) != 0).sum(dim=1) == 4).all()


def test_batches_take_each_token_at_most_once_per_epoch():
    rows = list(training._batches(recipe(batch=32), n_tokens=100, total=7))
    for epoch in (rows[:3], rows[3:6]):
        assert len(torch.cat(epoch).unique()) == 96
    assert not torch.equal(torch.cat(rows[:3]), torch.cat(rows[3:6]))
    assert [len(batch) for batch in training._batches(recipe(batch=32), n_tokens=5, total=2)] == [
        5,
        5,
    ]
    assert saes.total_steps(recipe(steps=None, epochs=3, batch=32), 100) == 9


@pytest.mark.parametrize("arch", saes.ARCHITECTURES)
def test_training_is_deterministic_and_leaves_the_caller_alone(arch, activations):
    tokens, _ = saes.training_data(activations)
    before, random_state = tokens.clone(), torch.get_rng_state()
    first, _ = saes.train(recipe(arch, steps=20), tokens)
    assert torch.equal(torch.get_rng_state(), random_state)
    again, _ = saes.train(recipe(arch, steps=20), tokens)
    other, _ = saes.train(recipe(arch, steps=20, seed=1), tokens)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.W_dec, other.W_dec)
    assert torch.equal(tokens, before)


def test_progress_is_reported_to_the_end(activations):
    seen = []
    tokens, _ = saes.training_data(activations)
    saes.train(
        recipe(steps=7),
        tokens,
        progress=lambda done, total: seen.append((done, total)),
        history_every=3,
    )
    assert seen == [(1, 7), (4, 7), (7, 7)]


def test_diverging_training_is_a_sentence(activations):
    with pytest.raises(UserError, match="diverged"):
        saes.train(recipe(lr=1e30, steps=30), saes.training_data(activations)[0], history_every=1)


# Scaling


def test_folded_sae_on_raw_activations_equals_the_trained_one_on_scaled(trained, activations):
    _, sae, _, folded, scale = trained
    tokens = activations * scale
    with torch.no_grad():
        codes = sae.encode(tokens)
        assert torch.allclose(folded.encode(activations), codes / scale, rtol=1e-4, atol=1e-3)
        assert torch.allclose(
            folded.decode(folded.encode(activations)),
            sae.decode(codes) / scale,
            rtol=1e-4,
            atol=1e-3,
        )
    assert folded.cfg.normalize_activations == "none"


def test_identity_with_the_error_term_is_a_no_op(trained, activations):
    sae = trained[3]
    recon = sae.decode(sae.encode(activations))
    assert torch.allclose(recon + (activations - recon), activations, atol=1e-5)
    # Written as a change, as the swap writes it, the error term cancels exactly.
    assert torch.equal(
        activations + sae.decode(sae.encode(activations)) - recon, activations + recon - recon
    )
    assert torch.equal(activations + (sae.decode(sae.encode(activations)) - recon), activations)


# Saving and loading


def test_three_ways_of_loading_agree(trained, folder, activations):
    from sae_lens import SAE

    made, _, _, sae, _ = trained
    codes, recon = sae.encode(activations), sae.decode(sae.encode(activations))
    for loaded in (saes.load(folder, d_in=D_IN), SAE.load_from_disk(folder)):
        assert torch.allclose(loaded.encode(activations), codes, atol=1e-6)
        assert torch.allclose(loaded.decode(loaded.encode(activations)), recon, atol=1e-6)
    # By hand, from the weights alone.
    weights, config = load_file(weights_file(folder)), json.loads((folder / "cfg.json").read_text())
    pre = (activations - weights["b_dec"]) @ weights["W_enc"] + weights.get("b_enc", 0)
    if made.architecture == "gated":
        by_hand = (pre + weights["b_gate"] > 0) * (
            pre * weights["r_mag"].exp() + weights["b_mag"]
        ).relu()
    elif made.architecture == "topk":
        top = pre.topk(config["k"], dim=1)
        by_hand = torch.zeros_like(pre).scatter(1, top.indices, top.values.clamp(min=0))
    else:
        by_hand = torch.where(pre > weights["threshold"], pre.clamp(min=0), 0)
    assert torch.allclose(by_hand, codes, atol=1e-6)
    assert torch.allclose(
        by_hand @ weights["W_dec"] + weights["b_dec"], recon, rtol=1e-6, atol=1e-5
    )


def test_metadata_says_where_the_sae_belongs(folder):
    sae = saes.load(folder)
    metadata = sae.cfg.metadata
    assert (metadata.model_name, metadata.hook_name, metadata.hook_layer) == (
        "tiny-llama",
        "blocks.3.hook_resid_post",
        3,
    )
    assert (metadata.tag, metadata.seed, metadata.dataset) == (
        folder.name,
        0,
        "questions_train.jsonl",
    )
    assert saes.Recipe(**metadata.recipe) == recipe(metadata.recipe["architecture"])


def test_interrupted_save_leaves_no_half_folder_and_keeps_the_old_one(
    trained, tmp_path, monkeypatch
):
    made, _, _, sae, _ = trained
    metadata = saes.describe(made, model_name="tiny-llama", dataset="d")

    def full_disk(path):
        (path / "sae_weights.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def interrupted(path):
        (path / "sae_weights.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sae, "save_model", full_disk)
        with pytest.raises(UserError, match="No space left"):
            saes.save(sae, tmp_path / "new", metadata)
    assert list(tmp_path.iterdir()) == []
    saes.save(sae, tmp_path / "old", metadata)
    before = weights_file(tmp_path / "old").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(sae, "save_model", interrupted)
        with pytest.raises(KeyboardInterrupt):
            saes.save(sae, tmp_path / "old", metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert weights_file(tmp_path / "old").read_bytes() == before
    saes.save(sae, tmp_path / "old", metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_save_without_metadata_is_refused(trained, tmp_path):
    with pytest.raises(UserError, match="hook_layer"):
        saes.save(trained[3], tmp_path / "x", {"model_name": "m"})
    assert not list(tmp_path.iterdir())


def test_hand_made_folder_is_loaded_and_its_metadata_kept(tmp_path):
    sae = saes.load(
        topk_folder(
            tmp_path / "x", model_name="m", hook_layer=4, hook_name="blocks.4.hook_resid_post"
        )
    )
    assert (sae.cfg.k, sae.cfg.metadata.hook_layer) == (4, 4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": None}, "does not say k"),
        ({"k": 0}, "positive whole number"),
        ({"k": "64"}, "positive whole number"),
        ({"k": 65}, "above d_sae"),
        ({"architecture": None}, "does not say architecture"),
        ({"architecture": "gated"}, "b_gate"),
        ({"architecture": "batchtopk"}, "for training only"),
        ({"architecture": "standard"}, "can be loaded"),
        ({"normalize_activations": None}, "does not say normalize_activations"),
        ({"normalize_activations": "expected_average_only_in"}, "normalised"),
        ({"apply_b_dec_to_input": None}, "apply_b_dec_to_input"),
        ({"normalize_activations": "layer_norm"}, "normalised"),
        ({"d_in": 32}, "shape"),
        ({"d_sae": 10**15}, "shape"),
        ({"architecture": "jumprelu"}, "threshold"),
    ],
)
def test_silent_guesses_are_refused(tmp_path, changes, reason):
    with pytest.raises(UserError, match=reason):
        saes.load(topk_folder(tmp_path / "x", **changes))


def noted(path):
    """Load a folder and return what was noted."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sae = saes.load(path)
    return sae, " ".join(str(w.message) for w in caught)


def test_what_the_tag_says_fills_the_gap_with_a_note_where_the_tensors_agree(tmp_path):
    sae, notes = noted(topk_folder(tmp_path / "v4_llama_topk_k8_L8_mixed", k=None))
    assert sae.cfg.k == 8 and "k = 8 was read from the tag" in notes
    sae, notes = noted(
        topk_folder(tmp_path / "v4_llama_topk_k16_L8_mixed", architecture=None, k=None)
    )
    assert (
        type(sae).__name__ == "TopKSAE" and "architecture = 'topk' was read from the tag" in notes
    )
    # a JumpReLU SAE has thresholds
    with pytest.raises(UserError, match="does not say architecture"):
        saes.load(topk_folder(tmp_path / "v4_llama_jumprelu_L8_mixed", architecture=None))


def test_older_forms_are_put_right_with_a_note(tmp_path):
    flat = {"hook_layer": 4, "hook_name": "blocks.4.hook_resid_post", "sae_lens_version": "6.1.0"}
    sae, notes = noted(topk_folder(tmp_path / "a", **flat))
    assert (
        sae.cfg.metadata.hook_layer == 4
        and "moved to metadata" in notes
        and "dtype is not said" in notes
    )
    sae, notes = noted(topk_folder(tmp_path / "b", k=None, activation_fn_kwargs={"k": 9}))
    assert sae.cfg.k == 9 and "activation_fn_kwargs" in notes
    path = topk_folder(tmp_path / "c", architecture="jumprelu", k=None)
    weights = load_file(weights_file(path))
    save_file({**weights, "log_threshold": torch.full((64,), math.log(0.25))}, weights_file(path))
    sae, notes = noted(path)
    assert torch.allclose(sae.threshold, torch.full((64,), 0.25)) and "logarithms" in notes


def test_a_setting_that_the_file_leaves_out_can_be_given(tmp_path):
    path = topk_folder(tmp_path / "x", apply_b_dec_to_input=None)
    with pytest.warns(UserWarning, match="apply_b_dec_to_input = False was given"):
        assert (
            saes.load(path, given={"apply_b_dec_to_input": False}).cfg.apply_b_dec_to_input is False
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # what the file says is not overruled
        kept = saes.load(topk_folder(tmp_path / "y"), given={"k": 9})
    assert kept.cfg.k == 4


def test_ranking_by_decoder_norm_must_be_said_where_it_matters(tmp_path):
    path = topk_folder(tmp_path / "x")
    weights = load_file(weights_file(path))
    save_file({**weights, "W_dec": 2 * weights["W_dec"]}, weights_file(path))
    with pytest.raises(UserError, match="rescale_acts_by_decoder_norm"):
        saes.load(path)


def test_pickled_weights_are_never_opened(tmp_path):
    path = topk_folder(tmp_path / "x")
    weights_file(path).unlink()
    (path / "sae_weights.pt").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(UserError, match="could run code"):
        saes.load(path)


def test_huge_declared_shapes_are_refused_without_reading(tmp_path):
    path = topk_folder(tmp_path / "x", d_in=2**40, d_sae=2**20)
    header = json.dumps(
        {"W_dec": {"dtype": "F32", "shape": [2**20, 2**40], "data_offsets": [0, 2**62]}}
    ).encode()
    weights_file(path).write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="truncated or damaged"):
        saes.load(path)
    (path / "cfg.json").write_text("[" * 2_000_000)
    with pytest.raises(UserError, match="not readable JSON"):
        saes.load(path)


def test_wrong_width_says_what_it_fits(folder):
    with pytest.raises(UserError, match="d_model = 16 .*tiny-llama.* this model has 576"):
        saes.load(folder, d_in=576)


def test_damaged_files_are_refused(tmp_path):
    path = topk_folder(tmp_path / "x")
    data = weights_file(path).read_bytes()
    for damaged in (data[: len(data) // 2], data[:4], b"", b"\x80\x04pickle" * 9, b"\xff" * 64):
        weights_file(path).write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or damaged"):
            saes.load(path)
    weights_file(path).unlink()
    with pytest.raises(UserError, match="weights.safetensors is missing"):
        saes.load(path)
    (path / "cfg.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        saes.load(path)
    with pytest.raises(UserError, match="cfg.json is missing"):
        saes.load(tmp_path / "nowhere")


def test_nan_weights_are_refused_and_odd_ones_noted(tmp_path):
    path = topk_folder(tmp_path / "x", rescale_acts_by_decoder_norm=False)
    weights = load_file(weights_file(path))
    save_file({**weights, "W_dec": 2 * weights["W_dec"]}, weights_file(path))
    with pytest.warns(UserWarning, match="unit norm"):
        saes.load(path)
    save_file({**weights, "b_enc": torch.full((64,), torch.nan)}, weights_file(path))
    with pytest.raises(UserError, match="NaN or infinity in b_enc"):
        saes.load(path)
    assert saes.weight_notes(weights) == []
    assert "plain ReLU" in saes.weight_notes({**weights, "threshold": torch.zeros(64)})[0]


# Quality


class HandSae:
    """Codes are the positive entries above 1 of x, and decode returns them: every figure can be
    told by hand.
    """

    class cfg:
        d_sae = 3

    encode = staticmethod(lambda x: torch.where(x > 1, x, 0))
    decode = staticmethod(lambda codes: codes)


def test_quality_on_hand_set_numbers():
    tokens = torch.tensor([[2.0, 0, 0], [4, 0, 1], [0, 0, 0], [6, 0, 1]])
    figures = saes.quality(HandSae(), tokens, [False, True, False, True], loss_recovered=0.9)
    # Only the two 1s are lost: error 2. Spread: column 0 has mean 3 (1+1+9+9), column 2 mean 1/2 (4
    # x 1/4).
    assert figures["fvu"] == pytest.approx(2 / 21)
    assert figures["fvu_last"] == pytest.approx(2 / 2)
    assert (figures["l0"], figures["l0_last"], figures["loss_recovered"]) == (0.75, 1.0, 0.9)
    assert figures["dead"] == figures["dead_last"] == pytest.approx(2 / 3)
    assert (figures["n_tokens"], figures["n_tokens_last"]) == (4, 2)


def test_quality_is_the_same_in_chunks_and_none_where_undefined(trained, activations, monkeypatch):
    whole = saes.quality(trained[3], activations, np.arange(400) % 7 == 0)
    monkeypatch.setattr(evaluation, "CHUNK", 13)
    for name, value in saes.quality(trained[3], activations, np.arange(400) % 7 == 0).items():
        assert (
            value == pytest.approx(whole[name], rel=1e-5)
            if value is not None
            else whole[name] is None
        )
    assert saes.quality(trained[3], activations)["fvu_last"] is None
    with pytest.raises(UserError, match="marks 3 tokens"):
        saes.quality(trained[3], activations, [True] * 3)


# From activations to a folder, and the last prompt tokens


@pytest.fixture(scope="module")
def layer(activations):
    """Activations of 40 rows a split and condition with their table: a prefix of 4 rows, then 6
    questions of 6 tokens.
    """
    lines = [
        {
            "split": split,
            "condition": condition,
            "position": position if token < 4 else 4 + position,
            "question_id": "" if token < 4 else f"{split}-{(token - 4) // 6}",
            "is_last": token >= 4 and (token - 4) % 6 == 5,
        }
        for split in ("train", "test")
        for condition in ("genuine", "sandbag", "neutral")
        for token in range(40)
        for position in [1 + token if token < 4 else (token - 4) % 6]
    ]
    table = pd.DataFrame(lines)
    return activations[: len(table)], table.assign(row=np.arange(len(table)))


def test_recipes_are_one_for_each_tag():
    found = saes.recipes(
        "org/SmolLM2-135M", D_IN, [3, 5, 7], ["*_topk_L3_mixed", "*_jumprelu_L5_*"], steps=10
    )
    assert (
        [saes.tag(r) for r in found][-1] == "v4_SmolLM2_topk_L3_mixed"
        and len(found) == 4
        and found[0].steps == 10
    )


def source(layer, **more):
    resid, table = layer
    return saes.Source({3: resid}, table, {3: saes.input_scale(resid)}, "tiny", "default", **more)


def test_train_tags_writes_a_folder_and_held_out_figures(layer, tmp_path):
    resid, table = layer
    calls, name = [], saes.tag(recipe())
    recovered = lambda layer, f: float(layer + f(resid[:3]).shape[0])  # noqa: E731
    found = saes.train_tags(
        [recipe()],
        source(layer, loss_recovered=recovered, metadata={"commit": "abc"}),
        tmp_path,
        progress=lambda *a: calls.append(a),
    )[0]
    assert (
        found.metrics.items() <= json.loads((tmp_path / name / "metrics.json").read_text()).items()
    )
    assert saes.load(tmp_path / name).cfg.metadata["commit"] == "abc"
    # 3 conditions x 36 question tokens on test; on train the prefixes count too.
    assert (
        found.metrics["n_tokens"],
        found.metrics["n_tokens_last"],
        found.metrics["n_tokens_train"],
    ) == (108, 18, 120)
    assert (
        found.metrics["fvu_train"] < found.metrics["fvu_same"] == found.metrics["fvu"]
        and found.metrics["loss_recovered"] == 6
    )
    assert calls[-1] == ("train 1 SAEs", 60, 60) and set(found.history["tag"]) == {name}
    for last, key in ((False, "fvu"), (True, "fvu_last")):
        estimate = saes.fvu_ci(
            saes.errors_by_question(found.sae, resid, table, "mixed", "test", last)
        )
        assert (
            estimate.value == pytest.approx(found.metrics[key], rel=1e-4)
            and estimate.low < estimate.value < estimate.high
        )


def test_train_tags_leaves_finished_tags_alone_and_refuses_other_settings(layer, tmp_path):
    made = [
        recipe(k=4),
        recipe(k=8),
        recipe("gated"),
        dataclasses.replace(recipe("jumprelu"), condition="genuine_only"),
    ]
    first = saes.train_tags(made[:2], source(layer), tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("sae_weights.safetensors")}
    again = saes.train_tags(made, source(layer), tmp_path)
    assert [t.metrics["tag"] for t in again] == [saes.tag(r) for r in made]
    assert again[0].metrics == first[0].metrics and all(
        path.stat().st_mtime_ns == when for path, when in written.items()
    )
    assert not list(tmp_path.glob(".checkpoint*"))
    with pytest.raises(UserError, match="lr = 0.003 there, 0.001 now"):
        saes.train_tags([recipe(k=4, lr=1e-3)], source(layer), tmp_path)
    with pytest.raises(UserError, match="no activations of layer 5"):
        saes.train_tags([dataclasses.replace(recipe(), layer=5)], source(layer), tmp_path)


def test_last_tokens_are_paired_by_question(layer):
    resid, table = layer
    shuffled = table.sample(frac=1, random_state=0)
    found = saes.last_tokens(resid, shuffled, "test", ("genuine", "sandbag"))
    wanted = table[
        (table["split"] == "test") & (table["condition"] == "sandbag") & table["is_last"]
    ]["row"].to_numpy()
    assert list(found) == ["genuine", "sandbag"] and torch.equal(found["sandbag"], resid[wanted])
    with pytest.raises(UserError, match="same questions"):
        saes.last_tokens(resid, table, "test", ("genuine", "placebo"))


def test_mean_difference_is_fitted_on_train_alone():
    train = {"a": torch.tensor([[3.0, 0.0], [5.0, 0.0]]), "b": torch.zeros(2, 2)}
    test = {"a": torch.tensor([[2.0, 9.0]]), "b": torch.tensor([[-1.0, 9.0]])}
    found = saes.along_mean_difference(train, test, ("a", "b"))
    assert found["a"].tolist() == [[2.0]] and found["b"].tolist() == [[-1.0]]


def test_cue_rows_find_the_words_in_the_other_prefix():
    # 8 9 = "In correct", 9 alone would be another word: the cue reaches back to the first differing
    # token.
    records = pd.DataFrame(
        {
            "split": "train",
            "condition": ["genuine", "sandbag"],
            "prompt_token_ids": [
                [1, 8, 9, 2, 3, 5, 7, 2, 3, 6, 7, 2, 3],
                [1, 8, 9, 2, 3, 5, 7, 2, 3, 6, 8, 9, 2, 3],
            ],
        }
    )
    table = pd.DataFrame(
        {
            "row": [10, 11, 12, 13, 14],
            "split": "train",
            "condition": "genuine",
            "question_id": None,
            "position": [1, 2, 3, 4, 8],
        }
    )
    assert saes.cue_rows(records, table).tolist() == [13]
    assert (
        saes.cue_rows(records.assign(prompt_token_ids=[[1, 2, 3], [4, 2, 3]]), table).tolist() == []
    )


KILLED = """
import sys
import numpy as np, pandas as pd, torch
from pathlib import Path
from sandbagging import saes
from sandbagging.saes import training

training.CHECKPOINT_SECONDS = 0.0
kinds = ("topk_k4", "topk_k8", "jumprelu", "gated")
made = [saes.parse_tag(f"v4_tiny_{a}_L3_mixed").recipe(16, steps=400, batch=32) for a in kinds]
table = pd.DataFrame([{"split": s, "condition": c, "question_id": f"{s}{t // 6}",
                       "position": t % 6, "is_last": t % 6 == 5}
                      for s in ("train", "test") for c in ("genuine", "sandbag", "neutral")
                      for t in range(36)])
resid = torch.randn(len(table), 16, generator=torch.Generator().manual_seed(0))
source = saes.Source({3: resid}, table.assign(row=np.arange(len(table))), {3: 1.0}, "tiny", "d")
saes.train_tags(made, source, Path(sys.argv[1]),
                progress=lambda label, done, total: print(done, total, flush=True))
"""


@pytest.mark.slow
def test_a_grid_killed_at_any_point_goes_on_to_the_same_files(tmp_path):
    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
        )

    assert (
        start(tmp_path / "whole").communicate()[0]
        and len(list((tmp_path / "whole").glob("*/metrics.json"))) == 4
    )
    for kill_at in (2, 9, 20):  # lines of progress: within the first group, the second, the last
        process = start(tmp_path / "killed")
        for _ in range(kill_at):
            process.stdout.readline()
        process.kill()
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    for path in (tmp_path / "whole").glob("*/sae_weights.safetensors"):
        again = load_file(tmp_path / "killed" / path.parent.name / path.name)
        assert all(torch.equal(value, again[name]) for name, value in load_file(path).items()), (
            path.parent.name
        )
    assert not [p for p in (tmp_path / "killed").iterdir() if p.name.startswith(".")]
