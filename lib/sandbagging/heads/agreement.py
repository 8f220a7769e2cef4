"""How far other routes to the heads agree with zeroing each of them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from sandbagging.heads.patching import PATCH, PATCH_SLOPE, Routes


def compare(by_method: Mapping[str, np.ndarray], exact: np.ndarray, n_top: int = 5) -> pd.DataFrame:
    """Return how well each method's effects [head] agree with the exact ones: rows method,
    spearman, p, shared_top.

    spearman: Spearman's rank correlation over heads, with its two-sided p; shared_top: how many of
    the n_top largest are the same.
    """
    best = set(np.argsort(-exact, kind="stable")[:n_top])
    rows = []
    for name, effects in by_method.items():
        rank = stats.spearmanr(effects, exact)
        shared = len(best & set(np.argsort(-effects, kind="stable")[:n_top]))
        rows.append(
            {
                "method": name,
                "spearman": float(rank.statistic),
                "p": float(rank.pvalue),
                "shared_top": shared,
            }
        )
    return pd.DataFrame(rows)


def with_zeroing(routes: Routes, zeroing: np.ndarray, n_top: int = 5) -> pd.DataFrame:
    """Return how well each route agrees with the effects of zeroing [head], and what it costs.

    Rows as in `compare`, with the column passes: runs of all tokens through all layers.
    """
    table = compare(routes.effects, zeroing, n_top)
    return table.assign(passes=table["method"].map(routes.passes))


def slope_with_patching(routes: Routes, n_top: int = 5) -> pd.DataFrame:
    """Return how well attribution patching agrees with patching; no row where neither was done."""
    if PATCH not in routes.effects:
        return pd.DataFrame(columns=["method", "spearman", "p", "shared_top"])
    return compare({PATCH_SLOPE: routes.effects[PATCH_SLOPE]}, routes.effects[PATCH], n_top)


def related(table: pd.DataFrame, method: str = PATCH) -> bool:
    """Return whether a method ranks heads as zeroing does, more than chance would (p <= 0.05)."""
    row = table[table["method"] == method]
    return bool(((row["p"] <= 0.05) & (row["spearman"] > 0)).any())
