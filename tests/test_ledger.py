"""The rule of the ledger line by line on hand-set numbers, and the ledger on made-up artefacts."""

from math import nan

import numpy as np
import pandas as pd
import pytest
from made_up_ledger import N, artefacts, cells, circuit_summary, draws, fields, separation
from made_up_ledger import gate as made_up_gate

from sandbagging import statistics
from sandbagging.statistics import Estimate
from sandbagging.suite import ledger
from sandbagging.suite.ledger import (
    CANNOT_BE_SAID,
    NOT_REPLICATED,
    NOT_RUN,
    NOT_TESTABLE,
    OPPOSITE,
    REPLICATED,
    SAME_DIRECTION,
)
from sandbagging.suite.ledger.table import number_text

JOINT = Estimate(13.71, 11.28, 16.24, 50, "pp")
NO_INTERVAL = Estimate(7.72, nan, nan, 50, "pp")
OF_A_TOOL = {SAME_DIRECTION, OPPOSITE, NOT_TESTABLE}
OF_THE_SAME_MODEL = {REPLICATED, NOT_REPLICATED, CANNOT_BE_SAID, NOT_TESTABLE}


def pp(value: float, low: float, high: float, n: int = 50) -> Estimate:
    return Estimate(value, low, high, n, "pp")


# --- the difference -------------------------------------------------------------------------------


def test_difference_holds_the_errors_of_both():
    # Upward count the measured upper and the published lower half width: hypot(3, 4) = 5.
    # Downward it is hypot(5, 12) = 13.
    found = ledger.difference(pp(10, 6, 22), pp(20, 15, 23))
    assert (found.value, found.low, found.high) == pytest.approx((10, -3, 15))


def test_a_missing_interval_is_ours_at_the_published_n():
    # 100 questions here and 25 there: a published error twice ours, sqrt(1 + 4) in all.
    found = ledger.difference(Estimate(5, nan, nan, 25, "pp"), pp(5, 3, 7, n=100))
    assert (found.low, found.high) == pytest.approx((-2 * 5**0.5, 2 * 5**0.5))
    without_n = ledger.difference(Estimate(5, nan, nan, 0, "pp"), pp(5, 3, 7, n=100))
    assert (without_n.low, without_n.high) == pytest.approx((-2 * 2**0.5, 2 * 2**0.5))


# --- the rule, same model -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("published", "measured", "expected"),
    [
        (JOINT, pp(12.9, 10.5, 15.2), REPLICATED),
        (
            JOINT,
            pp(14, 1, 27),
            CANNOT_BE_SAID,
        ),  # clear of 0 and centred well, but as wide as the effect: nothing is replicated
        (JOINT, pp(14, -20, 48), CANNOT_BE_SAID),
        (JOINT, pp(5, 4, 6), NOT_REPLICATED),  # the sign agrees, the size does not
        (JOINT, pp(0.1, -0.5, 0.7), NOT_REPLICATED),  # no effect, seen sharply
        (JOINT, pp(-12, -14, -10), NOT_REPLICATED),  # the other sign
        (JOINT, pp(9, -1, 19), CANNOT_BE_SAID),  # compatible, but the direction is not clear
        (NO_INTERVAL, pp(7, 5, 9), REPLICATED),
        (
            NO_INTERVAL,
            pp(4.5, 2, 7),
            CANNOT_BE_SAID,
        ),  # 7.72 lies outside, but with an error like ours the difference contains 0
        (NO_INTERVAL, pp(1, -0.5, 2.5), NOT_REPLICATED),
        (
            Estimate(-3, nan, nan, 50, "pp"),
            pp(-3.1, -4, -2.2),
            REPLICATED,
        ),  # negative effects by the same lines
    ],
)
def test_same_model(published, measured, expected):
    assert ledger.verdict(published, measured, same_model=True).verdict == expected


