"""How far several sweeps, or other routes to the heads, agree on which heads matter."""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from sandbagging.errors import UserError
from sandbagging.heads import selection
from sandbagging.heads.head import Head
from sandbagging.heads.shares import DECIDES
from sandbagging.heads.sweep import Effects


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


def of_routes(by_route: pd.DataFrame, n_top: int = 5) -> pd.DataFrame:
    """Return how well each route agrees with zeroing: rows as in `compare`; by_route: columns
    layer, head, zero, and one a route, as `other_routes.csv`.
    """
    others = by_route.drop(columns=["layer", "head", "zero"])
    by_method = {name: others[name].to_numpy() for name in others}
    return compare(by_method, by_route["zero"].to_numpy(), n_top)


def names_others(heads: Iterable[Head], by_another_route: Iterable[Head]) -> bool:
    """Return whether two routes name other heads: they share fewer than half of the first's."""
    heads = set(heads)
    return 2 * len(heads & set(by_another_route)) < len(heads)


def between(swept: Mapping[str, Effects], n_top: int = 5, metric: str = DECIDES) -> pd.DataFrame:
    """Return how far sweeps of the same heads agree, such as those over seeds of the question split
    or over wordings {name: effects}: a row a pair, first, second, shared_top, jaccard, spearman, p.

    jaccard: heads among the n_top of both / of either; spearman over all heads. Raises UserError
    for fewer than two sweeps and for sweeps of other heads.
    """
    if len(swept) < 2:
        raise UserError("Agreement needs two sweeps or more; sweep under another seed or wording.")
    if len({tuple(of.sets) for of in swept.values()}) > 1:
        raise UserError("Agreement is between sweeps of the same heads; sweep the same layers.")
    rows = []
    for (first, one), (second, other) in itertools.combinations(swept.items(), 2):
        rank = stats.spearmanr(*(of.effect(metric).mean(1) for of in (one, other)))
        tops = [set(selection.top(of, n_top, metric=metric)) for of in (one, other)]
        shared = len(set.intersection(*tops))
        rows.append(
            {
                "first": first,
                "second": second,
                "shared_top": shared,
                "jaccard": shared / len(set.union(*tops)),
                "spearman": float(rank.statistic),
                "p": float(rank.pvalue),
            }
        )
    return pd.DataFrame(rows)
