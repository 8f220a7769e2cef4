"""Sets of heads: random ones to compare with, members, all subsets and their Shapley values."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import metrics, prompts, statistics
from sandbagging.errors import UserError
from sandbagging.heads import estimates, parts, shares
from sandbagging.heads.head import Head, Heads, join
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.prompts import Framing
from sandbagging.statistics import Estimate
from sandbagging.wordings import PLACEBO_CUES

KINDS = ("uniform", "same_layer")  # of random sets
MOST_HEADS = 8  # of which all subsets are run: 2^8 - 1 = 255 of them


def random_sets(
    model: Model, chosen: Sequence[Head], n: int, kind: str, seed: int = 0
) -> list[Heads]:
    """Return n random sets as large as `chosen` and without its heads.

    `kind` "uniform" draws from all heads; "same_layer" gives every chosen head a stand-in from its
    own layer. Raises UserError where a layer has too few other heads.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    others = {
        layer: [Head(layer, h) for h in range(model.n_heads) if (layer, h) not in chosen]
        for layer in range(model.n_layers)
    }
    if kind == "uniform":
        pool = [head for heads in others.values() for head in heads]
        if len(pool) < len(chosen):
            raise UserError(
                f"{model.name} has too few heads left to draw {len(chosen)} random ones."
            )
        return [
            tuple(sorted(pool[i] for i in rng.choice(len(pool), len(chosen), replace=False)))
            for _ in range(n)
        ]
    wanted = {
        layer: sum(at == layer for at, _ in chosen)
        for layer in sorted({layer for layer, _ in chosen})
    }
    if any(len(others[layer]) < count for layer, count in wanted.items()):
        raise UserError(
            "A layer has too few other heads for same-layer draws; use fewer chosen heads in it."
        )
    return [
        tuple(
            sorted(
                others[at][i]
                for at, k in wanted.items()
                for i in rng.choice(len(others[at]), k, False)
            )
        )
        for _ in range(n)
    ]


def random_sets_of_each_kind(
    model: Model, chosen: Sequence[Head], n: int, seed: int = 0
) -> dict[str, list[Heads]]:
    """Return {kind: n random sets} of the kinds of `random_sets`."""
    return {kind: random_sets(model, chosen, n, kind, seed) for kind in KINDS}


def against_random(joint: np.ndarray, draws: np.ndarray, seed: int = 0) -> dict:
    """Return how a joint effect [question] stands among those of random sets [draw question].

    mean (over questions and draws) and gap (joint - mean) in pp with CI95 over questions and draws;
    sd of the draws in pp, z and rank_p, n_draws and the smallest rank p that so many draws can
    give.
    """
    mean = statistics.bootstrap_questions_and_draws(draws.T, unit="pp", scale=100.0, seed=seed)
    gap = statistics.bootstrap_questions_and_draws(
        joint[:, None] - draws.T, unit="pp", scale=100.0, seed=seed
    )
    seen, drawn = 100 * joint.mean(), 100 * draws.mean(1)
    return {
        "mean": mean,
        "sd": float(drawn.std(ddof=1)),
        "z": statistics.z_score(seen, drawn),
        "rank_p": statistics.rank_p(seen, drawn),
        "gap": gap,
        "n_draws": len(drawn),
        "smallest_rank_p": 1 / (1 + len(drawn)),
    }


def beside_draws(
    on: Effects,
    heads: Sequence[Head],
    draws: Mapping[str, Sequence[Heads]],
    rank_p: Mapping[str, float],
    seed: int = 0,
) -> dict[str, dict]:
    """Return {kind: `against_random`} of a set's effect on p_full, but with the rank p {kind: p} of
    the share that it restores.
    """
    return {
        kind: against_random(on.of(heads), estimates.only(on, sets).effect(), seed)
        | {"rank_p": rank_p[kind]}
        for kind, sets in draws.items()
    }


