"""Swaps of SAE codes: E6 with its controls E1 and E4 and their rivals, and the decision table."""

from sandbagging.swaps.battery import shuffle_places, shuffles, swaps
from sandbagging.swaps.decision import BASES, DECISIONS, VERDICTS, judge_all, judge_cells
from sandbagging.swaps.sites import effects_at, find_sites

__all__ = [
    "BASES",
    "DECISIONS",
    "VERDICTS",
    "effects_at",
    "find_sites",
    "judge_all",
    "judge_cells",
    "shuffle_places",
    "shuffles",
    "swaps",
]
