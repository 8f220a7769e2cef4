"""Heads and MLPs as nodes: replaced by two routes, swept, patched, and found where hand-set."""

import json
import math
from operator import attrgetter

import made_up
import numpy as np
import pytest
import torch
import toy_models

from sandbagging import metrics, nodes
from sandbagging.errors import UserError
from sandbagging.heads import positions
from sandbagging.heads import sweep as of_heads
from sandbagging.heads.head import Head
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.nodes import Mlp, ranking, sweep, values
from sandbagging.statistics import Estimate

FRAMING, MATCHED = "instr_pref", "contrast"  # in the latter prompts match token by token
SET = (Mlp(1), Head(1, 3), Mlp(3))


@pytest.fixture
def biased(tiny):
    toy_models.randomise_biases(tiny)
    return tiny


def pack_of(model, questions, condition="sandbag", framing=FRAMING):
    return metrics.prepare(model, questions, condition, framing)


def gate_of(nats: float):
    """An open gate with this gap on log-odds."""
    return made_up.graded("answers wrongly")._replace(
        gap_logodds=Estimate(nats, nats, nats, 8, "nats", "")
    )


def same(first: dict, second: dict) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


# Names --------------------------------------------------------------------------------------------


def test_nodes_are_read_from_names_and_numbers():
    expected = [Mlp(17), Head(2, 0)]
    for given in ("L17MLP L2H0", "L17MLP,L2H0", ["L17MLP", "L2H0"], [[17], [2, 0]], expected):
        assert nodes.parse(given) == expected
    assert nodes.join(expected) == "L17MLP+L2H0" and json.dumps(expected) == "[[17], [2, 0]]"
    assert sorted([Head(1, 0), Mlp(1), Mlp(0)]) == [Mlp(0), Mlp(1), Head(1, 0)]


@pytest.mark.parametrize("given", ["", "L17", "17MLP", "L1MLP2", [[1, 2, 3]], [["1"]]])
def test_what_is_no_node_is_refused(given):
    with pytest.raises(UserError, match="no node; write nodes as L17H6 or L17MLP"):
        nodes.parse(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([Mlp(4)], "L4MLP does not exist"),
        ([Head(0, 4)], "query heads 0 to 3 and one MLP"),
        ([Mlp(1), Mlp(1)], "twice"),
    ],
)
def test_nodes_that_do_not_exist_are_refused(tiny_llama, given, words):
    with pytest.raises(UserError, match=words):
        nodes.check(tiny_llama, given)


def test_all_nodes_of_a_model(tiny_llama):
    assert len(nodes.all_nodes(tiny_llama)) == 4 * (4 + 1)
    assert nodes.join(nodes.all_nodes(tiny_llama, [2]), " ") == "L2H0 L2H1 L2H2 L2H3 L2MLP"
    with pytest.raises(UserError, match="Layer 9"):
        nodes.all_mlps(tiny_llama, [9])


# The hook point -----------------------------------------------------------------------------------


def test_mlp_is_the_output_of_the_mlp_in_an_ordinary_run(biased, tiny_questions):
    """Its values are those that a plain PyTorch hook sees on the module as a whole."""
    pack, layer, seen = pack_of(biased, tiny_questions[:2]), 2, []
    places = ((pack.block < 0) | ((pack.block == 0) & (pack.branch == 0))).nonzero().squeeze(1)
    point = HookPoint("mlp", layer)
    _, saved = hook_points.forward(biased, pack, reads=[point])
    block = attrgetter(hook_points.NAMES[biased.architecture].blocks)(biased.module)[layer]
    handle = block.mlp.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        biased.module(pack.input_ids[places][None])
    handle.remove()
    assert torch.allclose(saved[point][0, places], seen[0][0], atol=1e-4)


