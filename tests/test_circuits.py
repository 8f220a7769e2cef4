"""The head sweep against slower routes, its sign on a model made by hand, and the rules that judge
heads and circuits.
"""

from math import exp, sqrt

import numpy as np
import pandas as pd
import pytest
import torch
from games import on_both
from made_up import graded

from sandbagging import generation, grading, metrics, prompts
from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.gate import gate as gate_rule
from sandbagging.heads import circuits, estimates, interventions, rivals, selection, sweep
from sandbagging.heads.head import Head
from sandbagging.heads.sweep import Effects
from sandbagging.models import hook_points
from sandbagging.statistics import Estimate

FRAMING = "instr_pref"


def pack_of(model, questions):
    return metrics.prepare(model, questions, "sandbag", FRAMING)


def made_up(change: np.ndarray, sets=None) -> Effects:
    """Effects [set question] over a baseline of 0.2, the same on both metrics."""
    sets = sets or [((0, i),) for i in range(len(change))]
    baseline = np.full(change.shape[1], 0.2)
    ids = tuple(f"q{i}" for i in range(change.shape[1]))
    return Effects(
        sets,
        ids,
        dict.fromkeys(metrics.JUDGED, baseline),
        {name: baseline + change for name in metrics.JUDGED},
    )


def gate_of(gap_pp: float, grade: str = "answers wrongly") -> Gate:
    gap = Estimate(gap_pp, gap_pp - 1, gap_pp + 1, 50, "pp")
    return graded(grade)._replace(gap_p_full=gap)


# The fast route -----------------------------------------------------------------------------------


SETS = [((3, 1),), ((0, 2),), ((2, 0), (1, 3)), ((3, 0), (3, 2)), ((1, 1),), ((0, 0), (3, 3))]


def test_many_sets_at_once_equal_one_full_pass_each(tiny, tiny_questions, monkeypatch):
    """Batches that begin at the ablated layer against a pass from layer 0 under edited weights."""
    pack = pack_of(tiny, tiny_questions)
    effects = sweep.ablate_sets(tiny, pack, SETS)
    smallest = {"p_full": 1e-9, "choice_len": 1e-6, "logodds": 1e-5}
    for i, heads in enumerate(effects.sets):
        with interventions.zeroed_weights(tiny, heads):
            plain = metrics.measure(tiny, pack, metrics.JUDGED)
        for name in metrics.JUDGED:
            ours, theirs = effects.value[name][i], plain[name][0]
            np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=smallest[name])
    monkeypatch.setattr(sweep, "TOKENS_AT_ONCE", {"cpu": 1})  # one set a batch
    alone = sweep.ablate_sets(tiny, pack, SETS)
    for name in metrics.JUDGED:
        ours, theirs = alone.value[name], effects.value[name]
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=smallest[name])


def test_the_baseline_is_the_unedited_model_before_and_after(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions)
    before = metrics.measure(tiny, pack, metrics.JUDGED)
    first, second = sweep.ablate_sets(tiny, pack, SETS), sweep.ablate_sets(tiny, pack, SETS)
    after = metrics.measure(tiny, pack, metrics.JUDGED)
    for name in metrics.JUDGED:
        assert np.array_equal(first.baseline[name], before[name][0]) and np.array_equal(
            before[name], after[name]
        )
        assert np.array_equal(first.value[name], second.value[name])


def test_progress_counts_every_set(tiny_llama, tiny_questions):
    seen = []
    sweep.ablate_sets(
        tiny_llama,
        pack_of(tiny_llama, tiny_questions[:2]),
        sweep.all_heads(tiny_llama),
        progress=lambda label, done, total: seen.append((label, done, total)),
        label="sweep",
    )
    assert seen[-1] == ("sweep", 16, 16) and [done for _, done, _ in seen] == sorted(
        done for _, done, _ in seen
    )


def test_an_interrupted_sweep_goes_on_at_the_layer_where_it_stopped(
    tiny_llama, tiny_questions, tmp_path, monkeypatch
):
    pack, heads = pack_of(tiny_llama, tiny_questions), sweep.all_heads(tiny_llama)
    whole = sweep.ablate_sets(tiny_llama, pack, heads)

    def stop(label, done, total):
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.ablate_sets(tiny_llama, pack, heads, keep=tmp_path, progress=stop)
    # 4 heads a layer; the third was cut off
    assert sorted(p.name for p in tmp_path.iterdir()) == ["heads_L00.npz", "heads_L01.npz"]
    ran = []
    real = hook_points.forward
    monkeypatch.setattr(
        hook_points,
        "forward",
        lambda *a, **k: ran.append(k.get("start") and k["start"][0]) or real(*a, **k),
    )
    again = sweep.ablate_sets(tiny_llama, pack, heads, keep=tmp_path)
    assert set(ran) == {None, 2, 3}  # the clean run, and the layers that were missing
    for name in metrics.JUDGED:
        assert np.array_equal(again.value[name], whole.value[name]) and np.array_equal(
            again.baseline[name], whole.baseline[name]
        )


