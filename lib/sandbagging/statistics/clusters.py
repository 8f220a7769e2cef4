"""Intervals with categories as the unit: questions of one category are alike, so that many of them
say less than their number.

1. `by_category` resamples nothing: it is Student's t over the categories' sums.
2. `without_each` says what is left of a number when one category is left out.
3. `wide` sets both beside the interval over questions; the wider of the two decides.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import NamedTuple

import numpy as np
import pandas as pd
import statsmodels.api as sm

from sandbagging.errors import UserError
from sandbagging.statistics.arrays import pair, vector
from sandbagging.statistics.estimate import Estimate
from sandbagging.statistics.intervals import LEVEL, N_RESAMPLES, fieller, mean_ci, ratio_ci


class Wide(NamedTuple):
    """A number with its CI95 over questions, that over categories, and what one category makes."""

    estimate: Estimate  # with the wider of the two intervals: what verdicts rest on
    by_question: Estimate
    by_category: Estimate | None
    without: dict[str, float]  # category -> the number when it is left out, in the same unit
    why: str = ""  # why there is no interval over categories: one sentence, or ""

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value when one category is left out."""
        return min(self.without.values(), default=nan), max(self.without.values(), default=nan)

    @property
    def decides(self) -> str:
        """Which unit gives the wider interval: "questions" or "categories"."""
        return "questions" if self.estimate is self.by_question else "categories"


def by_category(
    values: Sequence[float] | np.ndarray,
    categories: Sequence[str],
    *,
    over: Sequence[float] | np.ndarray | None = None,
    unit: str = "",
    scale: float = 1.0,
) -> Estimate:
    """Mean of values [question] times scale, or mean(values) / mean(over), with a CI95 that takes
    categories [question] as the unit.

    The mean's is cluster-robust (Liang and Zeger 1986) with t on one degree of freedom less than
    there are categories, the ratio's Fieller's of the categories' sums. Raises UserError for a
    single category and for one with one question, whose spread cannot be told.
    """
    x, below = _read(values, over)
    groups = _groups(x, categories)
    method = f"Student's t over {groups.max() + 1} categories"
    if below is None:
        value = scale * float(x.mean())
        if np.ptp(x) == 0:
            return Estimate(value, value, value, len(x), unit, method)
        fit = sm.OLS(x, np.ones(len(x))).fit(
            cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
        )
        low, high = sorted(scale * fit.conf_int(alpha=1 - LEVEL)[0])
        return Estimate(value, float(low), float(high), len(x), unit, method)
    value = scale * float(x.mean() / below.mean()) if below.mean() else nan
    low, high = sorted(
        scale * end for end in fieller(np.bincount(groups, x), np.bincount(groups, below))
    )
    return Estimate(value, low, high, len(x), unit, f"{method}, of a ratio of means")


def without_each(
    values: Sequence[float] | np.ndarray,
    categories: Sequence[str],
    *,
    over: Sequence[float] | np.ndarray | None = None,
    scale: float = 1.0,
) -> dict[str, float]:
    """Return {category: the mean of the other questions' values, or its ratio to that of `over`}.

    Raises UserError for a single category.
    """
    x, below = _read(values, over)
    names = _names(x, categories)
    found = {}
    for name in sorted(set(names)):
        others = names != name
        mean = x[others].mean()
        found[str(name)] = scale * float(mean if below is None else mean / below[others].mean())
    return found


def wide(
    values: Sequence[float] | np.ndarray,
    categories: Sequence[str],
    *,
    over: Sequence[float] | np.ndarray | None = None,
    unit: str = "",
    scale: float = 1.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Wide:
    """Return the mean of values [question], or its ratio to that of `over`, with the wider of the
    CI95 over questions and over categories [question].

    Where categories cannot be the unit, `why` says so and the questions alone decide. A ratio that
    has no interval over categories has none.
    """
    settings = {"unit": unit, "scale": scale, "n_resamples": n_resamples, "seed": seed}
    alone = mean_ci(values, **settings) if over is None else ratio_ci(values, over, **settings)
    try:
        clustered = by_category(values, categories, over=over, unit=unit, scale=scale)
    except UserError as reason:
        several = len(set(categories)) > 1
        left = without_each(values, categories, over=over, scale=scale) if several else {}
        return Wide(alone, alone, None, left, str(reason))
    decides = alone if _width(alone) >= _width(clustered) else clustered
    left = without_each(values, categories, over=over, scale=scale)
    return Wide(decides, alone, clustered, left)


def beside(found: Mapping[str, Wide]) -> pd.DataFrame:
    """Return numbers with all that is said beside them, a row each: name, value, low, high (of the
    wider interval), unit, n, decides, those of `by_question` and `by_category`, the least and the
    most without one category, and why there is no interval over categories.
    """
    rows = []
    for name, one in found.items():
        e, least, most = one.estimate, *one.range
        row = {"name": name, "value": e.value, "low": e.low, "high": e.high, "unit": e.unit}
        row |= {"n": e.n, "decides": one.decides}
        for unit, own in (("question", one.by_question), ("category", one.by_category)):
            row |= {
                f"{end}_by_{unit}": nan if own is None else getattr(own, end)
                for end in ("low", "high")
            }
        row |= {"without_one_low": least, "without_one_high": most, "why": one.why}
        rows.append(row)
    return pd.DataFrame(rows)


def named(ids: Sequence[str], categories: Mapping[str, str]) -> list[str]:
    """Return each question's category from {question id: category}; UserError for one without."""
    missing = [name for name in ids if name not in categories]
    if missing:
        raise UserError(
            f"Question {missing[0]} has no category; give one of every question that was asked."
        )
    return [categories[name] for name in ids]


def _width(e: Estimate) -> float:
    return np.inf if isnan(e.low) or isnan(e.high) else e.high - e.low


def _read(values, over) -> tuple[np.ndarray, np.ndarray | None]:
    return (
        (vector(values, "values"), None) if over is None else pair(values, over, "values", "over")
    )


def _names(x: np.ndarray, categories: Sequence[str]) -> np.ndarray:
    names = np.asarray(categories, dtype=str)
    if len(names) != len(x):
        raise UserError(
            f"There are {len(x)} questions and {len(names)} categories; give one of each question."
        )
    if len(set(names)) < 2:
        raise UserError(
            f"All {len(x)} questions are of one category, so there is no interval over categories; "
            "ask questions of several."
        )
    return names


def _groups(x: np.ndarray, categories: Sequence[str]) -> np.ndarray:
    """Return the number of each question's category."""
    names = _names(x, categories)
    alone = sorted(name for name, n in Counter(names.tolist()).items() if n == 1)
    if alone:
        raise UserError(
            f"The category {alone[0]!r} has one question{_and_more(alone)}, so how far its "
            "questions agree cannot be told and there is no interval over categories; ask two or "
            "more of each."
        )
    return np.unique(names, return_inverse=True)[1]


def _and_more(alone: Sequence[str]) -> str:
    return f" (as have {len(alone) - 1} more)" if len(alone) > 1 else ""
