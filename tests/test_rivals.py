"""Rivals that were selected as hard: who survives them, who must not, and what is said."""

import json

import games
import numpy as np
import pytest
from games import CHAIN, DOGS, LOAD, gate_of, on_both

from sandbagging.errors import UserError
from sandbagging.heads import circuits, estimates, rivals, selection, sweep
from sandbagging.heads.head import Head
from sandbagging.heads.rivals import Rival
from sandbagging.statistics import Estimate

NAMES = ("logodds", "p_full", "choice_len")
A, B, C, D = (Head(0, h) for h in range(4))
OTHERS = [(Head(layer, h),) for layer in (1, 2, 3, 4) for h in range(9)]
RIVAL = Rival("genuine", (C, D), False, 0)


def judged(worth, gate=None, rival=(RIVAL,), draws=None, **made):
    """Judge A and B by a rule that says what sets of heads are worth."""
    draws = OTHERS if draws is None else draws
    on = on_both(worth, [(A, B), *(r.heads for r in rival), *draws], **made)
    return rivals.judge(on, (A, B), rival, {"uniform": draws}, gate or gate_of())


def ours(genuine: float, sandbag: float, theirs=(0.0, 0.0)):
    """A and B are worth this, C and D `theirs`, all others nothing."""
    values = {frozenset((A, B)): (genuine, sandbag), frozenset((C, D)): theirs}
    return lambda heads: values.get(heads, (0.0, 0.0))


# Choosing -----------------------------------------------------------------------------------------


def test_rivals_are_chosen_by_the_same_rule_elsewhere():
    def worth(heads):
        (head,) = heads
        return {A: (0.1, 3), B: (0.2, 2), C: (2, 1), D: (1, 0)}.get(head, (0, 0))

    both = on_both(worth, [(h,) for h in (A, B, C, D)], noise=0.01)
    assert selection.top(both["sandbag"], 2, metric="logodds") == (A, B)
    (rival,) = rivals.choose(games.grown(both, 2), (A, B))
    assert rival == Rival("genuine", (C, D), False, 0)
    overlapping = rivals.choose(games.grown({**both, "neutral": both["sandbag"]}, 2), (A, C))
    assert overlapping[1] == Rival("neutral", (A, B), False, 1)


def test_rivals_and_chosen_heads_stand_side_by_side_one_by_one():
    def worth(heads):
        (head,) = heads
        return {A: (0.1, 3), B: (0.2, 2), C: (2, 1), D: (1, 0)}.get(head, (0, 0))

    both = on_both(worth, [(h,) for h in (A, B, C, D)], noise=0.01)
    table = rivals.singles_table(both, (A, B), rivals.choose(games.grown(both, 2), (A, B)))
    assert table[["chosen_on", "heads", "shared"]].to_numpy().tolist() == [
        ["sandbag", "L0H0 L0H1", 2],
        ["genuine", "L0H2 L0H3", 0],
    ]
    assert [e.value for e in table["on_sandbag"]] == pytest.approx([2.5, 0.5], abs=0.02)
    assert [e.value for e in table["there"]] == pytest.approx([2.5, 1.5], abs=0.02)


@pytest.mark.parametrize(
    ("framing", "wanted", "asked"),
    [
        ("instr", ["genuine", "neutral", "placebo"], ["genuine", "neutral", "placebo"]),
        ("instr", [], ["genuine"]),
        ("contrast", ["placebo"], ["genuine", "placebo_second"]),
    ],
)
def test_rivals_are_sought_on_prompts_that_ask_for_nothing_wrong(
    tiny_llama, framing, wanted, asked
):
    assert rivals.conditions(tiny_llama, framing, wanted) == asked


@pytest.mark.parametrize("wanted", ["sandbag", "placebos"])
def test_a_condition_that_rivals_cannot_be_sought_on_is_one_sentence(tiny_llama, wanted):
    with pytest.raises(UserError, match=f"on {wanted} prompts; choose among genuine, neutral"):
        rivals.conditions(tiny_llama, "instr", [wanted])


def test_where_a_rival_is_the_chosen_set_its_next_distinct_one_is_judged():
    def worth(heads):
        (head,) = heads
        return {A: (3, 3), B: (2, 2), C: (1, 1), D: (0, 0)}[head]

    both = on_both(worth, [(h,) for h in (A, B, C, D)], noise=0.01)
    found = rivals.choose(games.grown(both, 2), (B, A))
    assert found == [Rival("genuine", (A, C), True, 1)]
    said = rivals.coincidences([*found, RIVAL])
    assert "lead on genuine prompts (1 of 2 searches)" in said and said.count(". ") == 0
    assert rivals.coincidences([RIVAL]) == ""


def test_what_cannot_be_chosen_is_one_sentence():
    both = on_both(lambda heads: (0, 0), [(A,), (B,)])
    with pytest.raises(UserError, match="sandbag prompts alone"):
        rivals.choose({"sandbag": games.grown(both, 1)["sandbag"]}, (A,))
    with pytest.raises(UserError, match="no other set"):
        rivals.choose(games.grown(both, 2), (A, B))
    fewer = games.grown(on_both(lambda heads: (0, 0), [(A,), (B,)], n=20), 1)["genuine"]
    with pytest.raises(UserError, match="20 questions and the heads on 40"):
        rivals.choose({**games.grown(both, 1), "genuine": fewer}, (A,))


