"""What part of the gap between genuine and sandbag prompts a set of heads closes, and what part it
restores, question by question.

The heads are replaced in both conditions. Their effect on sandbag prompts divided by the untouched
gap would count what replacing them does to every answer too, and is a share of nothing. And a gap
also closes where genuine answers are ruined: only what comes back beyond that is *restored*.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sandbagging import metrics, statistics
from sandbagging.heads.head import Head
from sandbagging.heads.sweep import Effects
from sandbagging.questions import Question
from sandbagging.statistics import Estimate, Wide

DECIDES, BESIDE = "logodds", "p_full"  # what verdicts rest on, and what is told beside it
WORDS = {DECIDES: "log-odds", BESIDE: "p_full"}


def gap(effects: Mapping[str, Effects], metric: str = DECIDES) -> np.ndarray:
    """Return m(genuine) - m(sandbag) with all heads in place, [question]."""
    genuine, sandbag = _paired(effects, "genuine")
    return genuine.baseline[metric] - sandbag.baseline[metric]


def closed(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    metric: str = DECIDES,
    against: str = "genuine",
) -> np.ndarray:
    """Return the effect of replacing a set of heads on sandbag prompts minus that on genuine ones
    (or on those of another condition), [question]: by so much the gap between the two closes.
    """
    other, sandbag = _paired(effects, against)
    heads = tuple(heads)
    return sandbag.of(heads, metric) - other.of(heads, metric)


def restored(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    metric: str = DECIDES,
    against: str = "genuine",
) -> np.ndarray:
    """Return the net effect of replacing a set of heads, [question]: that on sandbag prompts minus
    the size of the mean effect on genuine ones (or on those of another condition).

    It is at most what `closed` says, and below it where a gap is closed by ruining genuine answers.
    """
    other, sandbag = _paired(effects, against)
    heads = tuple(heads)
    cost = other.of(heads, metric)
    return sandbag.of(heads, metric) - np.sign(cost.mean()) * cost


def _paired(effects: Mapping[str, Effects], other: str) -> tuple[Effects, Effects]:
    if effects[other].question_ids != effects["sandbag"].question_ids:
        raise ValueError("the gap is paired by question: both conditions need the same ones")
    return effects[other], effects["sandbag"]


def part_of_gap(
    part: np.ndarray,
    of: np.ndarray,
    ids: Sequence[str],
    seed: int = 0,
    categories: Mapping[str, str] | None = None,
) -> Estimate:
    """Return mean(part) / mean(of), both [question], as a share with CI95, paired by question; the
    wider interval where `categories` {question id: category} are given.
    """
    if categories is None:
        return statistics.ratio_ci(part, of, seed=seed)
    return wide_part(part, of, ids, categories, seed).estimate


def wide_part(
    part: np.ndarray,
    of: np.ndarray,
    ids: Sequence[str],
    categories: Mapping[str, str],
    seed: int = 0,
) -> Wide:
    """Return the share of `part_of_gap` with both intervals, and what it is without each
    category.
    """
    return statistics.wide(part, statistics.named(ids, categories), over=of, seed=seed)


def change(
    values: np.ndarray,
    metric: str = DECIDES,
    ids: Sequence[str] = (),
    categories: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Estimate:
    """Return the mean of a metric's changes [question] with CI95, in nats (pp for all but logodds);
    the wider interval where `categories` {question id: category} of the `ids` are given.
    """
    unit, scale = metrics.unit_of_change(metric)
    if categories is None:
        return statistics.mean_ci(values, unit=unit, scale=scale, seed=seed)
    return wide_change(values, ids, categories, metric, seed).estimate


def wide_change(
    values: np.ndarray,
    ids: Sequence[str],
    categories: Mapping[str, str],
    metric: str = DECIDES,
    seed: int = 0,
) -> Wide:
    """Return the mean of `change` with both intervals, and what it is without each category."""
    unit, scale = metrics.unit_of_change(metric)
    named = statistics.named(ids, categories)
    return statistics.wide(values, named, unit=unit, scale=scale, seed=seed)


def headline(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    categories: Mapping[str, str],
    seed: int = 0,
) -> dict[str, Wide]:
    """Return the headline numbers of a set {name: with both intervals}: its effects on sandbag and
    on genuine prompts, and the shares of the gap that it restores and that it closes.
    """
    heads, ids = tuple(heads), effects["sandbag"].question_ids
    found = {}
    for metric, words in WORDS.items():
        genuine, sandbag = (effects[c].of(heads, metric) for c in ("genuine", "sandbag"))
        back, part = (f(effects, heads, metric) for f in (restored, closed))
        of = gap(effects, metric)
        found |= {
            f"effect, {words}": wide_change(sandbag, ids, categories, metric, seed),
            f"effect on genuine, {words}": wide_change(genuine, ids, categories, metric, seed),
            f"share restored, {words}": wide_part(back, of, ids, categories, seed),
            f"share closed, {words}": wide_part(part, of, ids, categories, seed),
        }
    return found


def categories_of(asked: Sequence[Question]) -> dict[str, str]:
    """Return {question id: category}, the unit of the wider interval."""
    return {question.id: question.category for question in asked}
