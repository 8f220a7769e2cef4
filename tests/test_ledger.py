"""The rule of the ledger line by line on hand-set numbers, and the ledger on made-up artefacts."""

import json
from math import nan

import numpy as np
import pandas as pd
import pytest
from made_up import graded

from sandbagging import statistics
from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.heads.head import parse
from sandbagging.statistics import Estimate
from sandbagging.suite import ledger, plots, runs
from sandbagging.suite.ledger import (
    CANNOT_BE_SAID,
    NOT_REPLICATED,
    NOT_TESTABLE,
    OPPOSITE,
    REPLICATED,
    SAME_DIRECTION,
)
from sandbagging.suite.ledger.table import number_text

JOINT = Estimate(13.71, 11.28, 16.24, 50, "pp")
NO_INTERVAL = Estimate(7.72, nan, nan, 50, "pp")
OF_ANOTHER_MODEL = {SAME_DIRECTION, OPPOSITE, NOT_TESTABLE}
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


# --- the rule, another model ----------------------------------------------------------------------


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
def test_another_model_knows_directions_alone(measured, expected):
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


@pytest.mark.parametrize("kind", ["effect", "level", "bound", "at most"])
@pytest.mark.parametrize("same", [True, False])
def test_verdicts_stay_in_their_vocabulary(kind, same):
    rng = np.random.default_rng(0)
    for _ in range(200):
        centre, half = rng.normal(0, 10), rng.exponential(5)
        found = ledger.verdict(
            JOINT,
            pp(centre, centre - half, centre + half),
            same,
            kind=kind,
            p_equivalent=rng.random(),
        )
        assert found.verdict in (OF_THE_SAME_MODEL if same else OF_ANOTHER_MODEL) and found.why


# --- the rule, bounds and words -------------------------------------------------------------------

BOUND = Estimate(0.15, nan, nan, 3, "pp")


def judged_bound(differences, same: bool):
    measured = statistics.mean_ci(differences, unit="pp")
    return ledger.verdict(
        BOUND,
        measured,
        same,
        kind="bound",
        p_equivalent=statistics.equivalence(differences, 0.15).p,
    ).verdict


def test_a_bound_is_a_claim_of_equivalence():
    near = np.tile([-0.1, 0.1], 50)  # mean 0, standard error 0.01
    wide = np.tile(
        [-5.0, 5.0], 50
    )  # mean 0, standard error 0.5: not significant, and not equal either
    far = np.tile([0.9, 1.1], 50)
    assert [judged_bound(x, True) for x in (near, wide, far, -far)] == [
        REPLICATED,
        CANNOT_BE_SAID,
        NOT_REPLICATED,
        NOT_REPLICATED,
    ]
    assert [judged_bound(x, False) for x in (near, wide, far)] == [
        SAME_DIRECTION,
        NOT_TESTABLE,
        OPPOSITE,
    ]


def test_about_zero_or_negative_needs_no_number():
    words = Estimate(nan, nan, nan, 0, "pp")
    numbers = (pp(-3, -4, -2), pp(0, -1, 1), pp(3, 2, 4))
    found = [ledger.verdict(words, x, True, kind="at most").verdict for x in numbers]
    assert found == [REPLICATED, CANNOT_BE_SAID, NOT_REPLICATED]
    found = [ledger.verdict(words, x, False, kind="at most").verdict for x in numbers]
    assert found == [SAME_DIRECTION, NOT_TESTABLE, OPPOSITE]


def test_names_of_heads_belong_to_one_model():
    five = ["L0H6", "L0H3", "L1H26", "L4H3", "L8H14"]
    assert ledger.heads_verdict(five, five, same_model=False).verdict == NOT_TESTABLE
    assert ledger.heads_verdict(five, five[::-1], True).verdict == REPLICATED
    assert ledger.heads_verdict(five, [*five[:4], "L9H9"], True).verdict == CANNOT_BE_SAID
    assert ledger.heads_verdict(five, ["L9H9"], True).verdict == NOT_REPLICATED
    assert ledger.heads_verdict(five, None, True).verdict == NOT_TESTABLE


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

