"""Where the values that replace nodes come from: another run, or a mean over other prompts at the
same positions.
"""

from collections.abc import Sequence

import torch

from sandbagging.heads import positions
from sandbagging.heads.positions import EVERYWHERE, Bank, Placed
from sandbagging.models import Model, hook_points
from sandbagging.models.packing import Pack
from sandbagging.nodes.interventions import Values, points_of
from sandbagging.prompts import Framing
from sandbagging.questions import Question


def values_of(model: Model, pack: Pack) -> Values:
    """Return the output of every node in an untouched run, {point: [token width]}."""
    _, saved = hook_points.forward(model, pack, reads=points_of(model))
    return {point: value[0] for point, value in saved.items()}


def banks(
    model: Model, asked: Sequence[Question], conditions: Sequence[str], framing: Framing
) -> list[Bank]:
    """Return the outputs of every node over the questions' prompts, a bank a condition."""
    found = []
    for condition in conditions:
        there = positions.placed(model, asked, condition, framing)
        found.append(Bank(condition, there, values_of(model, there.pack)))
    return found


def means(model: Model, target: Placed, drawn_from: Sequence[Bank]) -> Values:
    """Return, for the tokens of a pack, the mean output of every node at the same position of other
    prompts, {point: [token width]}; each bank weighs the same.

    Positions are counted as `heads.positions` does, and position 0, an attention sink, keeps its
    own value. Raises UserError where a bank's prompts lack a part that the pack has.
    """
    at = positions.at_place(target, EVERYWHERE)
    found = [positions.stand_ins(target, bank, at, "mean") for bank in drawn_from]
    new = {point: value.clone() for point, value in values_of(model, target.pack).items()}
    for point, value in new.items():
        value[torch.as_tensor(at)] = torch.stack([of[point] for of in found]).mean(0)
    return new