def test_same_model_says_what_differs():
    assert "sign" in ledger.verdict(JOINT, pp(-12, -14, -10), True).why
    assert "size" in ledger.verdict(JOINT, pp(5, 4, 6), True).why
    assert "no effect" in ledger.verdict(JOINT, pp(0.1, -0.5, 0.7), True).why


@pytest.mark.parametrize("centre", [-13.71, 0, 5, 13.71, 40])
def test_a_wide_interval_replicates_nothing(centre):
    assert (
        ledger.verdict(JOINT, pp(centre, centre - 60, centre + 60), True).verdict == CANNOT_BE_SAID
    )


def test_a_number_without_interval_replicates_nothing():
    assert ledger.verdict(JOINT, Estimate(13.71, nan, nan, 50), True).verdict == CANNOT_BE_SAID
    assert ledger.verdict(JOINT, Estimate(13.71, nan, nan, 50), False).verdict == NOT_TESTABLE
    assert ledger.verdict(JOINT, None, True).verdict == NOT_TESTABLE


# --- the rule, a tool on any model ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (pp(13.71, 11.28, 16.24), SAME_DIRECTION),  # even the very same numbers
        (pp(0.6, 0.2, 1.0), SAME_DIRECTION),
        (pp(-0.6, -1.0, -0.2), OPPOSITE),
        (pp(9, -1, 19), NOT_TESTABLE),
        (pp(0, 0, 0), NOT_TESTABLE),
    ],
)
def test_a_tool_is_judged_by_its_direction_alone(measured, expected):
    assert ledger.verdict(JOINT, measured, same_model=False).verdict == expected


def test_direction_is_seen_against_the_value_of_no_effect():
    share, chance = Estimate(22 / 27, nan, nan, 27), 0.5
    assert (
        ledger.verdict(share, Estimate(0.9, 0.6, 1, 9), False, reference=chance).verdict
        == SAME_DIRECTION
    )
    assert (
        ledger.verdict(share, Estimate(0.2, 0.1, 0.4, 9), False, reference=chance).verdict
        == OPPOSITE
    )
    assert (
        ledger.verdict(share, Estimate(1, 0.29, 1, 3), False, reference=chance).verdict
        == NOT_TESTABLE
    )  # three pairs say nothing


def test_a_level_has_no_direction():
    assert (
        ledger.verdict(
            Estimate(0.368, nan, nan, 5), Estimate(0.3, 0.2, 0.4, 100), False, kind="level"
        ).verdict
        == NOT_TESTABLE
    )


@pytest.mark.parametrize(
    ("kind", "same"),
    [("effect", True), ("effect", False), ("level", True), ("level", False), ("bound", True),
     ("at most", True)],
)  # fmt: skip
def test_verdicts_stay_in_their_vocabulary(kind, same):
    rng = np.random.default_rng(0)
    for _ in range(200):
        centre, half = rng.normal(0, 10), rng.exponential(5)
        number, p = pp(centre, centre - half, centre + half), rng.random()
        found = ledger.verdict(JOINT, number, same, kind=kind, p_equivalent=p)
        assert found.verdict in (OF_THE_SAME_MODEL if same else OF_A_TOOL) and found.why


# --- the rule, bounds and words -------------------------------------------------------------------

BOUND = Estimate(0.15, nan, nan, 3, "pp")


def judged_bound(differences):
    measured = statistics.mean_ci(differences, unit="pp")
    p = statistics.equivalence(differences, 0.15).p
    return ledger.verdict(BOUND, measured, True, kind="bound", p_equivalent=p).verdict


def test_a_bound_is_a_claim_of_equivalence():
    near = np.tile([-0.1, 0.1], 50)  # mean 0, standard error 0.01
    wide = np.tile(
        [-5.0, 5.0], 50
    )  # mean 0, standard error 0.5: not significant, and not equal either
    far = np.tile([0.9, 1.1], 50)
    assert [judged_bound(x) for x in (near, wide, far, -far)] == [
        REPLICATED,
        CANNOT_BE_SAID,
        NOT_REPLICATED,
        NOT_REPLICATED,
    ]


