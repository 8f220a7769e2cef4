"""What may be called specific, which members matter, what remains, and the tables of ways."""

import numpy as np
import pytest
from games import gate_of, on_both

from sandbagging.heads import estimates, parts, rivals, shares, specificity
from sandbagging.heads.head import Head
from sandbagging.statistics import Estimate
from sandbagging.suite import circuit, tables

A, B, C = (Head(0, h) for h in range(3))


def interval(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 40)


@pytest.mark.parametrize(
    ("odds", "full", "says"),
    [
        ((1, 2), (3, 9), specificity.SPECIFIC),
        ((1, 2), (-2, 3), specificity.SPECIFIC),  # p_full is not shown to say the opposite
        ((1, 2), (-9, -3), specificity.OPPOSITE),
        ((0.01, 0.02), (-2, 3), specificity.NOT_SHOWN),  # significant, and next to nothing
        ((-1, 2), (3, 9), specificity.P_FULL_ALONE),  # what the earlier rule called specific
        ((-2, -1), (3, 9), specificity.OPPOSITE),
        ((-2, -1), (-3, 9), specificity.LARGER_ELSEWHERE),
        ((-1, 2), (-3, 9), specificity.NOT_SHOWN),
        ((-1, 2), (-9, -3), specificity.NOT_SHOWN),
    ],
)
def test_log_odds_decide_what_is_specific(odds, full, says):
    assert specificity.judge(interval(*odds), interval(*full)) == says
    assert not specificity.WORDS[says].endswith(".")


def test_specific_by_effects_set_by_hand():
    """3 nats on sandbag prompts, 1 on genuine ones: 2 more, and 10 pp of p_full."""
    on = on_both(lambda heads: (1.0, 3.0), [(A,)], noise=0.05)
    found = specificity.specific({**on, "neutral": on["genuine"]}, (A,))
    assert found.specific and "on log-odds" in found.words
    assert found.differences["genuine"]["logodds"].value == pytest.approx(2, abs=0.05)
    assert found.differences["neutral"]["p_full"].value == pytest.approx(10, abs=0.3)
    assert found.differences["neutral"]["p_full"].unit == "pp"


def test_what_lifts_all_answers_alike_is_not_specific():
    on = on_both(lambda heads: (3.0, 3.0), [(A,)])
    assert specificity.specific(on, (A,)).says == specificity.NOT_SHOWN


def test_the_ceiling_makes_an_effect_on_p_full_alone():
    """On log-odds 2 nats on both; on p_full a third of it where genuine prompts lie near 1."""
    on = on_both(lambda heads: (2.0, 2.0), [(A,)])
    genuine = on["genuine"]
    change = (genuine.value["p_full"] - genuine.baseline["p_full"]) / 3
    near = {**genuine.value, "p_full": genuine.baseline["p_full"] + change}
    found = specificity.specific({**on, "genuine": genuine._replace(value=near)}, (A,))
    assert found.says == specificity.P_FULL_ALONE and "ceiling" in found.words


def test_specific_by_the_wider_interval():
    on = on_both(lambda heads: (0.0, 0.0), [(A,)])
    categories = {f"q{i}": "abcd"[i % 4] for i in range(40)}
    lifted = np.array([2.0 * (c == "a") for c in categories.values()])
    on["sandbag"].value["logodds"][0] += lifted
    assert specificity.specific(on, (A,)).specific
    assert not specificity.specific(on, (A,), categories).specific


# Members ------------------------------------------------------------------------------------------


def jobs(heads: frozenset) -> tuple[float, float]:
    """A restores 2 nats of 5; B and C do one job of 1 nat, either of them alone."""
    return 0.0, 2.0 * (A in heads) + 1.0 * bool({B, C} & heads)


def test_a_member_that_another_stands_in_for_does_not_matter():
    sets = [(A, B, C), *parts.without_one((A, B, C))]
    assert sets[1:] == [(B, C), (A, C), (A, B)]
    table = parts.minimality(on_both(jobs, sets), (C, A, B)).set_index("head")
    assert table["share_lost"].tolist() == pytest.approx([0.4, 0, 0], abs=0.02)
    assert table["matters"].tolist() == [True, False, False]


def test_without_the_stand_in_both_members_matter():
    table = parts.minimality(on_both(jobs, [(A, B), (A,), (B,)]), (A, B))
    assert table["matters"].all()
    assert table["share_lost"].tolist() == pytest.approx([0.4, 0.2], abs=0.02)


def test_a_single_head_is_its_own_circuit():
    assert parts.without_one((A,)) == []
    table = parts.minimality(on_both(jobs, [(A,)]), (A,))
    assert table["share_lost"].item() == pytest.approx(0.4, abs=0.02)


def test_a_member_that_only_ruins_does_not_matter():
    """B closes 3 nats of 5 by lowering genuine answers; A restores 2."""
    on = on_both(lambda heads: (-3.0 * (B in heads), 2.0 * (A in heads)), [(A, B), (A,), (B,)])
    table = parts.minimality(on, (A, B)).set_index("head")
    assert table["matters"].tolist() == [True, False]
    assert table["share_lost"]["L0H1"] == pytest.approx(-0.6, abs=0.02)
    alone = parts.alone_and_lost(on, (A, B), parts.minimality(on, (A, B)))
    assert alone["value"].tolist()[:2] == pytest.approx([0.4, -0.6], abs=0.02)


