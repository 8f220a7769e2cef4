"""Is what was planted found? The suite's own instruments where the truth is known."""

from sandbagging.recovery.candidates import Candidates, choose, grow_on_each
from sandbagging.recovery.examination import (
    KINDS,
    LAYERS,
    Examined,
    examine,
    scored,
    swapped,
    swept,
    without_writers,
    zeroed,
)
from sandbagging.recovery.judgement import (
    NULL_MARGIN_NATS,
    all_verdicts,
    counted,
    judge,
    recover,
    share_of_shuffles,
    summary,
    table,
    tally,
    zero_gap,
)
from sandbagging.recovery.league import league, over_models
from sandbagging.recovery.node_scores import NodeScores, score_nodes
from sandbagging.recovery.subjects import FRAMING, Subject, load, subject

__all__ = [
    "FRAMING",
    "KINDS",
    "LAYERS",
    "NULL_MARGIN_NATS",
    "Candidates",
    "Examined",
    "NodeScores",
    "Subject",
    "all_verdicts",
    "choose",
    "counted",
    "examine",
    "grow_on_each",
    "judge",
    "league",
    "load",
    "over_models",
    "recover",
    "score_nodes",
    "scored",
    "share_of_shuffles",
    "subject",
    "summary",
    "swapped",
    "swept",
    "table",
    "tally",
    "without_writers",
    "zero_gap",
    "zeroed",
]
