"""The strict runner: all is checked before anything starts; a run goes on where it stopped."""

from sandbagging.suite.runner.elsewhere import on_this_machine
from sandbagging.suite.runner.executed import executed_path, failed_path, keeps_notebooks
from sandbagging.suite.runner.execution import NotebookFailed, execute
from sandbagging.suite.runner.planning import (
    Plan,
    PlannedStep,
    find_notebook,
    load_set,
    plan,
    set_names,
    with_missing_inputs,
)
from sandbagging.suite.runner.reference import NESTED
from sandbagging.suite.runner.reference import plans as reference_plans
from sandbagging.suite.runner.whole import Whole, from_nothing, told

__all__ = [
    "NESTED", "NotebookFailed", "Plan", "PlannedStep", "Whole", "execute", "executed_path",
    "failed_path", "find_notebook", "from_nothing", "keeps_notebooks", "load_set",
    "on_this_machine", "plan", "reference_plans", "set_names", "told", "with_missing_inputs",
]  # fmt: skip
