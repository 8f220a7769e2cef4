"""Gradients as estimates of patching: exact where everything is linear, and held against slower
routes where it is not.
"""

import numpy as np
import pytest
import toy_models

from sandbagging import metrics, nodes
from sandbagging.errors import UserError
from sandbagging.heads import patching
from sandbagging.nodes import gradients, ranking, sweep, values
from sandbagging.nodes.node import Mlp

MATCHED = "contrast"


def test_in_a_linear_model_all_routes_are_exact_and_complete():
    """Patching each node, one gradient, and gradients along the way agree; the embeddings' score is
    the whole difference, with a single step.
    """
    model, asked = toy_models.linear(), toy_models.PAIRS
    every = nodes.all_nodes(model)
    patched = ranking.of_effects(nodes.patch_sets(model, asked, MATCHED, nodes.alone(every)))
    slope = nodes.attribution(model, asked, MATCHED)
    along = nodes.integrated(model, asked, MATCHED, steps=1)
    largest = max(map(abs, patched.values()))
    assert largest > 0.3  # or nothing would be compared
    for node in every:
        assert slope[node] == pytest.approx(patched[node], abs=3e-3)
        assert along.scores[node] == pytest.approx(patched[node], abs=3e-3)
    genuine, sandbag = (
        metrics.measure(model, metrics.prepare(model, asked, c, MATCHED), ["logodds"])["logodds"]
        for c in ("genuine", "sandbag")
    )
    assert along.difference == pytest.approx((genuine - sandbag).mean(), abs=3e-3)
    assert along.embedding == pytest.approx(along.difference, abs=3e-3)


def test_scores_of_heads_are_those_of_attribution_over_heads(tiny, tiny_questions):
    parts = [
        patching.in_parts(tiny, tiny_questions, c, MATCHED, gradients.AT_ONCE)
        for c in ("sandbag", "genuine")
    ]
    expected = patching.attribution(tiny, *parts, metric="logodds")
    found = nodes.attribution(tiny, tiny_questions, MATCHED)
    heads = [node for node in found if not isinstance(node, Mlp)]
    np.testing.assert_allclose([found[h] for h in heads], expected.ravel(), rtol=1e-3, atol=1e-5)


def test_attribution_is_the_slope_of_the_real_effect_of_an_mlp(tiny, tiny_questions):
    """A small share of the change of its output has that share of the score as its effect."""
    genuine, sandbag = (
        metrics.prepare(tiny, tiny_questions, c, MATCHED) for c in ("genuine", "sandbag")
    )
    found, share = nodes.attribution(tiny, tiny_questions, MATCHED), 0.003
    new, old = (values.values_of(tiny, pack) for pack in (genuine, sandbag))
    partly = {point: old[point] + share * (new[point] - old[point]) for point in new}
    mlps = nodes.all_mlps(tiny)
    moved = sweep.replace_sets(tiny, sandbag, nodes.alone(mlps), partly).effect("logodds").mean(1)
    assert moved / share == pytest.approx([found[m] for m in mlps], rel=0.05, abs=5e-3)


def test_integrated_gradients_come_to_the_difference_as_steps_grow(tiny, tiny_questions):
    """Completeness where nothing is linear; one gradient, halfway, misses it."""
    asked = tiny_questions[:3]
    many = nodes.integrated(tiny, asked, MATCHED, steps=20)
    assert many.steps == 20 and abs(many.difference) > 0.01
    assert many.embedding == pytest.approx(many.difference, rel=0.02)
    few = nodes.integrated(tiny, asked, MATCHED, steps=1)
    assert abs(few.embedding - few.difference) > 3 * abs(many.embedding - many.difference)


def test_prompts_that_do_not_match_are_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="match token by token"):
        nodes.integrated(tiny_llama, tiny_questions, "instr_pref")
