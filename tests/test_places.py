"""Heads cut at a place, by a path, and in exchange, each against a plain route: one prompt at a
time, hooks of torch alone.
"""

import numpy as np
import pytest
import torch
from tiny_models import plain_log_p

from sandbagging import metrics, prompts
from sandbagging.errors import UserError
from sandbagging.heads import exchange, interventions, patching, paths, positions, sweep
from sandbagging.heads.head import Head
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint

FRAMING = "instr_contrast"  # an instruction, demonstrations, a question and a cue
SHORT = "instr"
HEADS = (Head(1, 2), Head(3, 0))
NAMES = ("logodds",)


def encoded(model, question, condition, framing):
    return metrics.encode(model, question, condition, framing)[1]


def plain_z(model, ids, layer) -> torch.Tensor:
    """z of one layer over one sequence [token head*d_head], by a hook of torch."""
    caught = []
    projection = hook_points.output_projection(model.module, layer)
    handle = projection.register_forward_pre_hook(lambda m, args: caught.append(args[0][0]))
    with torch.no_grad():
        model.module(torch.tensor([ids]))
    handle.remove()
    return caught[0]


def plain_logodds(model, question, condition, framing, edit=None, heads=HEADS) -> float:
    """Log-odds of one question by ordinary calls, one option at a time; `edit` changes z [token
    head*d_head] of a layer in place, given the layer, the prompt's length and the option's number.
    """
    item, handles, log_p = encoded(model, question, condition, framing), [], []
    for number, option in enumerate(item.options):
        for layer in sorted({layer for layer, _ in heads}) if edit else ():

            def hook(module, args, layer=layer, number=number):
                z = args[0].clone()
                edit(z[0], layer, len(item.prompt), number)
                return (z,)

            projection = hook_points.output_projection(model.module, layer)
            handles.append(projection.register_forward_pre_hook(hook))
        log_p.append(plain_log_p(model.module, item.prompt, option))
        while handles:
            handles.pop().remove()
    return log_p[0] - np.logaddexp.reduce(log_p[1:])


def columns_of(model, layer):
    return [interventions.head_columns(model, h) for at, h in HEADS if at == layer]


def of_place(model, question, condition, framing, place) -> slice:
    """The tokens of a place in one prompt, counted by words: every token of the tests is a word."""
    ids = encoded(model, question, condition, framing).prompt
    words = model.tokenizer.convert_ids_to_tokens(ids)
    starts = [i for i, word in enumerate(words) if word == "Question"]
    last = len(words) - 1
    end_of_question = max(i for i, word in enumerate(words) if word == "?") + 1
    shown = starts[-1] if place == "instruction" and len(starts) == 1 else starts[0]
    return {
        "instruction": slice(1, shown),
        "demonstrations": slice(starts[0], starts[-1]),
        "question": slice(starts[-1], end_of_question),
        "cue": slice(end_of_question, last),
        "last token": slice(last, last + 1),
        "answer": slice(last + 1, None),
        positions.EVERYWHERE: slice(1, None),
    }[place]


# Places -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["genuine", "sandbag", "neutral"])
def test_every_token_has_its_place(tiny_llama, tiny_questions, condition):
    found = positions.placed(tiny_llama, tiny_questions[:3], condition, FRAMING)
    assert (found.place == positions.SINK).sum() == 1
    for number, question in enumerate(tiny_questions[:3]):
        own = np.flatnonzero((found.pack.block == -1) | (found.pack.block == number))
        prompt = own[found.pack.branch[own] == 0]
        for place in positions.PLACES[:-1]:
            if condition == "neutral" and place in ("instruction", "demonstrations"):
                continue  # neutral prompts begin with a demonstration: its first word is the sink
            wanted = prompt[of_place(tiny_llama, question, condition, FRAMING, place)]
            assert np.flatnonzero(found.place[prompt] == place).tolist() == [
                prompt.tolist().index(i) for i in wanted
            ]
    assert (found.place[found.pack.branch > 0] == "answer").all()
    assert found.count[found.pack.last].tolist() == [0, 0, 0]


