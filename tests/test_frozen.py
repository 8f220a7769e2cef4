"""SAEs that learned nothing of the kind: fast training against a plain loop, and what is held."""

import dataclasses
import itertools

import pytest
import torch
from tiny_models import sparse_tokens

from sandbagging import saes
from sandbagging.errors import UserError
from sandbagging.saes import frozen, training
from sandbagging.saes.recipes import Recipe

RECIPE = Recipe("tiny", "topk", 1, "mixed", 16, expansion=3, k=4, steps=25, batch=32, lr=0.02)


@pytest.fixture(scope="module")
def tokens():
    return sparse_tokens(200, 40, 16, scale=4, offset=1)


def plain_loop(recipe, tokens, kind):
    """The same training by autograd, a statement a line; TopK without dead latents."""
    sae = training.new_sae(recipe, recipe.steps, tokens.mean(0))
    w = {n: getattr(sae, n).detach().clone() for n in ("W_enc", "W_dec", "b_enc", "b_dec")}
    w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)
    start, held = w["W_dec"].clone(), frozen.HELD.get(kind)
    free = [value.requires_grad_() for name, value in w.items() if name != held]
    adam = torch.optim.Adam(free, lr=recipe.lr)
    for rows in itertools.islice(
        training._batches(recipe, len(tokens), recipe.steps), recipe.steps
    ):
        x = tokens[rows]
        pre = (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        kept = pre.relu().topk(recipe.k, dim=1)
        codes = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
        loss = (codes @ w["W_dec"] + w["b_dec"] - x).square().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        if held != "W_dec":
            along = (w["W_dec"].grad * w["W_dec"]).sum(1, keepdim=True) * w["W_dec"]
            w["W_dec"].grad -= along.detach()
        torch.nn.utils.clip_grad_norm_(free, recipe.clip)
        adam.step()
        with torch.no_grad():
            if held != "W_dec":
                w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)
            if kind == "near_decoder":
                for row, begun in zip(w["W_dec"], start, strict=True):
                    if row @ begun < 0.8:
                        aside = row - (row @ begun) * begun
                        row.copy_(0.8 * begun + 0.6 * aside / aside.norm())
    return w


@pytest.mark.parametrize("kind", frozen.KINDS)
def test_the_fast_training_equals_a_plain_loop(kind, tokens):
    found = frozen.train_frozen(RECIPE, tokens)[kind]
    by_hand = plain_loop(RECIPE, tokens, kind)
    for name, value in by_hand.items():
        torch.testing.assert_close(
            getattr(found.sae, name), value.detach(), rtol=1e-3, atol=1e-4, msg=name
        )
    cosine = (found.sae.W_dec * found.start).sum(1)
    # The cone is reached: without it rows would have left it (next test).
    assert kind != "near_decoder" or cosine.min() == pytest.approx(0.8, abs=1e-4)


def test_what_is_held_stays_and_all_else_is_learned(tokens):
    begun = training.new_sae(RECIPE, 1, tokens.mean(0))
    (trained, history), *_ = training.train_together([RECIPE], tokens)
    found = frozen.train_frozen(RECIPE, tokens)
    assert torch.equal(found["frozen_decoder"].sae.W_dec, found["frozen_decoder"].start)
    assert torch.equal(found["frozen_encoder"].sae.W_enc, begun.W_enc)
    assert not torch.allclose(found["frozen_encoder"].sae.W_dec, begun.W_dec)
    assert not torch.allclose(found["frozen_decoder"].sae.W_enc, begun.W_enc)
    # A trained SAE leaves the cone, so that keeping near is a constraint indeed.
    assert (trained.W_dec * found["near_decoder"].start).sum(1).min() < 0.78


def test_all_three_learn_to_rebuild_at_the_l0_they_were_given(tokens):
    longer = dataclasses.replace(RECIPE, steps=150)
    untouched = saes.fold_scaling(training.new_sae(longer, 1, tokens.mean(0)), 2.0)
    before = saes.quality(untouched, tokens / 2)["fvu"]
    for kind, one in frozen.train_frozen(longer, tokens, scale=2.0).items():
        told = frozen.quality_of(one, tokens / 2, tokens[:40] / 2)
        assert told["fvu"] < 0.8 * before and told["l0"] <= RECIPE.k, kind
        assert 0.8 - 1e-4 <= told["cosine_low"] or kind == "frozen_encoder"


def test_rows_are_turned_back_to_the_edge_of_the_cone_and_others_left_alone():
    """Start (1, 0). A row at cosine 0.6 comes to (0.8, 0.6); one at 0.9 stays."""
    start = torch.tensor([[1.0, 0.0]] * 3)
    rows = torch.tensor([[0.6, 0.8], [0.9, 0.19**0.5], [-1.0, 0.0]])
    found = frozen.kept_near(rows, start)
    torch.testing.assert_close(found[:2], torch.tensor([[0.8, 0.6], [0.9, 0.19**0.5]]))
    assert found[2, 0] == pytest.approx(0.8)


def test_batches_come_in_the_order_of_the_trained_sae():
    ours = list(itertools.islice(frozen.batches(RECIPE, 100), 10))
    theirs = list(training._batches(RECIPE, 100, 10))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_recipe_beside_an_sae_takes_its_mean_l0(tokens):
    recipe = Recipe("tiny", "jumprelu", 1, "mixed", 16, expansion=3, steps=5, init_threshold=0.1)
    sae = saes.fold_scaling(training.train_together([recipe], tokens)[0][0], 2.0)
    with pytest.raises(UserError, match="how it was trained"):
        frozen.recipe_like(sae, tokens, 2.0)
    sae.cfg.metadata["recipe"] = dataclasses.asdict(recipe)
    like = frozen.recipe_like(sae, tokens, 2.0)
    l0 = float((sae.encode(tokens / 2) != 0).sum(1).float().mean())
    assert like.architecture == "topk" and like.k == round(l0) and like.d_sae == recipe.d_sae


@pytest.mark.parametrize(
    "changes, kinds, word",
    [
        ({}, ["frozen"], "Unknown kind"),
        ({}, [], "Unknown kind"),
        ({"architecture": "gated", "k": None}, frozen.KINDS, "TopK"),
        ({"unit_norm_decoder": False}, frozen.KINDS, "unit norm"),
    ],
)
def test_what_cannot_be_held_is_refused(changes, kinds, word, tokens):
    with pytest.raises(UserError, match=word):
        frozen.train_frozen(dataclasses.replace(RECIPE, **changes), tokens, kinds=kinds)
