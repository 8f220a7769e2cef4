"""Rankings of nodes: by what replacing each does, by gradients, by chance; and which are found.

A ranking is {node: score}. In all but the random one a score is in the unit of the metric (nats on
log-odds), averaged over questions, and positive where replacing the node brings the right answer
back on sandbag prompts: the higher, the more of the sandbagging the node carries.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.heads import selection
from sandbagging.heads.head import Head
from sandbagging.heads.sweep import Effects
from sandbagging.nodes.node import Mlp, Node, Nodes

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


def side_by_side(
    zero: Effects,
    mean: Effects,
    patched: Effects,
    slope: Ranking,
    integrated: Ranking,
    n_random: int = 5,
    seed: int = 0,
) -> dict[str, Ranking]:
    """Return {name: ranking} of the same nodes by all routes: the effects on sandbag prompts of
    zeroing each, of its mean and of its genuine value; by gradients; and n by chance.
    """
    found = {ZERO: of_effects(zero), MEAN: of_effects(mean), PATCH: of_effects(patched)}
    found |= {SLOPE: slope, INTEGRATED: integrated}
    return found | at_random(list(found[ZERO]), n_random, seed)


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


def find(effects: Effects, gate: Gate, seed: int = 0) -> pd.DataFrame:
    """Return what the rule for heads says of every node, best first: rows node, kind, layer and the
    columns of `selection.find`, with max-T over all nodes.
    """
    alone = [nodes[0] for nodes in effects.sets]
    # the rule asks of a set nothing but its name
    named = effects._replace(sets=[(Head(node.layer, i),) for i, node in enumerate(alone)])
    says = selection.find(named, gate, seed).drop(columns=["layer", "head"])
    names = pd.DataFrame(
        {
            "node": list(map(str, alone)),
            "kind": ["MLP" if isinstance(node, Mlp) else "head" for node in alone],
            "layer": [node.layer for node in alone],
        }
    )
    table = pd.concat([names, says], axis=1)
    return table.sort_values("effect_nats", ascending=False, kind="stable", ignore_index=True)
