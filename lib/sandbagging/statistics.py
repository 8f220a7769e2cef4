"""Intervals, tests and effect sizes.

Everything here takes numpy arrays and returns small frozen dataclasses or arrays. The unit that is
resampled is the question: tokens, answer options and random draws of heads are not independent of
each other, so they are never treated as if they were more questions. Every random choice is seeded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import factorial, isfinite, isnan, sqrt

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW

from sandbagging.errors import UserError

N_RESAMPLES = 10_000
LEVEL = 0.95
SEPARATION_NUMBERS = ("d_max", "d_mean_active", "d_mean_all", "l0", "n_active", "n_excluded")
# Rows of a resampling matrix that are held at once: bounds the memory, changes no result.
BLOCK = 1_000


# --- results ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """One number with its 95 % interval; low and high are nan where no interval can be given."""

    value: float
    low: float
    high: float
    n: int
    unit: str = ""
    method: str = ""

    def as_dict(self) -> dict:
        """Return the fields for a JSON file, with None in place of nan and infinity."""
        fields = asdict(self)
        for name in ("value", "low", "high"):
            if not isfinite(fields[name]):
                fields[name] = None
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping) -> Estimate:
        """Read back what `as_dict` wrote."""
        numbers = {name: float("nan") if fields[name] is None else float(fields[name]) for name in ("value", "low", "high")}
        return cls(
            **numbers,
            n=int(fields["n"]),
            unit=fields.get("unit", ""),
            method=fields.get("method", ""),
        )

    def __str__(self) -> str:
        if isnan(self.value):
            return f"not defined, n = {self.n}"
        unit = f" {self.unit}" if self.unit else ""
        interval = "no interval" if isnan(self.low) or isnan(self.high) else f"[{self._number(self.low)}, {self._number(self.high)}]"
        return f"{self._number(self.value)}{unit} {interval}, n = {self.n}"

    def _number(self, x: float) -> str:
        # An effect in pp has a direction, so its sign is always printed.
        return f"{x:+.2f}" if self.unit == "pp" else f"{x:.3f}"


@dataclass(frozen=True)
class Equivalence:
    """Two one-sided tests that a mean lies inside ±margin; value, margin, low90 and high90 share a unit."""

    p: float
    margin: float
    equivalent: bool
    value: float
    low90: float
    high90: float
    n: int


@dataclass(frozen=True)
class Separation:
    """How far each latent tells two conditions apart, d [latent], with nan where the guard excluded it.

    d_max keeps its sign (positive: larger in the first condition); the two means are over |d|, and in
    d_mean_all an excluded latent counts as 0. l0 is the mean number of non-zero latents per prompt.
    """

    d: np.ndarray
    d_max: float
    latent_max: int
    d_mean_active: float
    d_mean_all: float
    l0: float
    n_active: int
    n_excluded: int
    s0: float


# --- bootstrap over questions ---------------------------------------------------------------------


def mean_ci(
    values: Sequence[float] | np.ndarray,
    *,
    unit: str = "",
    scale: float = 1.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of values [question] times scale, with a percentile bootstrap CI95 over questions."""
    x = _vector(values, "values") * scale
    method = _bootstrap_name(n_resamples, seed)
    if np.ptp(x) == 0:  # every resample is the same sample
        return Estimate(float(x[0]), float(x[0]), float(x[0]), len(x), unit, method)
    low, high = _percentile_bootstrap((x,), np.mean, n_resamples, seed)
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
    after, before = _pair(intervened, baseline, "intervened", "baseline")
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
    """mean(numerator) / mean(denominator), both [question], paired, with CI95 over questions.

    Where the CI of the denominator contains 0 the ratio is not bounded: low and high are nan.
    """
    top, bottom = _pair(numerator, denominator, "numerator", "denominator")
    method = f"paired {_bootstrap_name(n_resamples, seed)} of a ratio of means"
    below = mean_ci(bottom, n_resamples=n_resamples, seed=seed)
    if below.value == 0:
        nan = float("nan")
        return Estimate(nan, nan, nan, len(top), unit, "denominator is 0")
    value = scale * float(top.mean()) / below.value
    if below.low <= 0 <= below.high:
        why = "no interval: the denominator's CI95 contains 0"
        return Estimate(value, float("nan"), float("nan"), len(top), unit, why)

    def ratio(t: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return scale * t.mean(axis=axis) / b.mean(axis=axis)

    if np.ptp(top) == 0 and np.ptp(bottom) == 0:
        return Estimate(value, value, value, len(top), unit, method)
    low, high = _percentile_bootstrap((top, bottom), ratio, n_resamples, seed, paired=True)
    return Estimate(value, low, high, len(top), unit, method)


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
    return Estimate(1 - share.value, 1 - share.high, 1 - share.low, share.n, "", f"1 − {share.method}")


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
    x = _matrix(values, "values") * scale
    n = len(x)
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
    """Mean of effects [question draw] with a CI95 that resamples questions and draws, each as a whole.

    For claims about other questions *and* other draws; n is the number of questions.
    """
    x = _matrix(effects, "effects") * scale
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
    method = f"percentile bootstrap over {n_questions} questions and {n_draws} draws, {n_resamples} resamples, seed {seed}"
    return Estimate(float(x.mean()), float(low), float(high), n_questions, unit, method)


def proportion(successes: int, n: int, unit: str = "share") -> Estimate:
    """successes / n with its exact binomial (Clopper–Pearson) CI95; takes the n as independent."""
    if not 0 <= successes <= n or n < 1:
        raise UserError(f"A proportion needs 0 ≤ successes ≤ n and n ≥ 1; got {successes} of {n}.")
    ends = stats.binomtest(successes, n).proportion_ci(LEVEL)
    return Estimate(successes / n, float(ends.low), float(ends.high), n, unit, "exact binomial (Clopper-Pearson)")


# --- equal to zero, or not seen? --------------------------------------------------------------------


def equivalence(differences: Sequence[float] | np.ndarray, margin: float, alpha: float = 0.05) -> Equivalence:
    """Test that the mean of differences [question] lies inside ±margin, by two one-sided t tests.

    margin has the unit of the differences and is fixed before looking; low90 and high90 bound the
    mean at level 1 − 2 alpha, and lie inside ±margin exactly when the mean is called equivalent.
    """
    x = _vector(differences, "differences")
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


def smallest_detectable(differences: Sequence[float] | np.ndarray, power: float = 0.8, alpha: float = 0.05) -> float:
    """Smallest mean that a two-sided paired t test would detect at this n and spread.

    Same unit as the differences [question]; 0 for differences without spread.
    """
    x = _vector(differences, "differences")
    if np.ptp(x) == 0:
        return 0.0
    size = TTestPower().solve_power(nobs=len(x), power=power, alpha=alpha)
    return float(np.squeeze(size)) * float(x.std(ddof=1))


# --- many heads, many draws, many cells ---------------------------------------------------------------


def max_t(
    effects: np.ndarray,
    n_flips: int = 10_000,
    seed: int = 0,
    alternative: str = "greater",
    step_down: bool = False,
) -> np.ndarray:
    """Westfall–Young max-T p values [head] by sign flips of whole questions of effects [question head].

    The chance, were all effects symmetric about 0, that any head reaches this head's t: it holds
    the rate of one or more false heads. alternative is "greater", "less" or "two-sided".
    """
    x = _matrix(effects, "effects")
    # With u = column / its length, r = sum(u) / √n fixes t = r √(n−1) / √(1−r²), rising in r. A flip
    # leaves the length alone, so the largest t and the largest r belong to the same head, and r has
    # neither a variance to update nor an infinity where all signs agree.
    length = np.linalg.norm(x, axis=0)
    unit_columns = x / np.where(length > 0, length, 1.0) / sqrt(len(x))
    observed = _in_direction(unit_columns.sum(axis=0), alternative)
    order = np.argsort(-observed, kind="stable")
    exceed = np.zeros(x.shape[1])
    rng = np.random.default_rng(seed)
    for start in range(0, n_flips, BLOCK):
        size = min(BLOCK, n_flips - start)
        signs = rng.choice(np.array([-1.0, 1.0]), size=(size, len(x)))
        flipped = _in_direction(signs @ unit_columns[:, order], alternative)
        if step_down:  # the k-th head competes only with heads that rank behind it
            rivals = np.maximum.accumulate(flipped[:, ::-1], axis=1)[:, ::-1]
        else:
            rivals = flipped.max(axis=1, keepdims=True)
        exceed += (rivals >= observed[order] - 1e-12).sum(axis=0)
    p_ordered = np.maximum.accumulate((1 + exceed) / (1 + n_flips))
    p = np.empty_like(p_ordered)
    p[order] = p_ordered
    return p


def rank_p(observed: float, draws: Sequence[float] | np.ndarray) -> float:
    """(1 + number of draws ≥ observed) / (1 + draws): never 0, small when few draws reach observed."""
    x = np.asarray(draws, dtype=np.float64)
    return float((1 + (x >= observed).sum()) / (1 + x.size))


def z_score(observed: float, draws: Sequence[float] | np.ndarray) -> float:
    """(observed − mean of draws) / SD of draws; nan where the draws have no spread."""
    x = _vector(draws, "draws")
    spread = float(x.std(ddof=1))
    return (float(observed) - float(x.mean())) / spread if np.ptp(x) > 0 else float("nan")


def two_clusters(values: Sequence[float] | np.ndarray, negligible: float = 0.0) -> bool:
    """Whether draws fall in two groups: at most a tenth of them in the middle third of their range, two or more on either side.

    A cloud of one normal has half of its draws in that middle, a flat one a third. False for fewer than 10 draws, and where
    the whole range is at most `negligible`, in their unit.
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


def shapley(values: Mapping[Iterable[Hashable], float], players: Sequence[Hashable]) -> dict[Hashable, float]:
    """Shapley value of each player from the effect of every subset, in the unit of the values.

    The empty set counts as 0 when absent; raises UserError when another subset is missing.
    """
    effect = {frozenset(subset): float(v) for subset, v in values.items()}
    effect.setdefault(frozenset(), 0.0)
    n = len(players)
    shares = dict.fromkeys(players, 0.0)
    for player in players:
        others = [q for q in players if q != player]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for subset in combinations(others, size):
                without = frozenset(subset)
                gain = _effect_of(effect, without | {player}) - _effect_of(effect, without)
                shares[player] += weight * gain
    return shares


# --- separation by latents ----------------------------------------------------------------------------


def cohens_dz(a: np.ndarray, b: np.ndarray, *, min_firing: float = 0.1, s0: float | None = None) -> Separation:
    """Paired d_z = mean(a − b) / (sd(a − b) + s0) per latent, a and b [prompt latent] paired by prompt.

    Kept are latents that fire on at least min_firing of all prompts of both conditions; s0 is the
    median denominator of the kept ones (give s0=0 for a single direction with nothing to compete with).
    """
    return _separation(*_codes(a, b), _sd_of_difference, min_firing, s0)


def cohens_dav(a: np.ndarray, b: np.ndarray, *, min_firing: float = 0.1, s0: float | None = None) -> Separation:
    """d_av = mean(a − b) / (√((var a + var b) / 2) + s0) per latent, a and b [prompt latent].

    Kept are latents that fire on at least min_firing of all prompts of both conditions; s0 is the
    median denominator of the kept ones (give s0=0 for a single direction with nothing to compete with).
    """
    return _separation(*_codes(a, b), _average_sd, min_firing, s0)


def sign_flip_null_d_max(
    a: np.ndarray,
    b: np.ndarray,
    n_flips: int = 1_000,
    seed: int = 0,
    *,
    kind: str = "dz",
    min_firing: float = 0.1,
    s0: float | None = None,
) -> np.ndarray:
    """|d_max| [flip] when each prompt's two conditions are exchanged at random: what no effect looks like.

    s0 is measured anew under each flip, as it was in the data, unless it is given.
    """
    if kind not in ("dz", "dav"):
        raise UserError(f"kind is 'dz' or 'dav', not {kind!r}.")
    a, b = _codes(a, b)
    active = _active(a, b, min_firing)
    if not active.any():
        return np.full(n_flips, np.nan)
    a, b = a[:, active], b[:, active]
    rng = np.random.default_rng(seed)
    null = np.empty(n_flips)
    step = max(1, BLOCK // 8)  # the latents of an SAE are many: smaller blocks
    for start in range(0, n_flips, step):
        stop = min(start + step, n_flips)
        swap = rng.integers(0, 2, size=(stop - start, len(a))).astype(np.float64)
        mean, spread = _flipped_dz(a, b, swap) if kind == "dz" else _flipped_dav(a, b, swap)
        added = np.median(spread, axis=1, keepdims=True) if s0 is None else s0
        null[start:stop] = np.abs(_divide(mean, spread + added)).max(axis=1)
    return null


def separation_table(
    values: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    *,
    n_flips: int = 1_000,
    seed: int = 0,
    s0: float | None = None,
) -> pd.DataFrame:
    """How far latents tell each pair of conditions apart, a row for each pair and formula (dz, dav); values {condition: [prompt latent]}.

    Columns pair, d, the numbers of `Separation`, and null_d_max, the 95th percentile of `sign_flip_null_d_max`.
    """
    rows = []
    for a, b in pairs:
        for kind, formula in (("dz", cohens_dz), ("dav", cohens_dav)):
            found = formula(values[a], values[b], s0=s0)
            null = sign_flip_null_d_max(values[a], values[b], n_flips, seed, kind=kind, s0=s0)
            numbers = {name: getattr(found, name) for name in SEPARATION_NUMBERS}
            rows.append({"pair": f"{a} vs {b}", "d": kind, **numbers, "null_d_max": float(np.percentile(null, 95))})
    return pd.DataFrame(rows)


def dz_ci(a: np.ndarray, b: np.ndarray, s0: float = 0.0, *, n_resamples: int = N_RESAMPLES, seed: int = 0) -> Estimate:
    """d_z = mean(a − b) / (sd(a − b) + s0) of one latent, a and b [prompt] paired, with a bootstrap CI95 over questions.

    The latent must have been chosen on other questions: the best of many on these would lie above its own interval.
    """
    x = np.subtract(*_pair(a, b, "a", "b"))
    method = f"paired {_bootstrap_name(n_resamples, seed)} of d_z with s0 = {s0:.4g}"
    if np.ptp(x) == 0:
        value = float(_divide(x[:1], np.array([s0]))[0])
        return Estimate(value, value, value, len(x), "SD", method)

    def d(sample: np.ndarray, axis: int) -> np.ndarray:
        return _divide(sample.mean(axis=axis), sample.std(axis=axis, ddof=1) + s0)

    low, high = _percentile_bootstrap((x,), d, n_resamples, seed)
    return Estimate(float(d(x, 0)), low, high, len(x), "SD", method)


def chosen_on_train(
    train: Mapping[str, np.ndarray], test: Mapping[str, np.ndarray], pairs: Sequence[tuple[str, str]], *, seed: int = 0
) -> tuple[int, float, dict[str, Estimate]]:
    """The latent with the largest |d_z| on the first pair of train prompts, its d_z there, and its d_z on each pair of test prompts.

    values {condition: [prompt latent]}; s0 is that of the train prompts. The latent is −1 where none is active.
    """
    found = cohens_dz(train[pairs[0][0]], train[pairs[0][1]])
    j = found.latent_max
    if j < 0:
        return j, found.d_max, {}
    return j, found.d_max, {f"{a} vs {b}": dz_ci(test[a][:, j], test[b][:, j], found.s0, seed=seed) for a, b in pairs}


# --- small parts ----------------------------------------------------------------------------------------


def _vector(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise UserError(f"{name} must be one number per question; got shape {x.shape}.")
    return _checked(x, name)


def _matrix(values: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2:
        raise UserError(f"{name} must have two axes, questions first; got shape {x.shape}.")
    return _checked(x, name)


def _checked(x: np.ndarray, name: str) -> np.ndarray:
    if len(x) < 2:
        raise UserError(f"{name} needs at least 2 questions for an interval; got {len(x)}.")
    if not np.isfinite(x).all():
        raise UserError(f"{name} has missing or infinite numbers; drop those questions first.")
    return x


def _pair(first, second, name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = _vector(first, name), _vector(second, other)
    if len(x) != len(y):
        raise UserError(
            f"{name} has {len(x)} questions and {other} has {len(y)}: a paired effect needs the same questions in the same order."
        )
    return x, y


def _tails() -> tuple[float, float]:
    return 100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2


def _bootstrap_name(n_resamples: int, seed: int) -> str:
    return f"percentile bootstrap over questions, {n_resamples} resamples, seed {seed}"


def _percentile_bootstrap(data, statistic, n_resamples, seed, paired=False) -> tuple[float, float]:
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


def _in_direction(r: np.ndarray, alternative: str) -> np.ndarray:
    if alternative == "greater":
        return r
    if alternative == "less":
        return -r
    if alternative == "two-sided":
        return np.abs(r)
    raise UserError(f"alternative is 'greater', 'less' or 'two-sided', not {alternative!r}.")


def _effect_of(effect: dict[frozenset, float], subset: frozenset) -> float:
    if subset not in effect:
        raise UserError(f"Shapley values need every subset; {sorted(map(str, subset))} is missing.")
    return effect[subset]


def _codes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _matrix(a, "a"), _matrix(b, "b")
    if a.shape != b.shape:
        raise UserError(f"Codes are paired by prompt: shapes {a.shape} and {b.shape} differ.")
    return a, b


def _active(a: np.ndarray, b: np.ndarray, min_firing: float) -> np.ndarray:
    return ((a != 0).mean(axis=0) + (b != 0).mean(axis=0)) / 2 >= min_firing


def _sd_of_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a - b).std(axis=0, ddof=1)


def _average_sd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt((a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)) / 2)


def _divide(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """mean / spread, where a latent that is the same everywhere (0 / 0) separates nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, mean / spread)


