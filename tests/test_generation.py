"""What is written all at once is what `generate` writes one prompt at a time, under edits too."""

import contextlib
import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch

from sandbagging import generation, metrics, models, prompts
from sandbagging.errors import UserError
from sandbagging.heads import interventions
from sandbagging.models import hook_points, packing
from sandbagging.models.hook_points import HookPoint
from sandbagging.planted import base as planted_base
from sandbagging.questions import Question

HEADS = [(1, 3), (2, 0), (2, 1)]
CASES = [("genuine", "instr"), ("sandbag", "instr_contrast"), ("neutral", "instr_pref")]


def encoded(model, questions, condition="sandbag", framing="instr"):
    return [
        packing.encode(model.tokenizer, q.id, prompts.render(q, condition, framing), ())
        for q in questions
    ]


def one_by_one(model, items, most=generation.MOST):
    """What transformers' own `generate` writes, prompt after prompt."""
    ends, found = sorted(generation.end_tokens(model)), []
    for item in items:
        ids = torch.tensor([item.prompt])
        written = model.module.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most,
            eos_token_id=ends, pad_token_id=ends[0],
        )  # fmt: skip
        found.append(written[0, len(item.prompt) :].tolist())
    return found


def cut(model, ids):
    """The ids up to the first that holds a newline."""
    lines = ["\n" in model.tokenizer.decode([i]) for i in ids]
    return ids[: lines.index(True) + 1] if any(lines) else ids


def ties(model, items, ours, theirs):
    """How many answers differ; each must begin to differ where two tokens are about as likely."""
    different = [n for n in range(len(items)) if ours[n] != theirs[n]]
    for n in different:
        at = [a == b for a, b in zip(ours[n], theirs[n], strict=False)].index(False)
        with torch.no_grad():
            logits = model.module(torch.tensor([items[n].prompt + ours[n][:at]])).logits[0, -1]
        first, second = logits.topk(2).values.tolist()
        assert first - second < 1e-3, (items[n].question_id, first - second)
    return len(different)


@pytest.fixture
def ending(tiny):
    """Both architectures with a newline among their tokens, which they like to write."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.add_tokens(["\n", ".\n"])
    make = {"llama": tiny_models.tiny_llama_module, "gpt_neox": tiny_models.tiny_neox_module}
    module = make[tiny.architecture](len(tokenizer))
    with torch.no_grad():
        hook_points.unembedding(module).weight[-2:] *= 2
    return models.wrap(module, tokenizer, "ending", weights="random")


# The same as one prompt at a time -----------------------------------------------------------------


@pytest.mark.parametrize("condition, framing", CASES)
def test_written_at_once_equals_one_prompt_at_a_time(tiny, tiny_questions, condition, framing):
    items = encoded(tiny, tiny_questions, condition, framing)
    ours, theirs = generation.tokens(tiny, items), one_by_one(tiny, items)
    assert ties(tiny, items, ours, theirs) <= 1
    assert len({tuple(ids) for ids in ours}) > 1 and max(map(len, ours)) == 12


def test_an_answer_ends_with_its_line(ending, tiny_questions):
    items = encoded(ending, tiny_questions)
    ours = generation.tokens(ending, items)
    theirs = [cut(ending, ids) for ids in one_by_one(ending, items)]
    assert ties(ending, items, ours, theirs) <= 1
    lengths = [len(ids) for ids in ours]
    assert min(lengths) < max(lengths), "some end early, and the others go on without them"
    table = generation.write(ending, tiny_questions, "sandbag", "instr")
    for text, ids in zip(table["text"], ours, strict=True):
        whole = ending.tokenizer.decode(ids, skip_special_tokens=True)
        assert text == whole.split("\n")[0].strip() and "\n" not in text


def test_an_answer_ends_with_the_text(tiny, tiny_questions):
    """With the most frequent word made to end it: answers stop there and do not show it."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    plain = generation.tokens(tiny, encoded(tiny, tiny_questions))
    frequent = max(set(sum(plain, [])), key=sum(plain, []).count)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(frequent)
    model = dataclasses.replace(tiny, tokenizer=tokenizer)
    found = generation.tokens(model, encoded(tiny, tiny_questions))
    expected = [ids[: ids.index(frequent) + 1] if frequent in ids else ids for ids in plain]
    assert found == expected != plain
    word = tokenizer.eos_token
    texts = generation.write(model, tiny_questions, "sandbag", "instr")["text"]
    assert not any(word in text.split() for text in texts)


