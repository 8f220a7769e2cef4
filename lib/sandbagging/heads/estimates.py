"""Effects of sets of heads as estimates with a CI95 over questions, and as tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from sandbagging import metrics, statistics
from sandbagging.heads import shares
from sandbagging.heads.growing import Grown
from sandbagging.heads.head import Head, Heads, join
from sandbagging.heads.net import net_of
from sandbagging.heads.sweep import Effects
from sandbagging.statistics import Estimate


def only(effects: Effects, sets: Sequence[Heads]) -> Effects:
    """Return the effects of some of the sets that were run, in the order in which they are
    named.
    """
    at = [effects.sets.index(tuple(sorted(heads))) for heads in sets]
    value = {name: of[at] for name, of in effects.value.items()}
    return effects._replace(sets=[effects.sets[i] for i in at], value=value)


def with_sets(effects: Effects, more: Effects) -> Effects:
    """Return the effects of the sets of both, measured on the same questions."""
    if effects.question_ids != more.question_ids:
        raise ValueError("effects on different questions do not belong together")
    value = {name: np.concatenate([of, more.value[name]]) for name, of in effects.value.items()}
    return effects._replace(sets=[*effects.sets, *more.sets], value=value)


def estimate(change: np.ndarray, metric: str = metrics.CARD, seed: int = 0) -> Estimate:
    """Return the mean of a metric's changes [question] with CI95, in pp (nats for logodds)."""
    unit, scale = metrics.unit_of_change(metric)
    return statistics.paired_effect(
        change, np.zeros_like(change), unit=unit, scale=scale, seed=seed
    )


def mean_single(
    effects: Effects, heads: Sequence[Head], seed: int = 0, metric: str = metrics.CARD
) -> Estimate:
    """Return the mean effect of ablating one of the heads, in pp (nats for logodds) with CI95."""
    change = np.mean([effects.of([head], metric) for head in heads], axis=0)
    return estimate(change, metric, seed)


def singles(
    effects: Effects, heads: Sequence[Head], seed: int = 0, metric: str = metrics.CARD
) -> dict[Head, Estimate]:
    """Return each head's effect when it is ablated alone, in pp (nats for logodds) with CI95."""
    return {head: estimate(effects.of([head], metric), metric, seed) for head in heads}