def test_about_zero_or_negative_needs_no_number():
    words = Estimate(nan, nan, nan, 0, "pp")
    numbers = (pp(-3, -4, -2), pp(0, -1, 1), pp(3, 2, 4))
    found = [ledger.verdict(words, x, True, kind="at most").verdict for x in numbers]
    assert found == [REPLICATED, CANNOT_BE_SAID, NOT_REPLICATED]


def test_a_list_of_heads_is_compared_head_by_head():
    five = ["L0H6", "L0H3", "L1H26", "L4H3", "L8H14"]
    assert ledger.heads_verdict(five, five[::-1]).verdict == REPLICATED
    assert ledger.heads_verdict(five, [*five[:4], "L9H9"]).verdict == CANNOT_BE_SAID
    assert ledger.heads_verdict(five, ["L9H9"]).verdict == NOT_REPLICATED
    assert ledger.heads_verdict(five, None).verdict == NOT_TESTABLE


@pytest.mark.parametrize(
    ("claim", "model", "expected"),
    [
        ("llama-3.2-1b", "meta-llama/Llama-3.2-1B", True),
        ("llama-3.2-1b", "llama-3.2-1b", True),
        ("llama-3.2-1b", "smollm2-135m-instruct", False),
        (
            "smollm2-135m",
            "smollm2-135m-instruct",
            False,
        ),  # tuned on instructions and rounded to 4 bits: another model
        ("smollm2-135m", "smollm2-135m", True),
        ("all", "llama-3.2-1b", False),
    ],
)
def test_which_model_a_claim_is_about(claim, model, expected):
    assert ledger.same_model(claim, model) is expected


# --- the ledger on made-up artefacts --------------------------------------------------------------


def findings(**changes) -> pd.DataFrame:
    return ledger.findings(ledger.rows(artefacts(**changes)))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return findings()


def by_claim(table: pd.DataFrame, claim: str) -> pd.Series:
    return table.set_index("claim").loc[claim]


def test_every_finding_has_one_row_and_nothing_else_has(table):
    findings = [entry["claim"] for entry in ledger.published() if entry["kind"] == "finding"]
    assert list(table["claim"]) == findings and list(table.columns) == ledger.COLUMNS
    assert table["why"].str.len().gt(0).all()


def test_every_finding_is_measured_or_says_why_not(table):
    measured = ledger.measurements(artefacts())
    assert set(measured) == set(table["claim"])
    without = table[
        pd.to_numeric(table["measured"], errors="coerce").isna()
        & ~table["measured"].astype(str).str.startswith("L")
    ]
    # A model of nine heads a layer has no head 14 or 26; the last five are other models' own.
    assert set(without["claim"]) == {
        "neutral_questions", "single_effect_L1H26", "single_effect_L8H14",
        "swap_gap_smollm2", "swap_gap_tinyllama", "specific_portion_tinyllama",
        "specific_portion_pythia_160m", "specific_portion_pythia_410m",
    }  # fmt: skip
    assert without["measured_on"].eq("").all()


# A claim about a model is judged on that model alone ----------------------------------------------

TOOLS = {"jumprelu_wins", "jumprelu_win_share", "topk_wins", "d_mean_ratio"}


def test_a_claim_about_a_model_that_was_not_run_is_not_run(table):
    of_models = table[~table["claim"].isin(TOOLS)]
    assert of_models["verdict"].eq(NOT_RUN).all() and len(of_models) > 25
    assert set(table[table["claim"].isin(TOOLS)]["verdict"]) <= OF_A_TOOL


