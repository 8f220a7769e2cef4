"""Patching against slower routes, on prompts that differ in one token; and its linear approximation
against finite differences.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import metrics, prompts
from sandbagging.errors import UserError
from sandbagging.heads import agreement, interventions, patching, sweep
from sandbagging.heads.head import Head
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint

FRAMING = "contrast"  # genuine and sandbag prompts differ in one token


@pytest.fixture
def packs(tiny, tiny_questions):
    return [
        metrics.prepare(tiny, tiny_questions, condition, FRAMING)
        for condition in ("genuine", "sandbag")
    ]


def whole_run_patched(model, genuine, sandbag, heads) -> np.ndarray:
    """p_full by a run of all tokens from layer 0, the heads' z taken from the genuine run:
    [question].
    """
    points = [HookPoint("z", layer) for layer, _ in heads]
    _, saved = hook_points.forward(model, genuine, reads=points)

    def edit_of(layer):
        def edit(z):
            z = z.clone()
            for at, head in heads:
                if at == layer:
                    columns = interventions.head_columns(model, head)
                    z[..., columns] = saved[HookPoint("z", layer)][..., columns]
            return z

        return edit

    return metrics.measure(model, sandbag, ["p_full"], edits={p: edit_of(p.layer) for p in points})[
        "p_full"
    ][0]


def test_only_tokens_behind_the_difference_are_run(tiny, packs):
    genuine, sandbag = packs
    rows = patching.reached(genuine, sandbag)
    differ = (genuine.input_ids != sandbag.input_ids).nonzero().squeeze(1)
    assert len(differ) == len(genuine.question_ids) and set(differ.tolist()) <= set(rows.tolist())
    left_out = np.setdiff1d(np.arange(genuine.n_tokens), rows.numpy())
    assert len(left_out) > len(rows)
    z = [
        hook_points.forward(tiny, pack, reads=[HookPoint("z", 3)])[1][HookPoint("z", 3)][0]
        for pack in packs
    ]
    assert torch.equal(z[0][left_out], z[1][left_out]) and not torch.equal(z[0][rows], z[1][rows])


def first_line(question, condition):
    """One word differs, in the prefix that all prompts share: every token reads it."""
    lines = {"genuine": "Answer each question correctly.", "sandbag": "Answer each question the."}
    return prompts.instr(question, condition, lines)


@pytest.mark.parametrize("framing", [FRAMING, first_line])
def test_patched_sets_equal_a_whole_run_each(tiny, tiny_questions, framing):
    packs = [metrics.prepare(tiny, tiny_questions, c, framing) for c in ("genuine", "sandbag")]
    assert (framing == FRAMING) == bool(torch.equal(*(p.input_ids[p.block < 0] for p in packs)))
    sets = [((0, 1),), ((3, 2),), ((1, 0), (2, 3)), ((2, 0), (2, 1))]
    effects = patching.patch_sets(tiny, *packs, sets)
    for heads, value in zip(effects.sets, effects.value["p_full"], strict=True):
        np.testing.assert_allclose(
            value, whole_run_patched(tiny, *packs, heads), rtol=2e-4, atol=1e-9
        )
    # the heads do something, or nothing would be compared
    assert np.abs(effects.effect()).max() > 1e-6


def test_all_heads_of_the_first_layers_patched_undo_nothing_twice(tiny, packs):
    """Patching with the sandbag run's own z changes nothing at all."""
    _, sandbag = packs
    effects = patching.patch_sets(tiny, sandbag, sandbag, sweep.all_heads(tiny))
    assert np.abs(effects.effect()).max() < 1e-6


@pytest.mark.parametrize("kind", ["patching", "zero"])
def test_attribution_is_the_slope_of_the_real_effect(tiny, packs, kind):
    """Scaling the change of z down to a share e gives an effect of e times the attribution, as e
    goes to 0.
    """
    genuine, sandbag = packs
    found = patching.attribution(
        tiny, [sandbag], [genuine] if kind == "patching" else None, metric="logodds"
    )
    share, heads = 0.003, [(0, 1), (2, 3), (3, 0)]
    points = {layer: HookPoint("z", layer) for layer, _ in heads}
    _, source = hook_points.forward(tiny, genuine, reads=list(points.values()))
    clean = metrics.measure(tiny, sandbag, ["logodds"])["logodds"].mean()
    for layer, head in heads:
        columns = interventions.head_columns(tiny, head)

        def edit(z, columns=columns, layer=layer):
            new = source[points[layer]][..., columns] if kind == "patching" else 0
            z = z.clone()
            z[..., columns] += share * (new - z[..., columns])
            return z

        moved = (
            metrics.measure(tiny, sandbag, ["logodds"], edits={points[layer]: edit})[
                "logodds"
            ].mean()
            - clean
        )
        assert moved / share == pytest.approx(found[layer, head], rel=0.05, abs=2e-3)


def test_attribution_does_not_depend_on_how_the_questions_are_cut(tiny, tiny_questions):
    whole, cut = (
        [patching.in_parts(tiny, tiny_questions, c, FRAMING, size) for c in ("sandbag", "genuine")]
        for size in (99, 5)
    )
    np.testing.assert_allclose(
        patching.attribution(tiny, *whole), patching.attribution(tiny, *cut), rtol=1e-3, atol=1e-9
    )
    assert [len(p.question_ids) for p in cut[0]] == [5, 5, 2]


def test_prompts_of_other_lengths_are_refused(tiny_llama, tiny_questions):
    packs = [
        metrics.prepare(tiny_llama, tiny_questions[:3], c, "instr_contrast")
        for c in ("genuine", "neutral")
    ]
    with pytest.raises(UserError, match="choose the framing one_token"):
        patching.patch_sets(tiny_llama, *packs, [((0, 0),)])


def test_agreement_counts_ranks_and_the_top():
    exact = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    methods = {"same order": exact**3, "reversed": -exact, "top swapped": exact[[1, 0, 2, 3, 4, 5]]}
    table = agreement.compare(methods, exact, 2).set_index("method")
    assert table["spearman"].round(6).tolist() == [
        1,
        -1,
        pytest.approx(1 - 6 * 2 / (6 * 35), abs=1e-6),
    ]
    assert table["shared_top"].tolist() == [2, 0, 2]


def test_routes_agree_with_zeroing_and_may_name_other_heads():
    zero = np.array([3.0, 2.0, 1.0, 0.0, -1.0])
    by_route = pd.DataFrame({"layer": 0, "head": range(5), "zero": zero, "patching": -zero})
    (row,) = agreement.of_routes(by_route, 2).itertuples()
    assert (row.method, row.shared_top) == ("patching", 0) and row.spearman == pytest.approx(-1)
    ours = [Head(0, h) for h in range(5)]
    others = [Head(9, h) for h in range(5)]
    assert agreement.names_others(ours, [*ours[:2], *others[:3]])  # 2 of 5 are the same
    assert not agreement.names_others(ours, [*ours[:3], *others[:2]])
