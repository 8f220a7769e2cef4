"""E1 between E4 and E6: how far its shuffles come on the way, in effects and in place."""

import pandas as pd

from sandbagging import statistics
from sandbagging.swaps.estimates import by_question, by_question_and_seed, cells, has, sd
from sandbagging.swaps.evidence import ALPHA, DECIDES, FLOOR, nothing_to_restore

NEAR = 0.1  # of the way: a shuffle's code this close to an end passes for it


def with_ceiling(table: pd.DataFrame) -> pd.DataFrame:
    """Return the effects of the layers at which the oracle is not equivalent to zero: where it is,
    nothing can be restored.
    """
    there = [
        layer
        for layer, part in table.groupby("layer")
        if not nothing_to_restore(part[part["tag"] == ""]) < ALPHA
    ]
    return table[table["layer"].isin(there)]


def between(cell: pd.DataFrame) -> dict:
    """Return where E1's effect on log-odds lies between E4's and E6's in one cell (error kept).

    E4, E1, E6: means in nats. way = (E1 - E4) / (E6 - E4): 0 at E4, 1 at E6; E6 - E1 is then 1 -
    way of E6 - E4. seed_sd: over E1's seeds; above: seeds that reach E6's effect. apart: E6 - E4
    is more than nothing, so that there is a way.
    """
    e6, e4 = (float(by_question(cell, name, "kept", DECIDES).mean()) for name in ("E6", "E4"))
    seeds = by_question_and_seed(cell, "E1", "kept", DECIDES).mean(axis=0).to_numpy()
    way = (seeds.mean() - e4) / (e6 - e4) if e6 != e4 else float("nan")
    counted = {"seeds": len(seeds), "above": int((seeds >= e6).sum())}
    means = {"E4": e4, "E1": float(seeds.mean()), "E6": e6}
    apart = abs(e6 - e4) > FLOOR
    return {**means, "way": way, "seed_sd": sd(seeds), **counted, "apart": apart}


def between_all(table: pd.DataFrame) -> pd.DataFrame:
    """Return `between` of every cell, with its layer and tag."""
    rows = [
        {"layer": layer, "tag": tag, **between(cell)}
        for (layer, tag, _), cell in cells(table)
        if has(cell, "E1", "kept")
    ]
    return pd.DataFrame(rows)


def seeds_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return each shuffle's mean effect on log-odds (nats): layer, tag, seed, effect, and E4 and E6
    beside it.
    """
    rows = []
    for (layer, tag, _), cell in cells(table):
        ends = {n: float(by_question(cell, n, "kept", DECIDES).mean()) for n in ("E4", "E6")}
        seeds = by_question_and_seed(cell, "E1", "kept", DECIDES).mean(axis=0)
        rows += [
            {"layer": layer, "tag": tag, "seed": seed, "effect": effect, **ends}
            for seed, effect in seeds.items()
        ]
    return pd.DataFrame(rows)


def places_by_kind(places: pd.DataFrame) -> pd.DataFrame:
    """Return how `shuffles.shuffle_places` spreads over seeds: a row per SAE, shuffle and code.

    Columns: tag, shuffle, code, mean, sd, low and high (the extremes), near (share of the shuffles
    within NEAR of either end), r_share (correlation with the share of genuine prompts; NaN where
    that is fixed), two_clusters.
    """
    rows = []
    for (tag, kind, code), part in places.groupby(["tag", "shuffle", "code"], sort=False):
        place, share = part["place"], part["share"]
        r = place.corr(share) if share.nunique() > 1 else float("nan")
        near = (place.abs() < NEAR) | ((place - 1).abs() < NEAR)
        ends = {"low": place.min(), "high": place.max(), "near": float(near.mean())}
        found = {"mean": place.mean(), "sd": place.std(), **ends, "r_share": r}
        clusters = statistics.two_clusters(place.to_numpy())
        where = {"tag": tag, "shuffle": kind, "code": code}
        rows.append({**where, **found, "two_clusters": clusters})
    return pd.DataFrame(rows)
