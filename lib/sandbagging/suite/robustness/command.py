"""`sandbagging robustness`: run what is missing, then write the table."""

from collections.abc import Sequence

import pandas as pd

from sandbagging.suite import runner
from sandbagging.suite.robustness import held, plan, spelling, table


def make(
    names: Sequence[str] = (),
    run: str = held.RUN,
    set_name: str = plan.SET,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Bring the nested runs of some names (none: all) up to date, and the base that they rest on;
    write the table of all that is done and return its summary.

    What an earlier call finished is not done again. Raises UserError for an unknown name.
    """
    chosen = plan.chosen(names)
    runner.execute(*plan.first(run, set_name), jobs=jobs)
    changed = spelling.write(run)
    print(f"The model spells {sum(changed.values())} of its right answers in its own way.")
    others = plan.others(run, set_name, chosen)
    if others:
        runner.execute(*others, jobs=jobs)
    return table.write(run)
