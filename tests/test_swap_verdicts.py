"""The decision table on swaps: every line by hand-set numbers, one fake to flag and one truth to
spare each, and what the table by p_full alone said of the same numbers.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging.errors import UserError
from sandbagging.statistics import Estimate
from sandbagging.swaps import decision, depth, estimates, fits, soundness
from sandbagging.swaps.evidence import Evidence
from sandbagging.swaps.guards import Guards

FINE = Guards(nnz_genuine=20, nnz_sandbag=20, norm_delta=5.0, norm_change=6.0, norm_x=80.0, fvu=0.2)
SURE = "answers wrongly"


def nats(value, half=0.2):
    return Estimate(value, value - half, value + half, 100, "nats", "by hand")


# --- every line, from evidence set by hand --------------------------------------------------------

# E6 restores 2 of the oracle's 3 nats, E1 half of that; p_full says the same, in pp.
ODDS = {
    "e6": 2.0, "e1": 1.0, "e4": 0.1, "oracle": 3.0, "identity": -0.05, "noise": -0.1,
    "gap_e1": 1.0, "gap_e4": 1.9, "gap_delta": 4.0, "over_noise": 2.1, "over_span": 1.8,
}  # fmt: skip
RIVALS = ("diff_means", "E6_frozen_decoder", "E6_near_decoder", "E6_frozen_encoder")


def evidence(p=0.01, **changes):
    """Return evidence for *carries the difference, needs the SAE*, but for what is changed."""
    odds = {name: nats(value) for name, value in ODDS.items()}
    odds |= {f"over_{name}": nats(1.0) for name in RIVALS}
    full = {name: Estimate(e.value, e.low, e.high, 100, "pp") for name, e in odds.items()}
    for name, value in changes.pop("full", {}).items():
        full[name] = nats(value)
    odds |= changes.pop("odds", {})
    rest = {"void": "", "oracle_p": 1.0, "equivalent_p": 1.0, "four_p": p, "rivals_p": p}
    return Evidence(odds, full, **{**rest, "seed_sd": 0.1, "detectable": 0.3, **changes})


@pytest.mark.parametrize(
    "expected, changes",
    [
        (decision.CARRIES, {}),
        (decision.VOID, {"void": "both median codes are all zero", "oracle_p": 0.001}),
        # E6 looks as if it carried, but the oracle itself restores nothing at this layer.
        (decision.NOTHING, {"oracle_p": 0.001, "odds": {"oracle": nats(0.01, 0.02)}}),
        # Identity costs as much as E6 changes; spared where it costs less, or less than counts.
        (decision.DESTRUCTIVE, {"odds": {"identity": nats(-2.5)}}),
        (decision.CARRIES, {"odds": {"identity": nats(-1.5)}}),
        (decision.CARRIES, {"odds": {"e6": nats(0.5), "identity": nats(-0.25)}}),
        (decision.DESTRUCTIVE, {"odds": {"noise": nats(-2.5)}}),
        (decision.DESTRUCTIVE, {"odds": {n: nats(-3.0) for n in ("e6", "e1", "e4")}}),
        (decision.EQUIVALENT, {"p": 0.4, "equivalent_p": 0.01}),
        (decision.UNKNOWN, {"p": 0.4}),
        # A model without noise is certain of any difference: 0.02 nats are none.
        (decision.EQUIVALENT, {"odds": {"gap_e1": nats(0.02, 0.001)}, "equivalent_p": 0.01}),
        # As a point noise does less than E6, as an interval it does not; so with random directions.
        (decision.UNKNOWN, {"odds": {"over_noise": nats(1.0, 1.5)}}),
        (decision.UNKNOWN, {"odds": {"over_span": nats(1.0, 1.5)}}),
        # Log-odds rise and p_full falls: no claim. A p_full that is not shown to fall is spared.
        (decision.UNKNOWN, {"full": {"gap_delta": -2.0}}),
        (decision.CARRIES, {"full": {"gap_delta": -0.1}}),
    ],
)
def test_every_line_of_the_decision_table(expected, changes):
    n = evidence(**changes)
    found = decision.decide_cell(n, n.four_p, SURE)
    assert found.verdict == expected and found.reason
    assert decision.decide_cell(n, n.four_p, "no").verdict == decision.NO_GATE
    assert [name for name, _ in decision.VERDICTS].index(expected) >= 1


def test_holm_decides_and_not_the_uncorrected_p():
    n = evidence(p=0.03)
    assert decision.decide_cell(n, 0.03, SURE).verdict == decision.CARRIES
    judged = decision.decide_cell(n, 0.12, SURE)
    assert judged.verdict == decision.UNKNOWN and "corrected p 0.12" in judged.reason


@pytest.mark.parametrize(
    "expected, changes",
    [
        (decision.NEEDS, {}),
        (decision.ANY, {"p": 0.2}),
        (decision.ANY, {"odds": {"over_E6_near_decoder": nats(0.02, 0.01)}}),
        (decision.ANY, {"full": {"over_diff_means": -2.0}}),
    ],
)
def test_what_a_cell_owes_to_its_sae(expected, changes):
    n = evidence(**changes)
    assert decision.basis_of(n, n.rivals_p) == expected


def test_a_rival_that_was_not_run_is_said():
    n = evidence()
    del n.odds["over_E6_frozen_encoder"]
    assert decision.basis_of(n, n.rivals_p) == decision.NOT_TRIED


# --- from effects by question ---------------------------------------------------------------------

TRUE = {
    ("E6", "kept"): 2.0, ("E1", "kept"): 1.0, ("E4", "kept"): 0.0, ("oracle", ""): 3.0,
    ("identity", "dropped"): -0.05, ("noise", ""): -0.1, ("delta+", "kept"): 2.0,
    ("delta-", "kept"): -1.0, ("delta_E1", "kept"): 0.0, ("delta_span", "kept"): 0.1,
    ("diff_means", ""): 1.0, ("E6_frozen_decoder", "kept"): 0.5, ("E6_near_decoder", "kept"): 0.5,
    ("E6_frozen_encoder", "kept"): 0.5,
}  # fmt: skip
WITHOUT_SAE = ("oracle", "diff_means")
MANY = {"E1": 12, "noise": 4, "delta_E1": 4, "delta_span": 4}


def tag(layer):
    return f"v4_tiny_topk_L{layer}_mixed"


def made_up(values, layer=7, n=40, gap_sd=0.05, pp=3.0, seed=0):
    """Effects by question in nats, with a mean per intervention, and `pp` times as many pp."""
    rng, rows = np.random.default_rng(seed), []
    shared = rng.normal(0, 0.3, n)
    for (name, term), mean in values.items():
        for s in range(MANY.get(name, 1)):
            own = mean + (shared if mean else 0) + rng.normal(0, gap_sd, n)
            where = {
                "question_id": [f"q{i:03d}" for i in range(n)],
                "condition": "sandbag",
                "layer": layer,
                "tag": "" if name in WITHOUT_SAE else tag(layer),
                "position": "last",
                "error_term": term,
                "intervention": name,
                "seed": s,
            }
            for metric, start, change in (("logodds", -1.0, own), ("p_full", 0.1, pp * own / 100)):
                rows.append({**where, "metric": metric, "baseline": start, "value": start + change})
    return pd.concat(map(pd.DataFrame, rows), ignore_index=True)


def as_good(value):
    return dict.fromkeys([(r, "" if r == "diff_means" else "kept") for r in RIVALS], value)


@pytest.fixture(scope="module")
def cells():
    """Six cells whose truth is set, a layer each, judged together."""
    gone = dict.fromkeys(TRUE, 0.0)
    same = {("E1", "kept"): 2.0, ("E4", "kept"): 2.0}
    return pd.concat(
        [
            made_up(TRUE, 1),
            made_up(TRUE | as_good(2.0), 2, seed=1),
            made_up(gone, 3, gap_sd=0.01),
            made_up(TRUE | same, 4, gap_sd=0.02),
            made_up(TRUE, 5, pp=-3.0),
            made_up(TRUE, 6),
        ]
    )


@pytest.fixture(scope="module")
def judged(cells):
    guards = {(layer, tag(layer), "last"): FINE for layer in range(1, 7)}
    guards[6, tag(6), "last"] = FINE._replace(nnz_genuine=0, nnz_sandbag=0)
    return decision.judge_cells(cells, guards, SURE).set_index("layer")


def test_cells_get_the_verdict_that_their_truth_asks_for(judged):
    assert judged["verdict"].to_dict() == {
        1: decision.CARRIES,
        2: decision.CARRIES,
        3: decision.NOTHING,
        4: decision.EQUIVALENT,
        5: decision.UNKNOWN,
        6: decision.VOID,
    }
    assert judged.loc[[1, 2], "basis"].to_list() == [decision.NEEDS, decision.ANY]
    assert (judged.loc[3:, "basis"] == "").all() and "opposite" in judged.loc[5, "reason"]


def test_p_is_corrected_over_the_cells_that_make_a_claim(judged):
    """Four do: the smallest p that ten thousand flips give, times four; a void cell and one with
    nothing to restore neither pay nor make others pay.
    """
    assert judged.loc[1, "p_four"] == pytest.approx(1 / 10_001)
    assert judged.loc[[1, 2], "p_holm"].to_list() == pytest.approx([4 / 10_001] * 2)
    assert judged.loc[[3, 6], "p_holm"].isna().all()
    assert judged["p_needs_holm"].notna().to_dict() == {i: i in (1, 2) for i in range(1, 7)}
    assert judged.loc[1, "p_needs_holm"] == pytest.approx(2 / 10_001)


def test_numbers_stand_in_nats_and_pp(judged):
    row = judged.loc[1]
    assert row["gap_e1"].value == pytest.approx(1.0, abs=0.05) and row["gap_e1"].unit == "nats"
    assert row["gap_e1_pp"].value == pytest.approx(3.0, abs=0.1) and row["gap_e1_pp"].unit == "pp"
    assert row["share"] == pytest.approx(2 / 3, abs=0.05)
    assert row["over_noise"].method.startswith("percentile bootstrap over 40 questions and 4 draws")


def test_noise_that_is_lower_as_a_point_alone_is_not_lower():
    """Four draws of noise: -1.5, 0.2, 2.4 and 2.5 nats. Their mean, 0.9, lies below E6's 2."""
    table = made_up(TRUE)
    drawn = {0: -1.5, 1: 0.2, 2: 2.4, 3: 2.5}
    odds = (table["intervention"] == "noise") & (table["metric"] == "logodds")
    table.loc[odds, "value"] += table.loc[odds, "seed"].map(drawn) - TRUE["noise", ""]
    row = decision.judge_cells(table, {(7, tag(7), "last"): FINE}, SURE).iloc[0]
    assert row["noise"].value < row["e6"].low
    assert row["verdict"] == decision.UNKNOWN and "E6 - noise" in row["reason"]


