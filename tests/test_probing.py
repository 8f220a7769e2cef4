"""AUROC and L0 of codes that are set by hand, and detectors whose truth is known."""

import numpy as np
import pytest

from sandbagging.saes import detection, matched, probing


def test_auroc_on_hand_set_codes():
    # Latent 0: a is always larger. Latent 1: never. Latent 2: equal throughout. Latent 3: 3 of 4
    # pairs, one of them a tie.
    a = np.array([[2.0, 0, 1, 1], [3, 0, 1, 3]])
    b = np.array([[1.0, 5, 1, 1], [0, 5, 1, 2]])
    assert probing.auroc(a, b) == pytest.approx([1, 0, 0.5, 0.625])


def test_the_interval_of_auroc_has_about_the_width_of_theory():
    """For 200 pairs at chance the standard error of AUROC is sqrt((2n + 1) / (12 n^2)), so the CI95
    is about 0.113 wide.
    """
    a, b = np.random.default_rng(0).normal(size=(2, 200))
    _, draws = detection.auroc_draws(detection.Kinds(a, b, True))
    low, high = np.percentile(draws, [2.5, 97.5])
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(401 / (12 * 200**2)), rel=0.2)


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


def held_out(found, by, pair=("a", "b")):
    return probing.auroc(*(found[by][c][:, None] for c in pair))[0]


def test_a_detector_finds_the_latent_on_train_and_is_judged_on_test():
    train, test = prompts(60, 20, [7], 0), prompts(50, 20, [7], 1)
    for pair in (("a", "b"), ("b", "a")):  # smaller in b is as good as larger in a
        found = matched.scores(train, test, pair)
        assert np.array_equal(np.abs(found["best_latent"]["a"]), test["a"][:, 7])
        assert held_out(found, "best_latent", pair) > 0.95
        assert held_out(found, "all_latents", pair) > 0.9


def test_nothing_to_find_is_at_chance_on_held_out_prompts_and_above_it_in_sample():
    train, test = prompts(60, 300, [], 0), prompts(60, 300, [], 1)
    for by in matched.BY:
        # in sample the best of 300 tries, each with a standard error of 0.05
        assert held_out(matched.scores(train, train, ("a", "b")), by) > 0.62
        assert abs(held_out(matched.scores(train, test, ("a", "b")), by) - 0.5) < 0.15
