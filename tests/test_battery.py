"""The battery against its parts called one by one, from files as a run leaves them."""

import numpy as np
import pandas as pd
import pytest

from sandbagging import activations, files, saes
from sandbagging.swaps import battery, estimates, interventions, medians, sites

FRAMING = "instr_contrast"
LAYERS = (1, 2)


def test_swaps_are_its_parts_one_by_one(trained_run):
    model, asked, stored, tags = trained_run
    found = battery.swaps(
        model, asked, FRAMING, stored, stored, tags, ("last", "all"), noise_seeds=3
    )
    table = files.read_csv(stored / "tokens.csv.gz")
    loaded = saes.load_tags(stored, tags, model)
    site = next(
        s for s in sites.find_sites(model, asked, FRAMING, LAYERS, ("last", "all"))
        if (s.layer, s.position) == (2, "last")
    )  # fmt: skip
    train = medians.train_codes(activations.load(stored, 2), table)
    (tag, sae), = loaded[2].items()  # fmt: skip
    new = interventions.e6_and_e4(site.x, sae, train)
    new |= interventions.noise(site.x, new["E6", "kept", 0], range(3))
    alone = sites.effects_at(model, site, new, tag=tag)
    there = found.effects[(found.effects["tag"] == tag) & (found.effects["position"] == "last")]
    pd.testing.assert_frame_equal(there.reset_index(drop=True), alone)
    seeds = found.effects.groupby(["intervention", "position"])["seed"].nunique()
    assert (seeds["noise", "last"], seeds["noise", "all"]) == (3, 2)
    assert seeds["diff_means_shuffled", "last"] == 3
    assert ("diff_means_shuffled", "all") not in seeds
    assert found.guards[["layer", "tag", "position"]].drop_duplicates().shape[0] == 4
    assert (found.drift["share"] < 1e-4).all()  # the test prompts of this run are those stored


def test_shuffles_run_once_where_all_are_the_same_and_true_labels_give_e6(trained_run):
    model, asked, stored, tags = trained_run
    degenerate = [(tags[1], "last")]
    found = battery.shuffles(
        model, asked, FRAMING, stored, stored, tags, n_shuffles=4, degenerate=degenerate
    )
    kept = found.effects[found.effects["error_term"] == "kept"]
    seeds = kept.groupby(["tag", "intervention"])["seed"].nunique().unstack()
    assert seeds["E1"].tolist() == [4, 1] and (seeds["E1_plain"] == 4).all()
    assert {"E1_lower", "E1_mean", "delta_E1"} <= set(seeds)
    swapped = battery.swaps(model, asked, FRAMING, stored, stored, tags, noise_seeds=1).effects
    e6 = estimates.by_question(swapped[swapped["tag"] == tags[0]], "E6", "kept")
    true = estimates.by_question(found.true_labels, "E6", "kept")
    np.testing.assert_allclose(true, e6, atol=1e-3)


def test_places_of_shuffles_are_summarised_by_kind(trained_run):
    model, _, stored, tags = trained_run
    places = battery.shuffle_places(model, stored, stored, tags, 12)
    by_kind = estimates.places_by_kind(places)
    first = places.query("tag == @tags[0] and shuffle == 'plain' and code == 'mean'")
    row = by_kind.query("shuffle == 'plain' and code == 'mean'").iloc[0]
    assert row["SAE"] == saes.short_tag(tags[0]) and len(first) == 12
    assert row["mean"] == pytest.approx(first["place"].mean())
    assert (row["low"], row["high"]) == (first["place"].min(), first["place"].max())