@pytest.mark.parametrize(
    ("worth", "noise", "says", "left", "between"),
    [
        ((0.0, 5.0), 0.1, parts.COMPLETE, 0.0, 0.0),
        ((0.0, 3.0), 0.1, parts.INCOMPLETE, 2.0, 2.0),
        ((-5.0, 0.0), 0.1, parts.INCOMPLETE, 10.0, 0.0),  # all answers are ruined
        ((-3.0, 2.0), 0.1, parts.INCOMPLETE, 6.0, 0.0),  # closed from both sides
        ((2.0, 7.0), 0.1, parts.COMPLETE, 0.0, 0.0),  # all answers rise, and the gap is gone
        ((0.0, 7.0), 0.1, parts.TURNED, -2.0, -2.0),
        ((-1.0, 6.0), 0.1, parts.TURNED, 0.0, -2.0),
        ((0.0, 4.6), 1.0, parts.UNSAID, 0.4, 0.4),
    ],
)
def test_what_remains_of_the_gap(worth, noise, says, left, between):
    found = parts.remains(on_both(lambda heads: worth, [(A,)], noise=noise), (A,), gate_of(5.0))
    assert found.says == says and found.floor == pytest.approx(0.5)
    assert found.gap.value == pytest.approx(left, abs=noise)
    assert found.between.value == pytest.approx(between, abs=noise)
    assert found.share.value == pytest.approx(found.gap.value / 5, abs=0.05)
    assert found.gap.unit == "nats"


# Tables -------------------------------------------------------------------------------------------


def test_ways_side_by_side():
    ways = {
        "instruction": on_both(lambda heads: (0.0, 4.0), [(A,)], noise=0.01),
        "last token": on_both(lambda heads: (1.0, 1.0), [(A,)], noise=0.01),
    }
    table = parts.by_way(ways, (A,)).set_index(["way", "metric", "quantity"])["value"]
    assert table["instruction", "logodds", "effect"] == pytest.approx(4, abs=0.05)
    assert table["instruction", "logodds", "share_closed"] == pytest.approx(0.8, abs=0.02)
    assert table["last token", "logodds", "effect on genuine"] == pytest.approx(1, abs=0.05)
    assert table["last token", "p_full", "share_closed"] == pytest.approx(0, abs=0.02)
    alone = parts.by_way({"all": {"sandbag": ways["instruction"]["sandbag"]}}, (A,))
    assert set(alone["quantity"]) == {"effect"}


def test_an_exchange_of_all_that_differs_is_worth_the_whole_gap():
    """Genuine prompts fall by the gap and sandbag ones rise by it."""
    whole = on_both(lambda heads: (-5.0, 5.0), [(A,)], noise=0.0)
    one_way = on_both(lambda heads: (0.0, 5.0), [(A,)], noise=0.0)
    assert parts.exchanged(whole, (A,)).value == pytest.approx(1)
    assert parts.exchanged(one_way, (A,)).value == pytest.approx(0.5)


def test_a_share_is_the_same_by_both_of_its_formulas():
    """1 - gap after / gap before, and the difference of the two effects / gap before."""
    on = on_both(lambda heads: (1.0, 3.0), [(A,)])
    after = [on[c].value["logodds"][0].mean() for c in on]
    share = estimates.share_closed(on, (A,), "logodds")
    assert share.value == pytest.approx(1 - (after[0] - after[1]) / shares.gap(on).mean())


def test_tables_of_several_sets_name_them():
    """A restores 3 of 5 and B nothing, in one way; the page reads the shares off by way."""
    on = on_both(lambda heads: (0.0, 3.0 * (A in heads)), [(A,), (B,)], noise=0.01)
    table = parts.of_each({"zero": on}, {"joint": (A,), "random": (B,)})
    assert list(table)[:3] == ["set", "heads", "way"] and len(table) == 2 * 2 * 4
    assert parts.shares_by_way(table) == {"zero": pytest.approx(0.6, abs=0.01)}
    assert parts.shares_by_way(table, "random")["zero"] == pytest.approx(0, abs=0.01)


def test_a_way_that_ruins_is_told_by_both_shares():
    on = on_both(lambda heads: (-2.0, 3.0), [(A,)], noise=0.01)
    table = parts.of_each({"zero": on}, {"joint": (A,)})
    assert parts.shares_by_way(table)["zero"] == pytest.approx(0.2, abs=0.01)
    closed = parts.shares_by_way(table, quantity="share_closed")
    assert closed["zero"] == pytest.approx(1, abs=0.01)