def test_the_models_own_settings_may_name_further_ends(tiny):
    tiny.module.generation_config.eos_token_id = [7, 9]
    assert generation.end_tokens(tiny) == {7, 9, tiny.tokenizer.eos_token_id}
    tiny.module.generation_config.eos_token_id = 5
    assert generation.end_tokens(tiny) == {5, tiny.tokenizer.eos_token_id}


def test_fewer_tokens_are_the_beginning_of_more(tiny, tiny_questions):
    """What stands in the places that are still empty is not read: there are fewer of them here."""
    items = encoded(tiny, tiny_questions)
    whole = generation.tokens(tiny, items)
    for most in (1, 2, 5):
        assert generation.tokens(tiny, items, most=most) == [ids[:most] for ids in whole]


def test_a_planted_model_writes_words(tiny_questions):
    module = planted_base.untrained(0)
    model = models.wrap(module, planted_base.tokenizer(), "planted", weights="planted")
    asked = [fact.question for fact in planted_base.facts(0)[:12]]
    items = encoded(model, asked)
    assert items[0].prompt[0] == model.tokenizer.bos_token_id
    assert ties(model, items, generation.tokens(model, items), one_by_one(model, items)) <= 1
    texts = generation.write(model, asked, "genuine", "instr")["text"]
    assert texts.str.len().min() > 0


def test_one_question_and_equal_prompts(tiny, tiny_questions):
    items = encoded(tiny, tiny_questions[:1])
    assert generation.tokens(tiny, items) == one_by_one(tiny, items)
    assert generation.tokens(tiny, items * 3) == one_by_one(tiny, items) * 3


@pytest.mark.parametrize("questions_at_once, rows_at_once", [(5, 3), (1, 1), (512, 4)])
def test_order_and_batch_do_not_matter(
    tiny, tiny_questions, monkeypatch, questions_at_once, rows_at_once
):
    table = generation.write(tiny, tiny_questions, "sandbag", "instr_contrast")
    monkeypatch.setattr(generation, "QUESTIONS_AT_ONCE", questions_at_once)
    monkeypatch.setattr(generation, "ROWS_AT_ONCE", rows_at_once)
    again = generation.write(tiny, tiny_questions[::-1], "sandbag", "instr_contrast")
    pd.testing.assert_frame_equal(table, again[::-1].reset_index(drop=True))


def test_a_remote_run_writes_the_same(tiny, tiny_questions):
    """It keeps nothing from step to step, so each step runs the whole pack."""
    some, edits = tiny_questions[:4], interventions.ablate_heads(tiny, HEADS)
    local = dataclasses.replace(tiny, remote="local")
    plain, handed_over = (
        generation.write(m, some, "sandbag", "instr", edits=edits, most=4) for m in (tiny, local)
    )
    pd.testing.assert_frame_equal(plain, handed_over)


# Interventions ------------------------------------------------------------------------------------


def test_heads_zeroed_by_hook_write_what_zeroed_weights_write(tiny, tiny_questions):
    items = encoded(tiny, tiny_questions)
    plain = generation.tokens(tiny, items)
    by_hook = generation.tokens(tiny, items, edits=interventions.ablate_heads(tiny, HEADS))
    with interventions.zeroed_weights(tiny, HEADS):
        by_weights, theirs = generation.tokens(tiny, items), one_by_one(tiny, items)
        assert ties(tiny, items, by_hook, theirs) <= 1
    assert by_hook == by_weights != plain


@contextlib.contextmanager
def biased(model, layer: int, direction: torch.Tensor):
    """The model with a direction added to what the MLP of a layer writes."""
    mlp = {"llama": ("model", "down_proj"), "gpt_neox": ("gpt_neox", "dense_4h_to_h")}
    body, name = mlp[model.architecture]
    linear = getattr(getattr(model.module, body).layers[layer].mlp, name)
    before = linear.bias
    with torch.no_grad():
        linear.bias = torch.nn.Parameter(direction if before is None else before + direction)
    try:
        yield
    finally:
        linear.bias = before


