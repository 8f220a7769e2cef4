"""Means, differences and ratios with a CI95, by a bootstrap that resamples whole questions.

Tokens, answer options and random draws of heads are not independent of each other, so they are
never treated as if they were more questions. Every random choice is seeded. Below SMALL questions a
percentile interval is too narrow (at n = 5 it holds the mean of normal numbers in 83 of 100
samples, and BCa does no better), so Student's t takes its place there, which is exact for normal
numbers.
"""

from collections.abc import Sequence
from math import nan, sqrt

import numpy as np
from scipy import stats

from sandbagging.errors import UserError
from sandbagging.statistics.arrays import matrix, pair, vector
from sandbagging.statistics.estimate import Estimate

N_RESAMPLES = 10_000
LEVEL = 0.95
# Rows of a resampling matrix that are held at once: bounds the memory, changes no result.
BLOCK = 1_000
SMALL = 20  # below so many questions intervals are Student's


def mean_ci(
    values: Sequence[float] | np.ndarray,
    *,
    unit: str = "",
    scale: float = 1.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of values [question] times scale, with a percentile bootstrap CI95 over questions;
    Student's for fewer than SMALL.
    """
    x = vector(values, "values") * scale
    method = interval_name(len(x), n_resamples, seed)
    if np.ptp(x) == 0:  # every resample is the same sample
        return Estimate(float(x[0]), float(x[0]), float(x[0]), len(x), unit, method)
    if len(x) < SMALL:
        low, high = fieller(x, np.ones_like(x))
    else:
        low, high = percentile_bootstrap((x,), np.mean, n_resamples, seed)
    return Estimate(float(x.mean()), low, high, len(x), unit, method)


def paired_effect(
    intervened: Sequence[float] | np.ndarray,
    baseline: Sequence[float] | np.ndarray,
    *,
    unit: str = "pp",
    scale: float = 100.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of intervened − baseline [question] in pp with CI95, the two paired by question.

    Both hold the same questions in the same order; raises UserError for unequal lengths or n < 2.
    """
    after, before = pair(intervened, baseline, "intervened", "baseline")
    found = mean_ci(after - before, unit=unit, scale=scale, n_resamples=n_resamples, seed=seed)
    return Estimate(found.value, found.low, found.high, found.n, unit, f"paired {found.method}")


def ratio_ci(
    numerator: Sequence[float] | np.ndarray,
    denominator: Sequence[float] | np.ndarray,
    *,
    unit: str = "",
    scale: float = 1.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """mean(numerator) / mean(denominator), both [question], paired, with CI95 over questions;
    Fieller's for fewer than SMALL.

    Where the CI of the denominator contains 0 the ratio is not bounded: low and high are nan.
    """
    top, bottom = pair(numerator, denominator, "numerator", "denominator")
    method = f"paired {interval_name(len(top), n_resamples, seed)} of a ratio of means"
    below = mean_ci(bottom, n_resamples=n_resamples, seed=seed)
    if below.value == 0:
        return Estimate(nan, nan, nan, len(top), unit, "denominator is 0")
    value = scale * float(top.mean()) / below.value
    if below.low <= 0 <= below.high:
        why = "no interval: the denominator's CI95 contains 0"
        return Estimate(value, nan, nan, len(top), unit, why)

    def ratio(t: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return scale * t.mean(axis=axis) / b.mean(axis=axis)

    if np.ptp(top) == 0 and np.ptp(bottom) == 0:
        return Estimate(value, value, value, len(top), unit, method)
    if len(top) < SMALL:
        low, high = sorted(scale * end for end in fieller(top, bottom))
    else:
        low, high = percentile_bootstrap((top, bottom), ratio, n_resamples, seed, paired=True)
    return Estimate(value, low, high, len(top), unit, method)


def fieller(top: np.ndarray, bottom: np.ndarray) -> tuple[float, float]:
    """Return the CI95 of mean(top) / mean(bottom), both [unit], that inverts Student's paired t
    test of top - r * bottom (Fieller 1954, "Some problems in interval estimation"); nan where
    unbounded.

    With bottom = 1 everywhere it is Student's interval of the mean.
    """
    n = len(top)
    q = stats.t.ppf((1 + LEVEL) / 2, n - 1) ** 2 / n
    (aa, ab), (_, bb) = np.cov(top, bottom)
    a, b = top.mean(), bottom.mean()
    # (a - r b)^2 = q (aa - 2 r ab + r^2 bb) has the ends as its roots r
    square, half, rest = b**2 - q * bb, a * b - q * ab, a**2 - q * aa
    inside = half**2 - square * rest
    if square <= 0 or inside < -1e-12 * half**2:
        return nan, nan
    root = sqrt(max(inside, 0.0))
    return float((half - root) / square), float((half + root) / square)


def redundancy(
    joint: Sequence[float] | np.ndarray,
    singles: np.ndarray,
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """1 − joint [question] / sum of the single effects [question head], as a fraction with CI95."""
    total = np.asarray(singles, dtype=np.float64).sum(axis=1)
    share = ratio_ci(joint, total, n_resamples=n_resamples, seed=seed)
    return Estimate(
        1 - share.value, 1 - share.high, 1 - share.low, share.n, "", f"1 − {share.method}"
    )


def column_cis(
    values: np.ndarray,
    *,
    scale: float = 1.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, low and high [column] of values [question column], the same bootstrap as `mean_ci`.

    One set of resamples serves all columns, as a product of counts [resample question] with values:
    the numbers are those of scipy's bootstrap with the same seed, in a small part of its time.
    """
    x = matrix(values, "values") * scale
    n = len(x)
    if n < SMALL:
        half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * x.std(axis=0, ddof=1) / sqrt(n)
        return x.mean(axis=0), x.mean(axis=0) - half, x.mean(axis=0) + half
    rng = np.random.default_rng(seed)
    means = np.empty((n_resamples, x.shape[1]))
    for start in range(0, n_resamples, BLOCK):
        rows = slice(start, min(start + BLOCK, n_resamples))
        means[rows] = _resample_counts(rng, rows.stop - rows.start, n) @ x / n
    low, high = np.percentile(means, _tails(), axis=0)
    return x.mean(axis=0), low, high


def bootstrap_questions_and_draws(
    effects: np.ndarray,
    *,
    unit: str = "",
    scale: float = 1.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of effects [question draw] with a CI95 that resamples whole questions and draws.

    For claims about other questions *and* other draws; n is the number of questions.
    """
    x = matrix(effects, "effects") * scale
    n_questions, n_draws = x.shape
    if n_draws < 2:
        raise UserError("Resampling draws needs at least 2 draws; got 1.")
    rng = np.random.default_rng(seed)
    means = np.empty(n_resamples)
    for start in range(0, n_resamples, BLOCK):
        rows = slice(start, min(start + BLOCK, n_resamples))
        size = rows.stop - rows.start
        over_questions = _resample_counts(rng, size, n_questions) @ x / n_questions
        draw_weights = _resample_counts(rng, size, n_draws) / n_draws
        means[rows] = (over_questions * draw_weights).sum(axis=1)
    low, high = np.percentile(means, _tails())
    method = (
        f"percentile bootstrap over {n_questions} questions and {n_draws} draws, "
        f"{n_resamples} resamples, seed {seed}"
    )
    return Estimate(float(x.mean()), float(low), float(high), n_questions, unit, method)


def proportion(successes: int, n: int, unit: str = "share") -> Estimate:
    """successes / n with its exact binomial (Clopper–Pearson) CI95; takes the n as independent."""
    if not 0 <= successes <= n or n < 1:
        raise UserError(f"A proportion needs 0 ≤ successes ≤ n and n ≥ 1; got {successes} of {n}.")
    ends = stats.binomtest(successes, n).proportion_ci(LEVEL)
    return Estimate(
        successes / n,
        float(ends.low),
        float(ends.high),
        n,
        unit,
        "exact binomial (Clopper-Pearson)",
    )


def _tails() -> tuple[float, float]:
    return 100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2


def interval_name(n: int, n_resamples: int, seed: int) -> str:
    return f"Student's t over {n} questions" if n < SMALL else bootstrap_name(n_resamples, seed)


def bootstrap_name(n_resamples: int, seed: int) -> str:
    return f"percentile bootstrap over questions, {n_resamples} resamples, seed {seed}"


def percentile_bootstrap(data, statistic, n_resamples, seed, paired=False) -> tuple[float, float]:
    found = stats.bootstrap(
        data,
        statistic,
        paired=paired,
        vectorized=True,
        n_resamples=n_resamples,
        batch=min(BLOCK, n_resamples),
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _resample_counts(rng: np.random.Generator, size: int, n: int) -> np.ndarray:
    """How often each of n items is drawn in each resample: counts [resample item]."""
    picks = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
    return np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