def _separation(a, b, denominator, min_firing: float, s0: float | None) -> Separation:
    active = _active(a, b, min_firing)
    n_active, n_latents = int(active.sum()), a.shape[1]
    l0 = float(((a != 0).sum(axis=1).mean() + (b != 0).sum(axis=1).mean()) / 2)
    d = np.full(n_latents, np.nan)
    if n_active == 0:
        nan = float("nan")
        return Separation(d, nan, -1, nan, 0.0, l0, 0, n_latents, nan)
    spread = denominator(a[:, active], b[:, active])
    s0 = float(np.median(spread)) if s0 is None else float(s0)
    d[active] = _divide((a - b)[:, active].mean(axis=0), spread + s0)
    latent = int(np.nanargmax(np.abs(d)))
    total = float(np.nansum(np.abs(d)))
    return Separation(
        d=d,
        d_max=float(d[latent]),
        latent_max=latent,
        d_mean_active=total / n_active,
        d_mean_all=total / n_latents,
        l0=l0,
        n_active=n_active,
        n_excluded=n_latents - n_active,
        s0=s0,
    )


def _flipped_dz(a, b, swap) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD of the differences after exchanging the conditions where swap [flip prompt] is 1."""
    n = len(a)
    difference = a - b
    mean = (1 - 2 * swap) @ difference / n
    # A flip changes the sign of a difference, never its square.
    variance = ((difference**2).sum(axis=0) - n * mean**2) / (n - 1)
    return mean, np.sqrt(np.maximum(variance, 0))


def _flipped_dav(a, b, swap) -> tuple[np.ndarray, np.ndarray]:
    """Mean difference and average SD after exchanging the conditions where swap [flip prompt] is 1."""
    n = len(a)
    keep = 1 - swap
    mean_a, mean_b = (keep @ a + swap @ b) / n, (swap @ a + keep @ b) / n
    squares = (a**2 + b**2).sum(axis=0)  # of both conditions together: a swap moves, never removes
    variance = (squares - n * (mean_a**2 + mean_b**2)) / (n - 1) / 2
    return mean_a - mean_b, np.sqrt(np.maximum(variance, 0))
