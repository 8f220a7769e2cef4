"""The hook points mean what the field means by them."""

import pytest
import torch

from sandbagging import metrics
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint


def pack_of(model, questions):
    return metrics.prepare(model, questions[:3], "genuine", "instr_pref")


def prompt_ids(model, pack):
    """The first question's prompt as one ordinary sequence, and its places in the pack."""
    places = torch.arange(pack.n_tokens)[
        (pack.block < 0) | ((pack.block == 0) & (pack.branch == 0))
    ]
    return pack.input_ids[places][None], places


def test_resid_post_is_the_output_of_its_block(tiny, tiny_questions):
    """hidden_states[L] is the input of block L; its output is hidden_states[L + 1], but for the
    last, which is normed.
    """
    pack = pack_of(tiny, tiny_questions)
    ids, places = prompt_ids(tiny, pack)
    points = [HookPoint("resid_post", layer) for layer in range(tiny.n_layers)]
    final, saved = hook_points.forward(tiny, pack, reads=points)
    with torch.no_grad():
        states = tiny.module(ids, output_hidden_states=True).hidden_states
    for layer in range(tiny.n_layers - 1):
        assert torch.allclose(saved[points[layer]][0, places], states[layer + 1][0], atol=1e-4)
        assert not torch.allclose(saved[points[layer]][0, places], states[layer][0], atol=1e-2)
    assert torch.allclose(final[0, places], states[-1][0], atol=1e-4)
    assert not torch.allclose(saved[points[-1]][0, places], states[-1][0], atol=1e-2)


@pytest.mark.parametrize("layer", [0, 2])
def test_an_edit_reaches_only_what_lies_above(tiny, tiny_questions, layer):
    pack = pack_of(tiny, tiny_questions)
    points = [HookPoint("resid_post", at) for at in range(tiny.n_layers)]
    _, clean = hook_points.forward(tiny, pack, reads=points)
    edits = {points[layer]: lambda x: x + 1.0}
    _, edited = hook_points.forward(tiny, pack, reads=points, edits=edits)
    for at in range(tiny.n_layers):
        assert torch.equal(clean[points[at]], edited[points[at]]) == (at < layer)
    assert torch.allclose(edited[points[layer]], clean[points[layer]] + 1.0)


def test_starting_in_the_middle_equals_the_whole_pass(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions)
    point = HookPoint("resid_post", 1)
    final, saved = hook_points.forward(tiny, pack, reads=[point])
    from_there, _ = hook_points.forward(tiny, pack, start=(2, saved[point].expand(3, -1, -1)))
    assert from_there.shape[0] == 3
    assert torch.allclose(from_there, final.expand(3, -1, -1), atol=1e-5)


def test_nnsight_equals_a_plain_pytorch_hook(tiny, tiny_questions):
    """The same edit of z through nnsight and through a pre-hook on the output projection."""
    pack = pack_of(tiny, tiny_questions)
    ids, places = prompt_ids(tiny, pack)
    columns = slice(tiny.d_head, 2 * tiny.d_head)

    def halve(z):
        z = z.clone()
        z[..., columns] *= 0.5
        return z

    final, _ = hook_points.forward(tiny, pack, edits={HookPoint("z", 1): halve})
    handle = hook_points.output_projection(tiny.module, 1).register_forward_pre_hook(
        lambda _, args: (halve(args[0]),)
    )
    with torch.no_grad():
        plain = tiny.module(ids, output_hidden_states=True).hidden_states[-1]
    handle.remove()
    assert torch.allclose(final[0, places], plain[0], atol=1e-4)


def test_nothing_is_left_behind_after_an_exception(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions)
    before, _ = hook_points.forward(tiny, pack)

    def broken(z):
        raise RuntimeError("broken on purpose")

    with pytest.raises(Exception, match="broken on purpose"):
        hook_points.forward(tiny, pack, edits={HookPoint("z", 1): broken})
    after, _ = hook_points.forward(tiny, pack)
    assert torch.equal(before, after)


def test_head_width_is_read_from_the_output_projection(tiny_llama):
    assert tiny_llama.d_head == 12  # not d_model / n_heads, which would be 8
    projection = hook_points.output_projection(tiny_llama.module, 0)
    assert projection.in_features == tiny_llama.n_heads * tiny_llama.d_head


def test_final_norm_of_the_last_block_is_what_the_model_reads(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions)
    point = HookPoint("resid_post", tiny.n_layers - 1)
    final, saved = hook_points.forward(tiny, pack, reads=[point])
    assert torch.allclose(hook_points.final_norm(tiny, saved[point]), final, atol=1e-5)


def test_starting_above_the_last_block_leaves_the_final_norm_alone(tiny, tiny_questions):
    """An edit of the last block's output skips every block; what is read is the norm of the
    residual stream given, bit for bit.
    """
    pack = pack_of(tiny, tiny_questions)
    resid = torch.randn(2, pack.n_tokens, tiny.d_model, generator=torch.Generator().manual_seed(0))
    final, _ = hook_points.forward(tiny, pack, start=(tiny.n_layers, resid))
    assert torch.equal(final, hook_points.final_norm(tiny, resid))
