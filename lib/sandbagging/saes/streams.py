"""The residual stream at the last prompt token, at every layer, from one run of the prompts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from sandbagging import metrics
from sandbagging.models import Model, check_layers, hook_points, packing
from sandbagging.models.hook_points import HookPoint
from sandbagging.prompts import Framing
from sandbagging.questions import Question


class Streams(NamedTuple):
    """The last prompt tokens of some questions, in the order in which they were asked."""

    question_ids: tuple[str, ...]
    resid: dict[int, Tensor]  # layer -> resid_post [question d_model]
    final: Tensor  # [question d_model] behind the final norm
    right: Tensor  # [question] first token of the right answer


def last_streams(
    model: Model,
    asked: Sequence[Question],
    condition: str,
    framing: Framing,
    layers: Sequence[int] | None = None,
) -> Streams:
    """Return resid_post at the last prompt token at `layers` (all by default); raises UserError for
    a layer that does not exist.
    """
    layers = range(model.n_layers) if layers is None else layers
    check_layers(model, list(layers))
    items = [metrics.encode(model, q, condition, framing)[1] for q in asked]
    # An option of one token is read at the prompt's last token and never run itself.
    pack = packing.pack([replace(item, options=[item.options[0][:1]]) for item in items])
    points = [HookPoint("resid_post", layer) for layer in layers]
    final, saved = hook_points.forward(model, pack, reads=points)
    resid = {point.layer: value[0, pack.last.to(value.device)] for point, value in saved.items()}
    right = torch.tensor([item.options[0][0] for item in items])
    return Streams(pack.question_ids, resid, final[0, pack.last.to(final.device)], right)
