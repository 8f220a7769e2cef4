"""What every estimate checks first: numbers by question, two of them at least, none missing."""

from collections.abc import Sequence

import numpy as np

from sandbagging.errors import UserError


def vector(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise UserError(f"{name} must be one number per question; got shape {x.shape}.")
    return _checked(x, name)


def matrix(values: np.ndarray, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2:
        raise UserError(f"{name} must have two axes, questions first; got shape {x.shape}.")
    return _checked(x, name)


def _checked(x: np.ndarray, name: str) -> np.ndarray:
    if len(x) < 2:
        raise UserError(f"{name} needs at least 2 questions for an interval; got {len(x)}.")
    if not np.isfinite(x).all():
        raise UserError(f"{name} has missing or infinite numbers; drop those questions first.")
    return x


def pair(first, second, name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = vector(first, name), vector(second, other)
    if len(x) != len(y):
        raise UserError(
            f"{name} has {len(x)} questions and {other} has {len(y)}: a paired effect needs the "
            "same "
            "questions in the same order."
        )
    return x, y