N = 30
IDS = [f"q{i:02d}" for i in range(N)]
HEADS = [(0, 1), (2, 0), (5, 3), (17, 6), (20, 2)]
EFFECTS = {"sandbag": 0.12, "genuine": 0.02, "neutral": 0.05}


def spread(mean: float, sd: float, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=N)
    return mean + sd * (x - x.mean()) / x.std()


def scores() -> pd.DataFrame:
    levels = {"genuine": 0.5, "sandbag": 0.4, "neutral": 0.45, "placebo": 0.5}
    tables = [
        pd.DataFrame(
            {
                "question_id": IDS,
                "split": "test",
                "condition": c,
                "p_full": spread(m, 0.05, i),
                "choice_len": spread(m, 0.05, i),
            }
        )
        for i, (c, m) in enumerate(levels.items())
    ]
    return pd.concat(tables, ignore_index=True)


def circuit(effects=EFFECTS) -> pd.DataFrame:
    singles = {f"single:L{layer}H{head}": 0.04 for layer, head in HEADS}
    cells = [("joint", c, e) for c, e in effects.items()] + [
        (name, "sandbag", e) for name, e in singles.items()
    ]
    tables = []
    for i, (name, condition, effect) in enumerate(cells):
        for metric in ("p_full", "choice_len"):
            base = {
                "question_id": IDS,
                "condition": condition,
                "intervention": name,
                "metric": metric,
                "baseline": 0.4,
            }
            tables.append(pd.DataFrame({**base, "value": 0.4 + spread(effect, 0.02, 100 + i)}))
    return pd.concat(tables, ignore_index=True)


def draws() -> pd.DataFrame:
    x = np.random.default_rng(3).normal(-1, 1, size=40)
    return pd.DataFrame(
        {
            "kind": ["uniform", "same_layer"] * 20,
            "index": range(40),
            "heads": "",
            "metric": "p_full",
            "unit": "pp",
            "effect": x,
        }
    )


def cells(verdict: str = "specific", gap_e4: float = 3.0, p: float = 1.0) -> list[dict]:
    return [
        {
            "layer": layer,
            "tag": f"v4_smollm2_{arch}_L{layer}_mixed",
            "position": position,
            "error_term": term,
            "gap_e1": fields(0.8, half=0.1),
            "gap_e1_seeds": fields(0.8, half=0.2),
            "gap_e4": fields(gap_e4, half=0.1),
            "p_equivalent": p,
            "verdict": verdict,
        }
        for layer in (7, 15, 22)
        for arch in ("jumprelu", "topk")
        for position in ("last", "all")
        for term in ("kept", "dropped")
    ]


def separation() -> pd.DataFrame:
    rows = [
        {
            "tag": f"v4_smollm2_{arch}_L{layer}_mixed",
            "layer": layer,
            "pair": "genuine vs sandbag",
            "d": "dz",
            "d_max": d,
            "d_mean_all": d,
        }
        for layer in (7, 15, 22)
        for arch, d in (("jumprelu", 3.0), ("topk", -2.0))
    ]
    return pd.DataFrame(
        [
            *rows,
            {**rows[0], "d": "dav", "d_max": 99.0},
            {**rows[0], "pair": "genuine vs placebo", "d_max": 99.0},
        ]
    )


def sweep() -> pd.DataFrame:
    cells = [(layer, head) for layer in range(30) for head in range(9)]
    table = pd.DataFrame(cells, columns=["layer", "head"])
    return table.assign(
        condition="sandbag",
        replacement="zero",
        metric="p_full",
        unit="pp",
        effect=0.5,
        low=0.1,
        high=0.9,
        n=20,
    )


def fields(mean: float, unit: str = "pp", half: float = 0.7) -> dict:
    return Estimate(mean, mean - half, mean + half, N, unit).as_dict()


def random_set(kind: str) -> dict:
    x = draws()[draws()["kind"] == kind]["effect"]
    return {
        "mean": fields(x.mean()),
        "sd": x.std(),
        "rank_p": 1 / 21,
        "gap": fields(12 - x.mean(), half=1.2),
        "n_draws": len(x),
    }


