"""Is what was planted found? The suite's own instruments where the truth is known."""

from sandbagging.recovery.examination import (
    FRAMING,
    KINDS,
    LAYERS,
    Examined,
    Organism,
    examine,
    load,
    scores,
    without_writers,
)
from sandbagging.recovery.judgement import (
    NULL_MARGIN_PP,
    all_verdicts,
    counted,
    in_numbers,
    judge,
    recover,
    share_of_shuffles,
    summary,
    table,
    tally,
    zero_gap,
)

__all__ = [
    "FRAMING",
    "KINDS",
    "LAYERS",
    "NULL_MARGIN_PP",
    "Examined",
    "Organism",
    "all_verdicts",
    "counted",
    "examine",
    "in_numbers",
    "judge",
    "load",
    "recover",
    "scores",
    "share_of_shuffles",
    "summary",
    "table",
    "tally",
    "without_writers",
    "zero_gap",
]
