"""Guards, and what pages on swaps tell of effects and verdicts: by hand-set numbers, one fake to
flag and one truth to spare each.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import files, statistics
from sandbagging.errors import UserError
from sandbagging.statistics import Estimate
from sandbagging.suite import swaps_of_run
from sandbagging.swaps import (
    card,
    decision,
    estimates,
    examples,
    guards,
    halfway,
    medians,
    shuffles,
    soundness,
    tables,
)
from sandbagging.swaps.guards import Guards

FINE = Guards(nnz_genuine=20, nnz_sandbag=20, norm_delta=5.0, norm_change=6.0, norm_x=80.0, fvu=0.2)
TAG = "v4_tiny_topk_L7_mixed"


# --- guards ---------------------------------------------------------------------------------------


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
    found = soundness.degenerate(FINE._replace(**changes))
    assert (why in found) if why else found == ""


def test_guards_by_hand():
    sae = SimpleNamespace(encode=lambda x: x.relu(), decode=lambda c: c * 2)
    x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    found = guards.measure_guards(x, sae, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]))
    assert (found.nnz_genuine, found.nnz_sandbag) == (1, 0)
    assert (found.norm_delta, found.norm_x) == (2.0, 3.5)
    # (2, 0) against (6, 0) and against (0, 8)
    assert found.norm_change == pytest.approx((4 + 68**0.5) / 2)
    assert found.fvu == pytest.approx(25 / 12.5)  # errors (3, 0), (0, 4); spread about (1.5, 2)


def test_guards_come_back_from_a_file():
    cells = {(7, TAG, "last"): FINE, (7, "other", "last"): FINE._replace(nnz_genuine=0)}
    assert guards.read_guards(guards.guard_table(cells)) == cells


# --- effects --------------------------------------------------------------------------------------

# nats: E6 restores 2 of the oracle's 4, E1 half of that
TRUE = {
    ("E6", "kept"): 2.0,
    ("E1", "kept"): 1.0,
    ("E4", "kept"): 0.0,
    ("noise", ""): -0.1,
    ("diff_means", ""): 3.0,
    ("oracle", ""): 4.0,
}


def made_up(values=TRUE, layer=7, n=40, seeds=6, spread=0.3, seed_sd=0.05, own_sd=0.05):
    """Effects by question with a given mean in nats, and a tenth of it on p_full; all share the
    questions' own ups and downs.
    """
    rng = np.random.default_rng(0)
    shared, rows = rng.normal(0, spread, n), []
    tag = f"v4_tiny_topk_L{layer}_mixed"
    for (name, term), mean in values.items():
        for s in range(seeds if name == "E1" else 1):
            own = mean + shared + rng.normal(0, own_sd, n)
            own = own + (rng.normal(0, seed_sd) if name == "E1" else 0)
            for metric, factor in (("logodds", 1.0), ("p_full", 0.1)):
                told = {
                    "question_id": [f"q{i:03d}" for i in range(n)],
                    "condition": "sandbag",
                    "layer": layer,
                    "tag": "" if name in ("oracle", "diff_means") else tag,
                    "position": "last",
                    "error_term": term,
                    "intervention": name,
                    "seed": s,
                    "metric": metric,
                    "baseline": 0.4,
                    "value": 0.4 + factor * own,
                }
                rows.append(pd.DataFrame(told))
    return pd.concat(rows, ignore_index=True)


def test_a_difference_is_paired_and_rivals_without_an_sae_belong_to_every_cell():
    table = made_up(spread=5.0)
    found = estimates.differences(table, "diff_means", "E6", seed=3)
    by_id = {
        name: table[(table["intervention"] == name) & (table["metric"] == "logodds")]["value"]
        for name in ("diff_means", "E6")
    }
    expected = statistics.mean_ci(by_id["diff_means"].values - by_id["E6"].values, seed=3)
    assert (found["layer"].item(), found["tag"].item()) == (7, TAG)
    ends = found[["value", "low", "high"]].iloc[0]
    assert ends.tolist() == pytest.approx([expected.value, expected.low, expected.high])
    assert found["high"].item() - found["low"].item() < 0.1, "unpaired it would span nats"
    assert estimates.differences(table, "E6", "delta+").empty


def test_an_effect_that_is_not_there_is_named():
    with pytest.raises(UserError, match="delta_E1"):
        estimates.by_question(made_up(), "delta_E1", "kept")


def test_rows_of_one_intervention_and_their_signs():
    summary = estimates.by_metric(pd.concat([made_up(), made_up({("E6", "kept"): -2.0}, layer=9)]))
    e6 = tables.of(summary, "E6")
    assert e6["value"].tolist() == pytest.approx([2.0, -2.0], abs=0.2)
    assert tables.of(summary, "E6", "p_full")["value"].iloc[0] == pytest.approx(20, abs=2)
    assert tables.signs(e6) == "above 0 in 1, below 0 in 1 and around 0 in 0 of 2 cells"


def test_effects_from_a_file_have_empty_tags_again(tmp_path):
    table = made_up()
    table.to_csv(tmp_path / "effects.csv", index=False)
    back = estimates.stored_effects(files.read_csv(tmp_path / "effects.csv"))
    assert (back["tag"] == table["tag"]).all() and (back["error_term"] == table["error_term"]).all()


# --- E1 on its way from E4 to E6 ------------------------------------------------------------------


def test_e1_is_half_a_dose_and_labels_that_do_not_matter_are_seen():
    found = halfway.between(made_up())
    assert found["way"] == pytest.approx(0.5, abs=0.05) and found["apart"]
    assert (found["above"], found["seeds"]) == (0, 6)
    level = halfway.between(made_up(TRUE | {("E1", "kept"): 2.5}))
    assert level["above"] == 6
    same = halfway.between(made_up(TRUE | {("E4", "kept"): 1.95}))
    assert not same["apart"], "between two ends in one place there is no way"


def test_only_layers_at_which_the_oracle_restores_have_a_line():
    nothing = {key: 0.0 for key in TRUE}
    table = pd.concat([made_up(), made_up(nothing, layer=3, spread=0.0, own_sd=0.001)])
    assert halfway.with_ceiling(table)["layer"].unique().tolist() == [7]
    seeds = halfway.seeds_of(table)
    assert seeds.groupby("layer").size().to_dict() == {3: 6, 7: 6}
    one = seeds[seeds["layer"] == 7].iloc[0]
    assert (one["E4"], one["E6"]) == pytest.approx((0.0, 2.0), abs=0.15)
    assert halfway.between_all(table)["layer"].tolist() == [7, 3]


def test_places_of_shuffles_are_summarised_by_kind(trained_run):
    model, _, stored, tags = trained_run
    places = shuffles.shuffle_places(model, stored, stored, tags, 12)
    by_kind = halfway.places_by_kind(places).set_index(["tag", "shuffle", "code"])
    assert len(by_kind) == len(tags) * 2 * 3
    one = places.query("shuffle == 'plain' and code == 'mean'")
    one = one[one["tag"] == tags[0]]
    told = by_kind.loc[(tags[0], "plain", "mean")]
    assert told["mean"] == pytest.approx(one["place"].mean())
    assert told["r_share"] == pytest.approx(np.corrcoef(one["place"], one["share"])[0, 1])
    assert by_kind.xs("balanced", level="shuffle")["r_share"].isna().all()


def test_codes_near_either_end_are_counted():
    places = pd.DataFrame({"place": [0.0, 0.05, 0.5, 0.95, 1.2], "share": 0.5})
    places = places.assign(tag=TAG, shuffle="plain", code="average")
    assert halfway.places_by_kind(places)["near"].item() == pytest.approx(3 / 5)


# --- verdicts told and kept -----------------------------------------------------------------------


def nats(value, half=0.2):
    return Estimate(value, value - half, value + half, 40, "nats")


def judged():
    row = {"layer": 7, "tag": TAG, "position": "last", "error_term": "kept"}
    row |= {"verdict": decision.CARRIES, "basis": decision.ANY, "reason": "by hand", "p_holm": 0.01}
    row |= {"e6": nats(2.0), "e6_pp": Estimate(20.0, 15.0, 25.0, 40, "pp")}
    row |= {"gap_e1_pp": Estimate(1.0, 0.5, 1.5, 40, "pp"), "over_diff_means": nats(-1.0)}
    other = row | {"layer": 3, "tag": TAG.replace("L7", "L3"), "verdict": decision.NOTHING}
    other |= {"basis": "", "over_diff_means": float("nan"), "e6": nats(0.0)}
    return pd.DataFrame([row, other]).assign(gap_e4_pp=row["gap_e1_pp"])


def test_verdicts_come_back_from_a_file(tmp_path):
    files.write_csv(tmp_path / "verdicts.csv", tables.verdict_rows(judged()))
    back = tables.read_verdicts(files.read_csv(tmp_path / "verdicts.csv"))
    plain = ["layer", "tag", "verdict", "basis", "reason", "p_holm"]
    pd.testing.assert_frame_equal(back[plain], judged()[plain])
    first = back.iloc[0]
    assert (first["e6"].low, first["e6"].n, first["e6"].unit) == (1.8, 40, "nats")
    assert (first["e6_pp"].high, first["e6_pp"].unit) == (25.0, "pp")
    assert np.isnan(back["over_diff_means"].iloc[1])


def test_what_lies_above_zero_and_how_cells_are_counted():
    assert tables.all_above(judged(), ["e6", "gap_e1_pp"])["layer"].tolist() == [7]
    assert tables.all_above(judged(), ["over_diff_means"]).empty, "not measured is not above"
    counted = tables.counts(judged())
    assert counted == {3: {decision.NOTHING: 1}, 7: {decision.CARRIES: 1}}
    shown = tables.as_text(judged(), {"e6": "E6", "verdict": "verdict"})
    assert shown.loc["L7 topk mixed"].tolist() == ["+2.00 [+1.80, +2.20]", decision.CARRIES]


def test_answers_and_guards_as_rows():
    changed = pd.DataFrame([{"tag": TAG, "right": Estimate(5.0, 1.0, 9.0, 40, "pp"), "p": 0.02}])
    row = tables.answer_rows(changed).iloc[0]
    assert row[["right", "low", "high", "n", "p"]].tolist() == [5.0, 1.0, 9.0, 40, 0.02]
    fits = pd.DataFrame([{"layer": 7, "tag": TAG, "within": Estimate(0.9, 0.8, 1.0, 40)}])
    guarded = guards.guard_table({(7, TAG, "last"): FINE})
    shown = tables.guard_rows(guarded, fits.assign(pooled=fits["within"]))
    assert shown.loc["L7 topk mixed", "FVU within"] == "0.90 [0.80, 1.00]"
    assert shown.loc["L7 topk mixed", "on in m_G"] == 20


def test_the_cards_nine_cells_stand_beside_what_was_measured():
    ours = judged().assign(tag=[TAG.replace("topk", "jumprelu")] * 2)[:1]
    beside = card.beside_card(ours, "smollm2-135m-instruct").set_index("card's cell")
    assert len(beside) == 9 and (beside["card (§24, §26, §31)"] == "gap < 0.15 pp").all()
    first = beside.loc["SmolLM2-135M L7"]
    assert "E6 − E1 +1.00 [+0.50, +1.50]" in first["this suite, at that depth"]
    assert "tuned on instructions" in first["why they differ"]
    # one layer was run, none at 75 % of depth
    assert beside.loc["Llama-3.2-1B L12", "this suite, at that depth"] == "not run"
    assert "another model" in beside.loc["Llama-3.2-1B L4", "why they differ"]


def test_the_made_up_cells_of_page_06_show_every_verdict_and_both_bases():
    decided = [examples.decided(example) for example in examples.EXAMPLES]
    assert {d.verdict for d in decided} == {name for name, _ in decision.VERDICTS}
    carried = [d.shows for d in decided if d.verdict == decision.CARRIES]
    assert carried == [decision.NEEDS, decision.ANY]


def test_the_saes_of_mixed_prompts_stand_for_their_layer():
    tags = [f"v4_tiny_{made}_L{layer}_{on}" for layer in (7, 15) for made, on in (
        ("topk", "genuine_only"), ("topk", "mixed"), ("jumprelu", "mixed"))]  # fmt: skip
    mixed = swaps_of_run.of_mixed(tags)
    assert mixed == [tag for tag in tags if "mixed" in tag]
    assert swaps_of_run.of_mixed(tags[:1]) == tags[:1]
    assert swaps_of_run.one_a_layer(mixed) == {7: tags[2], 15: tags[5]}
    assert swaps_of_run.one_a_layer(tags[:2]) == {7: tags[0]}


def test_a_shuffle_of_odd_numbers_is_no_balanced_one():
    with pytest.raises(UserError, match="halves each condition"):
        medians.shuffled_labels(9, 10, seed=0)
