"""At which layers a swap is tried: three shares of depth, and the first at which the oracle moves
the answer.
"""

from collections.abc import Sequence

import pandas as pd

from sandbagging import statistics
from sandbagging.errors import UserError
from sandbagging.statistics import Estimate
from sandbagging.swaps.estimates import by_question

ALPHA = 0.05
# As for a node: an effect counts from the larger of the two.
FLOOR_NATS, FLOOR_SHARE = 0.1, 0.1
COLUMNS = ("layer", "value", "low", "high", "n", "p_max_t", "p_full", "moves")
NOT_TRIED = pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS}).astype(
    {"layer": int, "n": int, "moves": bool}
)  # `ceiling_by_layer` of too few questions


def floor(gap: Estimate) -> float:
    """Return the nats from which on an effect counts, of a log-odds gap."""
    return max(FLOOR_NATS, FLOOR_SHARE * gap.value)


def ceiling_by_layer(oracle: pd.DataFrame, gap: Estimate, seed: int = 0) -> pd.DataFrame:
    """Return what the oracle restores by layer, from `ceiling.oracle_by_layer`, and whether it
    moves the answer.

    It does where its log-odds pass max-T over the layers and rise by max(0.1 nat, 10 % of `gap`,
    the log-odds gap of the same train questions). Columns: layer, value, low, high, n (nats),
    p_max_t, p_full (pp), moves.
    """
    if oracle.empty:
        raise UserError("The oracle was measured at no layer; give at least one.")
    wide, beside = (_by_layer(oracle, metric) for metric in ("logodds", "p_full"))
    value, low, high = statistics.column_cis(wide.to_numpy(), seed=seed)
    p = statistics.max_t(wide.to_numpy(), seed=seed)
    moves = (p <= ALPHA) & (value >= floor(gap))
    columns = {"layer": wide.columns, "value": value, "low": low, "high": high, "n": len(wide)}
    told = {"p_max_t": p, "p_full": beside.mean().to_numpy(), "moves": moves}
    return pd.DataFrame({**columns, **told})


def _by_layer(oracle: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the oracle's effect [question layer] on a metric, in nats or pp."""
    parts = oracle[oracle["metric"] == metric].groupby("layer")
    return pd.DataFrame({layer: by_question(part, "oracle", "", metric) for layer, part in parts})


def first_layer(by_layer: pd.DataFrame) -> int | None:
    """Return the first layer of `ceiling_by_layer` at which the oracle moves the answer, or None
    where it does at none.
    """
    there = by_layer.loc[by_layer["moves"], "layer"]
    return int(there.min()) if len(there) else None


def chosen_layers(of_interest: Sequence[int], by_layer: pd.DataFrame) -> list[int]:
    """Return the layers of a page: those at 25, 50 and 75 % of depth (`Model.layers_of_interest`),
    and the first at which there is something to find.
    """
    first = first_layer(by_layer)
    return sorted({*of_interest} | ({first} if first is not None else set()))