def test_a_head_alone_and_what_is_lost_without_it():
    """Either of the two heads restores 2 of 5, both together 2: neither is missed."""
    on = on_both(lambda heads: (0.0, 2.0), [(A,), (B,), (A, B)], noise=0.01)
    minimal = parts.minimality(on, (A, B))
    table = parts.alone_and_lost(on, (A, B), minimal).set_index(["quantity", "head"])["value"]
    assert table["alone"].tolist() == pytest.approx([0.4, 0.4], abs=0.01)
    assert table["lost without it"].tolist() == pytest.approx([0, 0], abs=0.01)


def test_an_exchange_is_told_by_direction():
    on = on_both(lambda heads: (-5.0, 2.5), [(A,)], noise=0.0)
    table = parts.exchange_table(on, {"joint": (A,)}).set_index(["metric", "quantity"])["value"]
    assert table["logodds", "into genuine"] == pytest.approx(-5)
    assert table["logodds", "into sandbag"] == pytest.approx(2.5)
    assert table["logodds", "share_exchanged"] == pytest.approx(0.75)


def test_headline_numbers_have_both_intervals():
    on = on_both(lambda heads: (-1.0, 3.0), [(A,)])
    areas = {f"q{i}": "abcd"[i % 4] for i in range(40)}
    found = shares.headline(on, (A,), areas)
    names = ["effect", "effect on genuine", "share restored", "share closed"]
    assert list(found)[:4] == [f"{name}, log-odds" for name in names]
    values = [one.estimate.value for one in found.values()][:4]
    assert values == pytest.approx([3, -1, 0.4, 0.8], abs=0.05)
    share = found["share restored, log-odds"]
    assert len(share.without) == 4
    told = tables.wide(found)
    assert told["value"]["share restored, log-odds"] == f"{share.estimate.value:.0%}"
    assert list(told) == [
        "value", "95 % over questions", "over categories", "without one category",
    ]  # fmt: skip


def test_a_set_that_closes_the_gap_by_ruin_passes_no_rule_and_one_that_restores_it_passes_all():
    """Both leave no gap to see: A brings sandbag answers back, B ruins genuine ones."""
    others = [(Head(layer, h),) for layer in (1, 2, 3) for h in range(10)]
    worth = {frozenset([A]): (0.0, 5.0), frozenset([B]): (-5.0, 0.0), frozenset([C]): (0.5, 0.5)}
    on = on_both(lambda heads: worth.get(heads, (0.0, 0.0)), [(A,), (B,), (C,), *others])
    rival, areas = rivals.Rival("genuine", (C,), False, 0), {f"q{i}": str(i) for i in range(40)}
    said = {}
    for name, heads in {"truth": (A,), "ruin": (B,)}.items():
        survival = rivals.judge(on, heads, [rival], {"uniform": others}, gate_of())
        assert survival.closed.value == pytest.approx(1, abs=0.02)
        specific = specificity.specific(on, heads)
        remains = parts.remains(on, heads, gate_of())
        written = circuit.verdicts(survival, specific, shares.headline(on, heads, areas))
        shown = {m: written[f"share_{m}"]["logodds"].value for m in ("restored", "closed")}
        said[name] = (survival.grade, specific.says, remains.says, shown)
    near = {m: pytest.approx(1, abs=0.02) for m in ("restored", "closed")}
    assert said["truth"] == (rivals.SURVIVES, specificity.SPECIFIC, parts.COMPLETE, near)
    ruined = {**near, "restored": pytest.approx(-1, abs=0.02)}
    assert said["ruin"] == (
        rivals.FAILS, specificity.LARGER_ELSEWHERE, parts.INCOMPLETE, ruined,
    )  # fmt: skip


def test_heads_that_lead_one_by_one_are_told_unless_they_are_the_chosen_ones(tiny_llama):
    found = {"leading": [[0, 1], [0, 0]]}
    assert circuit.leading(tiny_llama, found, (A, C)) == (A, B)
    assert circuit.leading(tiny_llama, found, (B, A)) == ()
    assert circuit.leading(tiny_llama, {}, (A, C)) == ()  # notebook 07 of an older run
    on = on_both(lambda heads: (-2.0, 3.0), [(A, B)], noise=0.01)
    closes = parts.of_each({"zero": on}, circuit.named_sets((A, B), [], (), (C,), (A, B)) | {
        "joint": (A, B), "random": (A, B)})  # fmt: skip
    told = circuit.of_leading(closes, {"leading": "graded"}, (A, B))
    assert told["heads"] == (A, B) and told["answers"] == "graded"
    assert told["share_restored"]["logodds"].value == pytest.approx(0.2, abs=0.01)
    assert told["share_closed"]["p_full"].value == pytest.approx(1, abs=0.01)
    assert circuit.of_leading(closes, {}, ()) is None


def test_sets_of_two_measurements_stand_together():
    first = on_both(lambda _: (0.0, 1.0), [(A,)], noise=0.0)
    second = on_both(lambda _: (0.0, 2.0), [(B,)], noise=0.0)
    both = estimates.with_sets(first["sandbag"], second["sandbag"])
    assert [both.of(h, "logodds").mean() for h in both.sets] == pytest.approx([1, 2])
    other = second["sandbag"]._replace(question_ids=("another",) * 40)
    with pytest.raises(ValueError, match="different questions"):
        estimates.with_sets(first["sandbag"], other)