@pytest.mark.parametrize("place", [*positions.PLACES, positions.EVERYWHERE])
def test_zeroing_at_a_place_against_one_prompt_at_a_time(tiny, tiny_questions, place):
    asked = tiny_questions[:3]
    found = positions.ablate_at(
        tiny, asked, ["sandbag"], FRAMING, [HEADS], places=[place], names=NAMES
    )
    effects = found[place]["sandbag"]
    for question, value, before in zip(
        asked, effects.value["logodds"][0], effects.baseline["logodds"], strict=True
    ):
        rows = of_place(tiny, question, "sandbag", FRAMING, place)

        def edit(z, layer, length, number, rows=rows):
            for columns in columns_of(tiny, layer):
                z[rows, columns] = 0

        plain = plain_logodds(tiny, question, "sandbag", FRAMING, edit)
        assert value == pytest.approx(plain, abs=2e-3)
        assert before == pytest.approx(plain_logodds(tiny, question, "sandbag", FRAMING), abs=2e-3)
    assert np.abs(effects.effect("logodds")).max() > 1e-4  # or nothing would be compared


def test_places_that_a_condition_lacks_are_left_out(tiny_llama, tiny_questions):
    found = positions.ablate_at(
        tiny_llama, tiny_questions[:2], ["genuine", "neutral"], SHORT, [HEADS], names=NAMES
    )
    assert set(found["instruction"]) == {"genuine"} and "demonstrations" not in found
    assert set(found["question"]) == set(found["everywhere"]) == {"genuine", "neutral"}


def test_the_mean_is_that_of_the_same_positions(tiny, tiny_questions):
    """Against means taken prompt by prompt: the instruction counted from its start, the rest from
    the prompt's end, the nearest position where a question is longer than all of the token set.
    """
    asked, drawn_from = tiny_questions[:2], tiny_questions[2:6]
    effects = positions.ablate_at(
        tiny, asked, ["sandbag"], SHORT, [HEADS], replacement="mean", drawn_from=drawn_from,
        places=["everywhere"], names=NAMES,
    )["everywhere"]["sandbag"]  # fmt: skip
    kept = []  # per question of the token set: (z by layer of prompt + each option, its parts)
    for question in drawn_from:
        item = encoded(tiny, question, "genuine", SHORT)
        runs = [
            {layer: plain_z(tiny, item.prompt + option[:-1], layer) for layer in (1, 3)}
            for option in item.options
        ]
        kept.append((runs, of_place(tiny, question, "genuine", SHORT, "instruction"), item))

    def mean_at(layer, kind, count):
        """Mean over the token set of z at a position, each token of it counted once."""
        found = {}
        for runs, instruction, item in kept:
            if kind == "instruction":
                for i in range(instruction.start, instruction.stop):
                    found.setdefault(i, []).append(runs[0][layer][i])
                continue
            for i in range(instruction.stop, len(item.prompt)):
                found.setdefault(len(item.prompt) - 1 - i, []).append(runs[0][layer][i])
            for option, run in zip(item.options, runs, strict=True):
                for t in range(len(option) - 1):
                    found.setdefault(-1 - t, []).append(run[layer][len(item.prompt) + t])
        nearest = min(found, key=lambda c: (abs(c - count), c))
        return torch.stack(found[nearest]).mean(0)

    for question, value in zip(asked, effects.value["logodds"][0], strict=True):
        instruction = of_place(tiny, question, "sandbag", SHORT, "instruction")

        def edit(z, layer, length, number, instruction=instruction):
            for i in range(1, len(z)):
                inside = i < instruction.stop
                mean = mean_at(layer, *("instruction", i) if inside else ("rest", length - 1 - i))
                for columns in columns_of(tiny, layer):
                    z[i, columns] = mean[columns]

        assert value == pytest.approx(
            plain_logodds(tiny, question, "sandbag", SHORT, edit), abs=2e-3
        )


def test_a_mean_over_the_prompts_own_z_leaves_a_single_question_alone(tiny_llama, tiny_questions):
    """The token set is the one prompt itself, so its mean at each prompt position is its own z: all
    that is left to change is at the options' tokens, which are averaged.
    """
    one = [tiny_questions[5]]  # options of one token each: nothing is run behind the prompt
    effects = positions.ablate_at(
        tiny_llama, one, ["sandbag"], FRAMING, [HEADS], replacement="mean", tokens="sandbag",
        places=["everywhere"], names=NAMES,
    )["everywhere"]["sandbag"]  # fmt: skip
    assert np.abs(effects.effect("logodds")).max() < 1e-5


