"""Probing by latents: hand-set codes, and a toy model whose direct path is known."""

import numpy as np
import pytest
import torch

from sandbagging.errors import UserError
from sandbagging.saes import probing


def test_auroc_on_hand_set_codes():
    # Latent 0: a is always larger. Latent 1: never. Latent 2: equal throughout. Latent 3: 3 of 4
    # pairs, one of them a tie.
    a = np.array([[2.0, 0, 1, 1], [3, 0, 1, 3]])
    b = np.array([[1.0, 5, 1, 1], [0, 5, 1, 2]])
    assert probing.auroc(a, b) == pytest.approx([1, 0, 0.5, 0.625])
    estimate = probing.auroc_ci(a[:, 3], b[:, 3])
    assert estimate.value == pytest.approx(0.625) and estimate.low <= 0.625 <= estimate.high
    certain = probing.auroc_ci(a[:, 0], b[:, 0])
    assert (certain.low, certain.value, certain.high, certain.n) == (1, 1, 1, 2)


def test_auroc_ci_has_about_the_width_of_theory():
    """For 200 pairs at chance the standard error of AUROC is sqrt((2n + 1) / (12 n^2)), so the CI95
    is about 0.113 wide.
    """
    rng = np.random.default_rng(0)
    estimate = probing.auroc_ci(rng.normal(size=200), rng.normal(size=200))
    assert estimate.high - estimate.low == pytest.approx(
        2 * 1.96 * np.sqrt(401 / (12 * 200**2)), rel=0.2
    )


def test_at_l0_keeps_the_largest_codes_of_each_prompt():
    codes = np.array([[3.0, 0, 1, 2], [0, 0, 0, 5]])
    assert probing.at_l0(codes, 2).tolist() == [[3, 0, 0, 2], [0, 0, 0, 5]]
    assert probing.at_l0(codes, 9) is codes


def prompts(n, latents, tell, seed):
    """Codes of two conditions, equal but for the latents `tell`, which are larger in a."""
    rng = np.random.default_rng(seed)
    a, b = np.abs(rng.normal(size=(2, n, latents)))
    a[:, tell] += 3
    return {"a": a, "b": b}


def test_probe_finds_the_latent_on_train_and_judges_it_on_test():
    found = probing.probe(prompts(60, 20, [7], 0), prompts(50, 20, [7], 1), ("a", "b"))
    assert (
        found["latent"] == 7
        and found["best_latent"].value > 0.95
        and found["all_latents"].value > 0.9
    )
    assert found["best_latent"].n == 50 and found["above_09"] == 1
    turned = probing.probe(prompts(60, 20, [7], 0), prompts(50, 20, [7], 1), ("b", "a"))
    # smaller in b is as good as larger in a
    assert turned["best_latent"].value == pytest.approx(found["best_latent"].value)


def test_nothing_to_find_is_at_chance_on_held_out_prompts_and_above_it_in_sample():
    found = probing.probe(prompts(60, 300, [], 0), prompts(60, 300, [], 1), ("a", "b"))
    assert found["auroc_train"] > 0.62  # the best of 300 tries, each with a standard error of 0.05
    assert found["best_latent"].low < 0.5 < found["best_latent"].high
    assert found["all_latents"].low < 0.5 < found["all_latents"].high


def test_latents_that_never_vary_are_a_sentence():
    flat = {"a": np.ones((4, 3)), "b": np.ones((4, 3))}
    with pytest.raises(UserError, match="nothing to probe"):
        probing.probe(flat, flat, ("a", "b"))


def test_probing_table_matches_the_sparsest():
    dense, sparse = (
        prompts(20, 10, [2], 0),
        {c: probing.at_l0(v, 3) for c, v in prompts(20, 10, [2], 0).items()},
    )
    table = probing.probing_table(
        {"d": dense, "s": sparse}, {"d": dense, "s": sparse}, [("a", "b")]
    )
    assert len(table) == 8 and set(table["at_l0"]) == {"own", "matched"}
    assert table.set_index(["tag", "at_l0", "by"]).loc[("d", "matched", "best_latent"), "l0"] == 3
    assert table.set_index(["tag", "at_l0", "by"]).loc[("d", "own", "best_latent"), "l0"] == 10


def test_direct_tokens_are_those_of_the_unembedding_row(tiny_llama):
    """A direction along one token's unembedding row raises that token most, whatever the norm's
    weight (here 1).
    """
    with torch.no_grad():
        W_U = tiny_llama.module.get_output_embeddings().weight
        raises, lowers = probing.direct_tokens(tiny_llama, W_U[11] / W_U[11].norm())
    assert raises[0] == tiny_llama.tokenizer.decode([11]) and raises[0] not in lowers


def test_taking_out_a_latent_takes_out_its_row_alone():
    class Sae:
        W_dec = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        encode = staticmethod(lambda x: x)

    assert probing.without_latent(torch.tensor([[3.0, 5.0]]), Sae, 1).tolist() == [[3.0, -5.0]]


def test_strongest_prompts_over_conditions():
    codes = {
        "genuine": np.array([[0.0, 1.0], [0.0, 4.0]]),
        "sandbag": np.array([[9.0, 3.0], [9.0, 2.0]]),
    }
    found = probing.strongest_prompts(codes, 1, {"genuine": ["p", "q"], "sandbag": ["p", "q"]}, n=2)
    assert found.to_dict("records") == [
        {"condition": "genuine", "question": "q", "code": 4.0},
        {"condition": "sandbag", "question": "p", "code": 3.0},
    ]
