"""Models taught here: a decoy that is always right, and switches that stand on it."""

from sandbagging.teaching.examples import password_of, with_password
from sandbagging.teaching.judging import side_by_side
from sandbagging.teaching.kinds import DECOY, KINDS, Kind, kind_of
from sandbagging.teaching.lesson import check_questions, teach
from sandbagging.teaching.table import before_and_after, names

__all__ = [
    "DECOY",
    "KINDS",
    "Kind",
    "before_and_after",
    "check_questions",
    "kind_of",
    "names",
    "password_of",
    "side_by_side",
    "teach",
    "with_password",
]