def test_resampling_takes_one_other_question_for_all_tokens(tiny_llama, tiny_questions):
    asked = tiny_questions[:4]
    target = positions.placed(tiny_llama, asked, "sandbag", SHORT)
    source = positions.bank(tiny_llama, asked, "genuine", SHORT, [1])
    # z of the token set's tokens: their question and their position
    block, count = source.placed.pack.block, torch.as_tensor(source.placed.count)
    marked = source._replace(z={1: torch.stack([block, count], 1)})
    at = np.flatnonzero((target.place == "question") | (target.place == "last token"))
    at = at[target.pack.block[at] >= 0]
    drawn = positions.stand_ins(target, marked, at, "resample", seed=3)[1]
    for number in range(4):
        own = target.pack.block[at] == number
        (partner,) = drawn[own, 0].unique().tolist()
        assert partner != number
        longest = count[block == partner].max()  # where the own question is longer, the nearest
        wanted = np.minimum(target.count[at][own], longest)
        assert drawn[own, 1].tolist() == wanted.tolist()
    again, other = (positions.stand_ins(target, marked, at, "resample", s)[1] for s in (3, 4))
    assert torch.equal(drawn, again) and not torch.equal(drawn, other)
    with pytest.raises(UserError, match="another question's values, and there is none"):
        positions.ablate_at(
            tiny_llama, asked[:1], ["sandbag"], SHORT, [HEADS], replacement="resample"
        )


def test_replacements_are_compared_at_the_same_tokens(tiny_llama, tiny_questions):
    asked, drawn_from = tiny_questions[:3], tiny_questions[3:]
    found = positions.compare(
        tiny_llama, asked, ["genuine", "sandbag"], SHORT, [HEADS], drawn_from,
        tokens=["genuine"], names=NAMES,
    )  # fmt: skip
    assert list(found) == ["zero", "mean genuine", "resample genuine"]
    assert all(list(on) == ["genuine", "sandbag"] for on in found.values())
    values = [on["sandbag"].value["logodds"].mean() for on in found.values()]
    assert len({round(v, 5) for v in values}) == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"replacement": "median"}, "Unknown replacement 'median'"),
        ({"places": ["middle"]}, "Unknown place 'middle'"),
        ({"replacement": "mean", "tokens": "neutral"}, "neutral prompts hold no instruction"),
        ({"sets": [((9, 0),)]}, "L9H0 does not exist"),
    ],
)
def test_places_that_cannot_be_cut_are_one_sentence(tiny_llama, tiny_questions, settings, sentence):
    sets = settings.pop("sets", [HEADS])
    with pytest.raises(UserError, match=sentence):
        positions.ablate_at(tiny_llama, tiny_questions[:2], ["sandbag"], SHORT, sets, **settings)


# Paths --------------------------------------------------------------------------------------------


def eager_logodds(model, question, condition, heads) -> float:
    """Log-odds by ordinary eager calls in which the mask of single heads hides the instruction from
    the tokens that the answer is read at.
    """
    item, log_p = encoded(model, question, condition, SHORT), []
    hidden = of_place(model, question, condition, SHORT, "instruction")
    blocks = model.module.model.layers if model.architecture == "llama" else (
        model.module.gpt_neox.layers
    )  # fmt: skip
    config = model.module.config
    way, config._attn_implementation = config._attn_implementation, "eager"
    for option in item.options:
        n, handles = len(item.prompt) + len(option), []
        causal = torch.full((n, n), float("-inf")).triu(1)
        for layer in {layer for layer, _ in heads}:
            mask = causal.expand(1, model.n_heads, n, n).clone()
            for at, head in heads:
                if at == layer:
                    mask[0, head, len(item.prompt) - 1 :, hidden] = float("-inf")

            def hook(module, args, kwargs, mask=mask):
                return args, {**kwargs, "attention_mask": mask}

            attention = getattr(blocks[layer], "self_attn", None) or blocks[layer].attention
            handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
        log_p.append(plain_log_p(model.module, item.prompt, option))
        for handle in handles:
            handle.remove()
    config._attn_implementation = way
    return log_p[0] - np.logaddexp.reduce(log_p[1:])


def test_a_hidden_instruction_equals_an_edited_mask(tiny, tiny_questions):
    asked, sets = tiny_questions[:3], [(Head(1, 2),), (Head(0, 1), Head(1, 2), Head(1, 3))]
    found = paths.without_reading(tiny, asked, ["sandbag"], SHORT, sets, names=NAMES)["sandbag"]
    for heads, values in zip(sets, found.value["logodds"], strict=True):
        plain = [eager_logodds(tiny, q, "sandbag", heads) for q in asked]
        np.testing.assert_allclose(values, plain, atol=2e-3)
    plain = [eager_logodds(tiny, q, "sandbag", ()) for q in asked]
    np.testing.assert_allclose(found.baseline["logodds"], plain, atol=2e-3)
    assert np.abs(found.effect("logodds")).max() > 1e-3


