"""Head ablation by two routes, edits that leave nothing behind, and what takes a head's place."""

import json
from operator import attrgetter

import numpy as np
import pytest
import torch

from sandbagging import metrics
from sandbagging.errors import UserError
from sandbagging.heads import interventions
from sandbagging.heads.head import check, join, parse
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.swaps import edits

FRAMING = "instr_pref"
HEADS = [(1, 3), (2, 0), (2, 1)]


def pack_of(model, questions, condition="sandbag"):
    return metrics.prepare(model, questions, condition, FRAMING)


def same(first: dict, second: dict) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


# Two routes to the same numbers -------------------------------------------------------------------


def test_hook_ablation_equals_edited_weights_bit_for_bit(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions)
    by_hook = metrics.measure(tiny, pack, edits=interventions.ablate_heads(tiny, HEADS))
    with interventions.zeroed_weights(tiny, HEADS):
        by_weights = metrics.measure(tiny, pack)
    assert same(by_hook, by_weights)
    assert not same(by_hook, metrics.measure(tiny, pack))  # and the ablation does something


def test_all_heads_of_a_layer_zeroed_is_attention_zeroed_up_to_its_bias(tiny, tiny_questions):
    pack, layer = pack_of(tiny, tiny_questions), 1
    every = [(layer, head) for head in range(tiny.n_heads)]
    by_heads = metrics.measure(tiny, pack, edits=interventions.ablate_heads(tiny, every))
    projection = hook_points.output_projection(tiny.module, layer)
    bias = torch.zeros(tiny.d_model) if projection.bias is None else projection.bias
    handle = projection.register_forward_hook(lambda module, inputs, output: bias.expand_as(output))
    try:
        by_output = metrics.measure(tiny, pack)
    finally:
        handle.remove()
    for name in by_heads:
        np.testing.assert_allclose(by_heads[name], by_output[name], rtol=1e-5, atol=1e-7)


def test_width_of_the_output_projection_is_query_heads_times_d_head(tiny):
    for layer in range(tiny.n_layers):
        assert (
            hook_points.output_projection(tiny.module, layer).in_features
            == tiny.n_heads * tiny.d_head
        )


def test_heads_are_wider_than_d_model_divided_by_heads(tiny_llama):
    # the case that a guess gets wrong
    assert (tiny_llama.d_head, tiny_llama.n_kv_heads, tiny_llama.n_heads) == (12, 2, 4)


# What an edit touches -----------------------------------------------------------------------------


def test_only_the_columns_of_the_head_differ(tiny):
    z = torch.randn(2, 5, tiny.n_heads * tiny.d_head)
    before = z.clone()
    edited = interventions.ablate_heads(tiny, [(1, 2)])[HookPoint("z", 1)](z)
    differs = (edited != z).all(dim=(0, 1))
    assert differs.nonzero().squeeze(1).tolist() == list(range(2 * tiny.d_head, 3 * tiny.d_head))
    assert (edited[..., 2 * tiny.d_head : 3 * tiny.d_head] == 0).all()
    assert torch.equal(z, before)  # the caller's tensor is unchanged


def test_the_ablated_model_runs_with_zero_in_these_columns_at_all_positions(tiny, tiny_questions):
    pack, point = pack_of(tiny, tiny_questions), HookPoint("z", 2)
    _, clean = hook_points.forward(tiny, pack, reads=[point])
    _, seen = hook_points.forward(
        tiny, pack, reads=[point], edits=interventions.ablate_heads(tiny, [(2, 1)])
    )
    columns = interventions.head_columns(tiny, 1)
    others = [i for i in range(tiny.n_heads * tiny.d_head) if not columns.start <= i < columns.stop]
    assert (seen[point][..., columns] == 0).all() and (clean[point][..., columns] != 0).any()
    assert torch.equal(seen[point][..., others], clean[point][..., others])


def test_nothing_is_left_behind(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions)
    before = metrics.measure(tiny, pack)
    first = metrics.measure(tiny, pack, edits=interventions.ablate_heads(tiny, HEADS))
    with interventions.zeroed_weights(tiny, HEADS):
        metrics.measure(tiny, pack)
    second = metrics.measure(tiny, pack, edits=interventions.ablate_heads(tiny, HEADS))
    assert same(first, second) and same(before, metrics.measure(tiny, pack))


def test_nothing_is_left_behind_after_an_exception_inside_an_edit(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions)
    before = metrics.measure(tiny, pack)

    def fails(z):
        raise ArithmeticError("inside the edit")

    with pytest.raises(Exception, match="inside the edit"):
        metrics.measure(
            tiny,
            pack,
            edits={**interventions.ablate_heads(tiny, [(0, 0)]), HookPoint("z", 2): fails},
        )
    assert same(before, metrics.measure(tiny, pack))


def test_weights_come_back_after_an_exception(tiny):
    weight = hook_points.output_projection(tiny.module, 2).weight
    before = weight.detach().clone()
    with pytest.raises(RuntimeError, match="stop"), interventions.zeroed_weights(tiny, HEADS):
        assert not torch.equal(weight, before)
        raise RuntimeError("stop")
    assert torch.equal(weight, before)


# Mean and resample --------------------------------------------------------------------------------


def test_a_bank_holds_z_of_the_question_tokens(tiny, tiny_questions):
    packs = [pack_of(tiny, tiny_questions, c) for c in ("genuine", "neutral")]
    bank = interventions.z_bank(tiny, packs, [1])
    _, saved = hook_points.forward(tiny, packs[0], reads=[HookPoint("z", 1)])
    own = saved[HookPoint("z", 1)][0, packs[0].trunk()]
    assert bank[1].shape == (sum(len(p.trunk()) for p in packs), tiny.n_heads * tiny.d_head)
    assert torch.equal(bank[1][: len(own)], own)


