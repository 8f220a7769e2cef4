"""Which heads are chosen, which count as found, and how far such a choice can be trusted.

Heads are judged on log-odds, with p_full beside them: p_full moves with mere form, and lies on its
floor where a model sandbags well.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sandbagging import gaps, metrics, statistics
from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.heads import estimates
from sandbagging.heads.head import Head, Heads
from sandbagging.heads.net import net_of
from sandbagging.heads.shares import BESIDE, DECIDES
from sandbagging.heads.sweep import Effects
from sandbagging.statistics import Estimate

# A head counts as found from 0.1 nat and from 10 % of the gap on; on p_full from 1 pp.
FLOOR_NATS, FLOOR_PP, FLOOR_SHARE = 0.1, 1.0, 0.10
ALPHA, POWER = 0.05, 0.8
# What `find` says of a head.
FOUND, NOTHING = "found", "nothing"
P_FULL_ALONE = "effect on p_full alone"
OPPOSITE = "opposite signs"
CLOSED = "no sandbagging to explain"


def check_how_many(n: int, heads: Sequence) -> None:
    """Raise UserError for a number of heads to choose that is not one, or more than there are."""
    if not 1 <= n <= len(heads):
        raise UserError(
            f"Cannot choose {n} heads out of {len(heads)}; ask for between 1 and {len(heads)}."
        )


def ranked(effects: Effects, minus: Effects | None = None, metric: str = DECIDES) -> list[Head]:
    """Return all heads of a sweep, the largest mean effect (or effect minus that in `minus`) first.

    Raises UserError for a metric that was not swept.
    """
    check_swept(effects, metric)
    mean = effects.effect(metric).mean(1)
    if minus is not None:
        mean = mean - minus.effect(metric).mean(1)
    return [effects.sets[i][0] for i in np.argsort(-mean, kind="stable")]


def check_swept(effects: Effects, *names: str) -> None:
    """Raise UserError for a metric that the effects do not hold."""
    missing = [name for name in names if name not in effects.value]
    if missing:
        raise UserError(
            f"The sweep holds {', '.join(effects.value)} and not {missing[0]}, on which heads are "
            f"judged; sweep again with names=({', '.join(map(repr, names))})."
        )


def top(
    effects: Effects,
    n: int = 5,
    minus: Effects | None = None,
    metric: str = DECIDES,
) -> Heads:
    """Return the n heads with the largest mean effect, or effect minus that in `minus` (the genuine
    condition).

    Raises UserError for an n that is no number of heads of the sweep.
    """
    check_how_many(n, effects.sets)
    return tuple(ranked(effects, minus, metric)[:n])


N_CANDIDATES = 10


def candidates(swept: Mapping[str, Effects], condition: str, n: int = N_CANDIDATES) -> Heads:
    """Return the n heads with the largest net effect on log-odds of a condition's prompts, one by
    one: out of these a set is grown (`growing.grow`).
    """
    return top(net_of(swept)[condition], min(n, len(swept[condition].sets)))


class Elsewhere(NamedTuple):
    """Heads chosen on other questions, and their mean single effect: nats, or pp but for
    logodds.
    """

    heads: Heads
    there: Estimate  # on the questions that chose them
    here: Estimate


def chosen_elsewhere(
    there: Effects, here: Effects, n: int = 5, seed: int = 0, metric: str = DECIDES
) -> Elsewhere:
    """Return the n strongest heads of one sweep, judged on its own questions and on another's."""
    heads = top(there, n, metric=metric)
    judged = (estimates.mean_single(of, heads, seed, metric) for of in (there, here))
    return Elsewhere(heads, *judged)


def floor(gap: Estimate) -> float:
    """Return the effect below which no head counts as found, however significant: in nats for a gap
    on log-odds, in pp for one on p_full.
    """
    return max(FLOOR_NATS if gap.unit == "nats" else FLOOR_PP, FLOOR_SHARE * gap.value)


def find(effects: Effects, gate: Gate, seed: int = 0) -> pd.DataFrame:
    """Return what the rule for heads says of each: rows layer, head, effect_nats and p_max_t on
    log-odds, effect_pp and p_max_t_p_full on p_full, says, found, smallest_nats.

    A head is *found* with a max-T p <= 0.05 on log-odds, an effect >= max(0.1 nat, 10 % of the
    log-odds gap), a p_full that does not fall, and an open gate; a null is tried with
    `gate.as_if_open()`. `says` names the other cases: p_full alone passes its own rule (1 pp or a
    tenth of its gap), both move apart, or the gate is closed. smallest_nats is what a head of this
    spread needs to be found in 80 % of tries. Raises UserError where log-odds or p_full were not
    swept.
    """
    check_swept(effects, DECIDES, BESIDE)
    odds, full = effects.effect(DECIDES), 100 * effects.effect(BESIDE)
    p_odds, p_full = (statistics.max_t(change.T, seed=seed) for change in (odds, full))
    passes = (p_odds <= ALPHA) & (odds.mean(1) >= floor(gate.gap_logodds))
    alone = (p_full <= ALPHA) & (full.mean(1) >= floor(gate.gap_p_full))
    falls = statistics.max_t(-full.T, seed=seed) <= ALPHA
    falls &= full.mean(1) <= -gaps.NEGLIGIBLE[BESIDE]
    says = np.select(
        [passes & falls, passes & gate.open, passes, alone],
        [OPPOSITE, FOUND, CLOSED, P_FULL_ALONE],
        NOTHING,
    )
    heads = [s[0] for s in effects.sets]
    return pd.DataFrame(
        {
            "layer": [h[0] for h in heads],
            "head": [h[1] for h in heads],
            "effect_nats": odds.mean(1),
            "p_max_t": p_odds,
            "effect_pp": full.mean(1),
            "p_max_t_p_full": p_full,
            "says": says,
            "found": says == FOUND,
            "smallest_nats": smallest_found(odds, floor(gate.gap_logodds), seed),
        }
    )