def test_a_head_that_does_not_exist_is_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="L4H0 does not exist"):
        sweep.ablate_sets(tiny_llama, pack_of(tiny_llama, tiny_questions[:2]), [((4, 0),)])


def test_replacements_are_compared_on_the_same_heads(tiny_llama, tiny_questions):
    pack = pack_of(tiny_llama, tiny_questions)
    effects = sweep.compare_replacements(
        tiny_llama, tiny_questions, ((1, 1), (2, 0)), FRAMING, tiny_questions, ["sandbag"]
    )
    bank = interventions.z_bank(tiny_llama, [pack], [1, 2])
    mean = sweep.ablate_sets(tiny_llama, pack, [((1, 1), (2, 0))], replacement="mean", bank=bank)
    assert np.array_equal(effects["mean sandbag"].value["p_full"], mean.value["p_full"])
    assert list(effects) == ["zero", "mean sandbag", "resample sandbag"]


# The sign -----------------------------------------------------------------------------------------


def model_with_a_suppressor(model, head=1, push=1.0, weight=0.4, wrong=0):
    """Rebuild the tiny Llama so that one head of layer 2 alone writes anything, and all it does is
    to push token `wrong`.

    Every token is embedded as e_0, so attention averages equal values and z is 1 wherever it
    attends. The head adds push * e_1 to the residual stream; the unembedding reads e_1 for the
    wrong token, so without the head all logits are 0.
    """
    module, d = model.module, model.d_model
    for name, parameter in module.named_parameters():
        if "norm" not in name:
            parameter.data.zero_()
    module.model.embed_tokens.weight.data[:, 0] = 1
    attention = module.model.layers[2].self_attn
    attention.v_proj.weight.data[0, 0] = 1 / sqrt(d)  # the normed e_0 is sqrt(d) long
    hook_points.output_projection(module, 2).weight.data[1, head * model.d_head] = push
    module.lm_head.weight.data[wrong, 1] = weight
    vocabulary = module.config.vocab_size
    logit = weight * push / sqrt((1 + push**2) / d)
    # p(another token) with and without the head
    return 1 / (vocabulary - 1 + exp(logit)), 1 / vocabulary


def test_ablating_a_head_that_lowers_p_correct_by_a_known_amount_gives_that_positive_effect(
    tiny_llama, tiny_questions
):
    with_head, without_head = model_with_a_suppressor(tiny_llama)
    effects = sweep.ablate_sets(
        tiny_llama, pack_of(tiny_llama, tiny_questions), sweep.all_heads(tiny_llama)
    )
    length = np.array(
        [
            len(tiny_llama.tokenizer(" " + q.correct, add_special_tokens=False).input_ids)
            for q in tiny_questions
        ]
    )
    expected = without_head**length - with_head**length
    np.testing.assert_allclose(effects.of([(2, 1)]), expected, rtol=1e-3)
    assert (expected > 0).all() and selection.top(effects, 1) == ((2, 1),)
    others = [i for i, s in enumerate(effects.sets) if s != ((2, 1),)]
    assert np.abs(effects.effect()[others]).max() < 1e-6


def test_a_sandbagging_head_has_the_opposite_sign_when_it_pushes_the_right_token(
    tiny_llama, tiny_questions
):
    question = [q for q in tiny_questions if q.correct == "dog"] * 1 + [
        q for q in tiny_questions if q.correct == "sand"
    ]
    model_with_a_suppressor(
        tiny_llama, wrong=tiny_llama.tokenizer(" dog", add_special_tokens=False).input_ids[0]
    )
    effects = sweep.ablate_sets(tiny_llama, pack_of(tiny_llama, question), [((2, 1),)])
    right, other = effects.of([(2, 1)])
    assert right < 0 < other


# Choosing heads -----------------------------------------------------------------------------------


