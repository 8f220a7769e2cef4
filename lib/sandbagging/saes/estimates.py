"""Quality of SAEs with intervals over questions."""

import pandas as pd

from sandbagging import statistics
from sandbagging.statistics import Estimate


def fvu_ci(errors: pd.DataFrame, seed: int = 0) -> Estimate:
    """Return FVU with a CI95 over questions, whole questions resampled, from
    `evaluation.errors_by_question`.
    """
    return statistics.ratio_ci(
        errors["error"], errors["spread"], unit="share of variance", seed=seed
    )


def fvu_of_tags(errors: pd.DataFrame, tokens: str, seed: int = 0) -> dict[str, Estimate]:
    """Return {tag: `fvu_ci`} at "all" or "last" tokens, from `evaluation.errors_of_tags`."""
    of_tokens = errors[errors["tokens"] == tokens]
    return {tag: fvu_ci(part, seed) for tag, part in of_tokens.groupby("tag", sort=False)}


def fvu_within(errors: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, Estimate]]:
    """Return {condition: {tag: `fvu_ci`}} at the last tokens, from `within.errors_within`."""
    return {
        condition: {tag: fvu_ci(part, seed) for tag, part in of.groupby("tag", sort=False)}
        for condition, of in errors.groupby("condition", sort=False)
    }
