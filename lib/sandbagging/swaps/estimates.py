"""Effects of swaps as means with a CI95 over questions, by seed, and as paired differences.

A cell is one SAE at one layer and position. Effects are m(edited) - m(clean) on sandbag test
questions, in percentage points (pp).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from sandbagging import metrics, statistics
from sandbagging.errors import UserError
from sandbagging.saes import short_tag
from sandbagging.statistics import Estimate

CELL = ["layer", "tag", "position"]  # what a verdict is about
MARGIN_PP = (
    0.15  # the card's bound on the specificity gap, fixed in advance as the margin of equivalence
)


def by_question_and_seed(
    table: pd.DataFrame, intervention: str, error_term: str, metric: str = metrics.CARD
) -> pd.DataFrame:
    """Return an intervention's effects in pp (nats for logodds), [question seed], in order of
    question_id.
    """
    rows = table[
        (table["intervention"] == intervention)
        & (table["error_term"] == error_term)
        & (table["metric"] == metric)
    ]
    if rows.empty:
        raise UserError(f"No effects of {intervention} (error term {error_term!r}) in this table.")
    scale = metrics.unit_of_change(metric)[1]
    return rows.assign(effect=scale * (rows["value"] - rows["baseline"])).pivot(
        index="question_id", columns="seed", values="effect"
    )


def by_question(
    table: pd.DataFrame, intervention: str, error_term: str, metric: str = metrics.CARD
) -> np.ndarray:
    """Return an intervention's effect in pp (nats for logodds) by question, in order of id,
    averaged over seeds.
    """
    return by_question_and_seed(table, intervention, error_term, metric).mean(axis=1).to_numpy()


def by_seed(table: pd.DataFrame, intervention: str = "E1") -> np.ndarray:
    """Return an intervention's mean effect in pp per seed (error kept): its spread is what a CI
    over questions does not contain.
    """
    return by_question_and_seed(table, intervention, "kept").mean(axis=0).to_numpy()


def over_seeds(change: np.ndarray, unit: str = "pp", seed: int = 0) -> Estimate:
    """Return the mean of change [question seed] with a CI over questions and seeds; without an
    interval where there is one seed.
    """
    if change.shape[1] < 2:
        nan, why = float("nan"), "one seed: no interval"
        return Estimate(float(change.mean()), nan, nan, len(change), unit, why)
    return statistics.bootstrap_questions_and_draws(change, unit=unit, seed=seed)


def sd(seeds: np.ndarray) -> float:
    return float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan")


def summarise(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return mean effects in pp with CI95 over questions, a row per layer, tag, position,
    error_term, intervention and metric.
    """
    keys = [*CELL, "error_term", "intervention", "metric"]
    change = table.assign(effect_pp=100 * (table["value"] - table["baseline"]))
    wide = change.pivot_table(
        index=keys, columns="question_id", values="effect_pp", aggfunc="mean", sort=False
    ).sort_index(axis=1)
    mean, low, high = statistics.column_cis(wide.to_numpy().T, seed=seed)
    return wide.index.to_frame(index=False).assign(
        effect_pp=mean, low=low, high=high, n=wide.shape[1]
    )


# What tells effects apart besides the question, as far as a table has it.
EACH = ["condition", *CELL, "error_term", "intervention", "strength", "metric"]


