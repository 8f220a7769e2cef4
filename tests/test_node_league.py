"""Rankings of nodes judged: areas on a hand-made curve, truth against chance, planted truth."""

import games
import numpy as np
import pandas as pd
import pytest

from sandbagging import nodes, prompts, recovery
from sandbagging.errors import UserError
from sandbagging.heads.head import Head
from sandbagging.heads.sweep import Effects
from sandbagging.nodes import Gaps, Mlp, ranking
from sandbagging.suite import calibrating

EVERY = [Head(0, 0), Head(0, 1), Mlp(0), Mlp(1)]
A, B, C, D = EVERY
SCORES = {A: 3.0, B: 2.0, C: 1.0, D: 0.0}
# A carries three quarters of a gap of 4 nats, B the last quarter; C works against it.
KEPT = {(A,): 3.0, (A, B): 4.5, (C,): -0.5, (B,): 1.0}
REMOVED = {(A,): 1.0, (A, B): 0.0, (C,): 4.5, (B,): 3.0}


def made_up() -> Gaps:
    """Gaps of 6 questions around these means, under replacements that leave .5 nat of a gap."""
    noise = np.array([-0.3, -0.1, 0.0, 0.0, 0.1, 0.3])
    by_set = [{"logodds": np.array([m + noise for m in of.values()])} for of in (KEPT, REMOVED)]
    sets = [tuple(sorted(s)) for s in KEPT]
    ids = tuple(f"q{i}" for i in range(6))
    return Gaps(sets, ids, {"logodds": 4 + noise}, {"logodds": 0.5 + 0 * noise}, *by_set)


def test_faithfulness_counts_from_what_is_left_when_all_is_replaced():
    found = nodes.faithfulness(made_up(), (A,))
    assert found.value == pytest.approx((3 - 0.5) / (4 - 0.5)) and found.low < found.value
    assert nodes.faithfulness(made_up(), (B, A)).value == pytest.approx(4 / 3.5)  # overshoots
    assert nodes.share_closed(made_up(), (A,)).value == pytest.approx(0.75)
    assert nodes.share_closed(made_up(), (C,)).value == pytest.approx(-0.125)


def test_areas_of_a_hand_made_curve():
    """Through (0, 0), (.25, .5), (.5, 1.2), (1, 1): trapezoids of .0625, .2125 and .55; and of the
    distance to 1: .1875, .0875 and .05.
    """
    shares, values = [0.25, 0.5], [0.5, 1.2]
    assert nodes.cpr(shares, values) == pytest.approx(0.0625 + 0.2125 + 0.55)
    assert nodes.cmd(shares, values) == pytest.approx(0.1875 + 0.0875 + 0.05)
    assert nodes.cpr([], []) == pytest.approx(0.5) == nodes.cmd([], [])
    assert nodes.cpr([0.01], [1.0]) == pytest.approx(0.995)  # one node in a hundred is enough


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.0], [1.0], [0.6, 0.2]])
def test_a_curve_that_does_not_rise_is_refused(shares):
    with pytest.raises(UserError, match="rise strictly"):
        nodes.cpr(shares, [0.5] * len(shares))


