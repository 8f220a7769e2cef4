"""Nodes, heads and MLPs alike: replacing them, ranking them, and how good a ranking is."""

from sandbagging.nodes.gaps import Gaps, by_means, by_patching
from sandbagging.nodes.gradients import Integrated, attribution, integrated
from sandbagging.nodes.interventions import replace_each, zeroed_weights
from sandbagging.nodes.judgement import (
    auroc,
    auroc_interval,
    cmd,
    cpr,
    curve,
    faithfulness,
    league,
    ranks,
    share_closed,
)
from sandbagging.nodes.node import Mlp, Node, Nodes, all_mlps, all_nodes, alone, check, join, parse
from sandbagging.nodes.ranking import (
    Ranking,
    at_random,
    best,
    of_effects,
    together,
)
from sandbagging.nodes.rankings import Scored, rankings, score
from sandbagging.nodes.selection import Judged, best_heads, find, heads_by_route, judged
from sandbagging.nodes.sweep import patch_sets, replace_sets, sweep_conditions
from sandbagging.nodes.tables import effects_table, mlps_table
from sandbagging.nodes.truth import Known, of_planted, of_taught

__all__ = [
    "Gaps",
    "Integrated",
    "Judged",
    "Known",
    "Mlp",
    "Node",
    "Nodes",
    "Ranking",
    "Scored",
    "all_mlps",
    "all_nodes",
    "alone",
    "at_random",
    "attribution",
    "auroc",
    "auroc_interval",
    "best",
    "best_heads",
    "by_means",
    "by_patching",
    "check",
    "cmd",
    "cpr",
    "curve",
    "effects_table",
    "faithfulness",
    "find",
    "heads_by_route",
    "integrated",
    "join",
    "judged",
    "league",
    "mlps_table",
    "of_effects",
    "of_planted",
    "of_taught",
    "parse",
    "patch_sets",
    "rankings",
    "ranks",
    "replace_each",
    "replace_sets",
    "score",
    "share_closed",
    "sweep_conditions",
    "together",
    "zeroed_weights",
]