def by_metric(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return mean effects with CI95 over questions in each metric's own unit (nats, pp): a row per
    condition, layer, tag, position, error_term, intervention, strength (those that there are) and
    metric.

    Columns besides: value, low, high, n, unit.
    """
    keys = [name for name in EACH if name in table]
    units = {m: metrics.unit_of_change(m) for m in table["metric"].unique()}
    scale = table["metric"].map({m: factor for m, (_, factor) in units.items()})
    change = table.assign(effect=scale * (table["value"] - table["baseline"]))
    wide = change.pivot_table(
        index=keys, columns="question_id", values="effect", aggfunc="mean", sort=False
    ).sort_index(axis=1)
    value, low, high = statistics.column_cis(wide.to_numpy().T, seed=seed)
    found = wide.index.to_frame(index=False)
    found = found.assign(value=value, low=low, high=high, n=wide.shape[1])
    return found.assign(unit=found["metric"].map({m: unit for m, (unit, _) in units.items()}))


def gap_closed(
    table: pd.DataFrame, intervention: str, error_term: str = "kept", metric: str = "logodds"
) -> Estimate:
    """Return the share of the gap that an intervention closes, 1 - gap(both intervened) /
    gap(neither), with a CI95 over questions; table: one cell's effects on both conditions.

    Raises UserError where a condition is missing.
    """
    rows = table[
        (table["intervention"] == intervention)
        & (table["error_term"] == error_term)
        & (table["metric"] == metric)
    ]
    missing = {"genuine", "sandbag"} - set(rows["condition"])
    if missing:
        raise UserError(
            f"A share of the gap needs {intervention} on genuine and sandbag prompts, and there is "
            f"none on {' and '.join(sorted(missing))} ones; measure both."
        )
    wide = rows.pivot(index="question_id", columns="condition", values=["baseline", "value"])
    before, after = (wide[n]["genuine"] - wide[n]["sandbag"] for n in ("baseline", "value"))
    return statistics.ratio_ci((before - after).to_numpy(), before.to_numpy(), unit="share of gap")


def cells(table: pd.DataFrame) -> Iterator[tuple[tuple[int, str, str], pd.DataFrame]]:
    """Yield ((layer, tag, position), rows) for each SAE and place; the rivals that need no SAE are
    among every cell's rows.
    """
    for key, own in table[table["tag"] != ""].groupby(CELL, sort=False):
        shared = table[
            (table["tag"] == "") & (table["layer"] == key[0]) & (table["position"] == key[2])
        ]
        yield key, pd.concat([own, shared])


def has(cell: pd.DataFrame, intervention: str, error_term: str) -> bool:
    """Return whether a cell holds effects of an intervention in this form."""
    return bool(((cell["intervention"] == intervention) & (cell["error_term"] == error_term)).any())


# What is compared, question by question: (first, its error term, second, its error term).
GAPS = (
    ("E6", "kept", "E1", "kept"),
    ("E6", "kept", "E4", "kept"),
    ("E6", "dropped", "E1", "dropped"),
    ("E6", "dropped", "E4", "dropped"),
    ("delta+", "kept", "delta_E1", "kept"),
    ("delta+", "kept", "delta-", "kept"),
    ("E6", "kept", "diff_means", ""),
    ("delta+", "kept", "diff_means", ""),
)


def gaps(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the paired differences of GAPS in pp with CI95 over questions, in the columns of
    `summarise` ("E6-E1").
    """
    rows = []
    for key, cell in cells(table):
        for first, term, second, other in GAPS:
            if not (has(cell, first, term) and has(cell, second, other)):
                continue
            for metric in (metrics.CARD, metrics.CHOICE):
                change = by_question(cell, first, term, metric) - by_question(
                    cell, second, other, metric
                )
                found = statistics.mean_ci(change, unit="pp", seed=seed)
                rows.append(
                    [
                        *key,
                        term,
                        f"{first}-{second}",
                        metric,
                        found.value,
                        found.low,
                        found.high,
                        found.n,
                    ]
                )
    return pd.DataFrame(
        rows,
        columns=[*CELL, "error_term", "intervention", "metric", "effect_pp", "low", "high", "n"],
    )


def stored_effects(*tables: pd.DataFrame) -> pd.DataFrame:
    """Return tables of effects as one; in a CSV file an empty tag or error term reads as NaN, and
    is made empty again.
    """
    return pd.concat(tables, ignore_index=True).fillna({"tag": "", "error_term": ""})


def as_estimates(rows: pd.DataFrame) -> list[Estimate]:
    """Return the effects of a summary's rows, in pp with their CI95."""
    method = f"percentile bootstrap over questions, {statistics.N_RESAMPLES} resamples"
    return [
        Estimate(r["effect_pp"], r["low"], r["high"], int(r["n"]), "pp", method)
        for r in rows.to_dict("records")
    ]


def between(cell: pd.DataFrame) -> dict:
    """Return where E1's effect lies between E4's and E6's in one cell (pp): the three effects, E1's
    spread, and the share of the way.

    share = (E1 - E4) / (E6 - E4): 0 at E4, 1 at E6; E6 - E1 is then 1 - share of E6 - E4. above: E1
    seeds that reach E6's effect.
    """
    e6, e4 = (float(by_question(cell, name, "kept").mean()) for name in ("E6", "E4"))
    seeds = by_seed(cell)
    share = (seeds.mean() - e4) / (e6 - e4) if e6 != e4 else float("nan")
    return {
        "E4": e4,
        "E1": float(seeds.mean()),
        "E6": e6,
        "share": share,
        "seed_sd": sd(seeds),
        "seeds": len(seeds),
        "above": int((seeds >= e6).sum()),
        "two_clusters": statistics.two_clusters(seeds, MARGIN_PP),
    }


def between_all(table: pd.DataFrame, position: str = "last") -> pd.DataFrame:
    """Return `between` of every cell at a position, a row per SAE."""
    rows = {
        short_tag(tag): between(cell) for (_, tag, where), cell in cells(table) if where == position
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("SAE")


def seed_spread(table: pd.DataFrame, names: Sequence[str], position: str = "last") -> pd.DataFrame:
    """Return the SD over seeds of interventions' mean effects (error kept, pp), a row per SAE."""
    rows = {}
    for (_, tag, where), cell in cells(table):
        if where == position:
            rows[short_tag(tag)] = {n: sd(by_seed(cell, n)) for n in names if has(cell, n, "kept")}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(names)).rename_axis("SAE")


def shuffle_effects(table: pd.DataFrame, position: str = "last") -> pd.DataFrame:
    """Return each shuffle's mean effect in pp (error kept): layer, SAE, kind (balanced, plain),
    seed, effect_pp, and E6, E4 beside it.
    """
    rows = []
    for (layer, tag, where), cell in cells(table):
        if where == position and has(cell, "E1", "kept"):
            ends = {name: float(by_question(cell, name, "kept").mean()) for name in ("E6", "E4")}
            for kind, name in (("balanced", "E1"), ("plain", "E1_plain")):
                found = by_seed(cell, name) if has(cell, name, "kept") else []
                rows += [
                    {
                        "layer": layer,
                        "SAE": short_tag(tag),
                        "kind": kind,
                        "seed": i,
                        "effect_pp": e,
                        **ends,
                    }
                    for i, e in enumerate(found)
                ]
    return pd.DataFrame(rows, columns=["layer", "SAE", "kind", "seed", "effect_pp", "E6", "E4"])


def near_ends(table: pd.DataFrame, margin: float = MARGIN_PP) -> pd.DataFrame:
    """Return how many shuffles land within `margin` pp of E6's and of E4's effect, a row per SAE
    and kind of shuffle.
    """
    rows = []
    for (sae, kind), part in shuffle_effects(table).groupby(["SAE", "kind"], sort=False):
        to_e6, to_e4 = (part["effect_pp"] - part[end] for end in ("E6", "E4"))
        gap = float((part["E6"] - part["E4"]).iloc[0])
        rows.append(
            {
                "SAE": sae,
                "shuffle": kind,
                "E6 - E4": gap,
                "sd": sd(part["effect_pp"].to_numpy()),
                "seeds": len(part),
                "near E6": int((to_e6.abs() < margin).sum()),
                "near E4": int((to_e4.abs() < margin).sum()),
                "clusters": statistics.two_clusters(part["effect_pp"], margin),
            }
        )
    columns = ["SAE", "shuffle", "E6 - E4", "sd", "seeds", "near E6", "near E4", "clusters"]
    return pd.DataFrame(rows, columns=columns).set_index(["SAE", "shuffle"])


def places_by_kind(places: pd.DataFrame) -> pd.DataFrame:
    """Return how `battery.shuffle_places` spreads over seeds: a row per SAE, shuffle and code.

    Columns: SAE, shuffle, code, mean, sd, low and high (the extremes), r_share (correlation with
    the share of genuine prompts; NaN where that is fixed), two_clusters.
    """
    rows = []
    for (tag, kind, code), part in places.groupby(["tag", "shuffle", "code"], sort=False):
        place, share = part["place"], part["share"]
        r = place.corr(share) if share.nunique() > 1 else float("nan")
        ends = {"low": place.min(), "high": place.max()}
        found = {"mean": place.mean(), "sd": place.std(), **ends, "r_share": r}
        clusters = statistics.two_clusters(place.to_numpy())
        where = {"SAE": short_tag(tag), "shuffle": kind, "code": code}
        rows.append({**where, **found, "two_clusters": clusters})
    return pd.DataFrame(rows)


def largest_difference(
    table: pd.DataFrame, where: pd.DataFrame, first: str = "E6", second: str = "E4"
) -> float:
    """Return the largest difference of two interventions on a question of some cells, in pp.

    where: columns tag and position; the error term is kept.
    """
    found = [0.0]
    for row in where.itertuples():
        cell = table[(table["tag"] == row.tag) & (table["position"] == row.position)]
        change = by_question(cell, first, "kept") - by_question(cell, second, "kept")
        found.append(float(np.abs(change).max()))
    return max(found)