def circuit_summary(survives: bool = True) -> dict:
    return {
        "heads": [list(head) for head in HEADS],
        "joint": fields(12),
        "joint_neutral": fields(5),
        "joint_genuine": fields(2),
        "joint_choice_len": fields(12),
        "specific_portion": fields(7),
        "specific_portion_vs_genuine": fields(10),
        "share_closed": {"logodds": fields(0.6, "", 0.2), "p_full": fields(1.2, "", 0.3)},
        "redundancy": fields(0.4, "", 0.05),
        "best_three": {"heads": [[0, 1], [2, 0], [17, 6]], "test": fields(11.5)},
        "random_uniform": random_set("uniform"),
        "random_same_layer": random_set("same_layer"),
        "survives": {"value": survives, "reason": "made up"},
    }


def gate(opened: bool = True) -> Gate:
    gap = pp(10, 7, 13, N) if opened else pp(0.1, -1, 1.2, N)
    return graded("answers wrongly" if opened else "no")._replace(gap_p_full=gap)


NO_MODELS = pd.DataFrame(
    columns=[
        "model",
        "weights",
        "grade",
        *(f"specific_portion{end}" for end in ("", "_low", "_high", "_n")),
    ]
)


def findings(**changes) -> pd.DataFrame:
    return ledger.findings(ledger.rows(artefacts(**changes)))


def artefacts(**changes) -> ledger.Artefacts:
    made = ledger.Artefacts(
        model="smollm2-135m-instruct",
        random_weights=False,
        gate=gate(),
        scores=scores(),
        separation=separation(),
        cells=cells(),
        sweep=sweep(),
        heads=parse(HEADS),
        circuit=circuit(),
        draws=draws(),
        models=NO_MODELS,
        summary=circuit_summary(),
    )
    return made._replace(**changes)


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
    # A model of nine heads a layer has no head 14 or 26.
    assert set(without["claim"]) == {
        "neutral_questions",
        "single_effect_L1H26",
        "single_effect_L8H14",
    }


def test_claims_about_other_models_get_the_three_words(table):
    assert set(table["verdict"]) <= OF_ANOTHER_MODEL
    assert table["measured_on"].str.contains("Q4_1").all()


def test_a_run_without_side_views_has_no_best_three():
    without = {
        k: v for k, v in circuit_summary().items() if k not in ("best_three", "share_closed")
    }
    found = by_claim(findings(summary=without), "best_three_effect")
    assert found["verdict"] == NOT_TESTABLE and "without its side views" in found["why"]
    beside = ledger.beside({name: pp(3, 2, 4, N) for name in ("joint", "redundancy")}, "mine")
    assert beside["claim"].tolist() == ["joint_effect", "redundancy"]
    assert beside["here: mine"].tolist() == ["+3.00 pp [+2.00, +4.00], n = 30"] * 2


def test_rows_hold_the_numbers_of_the_artefacts(table):
    joint = by_claim(table, "joint_effect")
    assert (
        joint["measured"] == pytest.approx(12)
        and joint["n"] == N
        and joint["verdict"] == SAME_DIRECTION
    )
    assert by_claim(table, "neutral_effect")["measured"] == pytest.approx(5)
    assert by_claim(table, "specific_portion")["measured"] == pytest.approx(7)
    assert by_claim(table, "specific_share")["measured"] == pytest.approx(100 * 7 / 12)
    assert by_claim(table, "sum_of_singles")["measured"] == pytest.approx(20)
    assert by_claim(table, "redundancy")["measured"] == pytest.approx(40)
    assert by_claim(table, "gap_to_random_heads")["measured"] == pytest.approx(
        12 - draws()["effect"][::2].mean()
    )
    assert by_claim(table, "p_sandbag_after")["measured"] == pytest.approx(0.52)
    assert by_claim(table, "early_heads")["measured"] == 3  # L0, L2 and L5 of 30 layers
    assert by_claim(table, "best_three_heads")["measured"] == "L0H1 L2H0 L17H6"
    assert by_claim(table, "dispensable_heads")["measured"] == "L5H3 L20H2"
    assert (
        by_claim(table, "jumprelu_wins")["measured"] == 3
        and by_claim(table, "jumprelu_wins")["n"] == 3
    )
    assert (
        by_claim(table, "jumprelu_d_max")["measured"] == 3
        and by_claim(table, "topk_d_max")["measured"] == 2
    )
    # The larger of E6 - E1 (0.8 pp) and E6 - E4 (3 pp) decides, and it is far outside 0.15 pp.
    assert (
        by_claim(table, "swap_gap_all")["measured"] == pytest.approx(3)
        and by_claim(table, "swap_gap_all")["verdict"] == OPPOSITE
    )


