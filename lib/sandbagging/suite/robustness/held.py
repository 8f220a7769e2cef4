"""What the committed robustness table says, for pages and the README: nothing is computed here."""

import pandas as pd

from sandbagging import files
from sandbagging.errors import UserError, nearest
from sandbagging.suite import runs
from sandbagging.suite.robustness.claims import AXES, CLAIMS, HOLDS, NOT_RUN, axes_of

RUN = "robustness"
TABLE, SUMMARY, AGREEMENT = "robustness.csv", "summary.csv", "agreement.csv"
COLUMNS = ["claim", "axis", "value", "says", "measured", "why"]


def read(run: str = RUN) -> pd.DataFrame | None:
    """Return the table (claim, axis, value, says, measured, why); None where the command was not
    run.
    """
    return _read(run, TABLE)


def agreement(run: str = RUN) -> pd.DataFrame | None:
    """Return how far sweeps under other words, questions and spellings agree on the heads: first,
    second, shared_top, jaccard, spearman, p; None where the command was not run.
    """
    return _read(run, AGREEMENT)


def _read(run: str, name: str) -> pd.DataFrame | None:
    path = runs.run_folder(run) / name
    return files.read_csv(path).fillna("") if path.is_file() else None


def axes_held(claim: str, run: str = RUN) -> tuple[int, int] | None:
    """Return on how many axes a claim holds whatever was tried, and how many were tried to the end;
    None where the command was not run, or no axis to its end.

    An axis with a value that was not run counts neither way. Raises UserError for an unknown claim.
    """
    found = read(run)
    _check(claim)
    return None if found is None else count(found, claim)


def count(table: pd.DataFrame, claim: str) -> tuple[int, int] | None:
    """Return `axes_held` of a table."""
    states = [state_of(table, claim, axis) for axis in axes_of(claim)]
    tried = [state for state in states if state is not None]
    return (sum(tried), len(tried)) if tried else None


def state_of(table: pd.DataFrame, claim: str, axis: str) -> bool | None:
    """Return whether a claim holds on all values of an axis; None where one was not run."""
    says = table.loc[(table["claim"] == claim) & (table["axis"] == axis), "says"]
    if says.empty or (says == NOT_RUN).any():
        return None
    return bool((says == HOLDS).all())


def held_in_words(claim: str, run: str = RUN) -> str:
    """Return on how many axes a claim holds, in words: "holds on 4 of 5 axes"."""
    found = axes_held(claim, run)
    if found is None:
        return "not run: `make robustness`"
    return "holds on {} of {} axes".format(*found)


def summary(run: str = RUN) -> pd.DataFrame | None:
    """Return one row a claim, in words: on how many values of each axis it holds, and on how many
    axes whatever was tried; None where the command was not run.
    """
    found = read(run)
    return None if found is None else summary_of(found)


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return `summary` of a table: claim, a column an axis, "axes held"."""
    lines = []
    for claim, words in CLAIMS.items():
        own = table[table["claim"] == claim]
        line = {"claim": words}
        for axis in AXES:
            line[axis] = _in_words(own.loc[own["axis"] == axis, "says"])
        held = count(table, claim)
        line["axes held"] = NOT_RUN if held is None else "{} of {}".format(*held)
        lines.append(line)
    return pd.DataFrame(lines)


def _in_words(says: pd.Series) -> str:
    if says.empty:
        return "–"  # the axis cannot change this claim
    run = says[says != NOT_RUN]
    if run.empty:
        return NOT_RUN
    words = f"{(run == HOLDS).sum()} of {len(run)}"
    return words if len(run) == len(says) else f"{words}, {len(says) - len(run)} {NOT_RUN}"


def _check(claim: str) -> None:
    if claim not in CLAIMS:
        raise UserError(
            f"There is no headline claim {claim!r}; did you mean {nearest(claim, CLAIMS)!r}?"
        )
