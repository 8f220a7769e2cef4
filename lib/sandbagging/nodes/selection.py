"""Which nodes count as found: the rule for heads, over heads and MLPs alike."""

import pandas as pd

from sandbagging.gate import Gate
from sandbagging.heads import selection
from sandbagging.heads.head import Head
from sandbagging.heads.sweep import Effects
from sandbagging.nodes.node import Mlp


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
