"""How far latents tell two conditions apart: guarded effect sizes, and what chance would give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sandbagging.errors import UserError
from sandbagging.statistics.arrays import matrix, pair
from sandbagging.statistics.estimate import Estimate
from sandbagging.statistics.intervals import (
    BLOCK,
    N_RESAMPLES,
    bootstrap_name,
    percentile_bootstrap,
)

MIN_FIRING = 0.1  # share of all prompts of both conditions
NUMBERS = ("d_max", "d_mean_active", "d_mean_all", "l0", "n_active", "n_excluded")


@dataclass(frozen=True)
class Separation:
    """How far each latent tells two conditions apart, d [latent]; nan where the guard left it out.

    d_max keeps its sign (positive: larger in the first condition); the two means are over |d|, and
    in d_mean_all an excluded latent counts as 0. l0 is the mean number of non-zero latents per
    prompt.
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


def cohens_dz(a: np.ndarray, b: np.ndarray, *, s0: float | None = None) -> Separation:
    """Paired d_z = mean(a − b) / (sd(a − b) + s0) per latent; a and b [prompt latent].

    Kept are latents that fire on at least MIN_FIRING of all prompts of both conditions; s0 is the
    median denominator of the kept ones (give s0=0 for a single direction with nothing to compete
    with).
    """
    return _separation(*_codes(a, b), _sd_of_difference, s0)


def cohens_dav(a: np.ndarray, b: np.ndarray, *, s0: float | None = None) -> Separation:
    """d_av = mean(a − b) / (√((var a + var b) / 2) + s0) per latent, a and b [prompt latent].

    Kept are latents that fire on at least MIN_FIRING of all prompts of both conditions; s0 is the
    median denominator of the kept ones (give s0=0 for a single direction with nothing to compete
    with).
    """
    return _separation(*_codes(a, b), _average_sd, s0)


def sign_flip_null_d_max(
    a: np.ndarray,
    b: np.ndarray,
    n_flips: int = 1_000,
    seed: int = 0,
    *,
    kind: str = "dz",
    s0: float | None = None,
) -> np.ndarray:
    """|d_max| [flip] under no effect: each prompt's two conditions are exchanged at random.

    s0 is measured anew under each flip, as it was in the data, unless it is given.
    """
    if kind not in ("dz", "dav"):
        raise UserError(f"kind is 'dz' or 'dav', not {kind!r}.")
    a, b = _codes(a, b)
    active = _active(a, b)
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
    """How far latents tell each pair of conditions apart, a row for each pair and formula (dz,
    dav); values {condition: [prompt latent]}.

    Columns pair, d, the numbers of `Separation`, and null_d_max, the 95th percentile of
    `sign_flip_null_d_max`.
    """
    rows = []
    for a, b in pairs:
        for kind, formula in (("dz", cohens_dz), ("dav", cohens_dav)):
            found = formula(values[a], values[b], s0=s0)
            null = sign_flip_null_d_max(values[a], values[b], n_flips, seed, kind=kind, s0=s0)
            numbers = {name: getattr(found, name) for name in NUMBERS}
            rows.append(
                {
                    "pair": f"{a} vs {b}",
                    "d": kind,
                    **numbers,
                    "null_d_max": float(np.percentile(null, 95)),
                }
            )
    return pd.DataFrame(rows)


def dz_ci(
    a: np.ndarray, b: np.ndarray, s0: float = 0.0, *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Estimate:
    """d_z = mean(a − b) / (sd(a − b) + s0) of one latent, a and b [prompt] paired, with a bootstrap
    CI95 over questions.

    The latent must have been chosen on other questions: the best of many on these would lie above
    its own interval.
    """
    x = np.subtract(*pair(a, b, "a", "b"))
    method = f"paired {bootstrap_name(n_resamples, seed)} of d_z with s0 = {s0:.4g}"
    if np.ptp(x) == 0:
        value = float(_divide(x[:1], np.array([s0]))[0])
        return Estimate(value, value, value, len(x), "SD", method)

    def d(sample: np.ndarray, axis: int) -> np.ndarray:
        return _divide(sample.mean(axis=axis), sample.std(axis=axis, ddof=1) + s0)

    low, high = percentile_bootstrap((x,), d, n_resamples, seed)
    return Estimate(float(d(x, 0)), low, high, len(x), "SD", method)


def chosen_on_train(
    train: Mapping[str, np.ndarray],
    test: Mapping[str, np.ndarray],
    pairs: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
) -> tuple[int, float, dict[str, Estimate]]:
    """The latent with the largest |d_z| on the first pair of train prompts, its d_z there, and its
    d_z on each pair of test prompts.

    values {condition: [prompt latent]}; s0 is that of the train prompts. The latent is −1 where
    none is active.
    """
    found = cohens_dz(train[pairs[0][0]], train[pairs[0][1]])
    j = found.latent_max
    if j < 0:
        return j, found.d_max, {}
    return (
        j,
        found.d_max,
        {f"{a} vs {b}": dz_ci(test[a][:, j], test[b][:, j], found.s0, seed=seed) for a, b in pairs},
    )


def _codes(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = matrix(a, "a"), matrix(b, "b")
    if a.shape != b.shape:
        raise UserError(f"Codes are paired by prompt: shapes {a.shape} and {b.shape} differ.")
    return a, b


def _active(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a != 0).mean(axis=0) + (b != 0).mean(axis=0)) / 2 >= MIN_FIRING


def _sd_of_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a - b).std(axis=0, ddof=1)


def _average_sd(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt((a.var(axis=0, ddof=1) + b.var(axis=0, ddof=1)) / 2)


def _divide(mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """mean / spread, where a latent that is the same everywhere (0 / 0) separates nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, mean / spread)


def _separation(a, b, denominator, s0: float | None) -> Separation:
    active = _active(a, b)
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
    """Mean and SD of the differences, conditions exchanged where swap [flip prompt] is 1."""
    n = len(a)
    difference = a - b
    mean = (1 - 2 * swap) @ difference / n
    # A flip changes the sign of a difference, never its square.
    variance = ((difference**2).sum(axis=0) - n * mean**2) / (n - 1)
    return mean, np.sqrt(np.maximum(variance, 0))


def _flipped_dav(a, b, swap) -> tuple[np.ndarray, np.ndarray]:
    """Mean difference and average SD, conditions exchanged where swap [flip prompt] is 1."""
    n = len(a)
    keep = 1 - swap
    mean_a, mean_b = (keep @ a + swap @ b) / n, (swap @ a + keep @ b) / n
    squares = (a**2 + b**2).sum(axis=0)  # of both conditions together: a swap moves, never removes
    variance = (squares - n * (mean_a**2 + mean_b**2)) / (n - 1) / 2
    return mean_a - mean_b, np.sqrt(np.maximum(variance, 0))
