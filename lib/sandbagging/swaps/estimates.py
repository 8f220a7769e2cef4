"""Effects of swaps as means with a CI95 over questions, by seed, and as paired differences.

A cell is one SAE at one layer and position. Effects are m(edited) - m(clean) on sandbag test
questions, in percentage points (pp).
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from sandbagging import metrics, statistics
from sandbagging.errors import UserError
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


def gaps_closed(table: pd.DataFrame, intervention: str) -> pd.DataFrame:
    """Return `gap_closed` on log-odds of every cell: layer, tag, closed (Estimate)."""
    rows = [
        {"layer": layer, "tag": tag, "closed": gap_closed(cell, intervention)}
        for (layer, tag, _), cell in cells(table)
    ]
    return pd.DataFrame(rows)


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


def differences(
    table: pd.DataFrame, first: str, second: str, seed: int = 0, metric: str = "logodds"
) -> pd.DataFrame:
    """Return the paired difference of two interventions in every cell that holds both (error kept,
    where there is one), averaged over seeds, with a CI95 over questions.

    Columns: layer, tag, value, low, high, n, unit.
    """
    rows, unit = [], metrics.unit_of_change(metric)[0]
    for (layer, tag, _), cell in cells(table):
        forms = [(n, term) for n in (first, second) for term in ("kept", "") if has(cell, n, term)]
        if len(forms) < 2:
            continue
        one, other = (by_question(cell, *form, metric) for form in forms)
        found = statistics.mean_ci(one - other, unit=unit, seed=seed)
        told = {name: getattr(found, name) for name in ("value", "low", "high", "n", "unit")}
        rows.append({"layer": layer, "tag": tag, **told})
    return pd.DataFrame(rows, columns=["layer", "tag", "value", "low", "high", "n", "unit"])


def stored_effects(*tables: pd.DataFrame) -> pd.DataFrame:
    """Return tables of effects as one; in a CSV file an empty tag or error term reads as NaN, and
    is made empty again.
    """
    return pd.concat(tables, ignore_index=True).fillna({"tag": "", "error_term": ""})