def test_an_mlp_is_added_to_the_stream_and_heads_of_its_layer_do_not_see_it(biased, tiny_questions):
    pack, mlp = pack_of(biased, tiny_questions[:2]), HookPoint("mlp", 1)
    points = [HookPoint("resid_post", 1), HookPoint("z", 1), mlp, HookPoint("z", 2)]
    _, clean = hook_points.forward(biased, pack, reads=points)
    _, edited = hook_points.forward(biased, pack, reads=points, edits={mlp: torch.zeros_like})
    assert torch.equal(edited[mlp], torch.zeros_like(clean[mlp]))
    assert torch.allclose(edited[points[0]], clean[points[0]] - clean[mlp], atol=1e-4)
    assert torch.equal(edited[points[1]], clean[points[1]])
    assert not torch.allclose(edited[points[3]], clean[points[3]], atol=1e-2)


def test_nothing_is_left_behind_after_an_exception(tiny, tiny_questions):
    pack = pack_of(tiny, tiny_questions[:2])
    before = metrics.measure(tiny, pack)

    def fails(value):
        raise ArithmeticError("inside the edit")

    with pytest.raises(Exception, match="inside the edit"):
        metrics.measure(tiny, pack, edits={HookPoint("mlp", 1): fails})
    assert same(before, metrics.measure(tiny, pack))


# Two routes to the same numbers -------------------------------------------------------------------


def test_zeroed_nodes_equal_edited_weights_bit_for_bit(biased, tiny_questions):
    pack = pack_of(biased, tiny_questions)
    clean = metrics.measure(biased, pack)
    by_hook = metrics.measure(biased, pack, edits=nodes.replace_each(biased, [SET]))
    with nodes.zeroed_weights(biased, SET):
        by_weights = metrics.measure(biased, pack)
    assert same(by_hook, by_weights) and not same(by_hook, clean)
    assert same(clean, metrics.measure(biased, pack))  # the weights are back


def test_weights_come_back_after_an_exception(biased):
    projection = hook_points.down_projection(biased.module, 3)
    before = [p.detach().clone() for p in projection.parameters()]
    with pytest.raises(RuntimeError, match="stop"), nodes.zeroed_weights(biased, SET):
        assert all((p == 0).all() for p in projection.parameters())
        raise RuntimeError("stop")
    assert all(torch.equal(p, old) for p, old in zip(projection.parameters(), before, strict=True))


def test_a_sweep_started_at_each_layer_equals_whole_runs(biased, tiny_questions):
    pack = pack_of(biased, tiny_questions)
    sets = [*nodes.alone(nodes.all_mlps(biased)), SET]
    effects = sweep.replace_sets(biased, pack, sets)
    for i, chosen in enumerate(sets):
        whole = metrics.measure(biased, pack, edits=nodes.replace_each(biased, [chosen]))
        np.testing.assert_allclose(effects.value["logodds"][i], whole["logodds"][0], atol=2e-4)
    assert (np.abs(effects.effect("logodds")).max(1) > 1e-3).all()  # each of them does something


def test_heads_are_swept_as_the_sweep_of_heads_does(tiny_llama, tiny_questions):
    pack, sets = pack_of(tiny_llama, tiny_questions), [((0, 1),), ((1, 3), (2, 0))]
    expected = of_heads.ablate_sets(tiny_llama, pack, sets, names=sweep.METRICS)
    found = sweep.replace_sets(tiny_llama, pack, [nodes.parse(chosen) for chosen in sets])
    assert same(found.value, expected.value) and same(found.baseline, expected.baseline)


def test_an_interrupted_sweep_goes_on_where_it_was(tiny_llama, tiny_questions, tmp_path):
    pack, sets = pack_of(tiny_llama, tiny_questions), nodes.alone(nodes.all_mlps(tiny_llama))
    first = sweep.replace_sets(tiny_llama, pack, sets, keep=tmp_path)
    ran = []
    again = sweep.replace_sets(
        tiny_llama, pack, sets, keep=tmp_path, progress=lambda label, done, of: ran.append(done)
    )
    assert same(first.value, again.value) and len(list(tmp_path.glob("*.npz"))) == 4
    assert ran == [1, 2, 3, 4]


