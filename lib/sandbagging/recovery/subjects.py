"""The models that rules are tried on, by name: planted ones at any dose, taught ones at any
strength, and random weights.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from sandbagging import models, questions
from sandbagging.errors import UserError
from sandbagging.heads.head import Head
from sandbagging.models import taught
from sandbagging.models.registry import EMBEDDED, TAUGHT_FRAMING
from sandbagging.planted import planting
from sandbagging.planted.base import D_HEAD
from sandbagging.progress import Progress
from sandbagging.questions import Question

FRAMING = "instr_pref"  # of planted models
PLANTED = re.compile(rf"organism-(?P<variant>{'|'.join(planting.VARIANTS)})-(?P<seed>\d+)")
RANDOM = re.compile(r"random-(?P<seed>\d+)")  # the embedded model's shape
N_TRAIN, N_TEST = 24, 100  # questions that a real model is asked


class Subject(NamedTuple):
    """A model that rules are tried on, what is known of it, and what it is asked."""

    name: str
    model: models.Model
    truth: dict[str, Any]
    train: list[Question]
    test: list[Question]
    framing: str


def load(
    variant: str, seed: int = 0, dose: float = 1.0, progress: Progress | None = None
) -> Subject:
    """Return a planted model, made if it is not in the cache, whose heads write `dose` times what
    was planted; raises UserError for a dose outside 0 to 1.
    """
    _check_dose(dose)
    folder = _made(variant, seed, progress)
    truth = planting.truth(folder)
    asked = (questions.load(folder / f"questions_{split}.jsonl") for split in ("train", "test"))
    model = models.load(str(folder), device="cpu")
    if dose != 1:
        _scale(model, [Head(*head) for head in truth["writers"]], dose)
    name = f"organism-{variant}-{seed}" + (f"@{dose:g}" if dose != 1 else "")
    return Subject(name, model, truth, *asked, FRAMING)


def _made(variant: str, seed: int, progress: Progress | None) -> Path:
    """Return a planted model's folder; processes that want the same seed train its base once."""
    home = planting.home()
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(home / f".seed-{seed}.lock"):
        return planting.ensure(variant, seed, progress)


def subject(name: str, progress: Progress | None = None) -> Subject:
    """Return a model by name: organism-heads-3@0.5, sandbagger@0.2, decoy-1, random-0.

    Raises UserError for a model of which no truth is known, and for a dose outside 0 to 1.
    """
    stem, dose = dose_of(name)
    if planted := PLANTED.fullmatch(stem):
        return load(planted["variant"], int(planted["seed"]), dose, progress)
    asked = (questions.asked("train", N_TRAIN), questions.asked("test", N_TEST))
    if drawn := RANDOM.fullmatch(stem):
        model = models.load(EMBEDDED, random_weights=True, seed=int(drawn["seed"]))
        return Subject(name, model, {"sandbags": False}, *asked, TAUGHT_FRAMING)
    truth = {"sandbags": False} if stem == EMBEDDED else taught.truth(stem)
    if truth is None:
        raise UserError(
            f"Nothing is known beforehand of {name}, so no rule can be calibrated on it; take a "
            "planted model (organism-null-0), a taught one, or random-0."
        )
    return Subject(name, models.load(name, device="cpu"), truth, *asked, TAUGHT_FRAMING)


def dose_of(name: str) -> tuple[str, float]:
    """Return a model's name without its dose, and the dose; raises UserError for one outside 0 to
    1.
    """
    stem, _, told = name.partition("@")
    try:
        dose = float(told) if told else 1.0
    except ValueError:
        dose = float("nan")
    _check_dose(dose)
    return stem, dose


def _check_dose(dose: float) -> None:
    if not 0 <= dose <= 1:
        raise UserError(f"A dose is a number from 0 to 1, and this one is {dose:g}.")


def _scale(model: models.Model, heads: list[Head], dose: float) -> None:
    """Let heads write `dose` times what they wrote, in place."""
    for layer, head in heads:
        attention = model.module.model.layers[layer].self_attn
        attention.o_proj.weight.data[:, head * D_HEAD : (head + 1) * D_HEAD] *= dose
