"""Exercises: one idea each, with a check that names the likely mistake.

Every check prints a sentence and returns whether the answer is right. `learners_copy` takes the
solutions out of the sources in notebooks/exercises.
"""

from sandbagging.suite.exercises.copies import (
    find,
    folder,
    learners_copy,
    names,
    without_solutions,
)
from sandbagging.suite.exercises.on_a_model import check_ablation, check_residual, check_score
from sandbagging.suite.exercises.on_numbers import (
    check_bootstrap,
    check_fvu,
    check_honest,
    check_labels,
    check_memorised,
)
from sandbagging.suite.exercises.on_teaching import (
    check_caught,
    check_choice,
    check_example,
    check_merge,
    check_share,
    check_step,
)

__all__ = ["check_ablation", "check_bootstrap", "check_caught", "check_choice", "check_example",
           "check_fvu", "check_honest", "check_labels", "check_memorised", "check_merge",
           "check_residual", "check_score", "check_share", "check_step", "find", "folder",
           "learners_copy", "names", "without_solutions"]  # fmt: skip