# Hand-set -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept():
    """Every node of the hand-set model, zeroed alone."""
    model = toy_models.hand_set()
    alone = nodes.alone(nodes.all_nodes(model))
    return sweep.sweep_conditions(model, toy_models.QUESTIONS, ["sandbag"], FRAMING, alone)[
        "sandbag"
    ]


def test_the_hand_set_nodes_give_back_what_they_take(swept):
    """Three wrong answers of logit 0: log-odds 2 - .7 - .3 - log 3, and each node's own part."""
    assert swept.baseline["logodds"] == pytest.approx(1 - math.log(3), abs=1e-5)
    scores = ranking.of_effects(swept)
    assert len(scores) == 20
    for node, score in scores.items():
        assert score == pytest.approx(toy_models.TRUE.get(str(node), 0.0), abs=1e-5)
    assert nodes.join(nodes.best(scores, 3)) == "L2MLP+L1H3+L0MLP"  # the last of many zeros


def test_nodes_are_found_by_max_t_and_by_a_tenth_of_the_gap(swept):
    for expected, gap in {"L2MLP L1H3": 2.0, "L2MLP": 5.0, "": 8.0}.items():
        table = nodes.find(swept, gate_of(gap))
        assert table[table["found"]]["node"].tolist() == expected.split()
    row = table.iloc[0]
    assert (row["node"], row["kind"], row["layer"]) == ("L2MLP", "MLP", 2)
    assert row["effect_nats"] == pytest.approx(0.7, abs=1e-5) and row["p_max_t"] < 0.02
    rest = len(toy_models.tiny_models.word_tokenizer()) - 3
    p_before, p_after = (math.exp(x) / (3 * math.exp(x) + rest) for x in (1.0, 1.7))
    assert row["effect_pp"] == pytest.approx(100 * (p_after - p_before), abs=1e-3)


def test_a_node_of_changing_sign_is_not_found(swept):
    signs = np.array([1, -1, 1, -1, 1, -1, 1, -1])
    turned = swept._replace(
        value={m: swept.baseline[m] + signs * swept.effect(m) for m in swept.value}
    )
    assert not nodes.find(turned, gate_of(1.0))["found"].any()


def test_sweeps_of_heads_and_mlps_are_put_together(swept):
    kinds = [[i for i, (n,) in enumerate(swept.sets) if isinstance(n, t)] for t in (Head, Mlp)]
    parts = [
        swept._replace(
            sets=[swept.sets[i] for i in at], value={m: v[at] for m, v in swept.value.items()}
        )
        for at in kinds
    ]
    assert ranking.of_effects(nodes.together(*parts)) == ranking.of_effects(swept)
    other = parts[1]._replace(question_ids=("another",) * 8)
    with pytest.raises(ValueError, match="the same questions"):
        nodes.together(parts[0], other)


# Means --------------------------------------------------------------------------------------------


def test_a_mean_is_taken_at_the_same_position(tiny_llama, tiny_questions):
    """At the last prompt token it is the mean over the others' last tokens; the instruction, one
    for all questions, keeps its values under its own mean; position 0 is left alone.
    """
    model, point = tiny_llama, HookPoint("mlp", 2)
    target = positions.placed(model, tiny_questions, "sandbag", FRAMING)
    genuine, sandbag = values.banks(model, tiny_questions, ["genuine", "sandbag"], FRAMING)
    own, last = sandbag.z[point], target.pack.last
    theirs = genuine.z[point][genuine.placed.pack.last].mean(0)
    mean = values.means(model, target, [genuine])[point]
    assert torch.allclose(mean[last], theirs.expand(len(last), -1), atol=1e-5)
    assert torch.equal(mean[0], own[0])
    both = values.means(model, target, [genuine, sandbag])[point]
    assert torch.allclose(both[last[0]], (theirs + own[last].mean(0)) / 2, atol=1e-5)
    itself = values.means(model, target, [sandbag])[point]
    shared = torch.as_tensor(positions.at_place(target, "instruction"))
    assert torch.allclose(itself[shared], own[shared], atol=1e-5) and len(shared) > 4


