"""How good rankings of nodes are: faithfulness of their best nodes, areas under its curve, and how
well they tell true nodes from others.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from sandbagging import statistics
from sandbagging.errors import UserError
from sandbagging.nodes import ranking as rank
from sandbagging.nodes.gaps import Gaps
from sandbagging.nodes.node import Mlp, Node, Nodes, join
from sandbagging.nodes.ranking import SIZES, Ranking
from sandbagging.statistics import Estimate
from sandbagging.statistics.intervals import LEVEL


def faithfulness(gaps: Gaps, nodes: Nodes, metric: str = "logodds", seed: int = 0) -> Estimate:
    """Return (gap with only these nodes kept - gap with none) / (whole gap - gap with none).

    A share with CI95, paired by question: 1 where the nodes carry the whole gap, above 1 where the
    others work against it; f(C) of Mueller et al. 2025 (arXiv:2504.13151, section 3). Without an
    interval where the CI95 of the denominator contains 0.
    """
    at = gaps.sets.index(tuple(sorted(nodes)))
    none = gaps.none[metric]
    return statistics.ratio_ci(gaps.kept[metric][at] - none, gaps.whole[metric] - none, seed=seed)


def share_closed(gaps: Gaps, nodes: Nodes, metric: str = "logodds", seed: int = 0) -> Estimate:
    """Return 1 - gap with these nodes taken out / whole gap, a share with CI95, paired by question:
    1 where nothing is left, below 0 where the gap grows.
    """
    at = gaps.sets.index(tuple(sorted(nodes)))
    left = statistics.ratio_ci(gaps.removed[metric][at], gaps.whole[metric], seed=seed)
    return Estimate(1 - left.value, 1 - left.high, 1 - left.low, left.n, "", f"1 − {left.method}")


def curve(
    gaps: Gaps,
    rankings: Mapping[str, Ranking],
    sizes: Sequence[int] = SIZES,
    metric: str = "logodds",
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row a ranking and size: ranking, k, share (of all nodes), kept, kept_low,
    kept_high, removed, removed_low, removed_high, n (questions), nodes.

    kept is `faithfulness` of the best k nodes, removed is `share_closed` by them.
    """
    rows = []
    for name, ranking in rankings.items():
        for k in rank.sizes_that_fit(len(ranking), sizes):
            nodes = rank.best(ranking, k)
            row = {"ranking": name, "k": k, "share": k / len(ranking)}
            for column, judge in (("kept", faithfulness), ("removed", share_closed)):
                found = judge(gaps, nodes, metric, seed)
                row |= {column: found.value}
                row |= {f"{column}_low": found.low, f"{column}_high": found.high}
            rows.append(row | {"n": len(gaps.question_ids), "nodes": join(nodes)})
    return pd.DataFrame(rows)


def cpr(shares: Sequence[float], values: Sequence[float]) -> float:
    """Return the area under a faithfulness curve f over the share k of nodes kept: CPR = ∫ f(C_k)
    dk from 0 to 1 (MIB, arXiv:2504.13151, circuit localization track); the higher, the sooner the
    gap is there.

    Ours differs from MIB's: C_k are the k best nodes, not edges, in one signed order for CPR and
    CMD alike; what is not kept takes the values of the other condition's prompt, or a mean over
    both; f is of the gap between two conditions. Trapezoids through the points and through what
    holds by definition, f(0) = 0 and f(1) = 1; a curve that overshoots may exceed 1.
    """
    return _area(shares, values, lambda f: f)


def cmd(shares: Sequence[float], values: Sequence[float]) -> float:
    """Return the area between a faithfulness curve f and 1 over the share k of nodes kept: CMD =
    ∫ |1 - f(C_k)| dk from 0 to 1 (MIB, as in `cpr`, with the same differences); 0 is best.
    """
    return _area(shares, values, lambda f: np.abs(1 - f))


def _area(
    shares: Sequence[float], values: Sequence[float], height: Callable[[np.ndarray], np.ndarray]
) -> float:
    k, f = np.array([0.0, *shares, 1.0]), np.array([0.0, *values, 1.0])
    if not (np.diff(k) > 0).all():
        raise UserError("The shares of a curve rise strictly between 0 and 1.")
    return float(np.trapezoid(height(f), k))


