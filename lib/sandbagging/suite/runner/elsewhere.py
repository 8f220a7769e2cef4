"""Plans whose models were taught on another machine, and are not on this one."""

from collections.abc import Sequence

from sandbagging.errors import UserError
from sandbagging.suite.runner.execution import why
from sandbagging.suite.runner.nodes import nodes_of
from sandbagging.suite.runner.planning import Plan


def on_this_machine(given: Sequence[Plan]) -> tuple[list[Plan], list[str]]:
    """Return the plans whose models are here, and a sentence on each of the others whose stored
    results do not hold.

    A taught model that is not committed lies where it was taught; what it left in the run stays.
    """
    here, left_out = [], []
    for each in given:
        problem = _not_here(each)
        if problem is None:
            here.append(each)
        elif any(why(node) for node in nodes_of([each])):
            left_out.append(f"{each.run} is left out: {problem}")
    return here, left_out


def _not_here(given: Plan) -> str | None:
    """Return why a plan's taught model cannot be had, and what to do; None where it is here."""
    from sandbagging.models import taught

    for model in {step.parameters.get("model") for step in given.steps} - {None}:
        try:
            taught.find(model)
        except UserError as error:
            return str(error)
    return None
