"""What replacing nodes does, as tables with a CI95 over questions."""

from collections.abc import Mapping

import pandas as pd

from sandbagging import metrics, statistics
from sandbagging.heads.sweep import Effects
from sandbagging.nodes.node import Mlp


def effects_table(swept: Mapping[str, Effects], seed: int = 0, *names: str) -> pd.DataFrame:
    """Return {condition: effects of one node at a time} as rows node, kind, layer, condition,
    metric, effect, unit, low, high, n; pp, or nats for logodds. `names` are the metrics, or all.
    """
    tables = []
    for condition, effects in swept.items():
        alone = [nodes[0] for nodes in effects.sets]
        for metric in names or effects.value:
            unit, scale = metrics.unit_of_change(metric)
            change = effects.effect(metric).T
            value, low, high = statistics.column_cis(change, scale=scale, seed=seed)
            tables.append(
                pd.DataFrame(
                    {
                        "node": list(map(str, alone)),
                        "kind": ["MLP" if isinstance(node, Mlp) else "head" for node in alone],
                        "layer": [node.layer for node in alone],
                        "condition": condition,
                        "metric": metric,
                        "effect": value,
                        "unit": unit,
                        "low": low,
                        "high": high,
                        "n": len(effects.question_ids),
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def mlps_table(swept: Mapping[str, Effects], verdicts: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the rows of `mlps.csv`: layer, condition, metric, effect, unit, low, high, n, and what
    `find` says of each MLP: p_max_t, found.
    """
    said = verdicts[["node", "p_max_t", "found"]]
    return effects_table(swept, seed).merge(said, on="node").drop(columns=["node", "kind"])