def test_mean_and_resample_take_their_values_from_the_bank(tiny):
    bank = {1: torch.randn(7, tiny.n_heads * tiny.d_head)}
    columns, z = interventions.head_columns(tiny, 3), torch.randn(2, 5, tiny.n_heads * tiny.d_head)
    mean = interventions.ablate_heads(tiny, [(1, 3)], "mean", bank)[HookPoint("z", 1)](z)
    drawn = interventions.ablate_heads(tiny, [(1, 3)], "resample", bank)[HookPoint("z", 1)]
    assert torch.allclose(mean[..., columns], bank[1][:, columns].mean(0))
    rows = {tuple(row.tolist()) for row in bank[1][:, columns]}
    assert {tuple(row.tolist()) for row in drawn(z)[..., columns].flatten(0, 1)} <= rows
    assert torch.equal(drawn(z), drawn(z))  # the same call twice gives the same numbers


def test_a_mean_over_identical_tokens_changes_nothing(tiny_llama):
    z = torch.randn(1, 1, 48).expand(1, 5, 48)
    bank = {0: z[0]}
    assert torch.allclose(
        interventions.ablate_heads(tiny_llama, [(0, 1)], "mean", bank)[HookPoint("z", 0)](z),
        z,
        atol=1e-6,
    )


@pytest.mark.parametrize("replacement", ["mean", "resample"])
def test_a_replacement_without_its_bank_is_refused(tiny_llama, replacement):
    with pytest.raises(UserError, match="bank"):
        interventions.ablate_heads(tiny_llama, [(0, 0)], replacement)


def test_an_unknown_replacement_is_refused(tiny_llama):
    with pytest.raises(UserError, match="zero, mean or resample"):
        interventions.ablate_heads(tiny_llama, [(0, 0)], "median")


# Names of heads -----------------------------------------------------------------------------------


def test_heads_are_read_from_names_and_pairs():
    expected = [(17, 6), (2, 0)]
    for given in (
        "L17H6 L2H0",
        "L17H6,L2H0",
        "L17H6+L2H0",
        ["L17H6", "L2H0"],
        [[17, 6], [2, 0]],
        expected,
    ):
        assert parse(given) == expected
    assert [str(head) for head in parse(expected)] == ["L17H6", "L2H0"] and join(
        expected
    ) == "L17H6+L2H0"
    assert json.dumps(parse("L17H6")) == "[[17, 6]]"


@pytest.mark.parametrize("given", ["", "17.6", "L17", [[1, 2, 3]]])
def test_what_is_no_head_is_refused(given):
    with pytest.raises(UserError, match="no head"):
        parse(given)


@pytest.mark.parametrize(
    ("heads", "words"),
    [([(4, 0)], "layers 0 to 3"), ([(0, 4)], "query heads 0 to 3"), ([(1, 1), (1, 1)], "twice")],
)
def test_heads_that_do_not_exist_are_refused(tiny, heads, words):
    with pytest.raises(UserError, match=words):
        check(tiny, heads)


# The residual stream ------------------------------------------------------------------------------


class HalvingSae:
    """A stand-in whose code is the even half of x, so that half of x is its error term."""

    def encode(self, x):
        return x[..., ::2]

    def decode(self, code):
        x = torch.zeros(*code.shape[:-1], 2 * code.shape[-1])
        x[..., ::2] = code
        return x


def test_swapping_in_the_own_code_with_the_error_term_changes_nothing():
    x = torch.randn(1, 8)
    assert torch.equal(edits.swap_code(x, HalvingSae(), HalvingSae().encode(x)[0]), x)


def test_a_swap_keeps_or_drops_the_error_term():
    x, code = torch.randn(3, 8), torch.randn(4)
    kept, dropped = (edits.swap_code(x, HalvingSae(), code, keep) for keep in (True, False))
    assert torch.allclose(kept[:, ::2], code.expand(3, -1), atol=1e-6) and torch.equal(
        kept[:, 1::2], x[:, 1::2]
    )
    assert torch.equal(dropped[:, ::2], code.expand(3, -1)) and (dropped[:, 1::2] == 0).all()
    assert torch.equal(edits.identity(x, HalvingSae())[:, ::2], x[:, ::2])


def test_noise_has_the_norm_it_is_given_row_by_row():
    x, norm = torch.randn(4, 16), torch.tensor([0.0, 1.0, 2.5, 40.0])
    noisy = edits.add_noise(x, norm, seed=3)
    assert torch.allclose((noisy - x).norm(dim=-1), norm, rtol=1e-5, atol=1e-5)
    assert torch.equal(noisy, edits.add_noise(x, norm, seed=3)) and not torch.equal(
        noisy, edits.add_noise(x, norm, seed=4)
    )


def test_replacing_rows_leaves_the_rest_and_the_argument_alone():
    resid, values = torch.randn(1, 6, 8), torch.randn(3, 2, 8)
    before = resid.clone()
    edited = edits.replace_rows(resid, torch.tensor([1, 4]), values)
    assert torch.equal(edited[:, [1, 4]], values) and torch.equal(
        edited[:, [0, 2, 3, 5]], resid[:, [0, 2, 3, 5]].expand(3, -1, -1)
    )
    assert torch.equal(resid, before)


def test_the_attention_of_the_tiny_models_has_the_names_that_the_hook_points_use(tiny):
    names = hook_points.NAMES[tiny.architecture]
    assert len(attrgetter(names.blocks)(tiny.module)) == tiny.n_layers