def test_top_ranks_by_the_mean_effect_and_by_the_difference():
    sandbag = made_up(np.array([[0.1, 0.1], [0.3, 0.3], [0.2, 0.2]]))
    genuine = made_up(np.array([[0.0, 0.0], [0.3, 0.3], [0.1, 0.0]]))
    assert selection.top(sandbag, 2) == ((0, 1), (0, 2))
    assert selection.top(sandbag, 2, minus=genuine) == ((0, 2), (0, 0))
    for n in (0, 4):
        with pytest.raises(UserError, match="between 1 and 3"):
            selection.top(sandbag, n)


# The winner's curse -------------------------------------------------------------------------------


def test_winners_look_better_where_they_were_chosen():
    noise = np.random.default_rng(2).normal(0, 0.1, (100, 40))
    table = selection.winners_curse(made_up(noise), [1, 5, 20]).set_index("n_selected_on")
    assert (table["in_sample"] > table["out_of_sample"] + 0.01).all()
    # the fewer questions, the stronger the illusion
    assert table["in_sample"].is_monotonic_decreasing
    assert table["out_of_sample"].abs().max() < 0.03


def test_without_noise_there_is_no_curse():
    steady = np.repeat(np.linspace(-0.1, 0.1, 30)[:, None], 12, axis=1)
    table = selection.winners_curse(made_up(steady), [1, 5], repeats=20)
    np.testing.assert_allclose(table["in_sample"], table["out_of_sample"])
    assert (selection.stability(made_up(steady), 5, repeats=20) == 5).all()


def test_stability_under_noise_is_that_of_chance():
    shared = selection.stability(
        made_up(np.random.default_rng(3).normal(size=(100, 40))), 10, repeats=300
    )
    assert shared.mean() == pytest.approx(10 * 10 / 100, abs=0.4)


def test_sizes_leave_as_many_to_judge_on():
    assert (
        selection.sizes_that_fit(40) == [1, 5, 10, 20]
        and selection.sizes_that_fit(4) == [1]
        and selection.sizes_that_fit(80)[-1] == 40
    )
    with pytest.raises(UserError, match="sweep more questions"):
        selection.winners_curse(made_up(np.zeros((8, 4))), [4])


# Random sets and subsets --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "same_layer"])
def test_draws_exclude_the_chosen_heads_and_depend_on_the_seed_alone(tiny_llama, kind):
    chosen = [(0, 1), (2, 3), (2, 0)]
    sets = circuits.random_sets(tiny_llama, chosen, 50, kind, seed=4)
    assert len(sets) == 50 and all(len(set(s)) == 3 and not set(s) & set(chosen) for s in sets)
    assert (
        sets
        == circuits.random_sets(tiny_llama, chosen, 50, kind, seed=4)
        != circuits.random_sets(tiny_llama, chosen, 50, kind, seed=5)
    )


def test_same_layer_draws_keep_the_layers(tiny_llama):
    sets = circuits.random_sets(tiny_llama, [(0, 1), (2, 3), (2, 0)], 50, "same_layer")
    assert all([layer for layer, _ in s] == [0, 2, 2] for s in sets)
    uniform = circuits.random_sets(tiny_llama, [(0, 1), (2, 3), (2, 0)], 50, "uniform")
    assert {layer for s in uniform for layer, _ in s} == {0, 1, 2, 3}


def test_too_few_heads_to_draw_from_is_one_sentence(tiny_llama):
    with pytest.raises(UserError, match="too few other heads"):
        circuits.random_sets(tiny_llama, [(1, 0), (1, 1), (1, 2)], 2, "same_layer")
    with pytest.raises(UserError, match="too few heads left"):
        circuits.random_sets(
            tiny_llama, [(layer, h) for layer in range(4) for h in range(3)], 2, "uniform"
        )


def test_heads_chosen_elsewhere_are_judged_there_and_here():
    """There head 1 is best by luck, here head 0 is."""
    there, here = (
        made_up(np.array([[0.0] * 4, [0.3] * 4])),
        made_up(np.array([[0.2] * 4, [0.1] * 4])),
    )
    found = selection.chosen_elsewhere(there, here, n=1)
    assert found.heads == ((0, 1),)
    assert (found.there.value, found.here.value) == pytest.approx((0.3, 0.1))