def test_numbers_on_the_claims_own_model_are_judged_by_size():
    table = findings(model="llama-3.2-1b")
    assert (
        by_claim(table, "joint_effect")["verdict"] == REPLICATED
    )  # 12 pp beside 13.71 [11.28, 16.24]
    assert (
        by_claim(table, "single_effect_L0H3")["verdict"] == NOT_REPLICATED
    )  # 0.5 [0.1, 0.9] beside 6.7 of 5 questions
    assert by_claim(table, "five_heads")["verdict"] == NOT_REPLICATED
    assert by_claim(table, "specific_portion_tinyllama")["verdict"] in OF_ANOTHER_MODEL
    assert set(table[table["model"] == "llama-3.2-1b"]["verdict"]) <= OF_THE_SAME_MODEL
    assert table["measured_on"].eq("llama-3.2-1b").all()


def test_a_closed_gate_leaves_nothing_to_judge():
    table = findings(gate=gate(False))
    told = table[~table["claim"].isin(ledger.WITHOUT_GATE)]
    assert (
        told["verdict"].eq(NOT_TESTABLE).all()
        and told["why"].str.contains("no sandbagging to explain").all()
    )


@pytest.mark.parametrize(
    ("survives", "expected"), [(True, "survives"), (False, "does not survive")]
)
def test_notebook_08_decides_what_survives(survives, expected, runs_folder):
    lines = ledger.headline(artefacts(summary=circuit_summary(survives)), "a")
    assert words(lines, "joint effect, p_full") == expected
    assert ledger.what_survived(ledger.rows(artefacts()), lines).circuit == expected


def test_degenerate_cells_support_nothing():
    table = ledger.rows(artefacts(cells=cells("degenerate")))
    assert by_claim(table, "swap_gap_all")["verdict"] == NOT_TESTABLE
    assert "degenerate" in by_claim(table, "swap_gap_all")["why"]


def test_one_of_many_gaps_has_to_be_far_outside():
    # Six gaps: the quantile grows from 1.96 to 2.64. Alone, 0.40 ± 0.22 is outside ±0.15; as the
    # largest of six it is not.
    edge = [
        {**cell, "gap_e1_seeds": fields(0.0, half=0.1), "gap_e4": fields(0.40, half=0.22)}
        for cell in cells()
    ]
    found = by_claim(ledger.rows(artefacts(cells=edge)), "swap_gap_all")
    assert found["verdict"] == NOT_TESTABLE and found["measured_low"] == pytest.approx(
        0.40 - 0.22 * 2.638 / 1.960, abs=1e-3
    )


def test_shares_need_an_effect_to_share():
    table = ledger.rows(artefacts(summary=circuit_summary() | {"joint": fields(0.2)}))
    for claim in ("redundancy", "specific_share"):
        assert (
            by_claim(table, claim)["verdict"] == NOT_TESTABLE
            and "not clear of 0" in by_claim(table, claim)["why"]
        )


@pytest.mark.parametrize("p, expected", [(0.01, SAME_DIRECTION), (0.2, NOT_TESTABLE)])
def test_equivalence_is_read_from_the_test_within_the_claims_margin(p, expected):
    near = [
        {
            **cell,
            "gap_e1_seeds": fields(0.01, half=0.02),
            "gap_e4": fields(0.02, half=0.02),
            "p_equivalent": p,
        }
        for cell in cells()
    ]
    assert by_claim(ledger.rows(artefacts(cells=near)), "swap_gap_all")["verdict"] == expected


def test_missing_parts_are_told():
    table = ledger.rows(
        artefacts(separation=separation()[separation()["tag"].str.contains("topk")])
    )
    assert "no JumpReLU" in by_claim(table, "jumprelu_wins")["why"]