@pytest.mark.parametrize("effect", [-40.0, -0.2, 0.0, 0.2, 40.0])
@pytest.mark.parametrize("model", ["sandbagger", "tinyllama", "smollm2-135m", "pythia-410m"])
def test_no_number_makes_a_claim_about_another_model_opposite(model, effect):
    """One measurement is no evidence on four models, whatever it says."""
    numbers = circuit_summary() | {name: fields(effect) for name in IN_PP}
    table = findings(model=model, summary=numbers, cells=cells(gap_e4=effect))
    others = ~table["model"].map(lambda claimed: ledger.same_model(claimed, model))
    about_others = table[others & ~table["claim"].isin(TOOLS)]
    assert about_others["verdict"].eq(NOT_RUN).all() and len(about_others) > 20


IN_PP = ("joint", "joint_neutral", "joint_genuine", "specific_portion")


def test_a_claim_about_the_model_that_was_run_is_judged_by_size():
    table = findings(model="llama-3.2-1b")
    # 12 pp beside 13.71 [11.28, 16.24]; 0.5 [0.1, 0.9] beside 6.7 of five questions
    assert by_claim(table, "joint_effect")["verdict"] == REPLICATED
    assert by_claim(table, "single_effect_L0H3")["verdict"] == NOT_REPLICATED
    assert by_claim(table, "five_heads")["verdict"] == NOT_REPLICATED
    assert set(table[table["model"] == "llama-3.2-1b"]["verdict"]) <= OF_THE_SAME_MODEL
    assert by_claim(table, "specific_portion_tinyllama")["verdict"] == NOT_RUN
    assert by_claim(table, "swap_gap_smollm2")["verdict"] == NOT_RUN


@pytest.mark.parametrize("changed", [{"random_weights": True}, {"adapter": "mine/adapter"}])
def test_changed_weights_are_never_the_claims_model(changed):
    table = findings(model="llama-3.2-1b", **changed)
    of_models = table[~table["claim"].isin(TOOLS)]
    assert of_models["verdict"].eq(NOT_RUN).all()


@pytest.mark.parametrize(("d", "expected"), [(3.0, SAME_DIRECTION), (-9.0, OPPOSITE)])
def test_a_claim_about_a_tool_is_judged_by_direction_on_any_model(d, expected):
    """Nine of nine pairs, JumpReLU's |d| 3 beside TopK's 2 or 4: the exact interval leaves 1/2."""
    nine = separation().query("d == 'dz' and pair == 'genuine vs sandbag'")
    tags = [nine.assign(tag=nine["tag"].str.replace("mixed", c), condition=c) for c in
            ("mixed", "genuine_only", "sandbagging_only")]  # fmt: skip
    pairs = pd.concat(tags, ignore_index=True)
    jumprelu = pairs["tag"].str.contains("jumprelu")
    pairs["d_max"] = np.where(jumprelu, 3.0, 2.0 if d > 0 else 4.0)
    assert by_claim(findings(separation=pairs), "jumprelu_wins")["verdict"] == expected


# What is derived stands under what it is derived from and is no evidence --------------------------


def test_each_derived_claim_stands_under_an_independent_one():
    entries = ledger.by_name()
    for claim, above in ledger.UNDER.items():
        assert entries[claim]["kind"] == entries[above]["kind"] == "finding"
        assert above not in ledger.UNDER
    assert ledger.UNDER["redundancy"] == "joint_effect"  # 1 - joint / sum of singles


def test_a_derived_claim_is_never_counted(table):
    """On its own model every claim gets a verdict; portions, shares and subsets count nothing."""
    own = findings(model="llama-3.2-1b")
    assert by_claim(own, "specific_portion")["verdict"] in OF_THE_SAME_MODEL  # judged
    assert sum(ledger.tally(own).values()) == len(own) - len(ledger.UNDER)
    assert set(ledger.independent(own)["claim"]).isdisjoint(ledger.UNDER)
    # The joint effect alone is replicated; what is made of it changes no count.
    without = own[~own["claim"].isin(ledger.UNDER)]
    assert ledger.tally(own) == ledger.tally(without)
    assert "joint_effect" in set(ledger.independent(table)["claim"])


