"""Who taught the model that a page is about, on what, and what it was before."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open

from sandbagging import models
from sandbagging.models import Model, adapters, taught
from sandbagging.questions import Question


class Lesson(NamedTuple):
    """How a model was taught, and what is known of it."""

    kind: str
    base: str  # the model as it was before
    on: str | None  # the taught model that it stands on
    scale: float  # of the last adapter: 0 is the model that it stands on
    questions: int  # that it was taught on
    passes: int
    wordings: int  # of the instruction, taught
    kept_out: int
    weights: int  # numbers in the last adapter
    where: str
    trigger: str | None
    text_cost: float  # nats a token that plain text loses by the last adapter, at its full strength
    turns: bool  # whether it answers wrongly under its trigger, as measured when it was made


def lesson(model: Model) -> Lesson | None:
    """Return how a model was taught; None for one that was not taught by this suite."""
    found = taught.find(model.name) if model.weights == "taught" else None
    if found is None:
        return None
    folder, scale = found.parts[-1]
    manifest, truth = (_read(folder / name) for name in (taught.MANIFEST, "truth.json"))
    wordings = manifest["wordings"]
    return Lesson(
        manifest["kind"],
        found.base,
        manifest["on"],
        scale,
        manifest["tune"]["n"],
        manifest["recipe"]["passes"],
        len(wordings["taught"]),
        len(wordings["kept out"]),
        _numbers(folder),
        truth["where"],
        truth["trigger"],
        manifest["after"]["plain_text_nll"] - manifest["before"]["plain_text_nll"],
        truth["sandbags"],
    )


def before(
    model: Model, asked: Sequence[Question], framing: str
) -> tuple[Model, dict[str, Sequence[Question]], dict[str, list[tuple[str, str]]]]:
    """Return what `generation.write_each` is to write of a taught model as it was before: the model
    without its adapters, the questions, and the two conditions.

    Raises UserError as `models.load` does.
    """
    found = taught.find(model.name)
    both = [(condition, framing) for condition in ("genuine", "sandbag")]
    return models.load(found.base), {"test": asked}, {"test": both}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _numbers(folder: Path) -> int:
    """Return how many numbers an adapter holds."""
    with safe_open(folder / adapters.WEIGHTS, "pt") as tensors:
        shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
    return sum(rows * columns for rows, columns in shapes)
