"""Swaps of SAE codes: E6 with its controls E1 and E4 and their rivals, and the decision table."""

from sandbagging.swaps.cells import all_token_medians, measure_cells, measure_untrained
from sandbagging.swaps.decision import BASES, VERDICTS, judge_cells
from sandbagging.swaps.doses import dose_response, swap_answers
from sandbagging.swaps.edits import swap_code
from sandbagging.swaps.interventions import e6_and_e4
from sandbagging.swaps.outcomes import effects_at, find_places
from sandbagging.swaps.shuffles import shuffle_places

__all__ = [
    "BASES",
    "VERDICTS",
    "all_token_medians",
    "dose_response",
    "e6_and_e4",
    "effects_at",
    "find_places",
    "judge_cells",
    "measure_cells",
    "measure_untrained",
    "shuffle_places",
    "swap_answers",
    "swap_code",
]