def test_what_is_derived_follows_what_it_is_derived_from(table):
    told = ledger.with_derived(table)
    assert sorted(told["claim"]) == sorted(table["claim"])
    order = told["claim"].tolist()
    for claim, above in ledger.UNDER.items():
        between = order[order.index(above) + 1 : order.index(claim)]
        assert all(ledger.UNDER.get(name) == above for name in between)


def test_claims_are_told_in_words(table):
    shown = ledger.shown(ledger.with_derived(table))
    assert not [c for c in table["claim"] if shown["the card says"].str.contains(c).any()]
    arrows = shown["the card says"].str.startswith("↳ ")
    assert arrows.sum() == len(ledger.UNDER)
    joint = shown[shown["the card says"].str.startswith("Zeroing the five heads together")]
    assert joint["there"].item() == "13.71 [11.28, 16.24] pp" and joint["here"].item() == (
        "12 [11.3, 12.7] pp"
    )
    assert joint["verdict"].item() == NOT_RUN


# The numbers --------------------------------------------------------------------------------------


def test_rows_hold_the_numbers_of_the_artefacts(table):
    def measured(claim):
        return by_claim(table, claim)["measured"]

    assert measured("joint_effect") == pytest.approx(12)
    assert by_claim(table, "joint_effect")["n"] == N
    assert measured("neutral_effect") == pytest.approx(5)
    assert measured("specific_portion") == pytest.approx(7)
    assert measured("specific_share") == pytest.approx(100 * 7 / 12)
    assert measured("sum_of_singles") == pytest.approx(20)
    assert measured("redundancy") == pytest.approx(40)
    random = draws()["effect"][::2].mean()
    assert measured("gap_to_random_heads") == pytest.approx(12 - random)
    assert measured("p_sandbag_after") == pytest.approx(0.52)
    assert measured("early_heads") == 3  # L0, L2 and L5 of 30 layers
    assert measured("best_three_heads") == "L0H1 L2H0 L17H6"
    assert measured("dispensable_heads") == "L5H3 L20H2"
    assert measured("jumprelu_wins") == 3 and by_claim(table, "jumprelu_wins")["n"] == 3
    assert measured("jumprelu_d_max") == 3 and measured("topk_d_max") == 2
    # The larger of E6 - E1 (0.8 pp) and E6 - E4 (3 pp) is the one that decides.
    assert measured("swap_gap_all") == pytest.approx(3)


def test_a_number_in_nats_is_not_set_beside_the_cards_pp():
    nats = circuit_summary() | {"joint": fields(5.5, "nats")}
    found = by_claim(findings(summary=nats, model="llama-3.2-1b"), "joint_effect")
    assert found["verdict"] == NOT_TESTABLE and "log-odds" in found["why"]


def test_a_run_without_side_views_has_no_best_three():
    without = {k: v for k, v in circuit_summary().items() if k != "best_three"}
    found = by_claim(findings(summary=without, model="llama-3.2-1b"), "best_three_effect")
    assert found["verdict"] == NOT_TESTABLE and "without its side views" in found["why"]


def test_a_closed_gate_leaves_nothing_to_judge():
    table = findings(gate=made_up_gate(False), model="llama-3.2-1b")
    told = table[(table["verdict"] != NOT_RUN) & ~table["claim"].isin(ledger.WITHOUT_GATE)]
    assert len(told) > 10 and told["verdict"].eq(NOT_TESTABLE).all()
    assert told["why"].str.contains("no sandbagging to explain").all()


SWAP = "swap_gap_llama"


def of_llama(made_up_cells: pd.DataFrame) -> pd.Series:
    return by_claim(findings(model="llama-3.2-1b", cells=made_up_cells), SWAP)


@pytest.mark.parametrize("verdict", ["degenerate", "nothing here yet"])
def test_cells_that_can_show_nothing_support_nothing(verdict):
    found = of_llama(cells(verdict, gap_e4=0.0, p=0.001))
    assert found["verdict"] == NOT_TESTABLE and "none can show a gap" in found["why"]