@pytest.mark.parametrize(
    "left_out, word", [(("metric", "logodds"), "Log-odds"), (("intervention", "oracle"), "oracle")]
)
def test_effects_that_cannot_be_judged_are_a_sentence(cells, left_out, word):
    column, name = left_out
    with pytest.raises(UserError, match=word):
        decision.judge_cells(cells[cells[column] != name], {}, SURE)
    with pytest.raises(UserError, match="grade"):
        decision.judge_cells(cells, {}, "maybe")


def test_effects_are_told_in_their_own_units(cells):
    rows = estimates.by_metric(cells[cells["layer"] == 1]).set_index(["intervention", "metric"])
    e6 = rows.loc["E6"]
    assert e6["unit"].to_dict() == {"logodds": "nats", "p_full": "pp"}
    assert e6.loc["p_full", "value"] == pytest.approx(3 * e6.loc["logodds", "value"])


def test_the_share_of_the_gap_counts_genuine_prompts_too():
    """The gap is 5 nats. E6 adds 5.9 to sandbag prompts, which looks like 118 %, and 3.8 to genuine
    ones: a gap of 2.9 is left, and 42 % are closed.
    """
    own, wobble = np.random.default_rng(0).normal(0, 0.2, (2, 40))
    wobble -= wobble.mean()
    both = {"sandbag": (-1.0, 5.9 + wobble), "genuine": (4.0, 3.8)}
    table = pd.concat(
        made_up({("E6", "kept"): 0.0}).assign(
            condition=condition,
            baseline=np.tile(start + own, 2),
            value=np.tile(start + own + up, 2),
        )
        for condition, (start, up) in both.items()
    )
    found = estimates.gap_closed(table, "E6")
    assert found.value == pytest.approx(0.42, abs=1e-9) and found.low < 0.42 < found.high
    with pytest.raises(UserError, match="none on genuine"):
        estimates.gap_closed(table[table["condition"] == "sandbag"], "E6")