def test_hiding_leaves_the_model_as_it_was(tiny_llama, tiny_questions, monkeypatch):
    pack = metrics.prepare(tiny_llama, tiny_questions[:2], "sandbag", SHORT)
    before = metrics.measure(tiny_llama, pack, NAMES)["logodds"]
    calls = []

    def stop(*given, **named):
        calls.append(1)
        if len(calls) == 2:  # the clean run goes through, the one under hiding does not
            raise KeyboardInterrupt
        return measure(*given, **named)

    measure = metrics.measure
    monkeypatch.setattr(metrics, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        paths.without_reading(tiny_llama, tiny_questions[:2], ["sandbag"], SHORT, [HEADS])
    monkeypatch.undo()
    assert np.array_equal(metrics.measure(tiny_llama, pack, NAMES)["logodds"], before)


def test_a_head_that_reads_nothing_of_the_instruction_loses_nothing(tiny_llama, tiny_questions):
    """Even attention: hiding one of the tokens changes what is read; a head whose value is the same
    at every token reads the same again.
    """
    for layer in tiny_llama.module.model.layers:
        layer.self_attn.q_proj.weight.data.zero_()
    tiny_llama.module.model.layers[0].self_attn.v_proj.weight.data[:12].zero_()
    found = paths.without_reading(
        tiny_llama, tiny_questions[:3], ["sandbag"], SHORT, [((0, 0),), ((0, 2),)], names=NAMES
    )["sandbag"].effect("logodds")
    assert np.abs(found[0]).max() < 1e-5 < 1e-3 < np.abs(found[1]).max()


@pytest.mark.parametrize(
    ("condition", "settings", "sentence"),
    [
        ("neutral", {}, "neutral prompts of this framing hold no instruction"),
        ("sandbag", {"of": "system"}, "Unknown place 'system'"),
        ("sandbag", {"at": ["demonstrations"]}, "hold no demonstrations"),
    ],
)
def test_readings_that_cannot_be_hidden_are_one_sentence(
    tiny_llama, tiny_questions, condition, settings, sentence
):
    with pytest.raises(UserError, match=sentence):
        paths.without_reading(
            tiny_llama, tiny_questions[:2], [condition], SHORT, [HEADS], **settings
        )


# Exchange -----------------------------------------------------------------------------------------

# Of equal length, and different in the instruction alone, which all questions share.
MATCHED = prompts.worded(
    SHORT, genuine="Answer each question quickly.", sandbag="Answer each question incorrectly."
)


@pytest.mark.parametrize("framing", [MATCHED, "contrast"], ids=["instruction", "cue"])
def test_patching_both_ways_against_one_prompt_at_a_time(tiny, tiny_questions, framing):
    asked = tiny_questions[:3]
    found = exchange.both_ways(tiny, asked, framing, [HEADS], names=NAMES)
    for into, out_of in (("sandbag", "genuine"), ("genuine", "sandbag")):
        for number, question in enumerate(asked):
            item = encoded(tiny, question, out_of, framing)
            source = {
                (layer, i): plain_z(tiny, item.prompt + option, layer)
                for i, option in enumerate(item.options)
                for layer in (1, 3)
            }

            def edit(z, layer, length, option, source=source):
                for columns in columns_of(tiny, layer):
                    z[:, columns] = source[layer, option][:, columns]

            plain = plain_logodds(tiny, question, into, framing, edit)
            assert found[into].value["logodds"][0, number] == pytest.approx(plain, abs=2e-3)
            before = plain_logodds(tiny, question, into, framing)
            assert found[into].baseline["logodds"][number] == pytest.approx(before, abs=2e-3)
    assert all(np.abs(of.effect("logodds")).max() > 1e-3 for of in found.values())


def test_patching_with_its_own_z_changes_nothing_where_the_instruction_differs(
    tiny, tiny_questions
):
    """The difference lies in the prefix that all questions share: all of it is run again, or its
    first tokens would be taken for those behind the difference.
    """
    genuine, sandbag = (
        metrics.prepare(tiny, tiny_questions, c, MATCHED) for c in ("genuine", "sandbag")
    )
    rows = patching.reached(genuine, sandbag)
    assert set(range(sandbag.n_prefix)) <= set(rows.tolist())
    edits = {HookPoint("z", layer): lambda z: z for layer in range(4)}
    effects = sweep.run_sets(
        tiny, sandbag, sweep.all_heads(tiny), lambda batch: edits, names=NAMES, only=rows
    )
    assert np.abs(effects.effect("logodds")).max() < 1e-4
