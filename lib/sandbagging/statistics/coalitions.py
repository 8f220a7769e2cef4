"""Shapley values: what each member of a set adds, averaged over all orders of joining."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from math import factorial

from sandbagging.errors import UserError


def shapley(
    values: Mapping[Iterable[Hashable], float], players: Sequence[Hashable]
) -> dict[Hashable, float]:
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


def _effect_of(effect: dict[frozenset, float], subset: frozenset) -> float:
    if subset not in effect:
        raise UserError(f"Shapley values need every subset; {sorted(map(str, subset))} is missing.")
    return effect[subset]
