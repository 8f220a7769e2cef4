"""A pack is only a faster way to the same numbers."""

import pytest
import torch
from tiny_models import plain_log_p, word_tokenizer

from sandbagging import metrics, prompts
from sandbagging.errors import UserError
from sandbagging.models import hook_points, packing
from sandbagging.models.hook_points import HookPoint


def encoded(tokenizer, questions, condition="sandbag", framing="instr_contrast"):
    return [
        packing.encode(tokenizer, q.id, prompts.render(q, condition, framing), q.options)
        for q in questions
    ]


def test_a_pack_written_out_by_hand():
    items = [
        packing.Encoded("a", [7, 8, 1], [[4, 5, 6], [2]]),
        packing.Encoded("b", [7, 8, 2, 3], [[9], [4, 4]]),
    ]
    pack = packing.pack(items)
    # prefix 7 8 | trunk 1, branch 4 5 | trunk 2 3, branch 4; the last of an option is only a target
    assert pack.n_prefix == 2
    assert pack.input_ids.tolist() == [7, 8, 1, 4, 5, 2, 3, 4]
    assert pack.position_ids.tolist() == [0, 1, 2, 3, 4, 2, 3, 4]
    assert pack.block.tolist() == [-1, -1, 0, 0, 0, 1, 1, 1]
    assert pack.branch.tolist() == [0, 0, 0, 1, 1, 0, 0, 2]
    assert pack.last.tolist() == [2, 6]
    assert pack.read_at.tolist() == [2, 3, 4, 2, 6, 6, 7]
    assert pack.target.tolist() == [4, 5, 6, 2, 9, 4, 4]
    assert pack.target_option.tolist() == [0, 0, 0, 1, 2, 3, 3]
    seen = [[i for i in range(8) if row[i]] for row in pack.dense_mask()]
    assert seen[4] == [0, 1, 2, 3, 4] and seen[5] == [0, 1, 5] and seen[7] == [0, 1, 5, 6, 7]


@pytest.mark.parametrize("framing", ["instr_contrast", "instr_pref", "contrast"])
def test_packed_equals_one_prompt_at_a_time(tiny, tiny_questions, framing):
    items = encoded(tiny.tokenizer, tiny_questions, framing=framing)
    final, _ = hook_points.forward(tiny, packing.pack(items))
    answers = metrics.answer_logprobs(tiny, packing.pack(items), final)
    for q, item in enumerate(items):
        for k, option in enumerate(item.options):
            expected = plain_log_p(tiny.module, item.prompt, option)
            first = plain_log_p(tiny.module, item.prompt, option[:1])
            found = answers.total[0, q, k].item(), answers.first[0, q, k].item()
            assert found == pytest.approx((expected, first), abs=1e-4), (item.question_id, k)
            assert answers.length[q, k] == len(option)


def test_one_question_and_prompts_without_a_shared_start(tiny, tiny_questions):
    single = encoded(tiny.tokenizer, tiny_questions[:1])
    unshared = [
        packing.Encoded("a", [5, 6, 7], [[8], [9, 4]]),
        packing.Encoded("b", [6, 6], [[8, 3], [9]]),
    ]
    for items in (single, unshared):
        pack = packing.pack(items)
        answers = metrics.answer_logprobs(tiny, pack, hook_points.forward(tiny, pack)[0])
        for q, item in enumerate(items):
            for k, option in enumerate(item.options):
                expected = plain_log_p(tiny.module, item.prompt, option)
                assert answers.total[0, q, k].item() == pytest.approx(expected, abs=1e-4)
    assert packing.pack(unshared).n_prefix == 0


def test_tree_attention_equals_the_dense_mask(tiny, tiny_questions):
    pack = packing.pack(encoded(tiny.tokenizer, tiny_questions))
    tree, _ = hook_points.forward(tiny, pack)
    dense, _ = hook_points.forward(tiny, pack, dense=True)
    assert torch.allclose(tree, dense, atol=1e-4)


def test_a_pack_equals_a_padded_batch_on_both_sides(tiny_llama, tiny_questions):
    """Right padding read at [:, -1] would score a padding token; a pack has no padding at all."""
    module = tiny_llama.module
    items = encoded(tiny_llama.tokenizer, tiny_questions[:8], framing="instr_pref")
    pack = packing.pack(items)
    packed = metrics.answer_logprobs(tiny_llama, pack, hook_points.forward(tiny_llama, pack)[0])
    rows = [item.prompt + item.options[0] for item in items]
    width = max(map(len, rows))
    for side in ("left", "right"):
        pads = [(0, width - len(r)) if side == "right" else (width - len(r), 0) for r in rows]
        ids = torch.tensor([[2] * a + r + [2] * b for r, (a, b) in zip(rows, pads, strict=True)])
        mask = torch.tensor(
            [[0] * a + [1] * len(r) + [0] * b for r, (a, b) in zip(rows, pads, strict=True)]
        )
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            log_p = module(ids, attention_mask=mask, position_ids=positions).logits.log_softmax(-1)
        for i, (item, (before, _)) in enumerate(zip(items, pads, strict=True)):
            start = before + len(item.prompt)
            batched = sum(
                log_p[i, start - 1 + t, token].item() for t, token in enumerate(item.options[0])
            )
            assert batched == pytest.approx(packed.total[0, i, 0].item(), abs=1e-4)