@pytest.mark.parametrize("layer", [0, 3])
def test_a_direction_added_by_hook_writes_what_a_bias_writes(tiny, tiny_questions, layer):
    items = encoded(tiny, tiny_questions)
    direction = torch.randn(tiny.d_model, generator=torch.Generator().manual_seed(0))
    edits = {HookPoint("resid_post", layer): lambda x: x + direction}
    by_hook = generation.tokens(tiny, items, edits=edits)
    with biased(tiny, layer, direction):
        assert ties(tiny, items, by_hook, one_by_one(tiny, items)) <= 1
    assert by_hook != generation.tokens(tiny, items)


def test_nothing_is_left_behind(tiny, tiny_questions):
    def everything():
        scores = metrics.score(tiny, tiny_questions, "sandbag", "instr")
        return scores, generation.write(tiny, tiny_questions, "sandbag", "instr")

    before, settings = everything(), tiny.module.generation_config.to_dict()
    generation.write(
        tiny, tiny_questions, "genuine", "instr", edits=interventions.ablate_heads(tiny, HEADS)
    )

    def broken(x):
        raise RuntimeError("a broken edit")

    with pytest.raises(Exception, match="a broken edit"):
        generation.write(
            tiny, tiny_questions, "genuine", "instr", edits={HookPoint("z", 1): broken}
        )
    for first, second in zip(before, everything(), strict=True):
        pd.testing.assert_frame_equal(first, second, check_exact=True)
    assert tiny.module.generation_config.to_dict() == settings


# The table, and misuse ----------------------------------------------------------------------------


def test_the_table_and_its_progress(tiny, tiny_questions):
    told = []
    table = generation.write(
        tiny,
        tiny_questions,
        "placebo",
        prompts.worded("instr", placebo="Answer each question slowly."),
        progress=lambda *step: told.append(step),
    )
    assert list(table) == ["question_id", "condition", "framing", "text"]
    assert table["question_id"].tolist() == [q.id for q in tiny_questions]
    assert set(table["condition"]) == {"placebo"} and table["framing"].nunique() == 1
    done = [n for _, n, _ in told]
    assert done == sorted(done) and told[-1] == ("write placebo", 12, 12)
    assert len(generation.write(tiny, [], "placebo", "instr")) == 0


def test_all_splits_and_conditions_in_one_table(tiny, tiny_questions):
    splits, told = {"train": tiny_questions[:4], "test": tiny_questions[4:]}, []
    table = generation.write_all(
        tiny, splits, ["genuine", "sandbag"], "instr", progress=lambda *step: told.append(step)
    )
    assert list(table) == ["question_id", "split", "condition", "framing", "text"]
    for (split, condition), part in table.groupby(["split", "condition"]):
        alone = generation.write(tiny, splits[split], condition, "instr")
        pd.testing.assert_frame_equal(part.drop(columns="split").reset_index(drop=True), alone)
    assert len(table) == 24 and told[-1] == ("write test sandbag", 4, 4)


def test_misuse_is_one_sentence(tiny, tiny_questions):
    def asked(question, condition):
        return "Answer: "

    for most in (0, True, 2.5):
        with pytest.raises(UserError, match="1 token or more"):
            generation.write(tiny, tiny_questions, "sandbag", "instr", most=most)
    with pytest.raises(UserError, match="did you mean 'sandbag'"):
        generation.write(tiny, tiny_questions, "sandbagging", "instr")
    with pytest.raises(UserError, match="ends in white space"):
        generation.write(tiny, tiny_questions, "sandbag", asked)


@pytest.mark.slow
@pytest.mark.parametrize("condition", ["genuine", "sandbag"])
def test_the_embedded_model_writes_what_generate_writes(condition):
    from sandbagging import questions

    model, asked = models.load(models.EMBEDDED), questions.asked("test", n=42)
    items = encoded(model, asked, condition)
    ours = generation.tokens(model, items)
    theirs = [cut(model, ids) for ids in one_by_one(model, items)]
    assert ties(model, items, ours, theirs) <= 2
    heads = [(17, 6), (2, 0)]
    by_hook = generation.tokens(model, items, edits=interventions.ablate_heads(model, heads))
    with interventions.zeroed_weights(model, heads):
        assert ties(model, items, by_hook, generation.tokens(model, items)) <= 2
    assert np.mean([a != b for a, b in zip(ours, by_hook, strict=True)]) > 0.05


def test_questions_need_no_options(tiny):
    asked = Question("q-1", "toys", "What barks?", "Ω", ("never tokenised",))
    assert generation.write(tiny, [asked], "genuine", "instr")["text"].str.len().item() > 0
