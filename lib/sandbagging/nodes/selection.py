"""Which nodes count as found, by the rule for heads over heads and MLPs alike, and what rankings of
nodes say of the heads among them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

from sandbagging.gate import Gate
from sandbagging.heads import selection
from sandbagging.heads.head import Head, Heads
from sandbagging.heads.sweep import Effects
from sandbagging.nodes import ranking
from sandbagging.nodes.node import Mlp, Node, parse
from sandbagging.nodes.ranking import RANDOM, Ranking


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


class Judged(NamedTuple):
    """What the rule says of all nodes of a model."""

    floor_nats: float
    smallest_nats: float  # what the usual node needs to be found in 80 % of tries
    n_pass_max_t: int
    n_above_floor: int  # of these
    nodes_found: list[Node]  # best first
    heads_found: list[Head]  # of these
    found_as_if_open: list[Node]  # also where there is no sandbagging to explain


def judged(verdicts: pd.DataFrame, gate: Gate) -> Judged:
    """Return in short what `find` says."""
    floor = selection.floor(gate.gap_logodds)
    passing = verdicts[verdicts["p_max_t"] <= selection.ALPHA]
    found = parse(verdicts.loc[verdicts["found"], "node"])
    as_if_open = verdicts["says"].isin((selection.FOUND, selection.CLOSED))
    return Judged(
        floor,
        float(verdicts["smallest_nats"].median()),
        len(passing),
        int((passing["effect_nats"] >= floor).sum()),
        found,
        [node for node in found if isinstance(node, Head)],
        parse(verdicts.loc[as_if_open, "node"]),
    )


def best_heads(of: Ranking, n: int) -> Heads:
    """Return the n heads with the highest scores, highest first; raises UserError for an n that is
    no number of heads.
    """
    return ranking.best({node: x for node, x in of.items() if isinstance(node, Head)}, n)


def heads_by_route(rankings: Mapping[str, Ranking]) -> pd.DataFrame:
    """Return each head's score by every route but those by chance, in nats: rows layer, head, and
    one column a route.
    """
    told = {name: of for name, of in rankings.items() if not name.startswith(RANDOM)}
    heads = [node for node in next(iter(told.values())) if isinstance(node, Head)]
    table = pd.DataFrame(heads, columns=["layer", "head"])
    return table.assign(**{name: [of[head] for head in heads] for name, of in told.items()})