def test_against_random_shows_effect_and_gap_apart():
    joint = np.full(30, 0.02)
    draws = np.random.default_rng(5).normal(-0.03, 0.01, (99, 1)).repeat(30, axis=1)
    found = circuits.against_random(joint, draws)
    # random heads hurt
    assert (
        found["gap"].value == pytest.approx(100 * (0.02 - draws.mean())) and found["gap"].value > 2
    )
    assert (
        found["rank_p"] == found["smallest_rank_p"] == 0.01
        and found["z"] > 3
        and found["mean"].high < 0
    )


def test_all_subsets_but_the_empty_one():
    heads = [(0, 1), (2, 3), (1, 0), (4, 4), (3, 3)]
    sets = circuits.subsets(heads)
    assert len(sets) == len(set(sets)) == 31 and sets[-1] == tuple(sorted(heads))
    with pytest.raises(UserError, match="at most 8"):
        circuits.subsets([(0, h) for h in range(9)])


def test_best_subset_and_shapley_values_of_a_known_game():
    """Two heads do the same job worth 0.2, the third adds 0.1, whoever is there."""
    heads = [(0, 0), (0, 1), (1, 0)]
    worth = {
        s: 0.2 * bool({(0, 0), (0, 1)} & set(s)) + 0.1 * ((1, 0) in s)
        for s in circuits.subsets(heads)
    }
    effects = made_up(np.array([[v] * 4 for v in worth.values()]), list(worth))
    shares = circuits.shapley(effects, heads)
    assert shares == pytest.approx({(0, 0): 10, (0, 1): 10, (1, 0): 10})
    assert set(circuits.best_subset(effects, 2)) > {(1, 0)}
    assert sum(shares.values()) == pytest.approx(100 * effects.of(heads).mean())


# Tables -------------------------------------------------------------------------------------------


def test_tables_name_sets_and_metrics_as_the_run_folder_promises():
    effects = made_up(
        np.arange(12).reshape(4, 3) / 100,
        [((0, 1),), ((2, 0),), ((0, 1), (2, 0)), ((0, 1), (2, 0), (3, 1))],
    )
    table = estimates.by_question(effects, "sandbag", joint=[(3, 1), (2, 0), (0, 1)])
    assert (
        list(table) == ["question_id", "condition", "intervention", "metric", "baseline", "value"]
        and len(table) == 4 * 3 * 3
    )
    assert list(dict.fromkeys(table["intervention"])) == [
        "single:L0H1",
        "single:L2H0",
        "subset:L0H1+L2H0",
        "joint",
    ]
    joint = table[(table["intervention"] == "joint") & (table["metric"] == "p_full")]
    assert (joint["value"] - joint["baseline"]).tolist() == pytest.approx([0.09, 0.10, 0.11])
    rows = estimates.condition_rows({"sandbag": effects, "neutral": effects}, [(0, 1)])
    assert list(rows) == ["condition", "metric", "unit", "effect", "low", "high", "n"] and rows[
        "effect"
    ].tolist() == pytest.approx([1.0] * 4 + [0.01] * 2)  # pp twice, then nats


def test_some_of_the_sets_that_were_run():
    effects = made_up(np.array([[0.01, 0.03], [0.0, -0.02], [0.5, 0.7]]))
    first, last = effects.sets[0], effects.sets[2]
    some = estimates.only(effects, [last, first])
    assert some.sets == [last, first] and some.baseline is effects.baseline
    assert np.allclose(some.effect(), [[0.5, 0.7], [0.01, 0.03]])


# The share of the gap that is closed --------------------------------------------------------------


def in_both(genuine: tuple, sandbag: tuple, spread: float = 0.0) -> dict[str, Effects]:
    """Effects of one set in two conditions: (before, after) of each, spread over four questions."""
    off = spread * np.array([-1, 1, -1, 1])
    return {
        condition: Effects(
            [((0, 0),)],
            ("q0", "q1", "q2", "q3"),
            dict.fromkeys(("p_full", "logodds"), before + off),
            dict.fromkeys(("p_full", "logodds"), (after + off)[None]),
        )
        for condition, (before, after) in {"genuine": genuine, "sandbag": sandbag}.items()
    }


