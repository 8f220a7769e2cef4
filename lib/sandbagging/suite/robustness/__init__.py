"""How far the headline claims hold when one thing is changed: words, framing, questions, seeds,
spelling.

1. `CLAIMS` holds the claims in words; `axes_held` and `summary` read what the committed table says
   of them.
2. `make` brings the nested runs up to date and writes the table (`sandbagging robustness`).
"""

from sandbagging.suite.robustness.claims import (
    AXES,
    CLAIMS,
    DOES_NOT,
    HOLDS,
    NOT_RUN,
    UNKNOWN,
    axes_of,
)
from sandbagging.suite.robustness.command import make
from sandbagging.suite.robustness.held import agreement, axes_held, held_in_words, read, summary
from sandbagging.suite.robustness.plan import NAMES

__all__ = ["AXES", "CLAIMS", "DOES_NOT", "HOLDS", "NAMES", "NOT_RUN", "UNKNOWN", "agreement",
           "axes_held", "axes_of", "held_in_words", "make", "read", "summary"]  # fmt: skip