def smallest_found(odds: np.ndarray, least: float, seed: int = 0) -> np.ndarray:
    """Return the mean effect [head] that the rule finds in 80 % of tries, for effects [head
    question] with the spread that each head has here: against the rule's own threshold, the larger
    of its floor `least` and of what max-T asks for.

    Unit of the effects; infinite where so few questions can pass no max-T.
    """
    error = odds.std(axis=1, ddof=1) / np.sqrt(odds.shape[1])
    needed = statistics.max_t_critical(odds.T, ALPHA, seed=seed)
    threshold = np.maximum(least, needed * error) if np.isfinite(needed) else np.inf
    return threshold + stats.norm.ppf(POWER) * error


def heads_found(verdicts: pd.DataFrame) -> list[Head]:
    """Return the heads that `find` found, in the order of the model."""
    rows = verdicts[verdicts["found"]]
    return [Head(int(r.layer), int(r.head)) for r in rows.itertuples()]


def sizes_that_fit(n: int, sizes: Sequence[int] = (1, 5, 10, 20, 40)) -> list[int]:
    """Return the sizes that leave as many of n questions to judge on as they select on, or more."""
    return [size for size in sizes if size <= n // 2]


def stability(
    effects: Effects,
    n_chosen: int = 5,
    repeats: int = 200,
    seed: int = 0,
    metric: str = DECIDES,
) -> np.ndarray:
    """Return, for random splits of the questions into halves, how many heads the top n of both
    halves share, [repeat].
    """
    change = effects.effect(metric)
    rng = np.random.default_rng(seed)
    half = change.shape[1] // 2
    shared = []
    for _ in range(repeats):
        order = rng.permutation(change.shape[1])
        first, second = (
            np.argsort(-change[:, part].mean(1), kind="stable")[:n_chosen]
            for part in (order[:half], order[half:])
        )
        shared.append(len(set(first) & set(second)))
    return np.array(shared)


def winners_curse(
    effects: Effects,
    sizes: Sequence[int] = (),
    n_chosen: int = 5,
    repeats: int = 200,
    seed: int = 0,
    metric: str = DECIDES,
) -> pd.DataFrame:
    """Return, per number of questions selected on, the chosen heads' mean single effect in sample
    and on the other questions: nats, or pp but for logodds.

    Columns n_selected_on, in_sample, out_of_sample and the 2.5 and 97.5 percentiles of both over
    random selections. Without `sizes`, those that fit.
    """
    change = metrics.unit_of_change(metric)[1] * effects.effect(metric)
    sizes = sizes or sizes_that_fit(change.shape[1])
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        if size >= change.shape[1]:
            raise UserError(
                f"{size} questions to select on leave none of {change.shape[1]} to judge on; "
                "sweep more questions."
            )
        means = np.array(
            [
                _select_and_judge(change, rng.permutation(change.shape[1]), size, n_chosen)
                for _ in range(repeats)
            ]
        )
        low, high = np.percentile(means, [2.5, 97.5], axis=0)
        rows.append(
            {
                "n_selected_on": size,
                "in_sample": means[:, 0].mean(),
                "in_sample_low": low[0],
                "in_sample_high": high[0],
                "out_of_sample": means[:, 1].mean(),
                "out_of_sample_low": low[1],
                "out_of_sample_high": high[1],
            }
        )
    return pd.DataFrame(rows)


def _select_and_judge(
    change: np.ndarray, order: np.ndarray, size: int, n_chosen: int
) -> tuple[float, float]:
    selected_on, others = order[:size], order[size:]
    chosen = np.argsort(-change[:, selected_on].mean(1), kind="stable")[:n_chosen]
    return change[chosen][:, selected_on].mean(), change[chosen][:, others].mean()


class Depth(NamedTuple):
    """How much of a model's heads and of their effects lies in the first quarter of its layers."""

    chosen: Heads  # the chosen heads that lie there
    share_of_layers: float  # of the layers that were tried: what chance alone would put there
    share_of_effect: float  # of the mean absolute single effect, summed over layers


def first_quarter(table: pd.DataFrame, chosen: Sequence[Head], n_layers: int) -> Depth:
    """Return what lies in the first quarter of depth; table: rows layer, effect, one a head."""
    by_layer = table["effect"].abs().groupby(table["layer"]).mean()
    early = by_layer.index < n_layers / 4
    heads = tuple(head for head in chosen if head[0] < n_layers / 4)
    return Depth(heads, float(early.mean()), float(by_layer[early].sum() / by_layer.sum()))


def rule(n: int, replacement: str) -> str:
    """Return in words by which rule heads are chosen (`growing.grow`)."""
    return (
        f"{n} heads that joined one at a time, each with the largest net effect of the set on "
        f"log-odds of sandbag prompts, {replacement}-ablation"
    )