def auroc(ranking: Ranking, true: Collection[Node], apart: Collection[Node] = ()) -> float:
    """Return how often a true node scores higher than another one (ties count half): 1 is perfect,
    .5 chance. Nodes in `apart` count as neither.

    Raises UserError where no node is true, or none is not.
    """
    yes = [score for node, score in ranking.items() if node in true and node not in apart]
    no = [score for node, score in ranking.items() if node not in true and node not in apart]
    if not yes or not no:
        raise UserError(
            "A ranking is judged by a truth that names some of its nodes and not all; this one "
            f"names {len(yes)} of {len(yes) + len(no)}."
        )
    return float(stats.mannwhitneyu(yes, no).statistic / (len(yes) * len(no)))


def auroc_interval(
    nodes: Sequence[Node],
    scores: np.ndarray,
    true: Collection[Node],
    apart: Collection[Node] = (),
) -> Estimate:
    """Return `auroc` of the nodes' mean scores [node question] with a CI95 that says how much other
    questions would change it: a jackknife over questions with Student's t, cut off at 0 and 1.

    Raises UserError as `auroc`.
    """
    n = scores.shape[1]

    def of(by_question: np.ndarray) -> float:
        ranking = dict(zip(nodes, by_question.mean(1), strict=True))
        return auroc(ranking, true, apart)

    value = of(scores)
    without = [of(np.delete(scores, i, axis=1)) for i in range(n)]
    error = np.sqrt((n - 1) * np.var(without))
    reach = stats.t.ppf((1 + LEVEL) / 2, n - 1) * error
    low, high = np.clip([value - reach, value + reach], 0, 1)
    method = f"jackknife over {n} questions, Student's t"
    return Estimate(value, float(low), float(high), n, "", method)


def ranks(rankings: Mapping[str, Ranking]) -> pd.DataFrame:
    """Return one row a node: node, kind, layer, and its rank in every ranking but those by chance
    (1 is the best); best first, by the mean of the ranks.
    """
    told = {name: of for name, of in rankings.items() if not name.startswith(rank.RANDOM)}
    every = list(next(iter(told.values())))
    table = pd.DataFrame(
        {
            "node": list(map(str, every)),
            "kind": ["MLP" if isinstance(node, Mlp) else "head" for node in every],
            "layer": [node.layer for node in every],
        }
    )
    for name, ranking in told.items():
        place = {node: i for i, node in enumerate(rank.best(ranking, len(every)), start=1)}
        table[name] = [place[node] for node in every]
    order = table[list(told)].mean(axis=1).argsort(kind="stable")
    return table.iloc[order].reset_index(drop=True)


def league(
    gaps: Gaps,
    rankings: Mapping[str, Ranking],
    true: Collection[Node] = (),
    apart: Collection[Node] = (),
    sizes: Sequence[int] = SIZES,
    metric: str = "logodds",
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row a ranking, best CPR first: ranking, draws, cpr, cmd, cpr_removed, auroc, best.

    cpr_removed is the area under the share of the gap that is closed by taking the nodes out; auroc
    is nan without a truth; best names the five best nodes. Random rankings ("random 1", ...) are
    one row, the mean of their draws.
    """
    points = curve(gaps, rankings, sizes, metric, seed)
    rows = []
    for name, of in points.groupby("ranking", sort=False):
        ranking = rankings[name]
        rows.append(
            {
                "ranking": re.sub(r" \d+$", "", name) if name.startswith(rank.RANDOM) else name,
                "cpr": cpr(of["share"], of["kept"]),
                "cmd": cmd(of["share"], of["kept"]),
                "cpr_removed": cpr(of["share"], of["removed"]),
                "auroc": auroc(ranking, true, apart) if true else np.nan,
                "best": join(rank.best(ranking, min(5, len(ranking))), " "),
            }
        )
    table = pd.DataFrame(rows)
    groups = table.groupby("ranking", sort=False)
    means = groups[["cpr", "cmd", "cpr_removed", "auroc"]].mean()
    draws = groups.size().rename("draws")
    named = groups["best"].first().where(draws == 1, "")
    found = pd.concat([draws, means, named], axis=1).reset_index()
    return found.sort_values("cpr", ascending=False, kind="stable", ignore_index=True)