def draws_table(on: Mapping[str, Effects], draws: Mapping[str, Sequence[Heads]]) -> pd.DataFrame:
    """Return the random sets {kind: sets} as rows kind, index, heads, metric, unit, effect,
    effect_on_genuine (means, nats or pp), share_restored, share_closed, from {genuine, sandbag:
    effects}.
    """
    rows = []
    for kind, sets in draws.items():
        for metric in metrics.JUDGED:
            unit, scale = metrics.unit_of_change(metric)
            gap = shares.gap(on, metric).mean() or np.nan  # without a gap there is no share of it
            for index, heads in enumerate(sets):
                sandbag, genuine = (on[c].of(heads, metric) for c in ("sandbag", "genuine"))
                back, part = (f(on, heads, metric) for f in (shares.restored, shares.closed))
                rows.append(
                    {"kind": kind, "index": index, "heads": join(heads), "metric": metric,
                     "unit": unit, "effect": scale * sandbag.mean(),
                     "effect_on_genuine": scale * genuine.mean(),
                     "share_restored": back.mean() / gap, "share_closed": part.mean() / gap}
                )  # fmt: skip
    return pd.DataFrame(rows)


def subsets(heads: Sequence[Head]) -> list[Heads]:
    """Return all subsets but the empty one, smallest first; UserError for more than eight heads."""
    if len(heads) > MOST_HEADS:
        raise UserError(
            f"{len(heads)} heads have {2 ** len(heads) - 1} subsets, too many to run; "
            f"name at most {MOST_HEADS} heads."
        )
    return [
        tuple(sorted(s))
        for size in range(1, len(heads) + 1)
        for s in itertools.combinations(heads, size)
    ]


def singles_and_all(heads: Sequence[Head]) -> list[Heads]:
    """Return each head alone, and then all of them together."""
    alone = [(head,) for head in heads]
    return [*alone, tuple(heads)] if len(heads) > 1 else alone


def members(heads: Sequence[Head]) -> list[Heads]:
    """Return each head alone, all of them, and all but each in turn: what says which of them
    matters.
    """
    return distinct(singles_and_all(heads), parts.without_one(heads))


def distinct(*lists: Iterable[Iterable[Head]]) -> list[Heads]:
    """Return the sets of heads of several lists, each once, its heads in the model's order."""
    return list(dict.fromkeys(tuple(sorted(heads)) for of in lists for heads in of))


def told_in(framing: Framing) -> str:
    """Return the place of a prompt that says whether to answer wrongly: its instruction, or the cue
    where nothing else differs.
    """
    return "cue" if prompts.placebos(framing) == tuple(PLACEBO_CUES) else "instruction"


def best_subset(effects: Effects, size: int) -> Heads:
    """Return the set of `size` heads with the largest mean effect among those that were run."""
    return max((s for s in effects.sets if len(s) == size), key=lambda s: effects.of(s).mean())


class Best(NamedTuple):
    """The best heads of a set, chosen on train questions and judged on test questions."""

    heads: Heads
    train: Estimate  # its effect on the questions that chose it
    test: Estimate
    rest: Estimate  # what all heads together give more than it, on test


def best_on_train(
    on_train: Effects, on_test: Effects, joint: Heads, size: int = 3, seed: int = 0
) -> Best:
    """Return the best `size` heads of a set (or all of them, if they are fewer)."""
    best = best_subset(on_train, min(size, len(joint)))
    train, test = (estimates.estimate(of.of(best), seed=seed) for of in (on_train, on_test))
    rest = estimates.estimate(on_test.of(joint) - on_test.of(best), seed=seed)
    return Best(best, train, test, rest)


def shapley(effects: Effects, heads: Sequence[Head]) -> dict[Head, float]:
    """Return each head's Shapley value in pp, its mean gain over all orders of adding the heads;
    they sum to the joint effect.
    """
    return statistics.shapley(
        {s: 100 * e.mean() for s, e in zip(effects.sets, effects.effect(), strict=True)}, heads
    )