def test_what_does_not_change_over_prompts_is_its_own_mean():
    """The hand-set nodes write the same everywhere: zeroed they matter, replaced by a mean not."""
    model = toy_models.hand_set()
    found = sweep.sweep_conditions(
        model, toy_models.QUESTIONS, ["sandbag"], FRAMING, [nodes.parse("L2MLP L1H3")],
        replacement="mean",
    )  # fmt: skip
    assert np.abs(found["sandbag"].effect("logodds")).max() < 1e-5


def test_an_unknown_replacement_is_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="choose zero or mean"):
        sweep.sweep_conditions(
            tiny_llama, tiny_questions, ["sandbag"], FRAMING, [SET], replacement="median"
        )


# Patching -----------------------------------------------------------------------------------------


def test_patched_nodes_equal_a_whole_run(tiny, tiny_questions):
    genuine, sandbag = (pack_of(tiny, tiny_questions, c, MATCHED) for c in ("genuine", "sandbag"))
    found = sweep.patch_sets(tiny, tiny_questions, MATCHED, [SET]).value["logodds"][0]
    new = values.values_of(tiny, genuine)
    whole = metrics.measure(tiny, sandbag, edits=nodes.replace_each(tiny, [SET], new))["logodds"][0]
    np.testing.assert_allclose(found, whole, atol=2e-4)


def test_all_nodes_patched_is_the_genuine_run_and_all_kept_the_sandbag_run(tiny, tiny_questions):
    genuine, sandbag = (
        metrics.measure(tiny, pack_of(tiny, tiny_questions, c, MATCHED))["logodds"][0]
        for c in ("genuine", "sandbag")
    )
    every = tuple(nodes.all_nodes(tiny))
    gaps = nodes.by_patching(tiny, tiny_questions, MATCHED, [every, SET])
    np.testing.assert_allclose(gaps.whole["logodds"], genuine - sandbag, atol=2e-4)
    np.testing.assert_allclose(gaps.none["logodds"], 0, atol=2e-4)
    np.testing.assert_allclose(gaps.removed["logodds"][0], 0, atol=2e-4)
    np.testing.assert_allclose(gaps.kept["logodds"][0], genuine - sandbag, atol=2e-4)
    assert np.abs(gaps.kept["logodds"][1] - gaps.whole["logodds"]).max() > 1e-3


def test_kept_by_means_is_every_other_node_replaced(tiny_llama, tiny_questions):
    """Against edits of whole runs, written out node by node."""
    names, expected = ("logodds",), {}
    both = ("genuine", "sandbag")
    banks = values.banks(tiny_llama, tiny_questions, both, FRAMING)
    others = tuple(n for n in nodes.all_nodes(tiny_llama) if n not in SET)
    for condition in both:
        target = positions.placed(tiny_llama, tiny_questions, condition, FRAMING)
        pack, new = target.pack, values.means(tiny_llama, target, banks)
        for kind, chosen in {"kept": others, "removed": SET}.items():
            edits = nodes.replace_each(tiny_llama, [chosen], new)
            expected[kind, condition] = metrics.measure(tiny_llama, pack, names, edits=edits)
    gaps = nodes.by_means(tiny_llama, tiny_questions, FRAMING, [SET], names=names)
    for kind in ("kept", "removed"):
        gap = expected[kind, "genuine"]["logodds"] - expected[kind, "sandbag"]["logodds"]
        np.testing.assert_allclose(getattr(gaps, kind)["logodds"], gap, atol=2e-4)


def test_prompts_that_do_not_match_are_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="match token by token"):
        sweep.patch_sets(tiny_llama, tiny_questions, FRAMING, [SET])
