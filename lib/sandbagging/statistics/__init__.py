"""Intervals, tests and effect sizes over questions; every random choice is seeded."""

from sandbagging.statistics.clusters import Wide, beside, by_category, named, wide, without_each
from sandbagging.statistics.coalitions import shapley
from sandbagging.statistics.estimate import Estimate
from sandbagging.statistics.intervals import (
    N_RESAMPLES,
    bootstrap_questions_and_draws,
    column_cis,
    mean_ci,
    paired_effect,
    proportion,
    ratio_ci,
    redundancy,
)
from sandbagging.statistics.separation import (
    Separation,
    chosen_on_train,
    cohens_dav,
    cohens_dz,
    dz_ci,
    separation_table,
    sign_flip_null_d_max,
)
from sandbagging.statistics.significance import (
    Equivalence,
    equivalence,
    holm,
    max_t,
    max_t_critical,
    rank_p,
    smallest_detectable,
    two_clusters,
    z_score,
)

__all__ = [
    "N_RESAMPLES",
    "Equivalence",
    "Estimate",
    "Separation",
    "Wide",
    "beside",
    "bootstrap_questions_and_draws",
    "by_category",
    "chosen_on_train",
    "cohens_dav",
    "cohens_dz",
    "column_cis",
    "dz_ci",
    "equivalence",
    "holm",
    "max_t",
    "max_t_critical",
    "mean_ci",
    "named",
    "paired_effect",
    "proportion",
    "rank_p",
    "ratio_ci",
    "redundancy",
    "separation_table",
    "shapley",
    "sign_flip_null_d_max",
    "smallest_detectable",
    "two_clusters",
    "wide",
    "without_each",
    "z_score",
]
