"""Guards, the decision table and the tables around it, judged by hand-set numbers: one fake to flag
and one truth to spare each.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import files, metrics, statistics
from sandbagging.errors import UserError
from sandbagging.statistics import Estimate
from sandbagging.swaps import card, decision, estimates, guards, tables
from sandbagging.swaps.guards import Guards

FINE = Guards(nnz_genuine=20, nnz_sandbag=20, norm_delta=5.0, norm_change=6.0, norm_x=80.0, fvu=0.2)


# --- guards: one fake to flag and one truth to spare each -----------------------------------------


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"nnz_genuine": 0, "nnz_sandbag": 0, "norm_delta": 0.0}, "all zero"),
        ({"norm_delta": 0.05}, "same point"),
        ({}, ""),
        ({"nnz_genuine": 0}, ""),
    ],
)
def test_degenerate(changes, why):
    found = decision.degenerate(FINE._replace(**changes))
    assert (why in found) if why else found == ""


def test_guards_by_hand():
    sae = SimpleNamespace(encode=lambda x: x.relu(), decode=lambda c: c * 2)
    x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    found = guards.measure_guards(x, sae, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert (found.nnz_genuine, found.nnz_sandbag, found.norm_delta, found.norm_x) == (
        1,
        0,
        2.0,
        3.5,
    )
    # (2, 0) against (6, 0) and against (0, 8)
    assert found.norm_change == pytest.approx((4 + 68**0.5) / 2)
    assert found.fvu == pytest.approx(25 / 12.5)  # errors (3, 0), (0, 4); spread about (1.5, 2)


# --- the decision table: every line is reached once -----------------------------------------------


def effect(value, half=0.5):
    return Estimate(value, value - half, value + half, 100, "pp", "by hand")


@pytest.mark.parametrize(
    "expected, case",
    [
        (
            "no sandbagging to explain",
            {"gate_open": False, "degenerate_why": "both median codes are all zero"},
        ),
        ("degenerate", {"degenerate_why": "both median codes are all zero"}),
        ("destructive", {"e6": effect(2.0), "identity": effect(-2.5)}),
        ("destructive", {"e6": effect(-1.0), "noise": effect(-3.0)}),
        # An edit that overwrites what the question asks harms under any labels, though the SAE
        # alone costs nothing.
        (
            "destructive",
            {
                "e6": effect(-14.9),
                "e1": effect(-14.7),
                "e4": effect(-14.6),
                "gap_e1": effect(-0.2),
                "gap_e4": effect(-0.3),
            },
        ),
        (
            "equivalent",
            {"gap_e1": effect(0.0, 0.05), "gap_e4": effect(0.0, 0.05), "equivalent": True},
        ),
        # A gap below the margin is none, although a model without noise shows it with any number of
        # zeros.
        (
            "equivalent",
            {
                "e6": effect(0.02, 0.001),
                "gap_e1": effect(0.01, 0.001),
                "gap_e4": effect(0.02, 0.001),
                "equivalent": True,
                "identity": effect(-0.01),
                "noise": effect(0.0),
            },
        ),
        # Before a switch is written a poor SAE costs a little and no swap does anything: nothing,
        # and no destruction.
        (
            "equivalent",
            {
                "e6": effect(0.1, 0.1),
                "gap_e1": effect(0.0, 0.05),
                "gap_e4": effect(0.1, 0.02),
                "equivalent": True,
                "identity": effect(-0.3, 0.1),
            },
        ),
        ("specific", {}),
        (
            "reversed",
            {
                "e6": effect(-3.0),
                "e1": effect(-1.0),
                "gap_e1": effect(-2.0),
                "gap_e4": effect(-4.0),
            },
        ),
        ("cannot be said", {"gap_e1": effect(0.3), "gap_e4": effect(0.4)}),
        # What must be spared: a gap with the CI above 0 on one side only, and a restoration that
        # noise exceeds.
        ("cannot be said", {"gap_e4": effect(0.3)}),
        ("cannot be said", {"noise": effect(7.0)}),
        ("specific", {"identity": effect(-2.5)}),
        # Damage below 1 pp is no destruction, even where E6 does still less.
        (
            "cannot be said",
            {
                "e6": effect(0.01),
                "identity": effect(-0.05),
                "noise": effect(-0.1),
                "gap_e1": effect(0.0),
                "gap_e4": effect(0.0),
            },
        ),
        # E4 harms and E6 does not: no destruction by the swap as such.
        ("cannot be said", {"e6": effect(-0.4), "e4": effect(-9.0), "e1": effect(-5.0)}),
    ],
)
def test_every_line_of_the_decision_table(expected, case):
    found = {
        "e6": effect(5.0),
        "e1": effect(3.0),
        "e4": effect(1.0),
        "identity": effect(-0.2),
        "noise": effect(-0.3),
        "gap_e1": effect(2.0),
        "gap_e4": effect(4.0),
    }
    rest = {"gate_open": True, "degenerate_why": "", "equivalent": False, "detectable": 0.8}
    judged = decision.decide(
        found | {k: v for k, v in case.items() if k in found},
        **rest | {k: case[k] for k in case if k in rest},
    )
    assert judged.verdict == expected and judged.reason
    assert expected in [name for name, _ in decision.DECISIONS]


def made_up(values, n=100, seeds=12, sd=0.4, seed_sd=0.02, gap_sd=0.02, seed=0):
    """Effects by question, in pp, with a given mean per intervention; all share the questions' own
    ups and downs.
    """
    rng = np.random.default_rng(seed)
    shared, rows = rng.normal(0, sd, n), []
    for (name, term), mean in values.items():
        for s in range(seeds if name == "E1" else 1):
            own = (
                mean
                + shared
                + rng.normal(0, gap_sd, n)
                + (rng.normal(0, seed_sd) if name == "E1" else 0)
            )
            for metric in metrics.JUDGED:
                rows.append(
                    pd.DataFrame(
                        {
                            "question_id": [f"q{i:03d}" for i in range(n)],
                            "condition": "sandbag",
                            "layer": 7,
                            "tag": TAG,
                            "position": "last",
                            "error_term": term,
                            "intervention": name,
                            "seed": s,
                            "metric": metric,
                            "baseline": 0.4,
                            "value": 0.4 + own / 100,
                        }
                    )
                )
    return pd.concat(rows, ignore_index=True)


TAG = "v4_tiny_topk_L7_mixed"
TRUE = {
    ("E6", "kept"): 5.0,
    ("E1", "kept"): 2.5,
    ("E4", "kept"): 0.0,
    ("identity", "dropped"): -0.1,
    ("noise", ""): -0.2,
}


@pytest.mark.parametrize(
    "expected, changes, guards",
    [
        ("specific", {}, FINE),
        ("degenerate", {}, FINE._replace(nnz_genuine=0, nnz_sandbag=0)),
        ("destructive", {("identity", "dropped"): -9.0}, FINE),
        ("destructive", {("E6", "kept"): -5.0, ("E1", "kept"): -5.0, ("E4", "kept"): -5.0}, FINE),
        ("reversed", {("E6", "kept"): -5.0}, FINE),
        ("equivalent", {("E1", "kept"): 5.0, ("E4", "kept"): 5.0}, FINE),
    ],
)
def test_judging_made_up_effects(expected, changes, guards):
    found = decision.judge(made_up(TRUE | changes), guards, gate_open=True)
    assert found["verdict"] == expected
    assert (
        decision.judge(made_up(TRUE | changes), guards, gate_open=False)["verdict"]
        == "no sandbagging to explain"
    )


def test_too_noisy_to_be_called_equivalent():
    """The same true gap of 0 with more spread between questions: not seen is not equal."""
    flat = TRUE | {("E1", "kept"): 5.0, ("E4", "kept"): 5.0}
    found = decision.judge(made_up(flat, gap_sd=4.0), FINE, gate_open=True)
    assert found["verdict"] == "cannot be said" and found["detectable"] > estimates.MARGIN_PP


def test_seeds_in_two_clusters_are_degenerate():
    table = made_up(TRUE)
    flipped = (table["intervention"] == "E1") & (table["seed"] % 2 == 0)
    table.loc[flipped, "value"] += 0.03
    found = decision.judge(table, FINE, gate_open=True)
    assert found["verdict"] == "degenerate" and "two clusters" in found["reason"]


def test_gaps_are_paired_and_both_spreads_are_shown():
    found = decision.judge(made_up(TRUE, sd=5.0, seed_sd=0.5), FINE, gate_open=True)
    assert found["gap_e4"].value == pytest.approx(5.0, abs=0.05)
    # unpaired would be as wide as e6
    assert found["gap_e4"].high - found["gap_e4"].low < 0.1 < found["e6"].high - found["e6"].low
    assert found["gap_e1_seeds"].high - found["gap_e1_seeds"].low > 2 * (
        found["gap_e1"].high - found["gap_e1"].low
    )
    assert 0.2 < found["seed_sd"] < 1.0 and found["n_seeds"] == 12


def test_what_e6_restores_is_told_as_a_share_of_the_oracle():
    """A swap can be specific and restore little: the planted model's JumpReLU SAE, which hardly
    sees the switch, gives 4 of 51 pp.
    """
    found = decision.judge(made_up(TRUE | {("oracle", ""): 20.0}), FINE, gate_open=True)
    assert found["verdict"] == "specific" and found["share"] == pytest.approx(0.25, abs=0.01)
    assert np.isnan(decision.judge(made_up(TRUE), FINE, gate_open=True)["share"])


def test_two_margins_are_tested_the_cards_and_the_readers():
    """A true gap of 0.5 pp, measured to 0.05: beyond the card's margin of 0.15, within the reader's
    of 1, beyond one of 0.4.
    """
    near = TRUE | {("E1", "kept"): 4.5, ("E4", "kept"): 4.5}
    found = decision.judge(made_up(near, gap_sd=0.2), FINE, gate_open=True)
    assert found["p_equivalent"] > 0.5 and found["p_equivalent_own"] < 0.001
    assert (
        decision.judge(made_up(near, gap_sd=0.2), FINE, gate_open=True, own_margin=0.4)[
            "p_equivalent_own"
        ]
        > 0.5
    )


def test_holm_over_cells_counts_claims_and_not_degenerate_ones():
    """Four cells make a claim: the smallest p is multiplied by four; the degenerate fifth neither
    pays nor makes others pay.
    """
    cells = []
    for i, e6 in enumerate([5.0, 5.0, 5.0, 0.0, 5.0]):
        layer = i + 1
        table = made_up(
            TRUE | {("E6", "kept"): e6, ("E1", "kept"): 2.5 if e6 else 0.0}, gap_sd=1.0, seed=i
        )
        cells.append(table.assign(layer=layer, tag=f"v4_tiny_topk_L{layer}_mixed"))
    guards = {(i, f"v4_tiny_topk_L{i}_mixed", "last"): FINE for i in range(1, 6)}
    guards[5, "v4_tiny_topk_L5_mixed", "last"] = FINE._replace(nnz_genuine=0, nnz_sandbag=0)
    judged = decision.judge_all(pd.concat(cells), guards, gate_open=True).set_index("layer")
    # the smallest p that ten thousand sign flips can give
    assert judged["p_specific"].iloc[0] == pytest.approx(1 / 10_001)
    assert (
        judged["p_holm"].iloc[:3].tolist() == pytest.approx([4 / 10_001] * 3)
        and judged["p_holm"].iloc[3] > 0.05
    )
    assert np.isnan(judged["p_holm"].iloc[4]) and judged["verdict"].iloc[4] == "degenerate"
    grid = tables.grid(judged.reset_index())
    assert list(grid.columns) == ["topk"] and grid.loc[(1, "mixed"), "topk"].startswith(
        "specific (+2."
    )


def test_shuffles_near_either_end_are_counted():
    """Balanced seeds sit at 2.5 pp between E4 (0) and E6 (5); of ten plain ones four reach E6, six
    E4: two clusters.
    """
    plain = made_up({("E1", "kept"): 0.0}, seeds=10, seed_sd=0.0).assign(intervention="E1_plain")
    plain["value"] += np.where(plain["seed"] < 4, 0.05, 0.0)
    near = estimates.near_ends(pd.concat([made_up(TRUE), plain])).loc["L7 topk mixed"]
    assert near.loc["balanced", ["seeds", "near E6", "near E4", "clusters"]].tolist() == [
        12,
        0,
        0,
        False,
    ]
    assert near.loc["plain", ["seeds", "near E6", "near E4", "clusters"]].tolist() == [
        10,
        4,
        6,
        True,
    ]
    assert near.loc["plain", "E6 - E4"] == pytest.approx(5.0, abs=0.05)
    assert (
        estimates.near_ends(made_up(TRUE), margin=10.0).loc[
            ("L7 topk mixed", "balanced"), "near E6"
        ]
        == 12
    )


def test_the_cards_nine_cells_stand_beside_what_was_measured():
    tag = "v4_tiny_jumprelu_L7_mixed"
    table = made_up(TRUE).assign(tag=tag)
    empty = FINE._replace(nnz_genuine=0, nnz_sandbag=0)
    both = pd.concat([table, table.assign(position="all")])
    judged = decision.judge_all(
        both, {(7, tag, "last"): FINE, (7, tag, "all"): empty}, gate_open=True
    )
    beside = card.beside_card(judged, "smollm2-135m-instruct").set_index("card's cell")
    assert len(beside) == 9 and (beside["card (§24, §26, §31)"] == "gap < 0.15 pp").all()
    first = beside.loc["SmolLM2-135M L7"]
    assert (
        "E6 − E4 +5.0" in first["this suite, at that depth"]
        and "tuned on instructions" in first["why they differ"]
    )
    assert (
        "degenerate" in first["this suite, at that depth"]
        and "by construction" in first["why they differ"]
    )
    # one layer was run, none at 75 % of depth
    assert beside.loc["Llama-3.2-1B L12", "this suite, at that depth"] == "not run"
    assert "another model" in beside.loc["Llama-3.2-1B L4", "why they differ"]


# --- tables ---------------------------------------------------------------------------------------


def test_summary_gaps_and_guards_stand_beside_each_other(tmp_path):
    table = made_up(TRUE)
    summary = estimates.summarise(table)
    assert summary.set_index(["intervention", "metric"]).loc[
        ("E6", "p_full"), "effect_pp"
    ] == pytest.approx(5.0, abs=0.2)
    gaps = estimates.gaps(table)
    assert set(gaps["intervention"]) == {"E6-E1", "E6-E4"} and set(gaps["metric"]) == set(
        metrics.JUDGED
    )
    judged = decision.judge_all(table, {(7, TAG, "last"): FINE}, gate_open=True)
    guarded = guards.guard_table({(7, TAG, "last"): FINE})
    assert guards.read_guards(guarded) == {(7, TAG, "last"): FINE}
    both = decision.with_guards(pd.concat([summary, gaps]), guarded, judged)
    assert (
        both[both["error_term"] == "kept"]["verdict"].eq("specific").all()
        and both["nnz_genuine"].eq(20).all()
    )
    table.to_csv(tmp_path / "effects.csv", index=False)
    back = estimates.stored_effects(files.read_csv(tmp_path / "effects.csv"))
    assert estimates.by_question(back, "noise", "") == pytest.approx(
        estimates.by_question(table, "noise", "")
    )


def test_rivals_without_an_sae_stand_in_every_row_of_their_layer():
    rows = [(7, "v4_tiny_topk_L7_mixed", "E6", 1.0), (7, "v4_tiny_jumprelu_L7_mixed", "E6", 2.0),
            (9, "v4_tiny_jumprelu_L9_mixed", "E6", 3.0), (7, "", "oracle", 4.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["layer", "tag", "intervention", "effect_pp"])
    table = table.assign(position="last", metric="p_full", error_term="kept", n=2)
    table.loc[table["tag"] == "", "error_term"] = ""
    table = table.assign(low=table["effect_pp"] - 0.5, high=table["effect_pp"] + 0.5)
    shown = tables.effect_table(table, ["oracle", "E6", "E1"])
    assert shown.columns.tolist() == ["oracle", "E6"]
    assert shown["oracle"].tolist() == ["+4.00 [+3.50, +4.50]"] * 2 + [""]
    assert shown.loc["L9 jumprelu mixed", "E6"] == "+3.00 [+2.50, +3.50]"


def test_summary_is_the_mean_with_the_bootstrap_of_one_column():
    table = made_up(TRUE, n=20)
    row = (
        estimates.summarise(table, seed=3)
        .set_index(["intervention", "metric"])
        .loc[("E1", "p_full")]
    )
    expected = statistics.mean_ci(estimates.by_question(table, "E1", "kept"), seed=3)
    assert (row["effect_pp"], row["low"], row["high"]) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


def test_e1_is_half_a_dose():
    found = estimates.between(made_up(TRUE))
    assert (
        found["share"] == pytest.approx(0.5, abs=0.02)
        and found["above"] == 0
        and not found["two_clusters"]
    )


def test_first_verdicts_wait_for_the_rivals():
    guarded = decision.with_degenerate(
        guards.guard_table(
            {(7, "a", "last"): FINE, (7, "a", "all"): FINE._replace(nnz_genuine=0, nnz_sandbag=0)}
        )
    )
    assert decision.first_verdicts(guarded, True)["verdict"].tolist() == [
        "not judged before notebook 06",
        "degenerate",
    ]
    assert set(decision.first_verdicts(guarded, False)["verdict"]) == {"no sandbagging to explain"}


def test_an_effect_that_is_not_there_is_named():
    with pytest.raises(UserError, match="delta_E1"):
        estimates.by_question(made_up(TRUE), "delta_E1", "kept")


def test_rows_of_one_intervention_their_range_and_the_largest_difference():
    table = made_up(TRUE)
    summary = estimates.summarise(table)
    e6 = tables.of(summary, "E6")
    assert len(e6) == 1 and e6["effect_pp"].iloc[0] == pytest.approx(5.0, abs=0.2)
    assert tables.of(summary, "E6", position="all").empty
    assert tables.in_words(e6).startswith("above 0 in 1, below 0 in 0")
    assert f"{e6['effect_pp'].iloc[0]:+.2f} to" in tables.in_words(e6)
    where = pd.DataFrame({"tag": [TAG], "position": ["last"]})
    change = [
        table[(table["intervention"] == name) & (table["error_term"] == "kept")]
        for name in ("E6", "E4")
    ]
    change = [c[c["metric"] == metrics.CARD].set_index("question_id")["value"] for c in change]
    largest = 100 * (change[0] - change[1]).abs().max()
    assert estimates.largest_difference(table, where) == pytest.approx(largest)
    assert estimates.largest_difference(table, where[:0]) == 0


def test_both_gaps_near_zero():
    judged = pd.DataFrame(
        {"gap_e1": [effect(0.1), effect(0.1), effect(-9.0)],
         "gap_e4": [effect(-0.14), effect(0.2), effect(0.0)]}
    )  # fmt: skip
    assert list(decision.both_gaps_near_zero(judged).index) == [0]
