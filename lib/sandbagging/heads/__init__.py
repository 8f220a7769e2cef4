"""Attention heads: ablation, the sweep, sets of heads, patching, and what heads read and write."""

from sandbagging.heads.circuits import random_sets, shapley, subsets
from sandbagging.heads.head import Head, Heads, check, join, parse
from sandbagging.heads.interventions import ablate_heads, zeroed_weights
from sandbagging.heads.sweep import Effects, ablate_sets, all_heads, sweep_conditions

__all__ = [
    "Effects",
    "Head",
    "Heads",
    "ablate_heads",
    "ablate_sets",
    "all_heads",
    "check",
    "join",
    "parse",
    "random_sets",
    "shapley",
    "subsets",
    "sweep_conditions",
    "zeroed_weights",
]
