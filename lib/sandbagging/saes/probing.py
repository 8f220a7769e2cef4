"""AUROC latent by latent, and codes at a smaller L0 than their own."""

import numpy as np
import scipy.stats


def auroc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return, for each latent, how often a prompt of `a` has the larger code than one of `b` (ties
    count half); [prompt latent] each.
    """
    return scipy.stats.mannwhitneyu(a, b, axis=0, method="asymptotic").statistic / (len(a) * len(b))


def at_l0(codes: np.ndarray, l0: int) -> np.ndarray:
    """Return codes [prompt latent] with only the `l0` largest of each prompt kept."""
    if l0 >= codes.shape[1]:
        return codes
    lowest = np.partition(codes, -l0, axis=1)[:, [-l0]]
    return np.where(codes >= lowest, codes, 0.0)