@pytest.mark.parametrize("position", ["last", "all"])
def test_a_part_with_stored_keys_equals_the_whole_under_the_same_edit(
    tiny, tiny_questions, position
):
    pack = packing.pack(encoded(tiny.tokenizer, tiny_questions))
    point, stored = HookPoint("resid_post", 1), {}
    _, saved = hook_points.forward(tiny, pack, reads=[point], stored=stored, store=True)
    rows, run = (
        (pack.last, pack.from_last())
        if position == "last"
        else (pack.trunk(), pack.behind_prefix())
    )
    edited = saved[point].expand(3, -1, -1).clone()
    edited[:, rows] += torch.randn(
        3, len(rows), edited.shape[-1], generator=torch.Generator().manual_seed(0)
    )
    whole, _ = hook_points.forward(tiny, pack, start=(2, edited))
    part = pack.part(run)
    some, _ = hook_points.forward(tiny, part, start=(2, edited[:, run]), stored=stored)
    assert torch.allclose(whole[:, run], some, atol=1e-4)
    of_whole, of_part = (
        metrics.answer_logprobs(tiny, p, f).total for p, f in ((pack, whole), (part, some))
    )
    assert torch.allclose(of_whole, of_part, atol=1e-4)


def test_a_stored_prefix_is_wrong_as_soon_as_an_edit_reaches_it(tiny_llama, tiny_questions):
    """Why a part may leave out only what no edit reaches: with the prefix edited, its stored keys
    give other numbers.
    """
    pack = packing.pack(encoded(tiny_llama.tokenizer, tiny_questions))
    point, stored = HookPoint("resid_post", 1), {}
    _, saved = hook_points.forward(tiny_llama, pack, reads=[point], stored=stored, store=True)
    edited = saved[point] + 1.0
    whole, _ = hook_points.forward(tiny_llama, pack, start=(2, edited))
    run = pack.behind_prefix()
    stale, _ = hook_points.forward(
        tiny_llama, pack.part(run), start=(2, edited[:, run]), stored=stored
    )
    assert not torch.allclose(whole[:, run], stale, atol=1e-2)


def test_a_part_must_hold_every_token_that_is_read():
    pack = packing.pack([packing.Encoded("a", [7, 8, 1], [[4, 5], [2]])])
    with pytest.raises(ValueError, match="targets are read"):
        pack.part(torch.tensor([0, 1]))


def test_prompt_ending_in_a_space_is_refused(tiny_questions):
    with pytest.raises(UserError, match="q-1 ends in white space"):
        packing.encode(word_tokenizer(), "q-1", "Question: What barks? ", ["dog"])


def test_tokenizer_that_merges_across_the_boundary_is_refused():
    class Merging:
        """Characters are tokens, and a colon swallows the space behind it."""

        bos_token_id = None

        def __call__(self, text, add_special_tokens=True):
            return type("Ids", (), {"input_ids": [ord(c) for c in text.replace(": ", ";")]})()

    with pytest.raises(UserError, match="prompt of q-1 otherwise once the answer 'dog'"):
        packing.encode(Merging(), "q-1", "Answer:", ["dog"])


def test_beginning_of_sequence_is_counted():
    tokenizer = word_tokenizer(bos=True)
    item = packing.encode(tokenizer, "q-1", "Question: What barks?\nAnswer:", ["dog", "cat"])
    assert item.prompt.count(1) == 1 and all(1 not in option for option in item.options)
    with pytest.raises(UserError, match="two beginning-of-sequence"):
        packing.encode(tokenizer, "q-1", "<bos> Answer:", ["dog"])
    assert packing.encode(word_tokenizer(), "q-1", "Answer:", ["dog"]).prompt.count(1) == 0


def test_a_tokenizer_that_begins_every_text_with_a_space_is_read_right():
    """As Llama 2 and TinyLlama do: alone, " dog" would get two spaces, so answers are tokenised
    behind their prompt.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "▁Answer:": 1, "▁dog": 2, "▁blue": 3, "▁whale": 4, "▁": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert fast(" dog", add_special_tokens=False).input_ids == [5, 2]  # two spaces: another text
    item = packing.encode(fast, "q-1", "Answer:", ["dog", "blue whale"])
    assert (item.prompt, item.options) == ([1], [[2], [3, 4]])


def test_parts_run_one_after_another_equal_the_whole(tiny, tiny_questions):
    """The prompts first, then answer tokens on top of what is stored: those of some blocks, then
    more of fewer.
    """
    pack = packing.pack(encoded(tiny.tokenizer, tiny_questions[:5]))
    whole, _ = hook_points.forward(tiny, pack)
    prompt = ((pack.block < 0) | (pack.branch == 0)).nonzero().squeeze(1)
    follows = torch.cat([torch.tensor([False]), pack.branch[1:] == pack.branch[:-1]])
    first = ((pack.branch > 0) & ~follows).nonzero().squeeze(1)
    second = ((pack.branch > 0) & follows).nonzero().squeeze(1)
    assert len({*pack.block[second].tolist()}) < len({*pack.block[first].tolist()})
    stored = {}
    for run in (prompt, first, second):
        part = packing.replace(pack, read_at=run[:0]).part(run)
        some, _ = hook_points.forward(tiny, part, stored=stored, store=True)
        assert torch.allclose(whole[:, run], some, atol=1e-4)
    assert stored[0][0].shape[2] == pack.n_tokens
