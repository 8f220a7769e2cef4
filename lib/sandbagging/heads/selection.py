"""Which heads are chosen, which count as found, and how far such a choice can be trusted."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import metrics, statistics
from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.heads import estimates
from sandbagging.heads.head import Head, Heads
from sandbagging.heads.sweep import Effects
from sandbagging.statistics import Estimate

FLOOR_PP, FLOOR_SHARE = 1.0, 0.10  # a head counts as found from 1 pp and from 10 % of the gap on
# choice_len within 1 pp of its baseline counts as unchanged: an effect on p_full is then one of
# format
FORMAT_MARGIN_PP = 1.0


def check_how_many(n: int, heads: Sequence) -> None:
    """Raise UserError for a number of heads to choose that is not one, or more than there are."""
    if not 1 <= n <= len(heads):
        raise UserError(
            f"Cannot choose {n} heads out of {len(heads)}; ask for between 1 and {len(heads)}."
        )


def top(effects: Effects, n: int = 5, minus: Effects | None = None) -> Heads:
    """Return the n heads with the largest mean effect, or effect minus that in `minus` (the genuine
    condition).

    Raises UserError for an n that is no number of heads of the sweep.
    """
    check_how_many(n, effects.sets)
    mean = effects.effect().mean(1)
    if minus is not None:
        mean = mean - minus.effect().mean(1)
    return tuple(effects.sets[i][0] for i in np.argsort(-mean, kind="stable")[:n])


def by_other_rules(swept: Mapping[str, Effects], n: int = 5) -> dict[str, Heads]:
    """Return {name in `heads.json`: the n heads} by the effect on sandbag prompts minus that on
    genuine ones, and minus that on neutral ones (empty where these were not swept).
    """
    return {
        f"heads_sandbag_minus_{other}": top(swept["sandbag"], n, swept[other])
        if other in swept
        else ()
        for other in ("genuine", "neutral")
    }


class Elsewhere(NamedTuple):
    """Heads chosen on other questions, and their mean single effect on p_full in pp."""

    heads: Heads
    there: Estimate  # on the questions that chose them
    here: Estimate


def chosen_elsewhere(there: Effects, here: Effects, n: int = 5, seed: int = 0) -> Elsewhere:
    """Return the n strongest heads of one sweep, judged on its own questions and on another's."""
    heads = top(there, n)
    return Elsewhere(heads, *(estimates.mean_single(of, heads, seed) for of in (there, here)))


def floor_pp(gap: Estimate) -> float:
    """Return the effect, in pp, below which no head counts as found, however significant."""
    return max(FLOOR_PP, FLOOR_SHARE * gap.value)


def find(effects: Effects, gate: Gate, seed: int = 0) -> pd.DataFrame:
    """Return each head's effect_pp, its max-T p over all heads, and whether it is found: p <= 0.05,
    the floor, and an open gate.
    """
    p = statistics.max_t(effects.effect().T, seed=seed)
    mean = 100 * effects.effect().mean(1)
    passes = (p <= 0.05) & (mean >= floor_pp(gate.gap_p_full)) & gate.open
    heads = [s[0] for s in effects.sets]
    return pd.DataFrame(
        {
            "layer": [h[0] for h in heads],
            "head": [h[1] for h in heads],
            "effect_pp": mean,
            "p_max_t": p,
            "found": passes,
        }
    )


def heads_found(verdicts: pd.DataFrame) -> list[Head]:
    """Return the heads that `find` found, in the order of the model."""
    rows = verdicts[verdicts["found"]]
    return [Head(int(r.layer), int(r.head)) for r in rows.itertuples()]


def kinds_of_effect(
    sandbag: Effects,
    genuine: Effects,
    heads: Sequence[Head],
    seed: int = 0,
) -> pd.DataFrame:
    """Return, per head: its effects in pp on sandbag prompts (p_full and choice_len, as text with
    CI95), on genuine ones, and its kind.

    `kind` is "format" where p_full moves while choice_len is equivalent to zero within
    FORMAT_MARGIN_PP, "choice" where the CI95 of choice_len leaves out zero, else "cannot be said".
    """
    rows = []
    for head in heads:
        in_sandbag = {
            name: estimates.estimate(sandbag.of([head], name), name, seed)
            for name in metrics.JUDGED
        }
        in_genuine = estimates.estimate(genuine.of([head]), seed=seed)
        rows.append(
            {
                "head": str(Head(*head)),
                "p_full, sandbag": f"{in_sandbag[metrics.PRIMARY]:short}",
                "choice_len, sandbag": f"{in_sandbag[metrics.SECONDARY]:short}",
                "p_full, genuine": f"{in_genuine:short}",
                "kind": kind_of_set(sandbag, [head], seed),
            }
        )
    return pd.DataFrame(rows)


def kind_of_set(
    effects: Effects,
    heads: Sequence[Head],
    seed: int = 0,
) -> str:
    """Return whether replacing a set of heads moves the format, the choice, or cannot be said."""
    full, choice = (estimates.estimate(effects.of(heads, m), m, seed) for m in metrics.JUDGED)
    still = statistics.equivalence(100 * effects.of(heads, metrics.SECONDARY), FORMAT_MARGIN_PP)
    return kind_of_effect(full, choice, still.equivalent)


def kind_of_effect(full: Estimate, choice: Estimate, still: bool) -> str:
    """Return "format", "choice" or "cannot be said" for effects on p_full and choice_len; `still`:
    the latter is equivalent to zero.
    """
    if still and not full.low <= 0 <= full.high:
        return "format"
    return "choice" if not choice.low <= 0 <= choice.high else "cannot be said"


def sizes_that_fit(n: int, sizes: Sequence[int] = (1, 5, 10, 20, 40)) -> list[int]:
    """Return the sizes that leave as many of n questions to judge on as they select on, or more."""
    return [size for size in sizes if size <= n // 2]


def stability(effects: Effects, n_chosen: int = 5, repeats: int = 200, seed: int = 0) -> np.ndarray:
    """Return, for random splits of the questions into halves, how many heads the top n of both
    halves share, [repeat].
    """
    change = effects.effect()
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
) -> pd.DataFrame:
    """Return, per number of questions selected on, the chosen heads' mean single effect in sample
    and on the other questions, in pp.

    Columns n_selected_on, in_sample, out_of_sample and the 2.5 and 97.5 percentiles of both over
    random selections. Without `sizes`, those that fit.
    """
    change = 100 * effects.effect()
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
    """Return what lies in the first quarter of depth; table: rows layer, effect_pp, one a head."""
    by_layer = table["effect_pp"].abs().groupby(table["layer"]).mean()
    early = by_layer.index < n_layers / 4
    heads = tuple(head for head in chosen if head[0] < n_layers / 4)
    return Depth(heads, float(early.mean()), float(by_layer[early].sum() / by_layer.sum()))


def rule(n: int, replacement: str) -> str:
    """Return in words by which rule `top` chooses."""
    return f"the {n} largest mean effects on p_full of sandbag prompts, {replacement}-ablation"