def by_condition(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    metric: str = metrics.CARD,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return {condition: effect of one set of heads}, in pp (nats for logodds) with CI95."""
    heads = tuple(heads)
    return {c: estimate(of.of(heads, metric), metric, seed) for c, of in effects.items()}


def redundancy(effects: Effects, heads: Sequence[Head], seed: int = 0) -> Estimate:
    """Return 1 - joint effect / sum of single effects on p_full, with CI95 over questions."""
    alone = np.array([effects.of([head]) for head in heads])
    return statistics.redundancy(effects.of(heads), alone.T, seed=seed)


def specific_portion(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    minus: str = "neutral",
    metric: str = metrics.CARD,
    seed: int = 0,
) -> Estimate:
    """Return a set's effect on sandbag prompts minus that in another condition, paired by question.

    In pp (nats for logodds) with CI95.
    """
    heads = tuple(heads)
    change = effects["sandbag"].of(heads, metric) - effects[minus].of(heads, metric)
    return estimate(change, metric, seed)


def specific_portions(
    effects: Mapping[str, Effects], heads: Iterable[Head], seed: int = 0
) -> dict[str, Estimate]:
    """Return {condition subtracted: specific portion on p_full}, for neutral and genuine."""
    heads = tuple(heads)
    others = ("neutral", "genuine")
    return {other: specific_portion(effects, heads, other, seed=seed) for other in others}


def share_closed(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    metric: str = metrics.CARD,
    seed: int = 0,
    categories: Mapping[str, str] | None = None,
) -> Estimate:
    """Return 1 - gap(heads replaced in both conditions) / gap(neither), gap = genuine - sandbag.

    A share with CI95, paired by question: 1 where nothing is left of the gap, below 0 where it
    grows, above 1 where it turns. With `categories` {question id: category} the interval is the
    wider of that over questions and that over categories. Without an interval where the CI95 of the
    gap itself contains 0.
    """
    closed, gap = shares.closed(effects, heads, metric), shares.gap(effects, metric)
    return shares.part_of_gap(closed, gap, effects["sandbag"].question_ids, seed, categories)


def share_restored(
    effects: Mapping[str, Effects],
    heads: Iterable[Head],
    metric: str = shares.DECIDES,
    seed: int = 0,
    categories: Mapping[str, str] | None = None,
) -> Estimate:
    """Return the net effect of a set (`shares.restored`) as a share of the gap, with CI95 as in
    `share_closed`.
    """
    part, gap = shares.restored(effects, heads, metric), shares.gap(effects, metric)
    return shares.part_of_gap(part, gap, effects["sandbag"].question_ids, seed, categories)


def grown_table(grown: Grown, seed: int = 0) -> pd.DataFrame:
    """Return what a set does after each head that joined it on log-odds: rows head ("+ L8H7"), on
    ("sandbag", "genuine", "net"), value, low, high, n, in nats.
    """
    told = {**grown.on, "net": net_of(grown.on)[grown.condition]}
    rows = []
    for i, head in enumerate(grown.heads):
        for name, effects in told.items():
            found = estimate(effects.effect(metrics.DECIDES)[i], metrics.DECIDES, seed)
            joined = f"{'+ ' if i else ''}{head}"
            ends = {"value": found.value, "low": found.low, "high": found.high, "n": found.n}
            rows.append({"head": joined, "on": name, **ends})
    return pd.DataFrame(rows)


def by_question(
    effects: Effects,
    condition: str,
    joint: Iterable[Head] = (),
    names: Sequence[str] = metrics.JUDGED,
) -> pd.DataFrame:
    """Return one row a set, metric and question: question_id, condition, intervention, metric,
    baseline, value.

    `intervention` is "joint" for the set `joint`, "single:L17H6" for one head and
    "subset:L2H0+L5H3" for other sets.
    """
    joint, n, tables = tuple(sorted(joint)), len(effects.question_ids), []
    for name in names:
        for heads, value in zip(effects.sets, effects.value[name], strict=True):
            kind = (
                "joint"
                if heads == joint
                else f"{'single' if len(heads) == 1 else 'subset'}:{join(heads)}"
            )
            tables.append(
                pd.DataFrame(
                    {
                        "question_id": effects.question_ids,
                        "condition": [condition] * n,
                        "intervention": kind,
                        "metric": name,
                        "baseline": effects.baseline[name],
                        "value": value,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def all_by_question(
    effects: Mapping[str, Effects],
    joint: Iterable[Head] = (),
    names: Sequence[str] = metrics.JUDGED,
) -> pd.DataFrame:
    """Return the rows of `by_question` of all conditions."""
    return pd.concat([by_question(of, c, joint, names) for c, of in effects.items()])


def effects_table(
    effects: Effects, condition: str, replacement: str = "zero", seed: int = 0
) -> pd.DataFrame:
    """Return the sweep as rows layer, head, condition, replacement, metric, unit, effect, low,
    high, n (CI95 over questions).
    """
    tables = []
    for name in effects.value:
        unit, scale = metrics.unit_of_change(name)
        value, low, high = statistics.column_cis(effects.effect(name).T, scale=scale, seed=seed)
        tables.append(
            pd.DataFrame(
                {
                    "layer": [heads[0][0] for heads in effects.sets],
                    "head": [heads[0][1] for heads in effects.sets],
                    "condition": condition,
                    "replacement": replacement,
                    "metric": name,
                    "unit": unit,
                    "effect": value,
                    "low": low,
                    "high": high,
                    "n": len(effects.question_ids),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def sweep_table(
    effects: Mapping[str, Effects], replacement: str = "zero", seed: int = 0
) -> pd.DataFrame:
    """Return the rows of `effects_table` of all conditions that were swept."""
    return pd.concat([effects_table(of, c, replacement, seed) for c, of in effects.items()])


def by_head(effects: Mapping[str, Effects], metric: str = shares.DECIDES) -> pd.DataFrame:
    """Return each head's mean effect in every condition: columns layer, head, and one a condition;
    in nats, or pp but for logodds. The effects are those of sets of one head.
    """
    alone = [heads[0] for heads in next(iter(effects.values())).sets]
    table = pd.DataFrame([tuple(head) for head in alone], columns=["layer", "head"])
    scale = metrics.unit_of_change(metric)[1]
    return table.assign(**{c: scale * of.effect(metric).mean(1) for c, of in effects.items()})


def condition_rows(
    effects: Mapping[str, Effects], heads: Iterable[Head], seed: int = 0
) -> pd.DataFrame:
    """Return one set's effect as rows condition, metric, unit, effect, low, high, n; `effects`
    maps conditions to effects.
    """
    heads = tuple(heads)
    rows = [
        {
            "condition": condition,
            "metric": name,
            **_columns(estimate(found.of(heads, name), name, seed)),
        }
        for name in next(iter(effects.values())).value
        for condition, found in effects.items()
    ]
    return pd.DataFrame(rows)


def _columns(found: Estimate) -> dict:
    return {
        "unit": found.unit,
        "effect": found.value,
        "low": found.low,
        "high": found.high,
        "n": found.n,
    }


def attention_by_region(shares: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the means of `reading.attention_shares`: head, condition, region, value, low, high, n.

    value is a share with CI95 over questions; `tokens` is the mean number of tokens of the region.
    """
    rows = []
    for (condition, region, head), part in _groups(shares, "condition", "region", "head"):
        share = statistics.mean_ci(part["share"].to_numpy(), unit="share", seed=seed)
        where = {"head": head, "condition": condition, "region": region}
        rows.append(where | _interval(share) | {"tokens": float(part["tokens"].mean())})
    return pd.DataFrame(rows)


def logit_table(pushes: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return `reading.logit_pushes` as means: head, condition, to, value, low, high, n.

    value is in nats, with CI95 over questions.
    """
    rows = []
    for (condition, head, to), part in _groups(pushes, "condition", "head", "to"):
        push = statistics.mean_ci(part["value"].to_numpy(), unit="nats", seed=seed)
        rows.append({"head": head, "condition": condition, "to": to} | _interval(push))
    return pd.DataFrame(rows)


def _groups(table: pd.DataFrame, *keys: str) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Yield the parts of a table by some columns, in order of their first rows."""
    yield from table.groupby(list(keys), sort=False)


def _interval(mean: Estimate) -> dict:
    return {"value": mean.value, "low": mean.low, "high": mean.high, "n": mean.n}
