"""The robustness table: each headline claim beside everything that was changed."""

from collections.abc import Mapping, Sequence

import pandas as pd

from sandbagging import files
from sandbagging.errors import UserError
from sandbagging.heads import agreement
from sandbagging.suite import nested, runs
from sandbagging.suite.robustness import evidence, leaving_out, plan
from sandbagging.suite.robustness.claims import CATEGORY, CLAIMS, NOT_RUN, axes_of
from sandbagging.suite.robustness.evidence import Cell
from sandbagging.suite.robustness.held import AGREEMENT, COLUMNS, SUMMARY, TABLE, summary_of

ITSELF = ("same_heads",)  # claims of which the base says nothing: they compare others with it


def write(run: str) -> pd.DataFrame:
    """Write robustness.csv, its summary and agreement.csv of what is done so far; return the
    summary.
    """
    folder, found = runs.run_folder(run), table(run)
    summary = summary_of(found)
    files.write_csv(folder / TABLE, found)
    files.write_csv(folder / SUMMARY, summary)
    agreeing = between_sweeps(run)
    if agreeing is not None:
        files.write_csv(folder / AGREEMENT, agreeing)
    return summary


def table(run: str) -> pd.DataFrame:
    """Return one row per claim and value of an axis: claim, axis, value, says, measured, why."""
    base = f"{run}/{plan.BASE}"
    by_run = {name: evidence.of_run(f"{run}/{name}", base) for name in plan.NAMES}
    return rows(by_run, leaving_out.cells(base))


def rows(
    by_run: Mapping[str, Mapping[str, Cell]], by_category: Mapping[str, Mapping[str, Cell]]
) -> pd.DataFrame:
    """Return the table from {nested run: {claim: cell}} and {category: {claim: cell}}."""
    lines = []
    for claim in CLAIMS:
        for axis in axes_of(claim):
            for value, cell in _tried(claim, axis, by_run, by_category):
                lines.append([claim, axis, value, *cell])
    return pd.DataFrame(lines, columns=COLUMNS)


def _tried(
    claim: str,
    axis: str,
    by_run: Mapping[str, Mapping[str, Cell]],
    by_category: Mapping[str, Mapping[str, Cell]],
) -> Sequence[tuple[str, Cell]]:
    """Return (value, cell) of all that a claim is tried on along an axis."""
    if axis == CATEGORY:
        found = [(kind, of[claim]) for kind, of in by_category.items() if claim in of]
        return found or [("each in turn", Cell(NOT_RUN))]
    return [
        (value.value, by_run[value.run][claim])
        for value in plan.VALUES
        if value.axis == axis and not (claim in ITSELF and value.run == plan.BASE)
    ]


def between_sweeps(run: str) -> pd.DataFrame | None:
    """Return how far the nested runs agree on the net effects of heads (`agreement.between`); None
    for fewer than two.
    """
    swept = {}
    for value in plan.VALUES:
        name = f"{run}/{value.run}"
        if value.run not in swept and runs.read_manifest(name, "07_heads"):
            by_question = nested.read_table(name, "07_heads", "effects_by_question.csv.gz")
            swept[value.run] = leaving_out.net_effects(by_question)
    try:
        return agreement.between(swept)
    except UserError:
        return None
