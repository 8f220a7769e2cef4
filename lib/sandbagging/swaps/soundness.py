"""May a swap be judged at all? Rules over its guards: do the codes differ, do E1's seeds agree,
does the SAE see what differs between the prompts it edits?
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sandbagging import statistics
from sandbagging.gaps import NEGLIGIBLE
from sandbagging.saes import fvu_ci
from sandbagging.statistics import Estimate
from sandbagging.swaps.guards import CELL, Guards, read_guards

DEGENERATE_SHARE = (
    0.01  # ||D(m_G) - D(m_S)|| below 1 % of the swap's own change: E6 and E4 are one intervention
)
# E1's seeds in two clusters void a cell where these lie further apart than this share of
# |E6 - E4|, and than what counts at all: below it, which cluster a seed falls in changes no
# verdict.
CLUSTER_SHARE = 1 / 5
CLUSTER_NATS = NEGLIGIBLE["logodds"]
POOR_FVU = 0.5  # notebook 02's bar


def degenerate(g: Guards) -> str:
    """Return why a swap cannot tell the conditions apart by its design, or "" if it can."""
    if g.nnz_genuine == 0 and g.nnz_sandbag == 0:
        return "both median codes are all zero"
    if g.norm_delta <= DEGENERATE_SHARE * g.norm_change:
        return (
            "the median codes decode to the same point "
            f"(their distance {g.norm_delta:.3g} against a change of {g.norm_change:.3g})"
        )
    return ""


def with_degenerate(guarded: pd.DataFrame) -> pd.DataFrame:
    """Return a table of guards with the column `degenerate`: why a swap cannot tell the conditions
    apart, or "".
    """
    keys = guarded[CELL].itertuples(index=False, name=None)
    by_cell = read_guards(guarded)
    return guarded.assign(degenerate=[degenerate(by_cell[key]) for key in keys])


def clusters_apart(seeds: Sequence[float] | np.ndarray) -> float:
    """Return how far apart the two clusters of E1's seeds lie, in their unit; 0 where there is one
    (`statistics.two_clusters`).
    """
    x = np.sort(np.asarray(seeds, dtype=np.float64))
    if not statistics.two_clusters(x):
        return 0.0
    cut = int(np.diff(x).argmax()) + 1
    return float(x[cut:].mean() - x[:cut].mean())


def in_clusters(seeds: Sequence[float] | np.ndarray, e6: float, e4: float) -> str:
    """Return why E1's seeds [seed] are of no use, or "": two clusters more than |E6 - E4| / 5
    apart (in nats; at least 0.1).
    """
    apart = clusters_apart(seeds)
    if apart <= max(CLUSTER_SHARE * abs(e6 - e4), CLUSTER_NATS):
        return ""
    return (
        f"E1's seeds fall in two clusters {apart:.2g} nats apart, more than a fifth of E6 - E4 "
        f"({abs(e6 - e4):.2g})"
    )


def fit(errors: pd.DataFrame, spread: str = "within", seed: int = 0) -> Estimate:
    """Return the FVU of one SAE at the edited position, with a CI95 over questions, from
    `fits.errors_at`.

    spread "within": of what differs between sandbag prompts. "pooled": over both conditions, where
    an SAE that sees nothing but the cue explains almost all.
    """
    rows = errors[errors["condition"] == "sandbag"] if spread == "within" else errors
    sums = rows.assign(spread=rows[spread]).groupby("question_id", as_index=False)
    return fvu_ci(sums[["error", "spread"]].sum(), seed)


def poor(found: Estimate) -> bool:
    """Return whether an SAE explains less than half of what differs between its prompts."""
    return not found.value < POOR_FVU


def fits_table(errors: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return both FVUs of every SAE: columns layer, tag, within and pooled (Estimates), poor."""
    rows = []
    for (layer, tag), part in errors.groupby(["layer", "tag"], sort=False):
        within, pooled = fit(part, "within", seed), fit(part, "pooled", seed)
        told = {"within": within, "pooled": pooled, "poor": poor(within)}
        rows.append({"layer": layer, "tag": tag, **told})
    return pd.DataFrame(rows, columns=["layer", "tag", "within", "pooled", "poor"])


def all_tokens_in_a_row(medians: pd.DataFrame) -> pd.DataFrame:
    """Return the one row that all-token medians need, from `cells.all_token_medians`: position,
    SAEs, empty (in so many both median codes are all zero) and most (non-zero entries of any).

    A latent that fires on less than half of all tokens has the median 0, so they are empty by
    construction.
    """
    entries = medians[["nnz_genuine", "nnz_sandbag"]]
    empty = int((entries == 0).all(axis=1).sum())
    most = int(entries.to_numpy().max()) if len(medians) else 0
    return pd.DataFrame([{"position": "all", "SAEs": len(medians), "empty": empty, "most": most}])