# --- guards ---------------------------------------------------------------------------------------


def test_clusters_void_a_cell_only_where_they_could_change_its_verdict():
    """Seeds in two groups 0.2 apart: nothing beside E6 - E4 = 5, a fake beside E6 - E4 = 0.5. The
    old guard took any two groups more than 0.15 apart.
    """
    seeds = np.array([1.0, 1.01, 1.0, 1.02, 1.01, 1.2, 1.21, 1.2, 1.22, 1.21])
    assert soundness.clusters_apart(seeds) == pytest.approx(0.2, abs=1e-9)
    assert soundness.in_clusters(seeds, 5.0, 0.0) == ""
    assert "two clusters 0.2 nats apart" in soundness.in_clusters(seeds, 0.5, 0.0)
    tiny = 0.01 * seeds  # of no size at all, beside an E6 - E4 of none
    assert soundness.in_clusters(tiny, 0.0, 0.0) == "" != soundness.in_clusters(seeds, 0.0, 0.0)
    cloud = np.random.default_rng(0).normal(size=20)
    assert soundness.clusters_apart(cloud) == 0 and soundness.in_clusters(cloud, 0.1, 0.1) == ""


class TwoLatents:
    """An SAE that sees which condition a prompt has, and nothing else of it."""

    def encode(self, x):
        return torch.stack([(x[:, 0] > 0).float(), (x[:, 0] <= 0).float()], dim=1)

    def decode(self, codes):
        ends = torch.zeros(2, 8)
        ends[:, 0] = torch.tensor([10.0, -10.0])
        return codes @ ends