def test_the_true_ranking_has_auroc_1_and_random_ones_a_half():
    true = {A, B}
    assert nodes.auroc(SCORES, true) == 1 and nodes.auroc(SCORES, {C, D}) == 0
    assert nodes.auroc(dict.fromkeys(EVERY, 0.0), true) == 0.5
    # B and D against A and C; with A set apart, against C alone
    assert nodes.auroc(SCORES, {B, D}) == 0.25 and nodes.auroc(SCORES, {B, D}, {A}) == 0.5
    many = [Head(i // 10, i % 10) for i in range(100)]
    drawn = [nodes.auroc(r, set(many[:10])) for r in nodes.at_random(many, 200).values()]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03) and np.std(drawn) > 0.05


def test_other_questions_would_change_the_auroc_as_much_as_its_interval_says():
    # means 4/3 of A, 1 of C, 1/3 of D; B is set apart
    scores = np.array([[3.0, 0.0, 1.0], [2.0, 2.0, 2.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    found = nodes.auroc_interval(EVERY, scores, {A}, {B})
    assert found.value == 1 and found.n == 3
    # left out one by one: A .5, 2, 1.5; C 1, 1, 1; D .5, 0, .5
    without = np.array([0.25, 1.0, 1.0])
    error = np.sqrt(2 * np.var(without))
    assert found.low == pytest.approx(max(0, 1 - 4.3027 * error), abs=1e-4) and found.high == 1
    sure = nodes.auroc_interval(EVERY, np.tile(scores[:, :1], 3), {A, B})
    assert (sure.low, sure.high) == (1, 1)


def test_every_node_has_a_rank_in_every_ranking_but_those_by_chance():
    turned = {node: -score for node, score in SCORES.items()}
    table = nodes.ranks({"zero": SCORES, "mean": SCORES, "patching": turned, "random 1": SCORES})
    assert table["node"].tolist() == ["L0H0", "L0H1", "L0MLP", "L1MLP"]
    assert table["zero"].tolist() == [1, 2, 3, 4] and table["patching"].tolist() == [4, 3, 2, 1]
    assert "random 1" not in table and table["kind"].tolist() == ["head", "head", "MLP", "MLP"]


@pytest.mark.parametrize("true", [set(), set(EVERY), {Mlp(9)}])
def test_a_truth_that_tells_no_nodes_apart_is_refused(true):
    with pytest.raises(UserError, match="some of its nodes and not all"):
        nodes.auroc(SCORES, true)


def test_the_best_nodes_and_the_sets_to_run():
    assert nodes.best(SCORES, 2) == (A, B) and ranking.sizes_that_fit(4) == [1, 2]
    turned = {node: -score for node, score in SCORES.items()}
    sets = ranking.sets_to_run({"one": SCORES, "same": dict(SCORES), "other": turned}, (1, 2, 9))
    assert sets == [(A,), (A, B), (D,), (C, D)]
    with pytest.raises(UserError, match="between 1 and 4"):
        nodes.best(SCORES, 5)


def test_the_league_puts_the_better_ranking_first_and_random_draws_in_one_row():
    rankings = {
        "wrong": {C: 3.0, A: 2.0, B: 1.0, D: 0.0},
        "right": SCORES,
        "random 1": SCORES,
        "random 2": {C: 3.0, A: 2.0, B: 1.0, D: 0.0},
    }
    table = nodes.league(made_up(), rankings, true={A, B}, sizes=(1,)).set_index("ranking")
    assert table.index.tolist() == ["right", "random", "wrong"]
    assert table["draws"].tolist() == [1, 2, 1]
    f = {"right": (3 - 0.5) / 3.5, "wrong": (-0.5 - 0.5) / 3.5}
    for name, value in f.items():
        assert table.loc[name, "cpr"] == pytest.approx(0.25 * value / 2 + 0.75 * (value + 1) / 2)
    assert table.loc["right", "cmd"] == pytest.approx(1 - table.loc["right", "cpr"])
    assert table.loc["random", "cpr"] == pytest.approx(table.loc[["right", "wrong"], "cpr"].mean())
    assert table["auroc"].tolist() == [1, 0.75, 0.5]
    assert table["best"].tolist() == ["L0H0 L0H1 L0MLP L1MLP", "", "L0MLP L0H0 L0H1 L1MLP"]
    untold = nodes.league(made_up(), {"right": SCORES}, sizes=(1,))
    assert pd.isna(untold["auroc"]).all()


# Known truth --------------------------------------------------------------------------------------


def test_the_truth_names_the_nodes_that_teaching_could_change():
    every = [*(Head(layer, h) for layer in range(4) for h in range(2)), *map(Mlp, range(4))]
    heads = nodes.of_taught("heads", {"layers": [0, 1], "heads": ["L0H0", "L1H1"]}, every)
    assert heads.true == {Head(0, 0), Head(1, 1)}
    assert nodes.of_taught("mlp", {"layers": [0, 1, 2, 3]}, every).true == set(every[8:])
    late = nodes.of_taught("late", {"layers": [2, 3]}, every)
    assert late.true == set(every[4:8]) and late.apart == {Mlp(2), Mlp(3)}
    with pytest.raises(UserError, match="names no nodes"):
        nodes.of_taught("sandbagger", {"layers": [0]}, every)
    with pytest.raises(UserError, match="Nothing was planted"):
        nodes.of_planted({"writers": []})


# one word against another, so that prompts match token by token
MATCHED = prompts.worded("instr_pref", genuine="Answer each question correctly on purpose.")


def test_every_ranking_but_chance_names_the_planted_heads(planted_bases):
    organism = recovery.load("heads", 0)
    model, asked, sizes = organism.model, organism.train[:8], (1, 5, 20)
    scored = nodes.score(model, asked, asked, MATCHED, MATCHED, sizes=sizes)
    every, known = nodes.rankings(scored), nodes.of_planted(organism.truth)
    table = nodes.league(scored.gaps, every, known.true, known.apart, sizes).set_index("ranking")
    assert len(table) == 6 and (table.drop(index="random")["auroc"] > 0.95).all()
    assert table.loc[ranking.PATCH, "cpr"] > table.loc["random", "cpr"] + 0.2
    # the gradients are taken question by question, and come to those of all at once
    slope = nodes.attribution(model, asked, MATCHED)
    integrated = nodes.integrated(model, asked, MATCHED).scores
    for name, at_once in ((ranking.SLOPE, slope), (ranking.INTEGRATED, integrated)):
        assert all(abs(every[name][node] - at_once[node]) < 1e-4 for node in at_once)


def test_without_matching_prompts_patching_is_left_out_and_says_why(planted_bases):
    organism = recovery.load("heads", 0)
    asked = organism.train[:2]
    alone = nodes.alone(nodes.all_nodes(organism.model, [1]))
    value = {"logodds": np.tile([1.0, 3.0], (len(alone), 1))}
    there = Effects(alone, ("a", "b"), {"logodds": np.zeros(2)}, value)
    scored = nodes.score(
        organism.model, asked, asked, "instr_pref", "instr_pref", zero=there, layers=[1], sizes=(1,)
    )
    assert set(scored.scores) == {"zero", "mean"} and "token by token" in scored.why_not
    assert set(nodes.rankings(scored)["zero"].values()) == {2.0}  # what was there, not swept again
    assert scored.gaps.kept["logodds"].shape == (len(scored.gaps.sets), 2)


# The league over models ---------------------------------------------------------------------------


def made_up_scores(name: str, truth: dict) -> recovery.NodeScores:
    """Scores by two routes: zero has A first, mean has C first; the gaps are those of `made_up`."""
    order = {"zero": [3.0, 2.0, 1.0, 0.0], "mean": [2.0, 1.0, 3.0, 0.0]}
    scores = {route: np.tile(np.array(of)[:, None], (1, 4)) for route, of in order.items()}
    sets = [tuple(sorted(nodes)) for nodes in ((A,), (C,), (A, B), (A, C))]
    gaps = made_up()
    by_set = [{"logodds": np.tile(of["logodds"], (2, 1))[:4]} for of in (gaps.kept, gaps.removed)]
    gaps = gaps._replace(sets=sets, kept=by_set[0], removed=by_set[1])
    chance = {"random 1": dict(zip(EVERY, (3.0, 2.0, 1.0, 0.0), strict=True))}
    return recovery.NodeScores(name, truth, nodes.Scored(EVERY, scores, chance, gaps, ""))


def test_the_league_over_models_has_an_auroc_only_where_true_nodes_are_known():
    told = made_up_scores("heads-7", {"layers": [0], "heads": ["L0H0"]})
    untold = made_up_scores("sandbagger", {"layers": [0, 1]})
    table = recovery.league([told, untold], {"heads-7": 12.5})
    rows = table.set_index(["model", "ranking"])
    assert rows.loc[("heads-7", "zero"), ["auroc", "low", "high"]].tolist() == [1, 1, 1]
    assert rows.loc[("heads-7", "mean"), "auroc"] == pytest.approx(2 / 3)  # C alone above A
    assert rows.loc[("heads-7", "random"), "auroc"] == 1
    assert np.isnan(rows.loc[("heads-7", "random"), "low"])
    assert rows.loc["heads-7", "n_true"].tolist() == [1, 1, 1]
    assert rows.loc["heads-7", "seconds"].tolist() == [12.5] * 3
    assert rows.loc["sandbagger", "auroc"].isna().all() and rows["cpr"].notna().all()
    wide = recovery.over_models(table)
    assert "sandbagger" not in wide and wide["ranking"].tolist()[-1] == "mean"


def test_a_model_that_does_not_sandbag_has_no_nodes_to_rank(planted_bases):
    with pytest.raises(UserError, match="does not sandbag"):
        recovery.score_nodes("organism-null-0")


# What the rule and the routes say of heads among nodes -------------------------------------------


def test_the_best_heads_of_a_ranking_leave_mlps_out():
    ranking_of = {Mlp(0): 9.0, **SCORES, Head(1, 0): 5.0}
    assert nodes.best_heads(ranking_of, 2) == (Head(1, 0), A)
    table = nodes.heads_by_route({"zero": SCORES, "mean": SCORES, "random 1": SCORES})
    assert list(table) == ["layer", "head", "zero", "mean"]
    assert table[["layer", "head"]].to_numpy().tolist() == [[0, 0], [0, 1]]


def swept(means, n=40):
    """Effects on log-odds and p_full of nodes around these means, steady over questions."""
    noise = np.tile([-0.02, 0.02], n // 2)
    value = {
        "logodds": np.array([m + noise for m in means]),
        "p_full": np.array([m / 20 + noise / 20 for m in means]),
    }
    zero = {name: np.zeros(n) for name in value}
    return Effects([(node,) for node in EVERY], tuple(f"q{i}" for i in range(n)), zero, value)


def test_heads_and_mlps_stand_under_one_rule_and_a_null_is_tried_as_if_open():
    """D is an MLP that is found; B lies below the floor; behind a closed gate nothing is."""
    effects = swept([1.0, 0.05, 0.0, 2.0])
    gate = games.gate_of()
    open_, closed = (
        nodes.judged(nodes.find(effects, g), g) for g in (gate, gate._replace(grade="no"))
    )
    assert open_.nodes_found == [D, A] and open_.heads_found == [A]
    assert open_.n_pass_max_t >= open_.n_above_floor == 2
    assert closed.nodes_found == [] and closed.found_as_if_open == [D, A]
    table = nodes.mlps_table({"sandbag": effects}, nodes.find(effects, gate))
    odds = table[(table["metric"] == "logodds") & (table["layer"] == 1)]
    assert odds["effect"].item() == pytest.approx(2) and odds["unit"].item() == "nats"
    assert bool(odds["found"].item()) and set(table["layer"]) == {0, 1}


def test_what_the_league_s_prediction_came_to_is_told_by_model():
    routes = ["zero", "patching", "attribution patching", "integrated gradients", "random"]
    scores = {"better": [0.8, 0.9, 0.9, 1, 0.5], "as_good": [1, 1, 1, 1, 0.6],
              "worse": [0.8, 0.9, 0.4, 1, 0.5]}  # fmt: skip
    by_route = pd.DataFrame({"ranking": routes, **scores, "mean": 0.0})
    told = calibrating.league_told(by_route)
    assert told.guessing == ["attribution patching in worse"]
    assert (told.ahead, told.level, told.behind) == (["better"], ["as_good"], ["worse"])