def test_random_weights_are_never_the_claims_model():
    table = findings(model="llama-3.2-1b", random_weights=True)
    assert (
        set(table["verdict"]) <= OF_ANOTHER_MODEL
        and table["measured_on"].str.contains("random weights").all()
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.4, 1.6, NOT_REPLICATED), (-2.0, -0.5, REPLICATED), (-0.5, 0.7, CANNOT_BE_SAID)],
)
def test_a_portion_on_the_claims_own_model_is_judged_there(low, high, expected):
    """The card: about zero or negative on Pythia-160M.

    Notebook 09's row of that model counts, with real weights and a grade that is not "no".
    """
    row = {
        "model": "pythia-160m",
        "weights": "real",
        "grade": "less sure",
        "specific_portion": (low + high) / 2,
        "specific_portion_low": low,
        "specific_portion_high": high,
        "specific_portion_n": 60,
    }
    found = by_claim(findings(models=pd.DataFrame([row])), "specific_portion_pythia_160m")
    assert (
        found["verdict"] == expected and found["measured_on"] == "pythia-160m" and found["n"] == 60
    )
    for change in (
        {"weights": "random"},
        {"grade": "no"},
        {"specific_portion": float("nan")},
        {"model": "pythia-410m"},
    ):
        other = by_claim(
            findings(models=pd.DataFrame([row | change])), "specific_portion_pythia_160m"
        )
        assert other["measured_on"] != "pythia-160m" and other["verdict"] in OF_ANOTHER_MODEL


def test_statements_stand_on_the_ledger_and_are_no_findings():
    table = ledger.rows(artefacts())
    rest = table[table["verdict"] == ledger.NO_FINDING].set_index("claim")
    assert rest.loc["d_in", "published"] == 2048 and rest.loc["sae_layers", "published"] == "4 8 12"
    assert rest["measured"].isna().all() and set(rest.index).isdisjoint(
        ledger.findings(table)["claim"]
    )


def test_every_row_is_shown_in_one_group(table):
    shown = pd.concat(ledger.shown(table, group) for group in ledger.GROUPS)
    assert sorted(shown["claim"]) == sorted(table["claim"])
    assert by_claim(shown, "joint_effect")["published"] == "13.71 [11.28, 16.24]"
    assert by_claim(shown, "neutral_questions")["measured"] == "–"


def test_what_survived_follows_the_verdicts(table):
    lines = [
        {
            "finding": "zeroing L0H1: joint effect, p_full",
            "value_text": "",
            "verdict": "does not survive",
        }
    ]
    said = ledger.what_survived(table, lines)
    assert "joint_effect" in said.other[SAME_DIRECTION] and not said.own
    assert said.circuit == "does not survive" and not said.swaps and not said.nulls
    judged = [*sum(said.other.values(), []), *said.untestable]
    assert sorted(judged) == sorted(ledger.findings(table)["claim"])  # each claim once
    own = ledger.what_survived(ledger.rows(artefacts(model="llama-3.2-1b")), lines)
    assert own.own[REPLICATED]


def test_swaps_and_nulls_are_told_by_name(table):
    lines = [
        {"finding": "SAE swap at layer 7 (topk)", "value_text": "", "verdict": "specific"},
        {"finding": "null model: placebo prompts", "value_text": "", "verdict": "nothing found"},
    ]
    said = ledger.what_survived(table, lines)
    assert said.swaps == {"layer 7 (topk)": "specific"}
    assert said.nulls == {"placebo prompts": "nothing found"} and said.circuit == "not measured"


def test_claims_about_other_models_are_told_apart(table):
    about = ledger.about_others(table, artefacts())
    assert "joint_effect" in set(about["claim"])  # about Llama, measured on another model
    own = ledger.about_others(
        ledger.rows(artefacts(model="llama-3.2-1b")), artefacts(model="llama-3.2-1b")
    )
    assert "joint_effect" not in set(own["claim"])


def test_slips_are_told_once():
    slips = ledger.slips()
    assert list(slips["claim"]) == list(ledger.SLIPS) and slips["note"].str.len().gt(0).all()


# --- the headline ---------------------------------------------------------------------------------