def test_fvu_within_sandbag_prompts_sees_what_the_pooled_one_hides():
    """Two clusters 20 apart with a spread of 1: the cue alone explains 92 % of all variance, and
    nothing of what differs between sandbag prompts.
    """
    x = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
    x[0, :, 0] += 10
    x[1, :, 0] -= 10
    by_condition, ids = {"genuine": x[0], "sandbag": x[1]}, tuple(f"q{i}" for i in range(60))
    errors = fits.errors_at(by_condition, ids, TwoLatents(), 3, "a")
    whole = TwoLatents()
    whole.encode = lambda rows: rows
    whole.decode = lambda codes: codes * 0.9  # rebuilds every prompt but for a tenth
    both = pd.concat([errors, fits.errors_at(by_condition, ids, whole, 3, "b")])
    found = soundness.fits_table(both).set_index("tag")
    assert found.loc["a", "pooled"].value < 0.1 and found.loc["a", "within"].value > 0.95
    assert found["poor"].to_dict() == {"a": True, "b": False}
    sandbag = x[1]
    by_hand = (sandbag - TwoLatents().decode(TwoLatents().encode(sandbag))).square().sum()
    by_hand /= (sandbag - sandbag.mean(0)).square().sum()
    assert found.loc["a", "within"].value == pytest.approx(by_hand.item(), rel=1e-5)


def test_all_token_medians_are_one_row():
    medians = pd.DataFrame({"nnz_genuine": [0, 0, 2], "nnz_sandbag": [0, 0, 1]})
    row = soundness.all_tokens_in_a_row(medians)
    assert row.to_dict("records") == [{"position": "all", "SAEs": 3, "empty": 2, "most": 2}]


# --- layers ---------------------------------------------------------------------------------------


def oracle(means, sd=0.1, n=40, jump=None):
    rng = np.random.default_rng(0)
    tables = []
    for layer, mean in enumerate(means):
        table = made_up({("oracle", ""): mean}, layer, n, gap_sd=sd, seed=int(rng.integers(99)))
        if layer == jump:  # one question alone makes the mean
            odds = table["metric"] == "logodds"
            table.loc[odds & (table["question_id"] == "q000"), "value"] += 40.0
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_layers_are_chosen_where_the_oracle_moves_the_answer():
    """Layer 0 does nothing, 1 moves one question by 40 nats, 2 moves all by too little to count, 3
    is the first that moves the answer.
    """
    gap = nats(8.0)
    by_layer = depth.ceiling_by_layer(oracle([0.0, 0.0, 0.3, 2.0, 6.0], jump=1), gap)
    assert by_layer["moves"].to_list() == [False, False, False, True, True]
    assert by_layer["value"].iloc[1] == pytest.approx(1.0, abs=0.1)  # above the floor of 0.8
    assert depth.first_layer(by_layer) == 3
    assert depth.chosen_layers((1, 2, 4), by_layer) == [1, 2, 3, 4]
    nothing = depth.ceiling_by_layer(oracle([0.0, 0.0]), gap)
    assert depth.first_layer(nothing) is None and depth.chosen_layers((1,), nothing) == [1]