def test_a_share_of_the_gap_allows_for_what_zeroing_does_to_genuine_prompts():
    """0.50 and 0.33 are 17 pp apart. Zeroing lifts sandbag prompts by 20 pp, which the naive ratio
    calls 118 % of the gap; but genuine prompts rise by 12.86 pp as well, so that 9.86 pp of the
    17 are left and 42 % are closed.
    """
    effects = in_both((0.50, 0.6286), (0.33, 0.53), spread=0.02)
    naive = effects["sandbag"].of([(0, 0)]).mean() / 0.17
    share = estimates.share_closed(effects, [(0, 0)])
    assert naive == pytest.approx(1.18, abs=0.005) and share.value == pytest.approx(0.42)
    assert share.low <= share.value <= share.high and share.n == 4 and share.unit == ""
    back = estimates.share_restored(effects, [(0, 0)], "p_full")
    assert back.value == pytest.approx(share.value)  # nothing is ruined


def test_what_is_ruined_is_closed_and_not_restored():
    """Genuine prompts fall by 2 of a gap of 6 while 3 come back on sandbag ones."""
    effects = in_both((5.0, 3.0), (-1.0, 2.0))
    closed, back = (
        f(effects, [(0, 0)], "logodds") for f in (estimates.share_closed, estimates.share_restored)
    )
    assert (closed.value, back.value) == pytest.approx((5 / 6, 1 / 6))


@pytest.mark.parametrize(
    ("genuine", "sandbag", "expected"),
    [
        ((5.0, 5.0), (-1.0, 5.0), 1.0),  # nothing is left
        ((5.0, 5.0), (-1.0, -1.0), 0.0),  # nothing happened
        ((5.0, -1.0), (-1.0, -1.0), 1.0),  # closed from above: the right answer is lost
        ((5.0, 5.0), (-1.0, -4.0), -0.5),  # the gap grew
    ],
)
def test_shares_of_the_gap_by_hand(genuine, sandbag, expected):
    share = estimates.share_closed(in_both(genuine, sandbag), [(0, 0)], "logodds")
    assert (share.value, share.low, share.high) == pytest.approx((expected,) * 3)


def test_no_interval_of_a_share_where_there_is_no_gap():
    effects = in_both((0.0, 0.0), (0.0, 0.0))
    effects["genuine"] = effects["genuine"]._replace(
        baseline={"p_full": np.array([0.1, -0.1, 0.2, -0.1])}
    )
    share = estimates.share_closed(effects, [(0, 0)])
    assert np.isnan(share.low) and np.isnan(share.high)


def test_a_share_of_the_gap_is_paired():
    effects = in_both((5.0, 5.0), (1.0, 2.0))
    effects["genuine"] = effects["genuine"]._replace(question_ids=("q1", "q0", "q2", "q3"))
    with pytest.raises(ValueError, match="paired by question"):
        estimates.share_closed(effects, [(0, 0)])


def test_logodds_are_told_in_nats():
    assert estimates.estimate(np.array([0.5, 0.7]), "logodds").unit == "nats"
    assert estimates.estimate(np.array([0.5, 0.7]), "logodds").value == pytest.approx(0.6)
    assert estimates.estimate(np.array([0.5, 0.7])).value == pytest.approx(60)


def test_a_blank_question_keeps_its_options(tiny_questions):
    blank = sweep.without_question(tiny_questions)
    assert {q.question for q in blank} == {""} and [q.options for q in blank] == [
        q.options for q in tiny_questions
    ]


def test_members_are_each_alone_all_and_all_but_each():
    a, b, c = Head(0, 1), Head(1, 0), Head(2, 3)
    found = circuits.members([c, a, b])
    assert found == [(c,), (a,), (b,), (a, b, c), (b, c), (a, c), (a, b)]
    assert circuits.members([a, b]) == [(a,), (b,), (a, b)] and circuits.members([a]) == [(a,)]
    assert circuits.distinct([(b, a)], [(a, b), (c,)]) == [(a, b), (c,)]


@pytest.mark.parametrize(("genuine", "restored", "closed"), [(1.0, 0.4, 0.4), (-1.0, 0.4, 0.8)])
def test_draws_stand_with_what_they_restore_and_close(genuine, restored, closed):
    """Zeroing lifts sandbag prompts by 3, of a gap of 5; genuine ones rise or fall by 1."""
    heads = (Head(0, 1),)
    on = on_both(lambda _: (genuine, 3.0), [heads], noise=0.0)
    on = {c: of._replace(baseline=of.baseline | {"choice_len": of.baseline["p_full"]},
                         value=of.value | {"choice_len": of.value["p_full"]})
          for c, of in on.items()}  # fmt: skip
    table = circuits.draws_table(on, {"uniform": [heads]}).set_index("metric")
    odds = table.loc["logodds", ["effect", "effect_on_genuine", "share_restored", "share_closed"]]
    assert odds.tolist() == pytest.approx([3, genuine, restored, closed])
    assert table["unit"]["p_full"] == "pp"
    assert table.loc["p_full", "effect"] == pytest.approx(100 * 0.05 * 3)


