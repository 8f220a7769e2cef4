"""Tests over questions: is it zero, is it more than chance, is it one of many?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from sandbagging.errors import UserError
from sandbagging.statistics.arrays import matrix, vector
from sandbagging.statistics.intervals import BLOCK


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests that a mean lies inside ±margin; all its numbers but p share a unit."""

    p: float
    margin: float
    equivalent: bool
    value: float
    low90: float
    high90: float
    n: int


def equivalence(
    differences: Sequence[float] | np.ndarray, margin: float, alpha: float = 0.05
) -> Equivalence:
    """Test that the mean of differences [question] lies inside ±margin, by two one-sided t tests.

    margin has the unit of the differences and is fixed before looking; low90 and high90 bound the
    mean at level 1 − 2 alpha, and lie inside ±margin exactly when the mean is called equivalent.
    """
    x = vector(differences, "differences")
    if not margin > 0:
        raise UserError(f"An equivalence margin must be above 0; got {margin}.")
    if np.ptp(x) == 0:  # no spread: the t statistic is 0/0, the answer is plain
        value = float(x[0])
        inside = abs(value) < margin
        return Equivalence(0.0 if inside else 1.0, margin, inside, value, value, value, len(x))
    value = float(x.mean())
    sample = DescrStatsW(x)
    p = float(sample.ttost_mean(-margin, margin)[0])
    low, high = sample.tconfint_mean(alpha=2 * alpha)
    return Equivalence(p, margin, p < alpha, value, float(low), float(high), len(x))


def smallest_detectable(
    differences: Sequence[float] | np.ndarray,
    power: float = 0.8,
    alpha: float = 0.05,
    threshold: float = 0.0,
) -> float:
    """Smallest mean that a two-sided paired t test would tell from a rule's threshold at this n and
    spread.

    Same unit as the differences [question] and the threshold, which is the answer for differences
    without spread.
    """
    x = vector(differences, "differences")
    if np.ptp(x) == 0:
        return float(threshold)
    size = TTestPower().solve_power(nobs=len(x), power=power, alpha=alpha)
    return float(threshold) + float(np.squeeze(size)) * float(x.std(ddof=1))


def max_t(effects: np.ndarray, n_flips: int = 10_000, seed: int = 0) -> np.ndarray:
    """Westfall–Young max-T p values [head] of effects [question head], by flips of whole questions.

    The chance, were all effects symmetric about 0, that any head's t is as large as this head's:
    it holds the rate of one or more false heads. One-sided, for effects above 0.
    """
    columns = _unit_columns(effects)
    observed = columns.sum(axis=0)
    order = np.argsort(-observed, kind="stable")
    exceed = np.zeros(columns.shape[1])
    for largest in _largest(columns, n_flips, seed):
        exceed += (largest[:, None] >= observed[order] - 1e-12).sum(axis=0)
    p_ordered = np.maximum.accumulate((1 + exceed) / (1 + n_flips))
    p = np.empty_like(p_ordered)
    p[order] = p_ordered
    return p


def max_t_critical(
    effects: np.ndarray, alpha: float = 0.05, n_flips: int = 10_000, seed: int = 0
) -> float:
    """The t above which a head of effects [question head] has a max-T p of at most alpha; infinite
    where so few questions can give no p as small.
    """
    columns = _unit_columns(effects)
    largest = np.sort(np.concatenate(list(_largest(columns, n_flips, seed))))[::-1]
    # p = (1 + flips that reach it) / (1 + flips), so that many may reach it
    may_reach = int(alpha * (1 + n_flips)) - 1
    if may_reach < 0 or largest[may_reach] >= largest[0] - 1e-12:
        return float("inf")
    r = float(largest[may_reach])
    return r * sqrt(len(columns) - 1) / sqrt(1 - r**2)


def _unit_columns(effects: np.ndarray) -> np.ndarray:
    """Return effects [question head] with columns of length 1 / √n.

    With u = column / its length, r = sum(u) / √n fixes t = r √(n−1) / √(1−r²), rising in r. A flip
    leaves the length alone, so the largest t and the largest r belong to the same head, and r has
    neither a variance to update nor an infinity where all signs agree.
    """
    x = matrix(effects, "effects")
    length = np.linalg.norm(x, axis=0)
    return x / np.where(length > 0, length, 1.0) / sqrt(len(x))


def _largest(columns: np.ndarray, n_flips: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the largest r over heads of each flip [flip], block by block."""
    rng = np.random.default_rng(seed)
    for start in range(0, n_flips, BLOCK):
        size = min(BLOCK, n_flips - start)
        signs = rng.choice(np.array([-1.0, 1.0]), size=(size, len(columns)))
        yield (signs @ columns).max(axis=1)


def rank_p(observed: float, draws: Sequence[float] | np.ndarray) -> float:
    """(1 + draws ≥ observed) / (1 + draws): never 0, small when few draws reach the observed."""
    x = np.asarray(draws, dtype=np.float64)
    return float((1 + (x >= observed).sum()) / (1 + x.size))


def z_score(observed: float, draws: Sequence[float] | np.ndarray) -> float:
    """(observed − mean of draws) / SD of draws; nan where the draws have no spread."""
    x = vector(draws, "draws")
    spread = float(x.std(ddof=1))
    return (float(observed) - float(x.mean())) / spread if np.ptp(x) > 0 else float("nan")


def two_clusters(values: Sequence[float] | np.ndarray, negligible: float = 0.0) -> bool:
    """Whether draws fall in two groups: at most a tenth of them in the middle third of their range,
    two or more on either side.

    A cloud of one normal has half of its draws in that middle, a flat one a third. False for fewer
    than 10 draws, and where the whole range is at most `negligible`, in their unit.
    """
    x = np.sort(np.asarray(values, dtype=np.float64))
    if len(x) < 10 or np.ptp(x) <= negligible:
        return False
    low, high = x[0] + np.ptp(x) / 3, x[-1] - np.ptp(x) / 3
    left, right = int((x < low).sum()), int((x > high).sum())
    return len(x) - left - right <= len(x) / 10 and min(left, right) >= 2


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm-adjusted p values, in the order given."""
    x = np.asarray(p, dtype=np.float64)
    return multipletests(x, method="holm")[1] if x.size else x