# The rule -----------------------------------------------------------------------------------------


def test_heads_that_leave_most_of_the_gap_carry_a_part_of_it_alone():
    """The whole gap is 5: two of it are a part, four are the circuit."""
    part, whole = judged(ours(0.0, 2.0)), judged(ours(0.0, 4.0))
    assert part.grade == rivals.PART and part.survives and "others carry the rest" in part.reason
    assert whole.grade == rivals.SURVIVES and "others carry" not in whole.reason


def test_a_circuit_that_no_rival_reaches_survives():
    found = judged(ours(0.0, 3.0, (0.5, 0.6)))
    assert found.survives and found.grade == rivals.SURVIVES
    assert found.share.value == pytest.approx(0.6, abs=0.02)
    assert found.margins["genuine"].value == pytest.approx(0.58, abs=0.02)
    assert found.rank_p == {"uniform": 1 / 37} and found.smallest_share < 0.2


def test_a_rival_that_ruins_genuine_answers_closes_more_and_takes_nothing_away():
    found = judged(ours(0.0, 3.0, (-5.0, 0.0)))
    assert found.grade == rivals.SURVIVES
    assert found.margins["genuine"].value == pytest.approx(1.6, abs=0.02)


@pytest.mark.parametrize(
    ("worth", "gate", "rival", "grade", "why"),
    [
        # the rival restores as much, and more
        (ours(0, 3, (0, 3)), None, [RIVAL], rivals.CHANCE, "same search finds on genuine prompts"),
        (ours(0, 2, (0, 4)), None, [RIVAL], rivals.CHANCE, "same search finds on genuine prompts"),
        (ours(0, 3), None, [], rivals.CHANCE, "no rival was selected"),
        # lifts every answer alike: the naive share is 60 %, the right one 0
        (ours(3, 3), None, [RIVAL], rivals.FAILS, "not shown to exceed 10%"),
        (ours(0, 0.3), None, [RIVAL], rivals.FAILS, "not shown to exceed 10%"),
        # nothing is left of the gap, since right answers are ruined
        (ours(-4, 1), None, [RIVAL], rivals.FAILS, "most of it by what they do to genuine"),
        # random sets do it as well
        (lambda heads: (0, 0) if C in heads else (0, 3), None, [RIVAL], rivals.FAILS, "too many"),
        (ours(0, 3), gate_of(0.2, "no"), [RIVAL], rivals.NOTHING, "no sandbagging to explain"),
    ],
)
def test_what_does_not_survive(worth, gate, rival, grade, why):
    found = judged(worth, gate, rival)
    assert found.grade == grade and not found.survives and why in found.reason


def test_five_draws_are_too_few_to_survive():
    found = judged(ours(0, 3), draws=OTHERS[:5])
    assert found.grade == rivals.FAILS and "too few were drawn (rank p = 0.167)" in found.reason
    with pytest.raises(UserError, match="No random sets"):
        judged(ours(0, 3), draws=[])


def test_where_p_full_says_the_opposite_no_claim_is_made():
    on = on_both(ours(0.0, 3.0), [(A, B), (C, D), *OTHERS])
    sandbag = on["sandbag"]
    value = {
        **sandbag.value,
        "p_full": sandbag.baseline["p_full"] - 0.05 + 0 * sandbag.value["p_full"],
    }
    on["sandbag"] = sandbag._replace(value=value)
    found = rivals.judge(on, (A, B), [RIVAL], {"uniform": OTHERS}, gate_of())
    assert found.grade == rivals.FAILS and "opposite signs" in found.reason


def test_a_null_is_judged_as_if_its_gate_were_open():
    """Words that change nothing: no gap, so no share of one, whatever the heads do."""
    null = gate_of(0.0, "no").as_if_open()
    found = judged(ours(0.0, 0.5), null, gap=0.0)
    assert found.grade == rivals.FAILS and np.isnan(found.share.low)
    # Without noise a hundredth of a nat is "significant", and most of a gap of its size.
    still = judged(ours(0.0, 0.015), null, gap=0.02, noise=0.001)
    assert still.share.low > 0.5 and still.margins["genuine"].low > 0
    assert still.grade == rivals.FAILS and "not shown to exceed 0.1 nats" in still.reason
    assert still.smallest_share > 5  # times the gap
    # a null with a real effect and a gap is caught by the rule, not by its gate
    assert judged(ours(0.0, 3.0), gate_of(0.0, "no").as_if_open()).survives


def test_the_wider_interval_decides():
    """The circuit works in one category of four; over questions it is clear of the rival, over
    categories it is not.
    """
    on = on_both(ours(0.0, 0.0), [(A, B), (C, D), *OTHERS])
    categories = {f"q{i}": "abcd"[i % 4] for i in range(40)}
    lifted = np.array([8.0 * (c == "a") for c in categories.values()])
    for name, scale in (("logodds", 1.0), ("p_full", 0.05)):
        on["sandbag"].value[name][0] += scale * lifted
    by_question, by_category = (
        rivals.judge(on, (A, B), [RIVAL], {"uniform": OTHERS}, gate_of(), c)
        for c in (None, categories)
    )
    assert by_question.share.low > 0.1 > by_category.share.low
    assert by_question.share.value == pytest.approx(by_category.share.value)
    assert by_category.grade == rivals.FAILS