@pytest.mark.parametrize(
    ("framing", "place"),
    [("instr", "instruction"), ("instr:lie", "instruction"), ("contrast", "cue")],
)
def test_where_a_prompt_says_how_to_answer(framing, place):
    assert circuits.told_in(framing) == place


# A circuit of random weights ----------------------------------------------------------------------


def test_random_weights_do_not_survive(tiny_llama, tiny_questions):
    """The whole chain on a model that knows nothing: five heads chosen on some questions, judged on
    others, gate computed.
    """
    asked = {"test": tiny_questions}
    scores = metrics.score_all(tiny_llama, asked, prompts.MAIN, FRAMING)
    written = generation.write_each(
        tiny_llama, asked, {"test": [(c, FRAMING) for c in ("genuine", "sandbag", "neutral")]}
    )
    gate = gate_rule(scores, grading.graded(written, tiny_questions))
    assert not gate.open
    swept = sweep.ablate_sets(
        tiny_llama, pack_of(tiny_llama, tiny_questions[:6]), sweep.all_heads(tiny_llama)
    )
    chosen = selection.top(swept, 3)
    draws = {"uniform": circuits.random_sets(tiny_llama, chosen, 19, "uniform")}
    on = sweep.sweep_conditions(
        tiny_llama, tiny_questions[6:], ["genuine", "sandbag"], FRAMING,
        circuits.distinct([chosen], draws["uniform"]),
    )  # fmt: skip
    assert rivals.judge(on, chosen, [], draws, gate).grade == rivals.NOTHING
    assert not rivals.judge(on, chosen, [], draws, gate.as_if_open()).survives
    assert not selection.find(swept, gate)["found"].any()


def test_a_plain_torch_hook_gives_the_sweeps_numbers(tiny, tiny_questions):
    """A third route, without nnsight: a forward pre-hook on the output projection."""
    pack, (layer, head) = pack_of(tiny, tiny_questions), (1, 2)

    def zero(module, inputs):
        z = inputs[0].clone()
        z[..., head * tiny.d_head : (head + 1) * tiny.d_head] = 0
        return (z, *inputs[1:])

    handle = hook_points.output_projection(tiny.module, layer).register_forward_pre_hook(zero)
    try:
        by_hook = metrics.measure(tiny, pack, ["p_full"])["p_full"][0]
    finally:
        handle.remove()
    effects = sweep.ablate_sets(tiny, pack, [((layer, head),)])
    np.testing.assert_allclose(effects.value["p_full"][0], by_hook, rtol=2e-4)
    assert torch.is_grad_enabled()


# What the pages read out of effects --------------------------------------------------------------


def under(conditions: dict[str, np.ndarray]) -> dict[str, Effects]:
    return {condition: made_up(change) for condition, change in conditions.items()}


def test_the_specific_portion_is_paired_by_question():
    rng = np.random.default_rng(5)
    common = rng.normal(0, 0.3, (3, 20))  # what questions share falls out of a paired difference
    effects = under({"sandbag": common + 0.02, "neutral": common})
    first = [effects["sandbag"].sets[0][0]]
    portion = estimates.specific_portion(effects, first, "neutral")
    assert portion.value == pytest.approx(2) and portion.high - portion.low < 1e-9


def test_the_first_quarter_holds_what_lies_below_it():
    table = pd.DataFrame({"layer": [0, 0, 1, 4], "effect": [1.0, -3.0, 1.0, 5.0]})
    depth = selection.first_quarter(table, [Head(1, 0), Head(4, 2)], n_layers=8)
    assert depth.chosen == (Head(1, 0),)
    assert depth.share_of_layers == pytest.approx(2 / 3)
    assert depth.share_of_effect == pytest.approx((2 + 1) / (2 + 1 + 5))


def test_conditions_stand_side_by_side_in_nats():
    sandbag = made_up(np.array([[0.01, 0.03], [0.0, -0.02]]))
    table = estimates.by_head({"sandbag": sandbag, "genuine": sandbag})
    assert table[["layer", "head"]].to_numpy().tolist() == [[0, 0], [0, 1]]
    assert table["sandbag"].tolist() == pytest.approx([0.02, -0.01])
    assert table["genuine"].tolist() == table["sandbag"].tolist()
