"""Rankings of nodes: by what replacing each does, by gradients, by chance.

A ranking is {node: score}. In all but the random one a score is in the unit of the metric (nats on
log-odds), averaged over questions, and positive where replacing the node brings the right answer
back on sandbag prompts: the higher, the more of the sandbagging the node carries.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sandbagging.errors import UserError
from sandbagging.heads.sweep import Effects
from sandbagging.nodes.node import Node, Nodes

Ranking = Mapping[Node, float]

ZERO, MEAN = "zero", "mean"
PATCH, SLOPE, INTEGRATED = "patching", "attribution patching", "integrated gradients"
RANDOM = "random"
SIZES = (1, 2, 5, 10, 20, 50)


def of_effects(effects: Effects, metric: str = "logodds", minus: Effects | None = None) -> Ranking:
    """Return each node's mean effect, or that minus the one in `minus` (the genuine condition);
    `effects` are those of sets of one node.
    """
    mean = effects.effect(metric).mean(1)
    if minus is not None:
        mean = mean - minus.effect(metric).mean(1)
    return {nodes[0]: float(value) for nodes, value in zip(effects.sets, mean, strict=True)}


def at_random(nodes: Sequence[Node], n: int, seed: int = 0) -> dict[str, Ranking]:
    """Return n rankings of the nodes by numbers drawn from 0 to 1, named "random 1" and so on."""
    draws = np.random.default_rng(seed).random((n, len(nodes)))
    return {
        f"{RANDOM} {i}": dict(zip(nodes, map(float, scores), strict=True))
        for i, scores in enumerate(draws, start=1)
    }


def best(ranking: Ranking, k: int) -> Nodes:
    """Return the k nodes with the highest scores, highest first; of equal ones the lower layer's.

    Raises UserError for a k that is no number of nodes of the ranking.
    """
    if not 1 <= k <= len(ranking):
        raise UserError(
            f"Cannot take {k} nodes out of {len(ranking)}; ask for between 1 and {len(ranking)}."
        )
    return tuple(sorted(ranking, key=lambda node: (-ranking[node], node))[:k])


def sizes_that_fit(n_nodes: int, sizes: Sequence[int] = SIZES) -> list[int]:
    """Return the sizes that leave at least one of n nodes out."""
    return [k for k in sizes if k < n_nodes]


def sets_to_run(rankings: Mapping[str, Ranking], sizes: Sequence[int] = SIZES) -> list[Nodes]:
    """Return the best k nodes of every ranking, for every size that fits, each set once."""
    found = {
        tuple(sorted(best(ranking, k))): None
        for ranking in rankings.values()
        for k in sizes_that_fit(len(ranking), sizes)
    }
    return list(found)


def together(first: Effects, *others: Effects) -> Effects:
    """Return several sweeps of the same questions as one, such as a sweep of the heads and one of
    the MLPs; metrics that not all have are left out.

    Raises ValueError where the questions or the untouched model's scores differ.
    """
    shared = [m for m in first.value if all(m in other.value for other in others)]
    for other in others:
        if other.question_ids != first.question_ids or any(
            not np.allclose(other.baseline[m], first.baseline[m], atol=1e-5) for m in shared
        ):
            raise ValueError("sweeps are put together on the same questions, scored alike")
    every = (first, *others)
    return Effects(
        [nodes for effects in every for nodes in effects.sets],
        first.question_ids,
        {m: first.baseline[m] for m in shared},
        {m: np.concatenate([effects.value[m] for effects in every]) for m in shared},
    )