def test_the_naive_share_is_118_percent_and_the_right_one_42():
    """A gap of 17; zeroing lifts sandbag prompts by 20.06 and genuine ones by 12.92."""
    on = on_both(ours(12.92, 20.06), [(A, B), (C, D), *OTHERS], gap=17.0, p_full=0.01)
    table = rivals.table(on, (A, B), [RIVAL]).set_index(["chosen_on", "metric", "quantity"])
    effect = table.loc[("sandbag", "logodds", "effect")]
    share = table.loc[("sandbag", "logodds", "share_restored")]
    assert effect["value"] / 17 == pytest.approx(1.18, abs=0.01)
    assert share["value"] == pytest.approx(0.42, abs=0.01) and share["unit"] == "share"
    found = rivals.judge(on, (A, B), [RIVAL], {"uniform": OTHERS}, gate_of(17.0))
    assert found.share.value == share["value"] and "[" in found.reason
    assert "42%" in found.reason and "118" not in found.reason


def test_rivals_are_read_back_as_they_were_written(tiny_llama):
    written = json.loads(json.dumps([RIVAL._asdict()]))
    assert rivals.read(tiny_llama, written) == [RIVAL]
    written[0]["heads"] = [[40, 0]]
    with pytest.raises(UserError, match="L40H0 does not exist"):
        rivals.read(tiny_llama, written)


def test_the_table_keeps_to_its_columns():
    on = on_both(ours(0.0, 3.0), [(A, B), (C, D)])
    table = rivals.table(on, (B, A), [RIVAL], rule="top 2, zero")
    columns = "rule chosen_on heads metric quantity value unit low high n".split()
    assert list(table) == columns and len(table) == 2 * 3 + 2 * 4
    assert set(table["heads"]) == {"L0H0+L0H1", "L0H2+L0H3"} and set(table["n"]) == {40}
    margin = table[(table["quantity"] == "margin") & (table["metric"] == "logodds")]
    assert margin["value"].item() == pytest.approx(0.6, abs=0.02)


# Planted ------------------------------------------------------------------------------------------


def searched(model, framing="instr"):
    """Search for two heads on six questions, and judge them and their rivals on six others."""
    train, test = DOGS[:6], DOGS[6:]
    swept = sweep.sweep_conditions(
        model, train, ["sandbag", "genuine"], framing, sweep.all_heads(model), names=NAMES
    )
    grown = games.grown(swept, 2)
    chosen = tuple(sorted(grown["sandbag"].heads))
    found = rivals.choose(grown, chosen)
    draws = circuits.random_sets_of_each_kind(model, chosen, 40, seed=1)
    sets = [chosen, *(r.heads for r in found), *draws["uniform"], *draws["same_layer"]]
    on = sweep.sweep_conditions(model, test, ["sandbag", "genuine"], framing, sets, names=NAMES)
    return chosen, found, on, draws


def test_heads_chosen_on_genuine_prompts_win_where_they_were_planted_to(tiny_llama):
    """CHAIN leads among single heads on sandbag prompts, since either of its heads undoes it; but
    LOAD closes more of the gap. The rule before called CHAIN a circuit.
    """
    games.plant(tiny_llama, chain=0.33, always=0.5, flagged=1.5)
    chosen, found, on, draws = searched(tiny_llama)
    assert chosen == CHAIN and found == [Rival("genuine", LOAD, False, 0)]
    verdict = rivals.judge(on, chosen, found, draws, gate_of())
    assert verdict.grade == rivals.CHANCE and verdict.margins["genuine"].high < 0
    # What was asked before, and what it does pass: random sets, and an effect on sandbag prompts.
    rank = circuits.against_random(joint=on["sandbag"].of(chosen), draws=np.stack(
        [on["sandbag"].of(s) for s in draws["uniform"]]))["rank_p"]  # fmt: skip
    assert rank <= 0.05 and estimates.estimate(on["sandbag"].of(chosen)).low > 0.5


def test_heads_that_hold_every_answer_down_are_no_rival(tiny_llama):
    """LOAD now works on all prompts alike: it is what a search on genuine prompts finds, and it
    closes nothing of the gap.
    """
    games.plant(tiny_llama, chain=1.0, always=0.5, flagged=0.0)
    chosen, found, on, draws = searched(tiny_llama)
    assert chosen == CHAIN and found == [Rival("genuine", LOAD, False, 0)]
    verdict = rivals.judge(on, chosen, found, draws, gate_of())
    assert verdict.survives, verdict.reason
    assert verdict.share.value == pytest.approx(1, abs=0.05)
    assert rivals.judge(on, LOAD, [], draws, gate_of()).grade == rivals.FAILS
    assert isinstance(verdict.share, Estimate)