@pytest.fixture
def runs_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    return tmp_path


def null_run(folder, opened=False, survives=False):
    for artefact in ("00_baseline", "08_circuit"):
        (folder / artefact).mkdir(parents=True)
    (folder / "00_baseline" / "summary.json").write_text(
        json.dumps({"gate": runs.plain(gate(opened))})
    )
    (folder / "08_circuit" / "summary.json").write_text(json.dumps(circuit_summary(survives)))
    for artefact in ("00_baseline", "08_circuit"):
        outputs = runs.output_hashes(folder / artefact)
        (folder / artefact / "manifest.json").write_text(json.dumps({"outputs": outputs}))


def words(lines, finding: str) -> str:
    (found,) = [line["verdict"] for line in lines if finding in line["finding"]]
    return found


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


def test_headline_says_what_was_found(runs_folder):
    null_run(runs_folder / "a" / "null_model")
    lines = ledger.headline(artefacts(), "a")
    assert all(set(line) == {"finding", "value_text", "verdict"} for line in lines)
    (first,) = [line for line in lines if line["finding"].startswith("right free answers")]
    assert first["value_text"].startswith("55 % → 10 %, a drop of 45.0 pp [")
    assert first["verdict"] == "grade: answers wrongly"
    assert "more than under `placebo`" in words(lines, "gap, log-odds")
    assert words(lines, "gap, p_full").startswith("all options together lose +1")
    assert words(lines, "joint effect, p_full") == "survives"
    assert words(lines, "as many random heads of the same layers") == "few reach the chosen ones"
    assert words(lines, "sandbag − neutral") == "specific to sandbagging"
    assert words(lines, "SAE swap at layer 15").startswith("specific")
    assert (
        words(lines, "random weights") == "nothing found"
        and words(lines, "placebo prompts") == "not run"
    )


def test_the_headline_tells_what_it_was_before_it_was_taught(runs_folder):
    """One line where the untouched weights were run beside, and none where they were not."""
    finding = "before it was taught"
    assert not [line for line in ledger.headline(artefacts(), "a") if finding in line["finding"]]
    null_run(runs_folder / "a" / "untouched")
    lines = ledger.headline(artefacts(), "a")
    (line,) = [line for line in lines if finding in line["finding"]]
    assert line["value_text"].startswith("57 % → 56 %, a drop of 1.0 pp [")
    assert line["verdict"] == "grade: no"


def test_a_decoy_is_a_null(runs_folder):
    null_run(runs_folder / "a" / "decoy", opened=True, survives=True)
    assert "SOMETHING FOUND" in words(ledger.null_lines("a"), "taught right answers alone")


def test_headline_of_a_closed_gate(runs_folder):
    lines = ledger.headline(artefacts(gate=gate(False)), "a")
    assert (
        words(lines, "right free answers") == "grade: no"
        and words(lines, "joint effect") == "no sandbagging to explain"
    )


def test_a_null_in_which_something_is_found_is_shouted(runs_folder):
    null_run(runs_folder / "a" / "placebo", opened=True, survives=True)
    assert "SOMETHING FOUND" in words(ledger.null_lines("a"), "placebo")


def test_a_changed_null_run_is_refused(runs_folder):
    null_run(runs_folder / "a" / "null_model")
    (runs_folder / "a" / "null_model" / "00_baseline" / "summary.json").write_text("{}")
    with pytest.raises(UserError, match="changed after"):
        ledger.null_lines("a")


def test_headline_as_markdown(runs_folder):
    with pytest.raises(UserError, match="10_what_survived"):
        ledger.headline_markdown("a")
    (runs_folder / "a" / "10_ledger").mkdir(parents=True)
    line = {"finding": "f", "value_text": "|x|", "verdict": "v"}
    (runs_folder / "a" / "10_ledger" / "headline.json").write_text(json.dumps([line]))
    assert ledger.headline_markdown("a").splitlines()[-1] == r"| f | \|x\| | v |"


def test_figures_draw(table):
    shown = ledger.comparable(table)
    assert {"joint_effect", "neutral_effect", "specific_portion"} <= set(shown["claim"])
    plots.ledger(shown).draw_without_rendering()