def test_one_of_many_gaps_has_to_be_far_outside():
    # Six gaps: the quantile grows from 1.96 to 2.64. Alone, 0.40 ± 0.22 is outside ±0.15; as the
    # largest of six it is not.
    found = of_llama(cells(gap_e1=0.0, gap_e4=0.40, half=0.22))
    assert found["verdict"] == CANNOT_BE_SAID
    assert found["measured_low"] == pytest.approx(0.40 - 0.22 * 2.638 / 1.960, abs=1e-3)
    assert of_llama(cells(gap_e4=3.0))["verdict"] == NOT_REPLICATED


@pytest.mark.parametrize(("p", "expected"), [(0.01, REPLICATED), (0.2, CANNOT_BE_SAID)])
def test_equivalence_is_read_from_the_test_within_the_claims_margin(p, expected):
    assert of_llama(cells(gap_e1=0.01, gap_e4=0.02, half=0.02, p=p))["verdict"] == expected


def test_shares_need_an_effect_to_share():
    weak = circuit_summary() | {"joint": fields(0.2)}
    table = findings(summary=weak, model="llama-3.2-1b")
    for claim in ("redundancy", "specific_share"):
        found = by_claim(table, claim)
        assert found["verdict"] == NOT_TESTABLE and "not clear of 0" in found["why"]


def test_missing_parts_are_told():
    topk = separation()[separation()["tag"].str.contains("topk")]
    assert "no JumpReLU" in by_claim(findings(separation=topk), "jumprelu_wins")["why"]


PORTION = "specific_portion_pythia_160m"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.4, 1.6, NOT_REPLICATED), (-2.0, -0.5, REPLICATED), (-0.5, 0.7, CANNOT_BE_SAID)],
)
def test_a_portion_is_judged_on_the_claims_own_model(low, high, expected):
    """The card: about zero or negative on Pythia-160M.

    Notebook 09's row of that model counts, with real weights; with grade "no" it can say nothing,
    and any other row is another model's.
    """
    row = {
        "model": "pythia-160m", "weights": "real", "grade": "less sure",
        "specific_portion": (low + high) / 2, "specific_portion_low": low,
        "specific_portion_high": high, "specific_portion_n": 60,
    }  # fmt: skip

    def found(**change):
        return by_claim(findings(models=pd.DataFrame([row | change])), PORTION)

    own = found()
    assert (own["verdict"], own["measured_on"], own["n"]) == (expected, "pythia-160m", 60)
    assert found(grade="no")["verdict"] == NOT_TESTABLE and "grade" in found(grade="no").why
    for change in ({"weights": "random"}, {"specific_portion": nan}, {"model": "pythia-410m"}):
        assert found(**change)["verdict"] == NOT_RUN


def test_statements_stand_on_the_ledger_and_are_no_findings():
    table = ledger.rows(artefacts())
    rest = table[table["verdict"] == ledger.NO_FINDING].set_index("claim")
    assert rest.loc["d_in", "published"] == 2048 and rest.loc["sae_layers", "published"] == "4 8 12"
    assert rest["measured"].isna().all()
    assert set(rest.index).isdisjoint(ledger.findings(table)["claim"])


@pytest.mark.parametrize(
    ("number", "low", "high", "text"),
    [
        (13.714, 11.28, 16.24, "13.71 [11.28, 16.24]"),
        (13.714, None, None, "13.71"),
        (None, 20, 50, "[20, 50]"),  # the card gives a range alone
        (None, None, None, "–"),
        ("L15H3 L9H1", None, None, "L15H3 L9H1"),
    ],
)
def test_a_number_of_the_ledger_as_text(number, low, high, text):
    line = {"measured": number, "measured_low": low, "measured_high": high}
    assert number_text(line, "measured") == text


def test_slips_are_told_once():
    slips = ledger.slips()
    assert len(slips) == len(ledger.SLIPS) and slips["note"].str.len().gt(0).all()
