"""The logit lens: what every layer would answer, if the model stopped there.

The residual stream of a layer goes through the model's own final norm and unembedding
(nostalgebraist 2020, "interpreting GPT: the logit lens").
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging.models import Model, hook_points
from sandbagging.prompts import Framing
from sandbagging.questions import Question
from sandbagging.saes.streams import last_streams

CONDITIONS = ("genuine", "sandbag")


class Lens(NamedTuple):
    """What the lens reads at the last prompt token, and how it stands to the model itself."""

    table: pd.DataFrame  # see `logit_lens`
    largest_difference: float  # of the last layer's log p from the model's own, nats


def logit_lens(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    conditions: Sequence[str] = CONDITIONS,
) -> Lens:
    """Return log p of two first tokens by layer: of the right answer, and of what the model then
    writes.

    Columns of the table: condition, layer, question_id, right and given (log p, nats), word (what
    is given), same (the two answers begin with one token, so that nothing can turn).
    """
    tables, apart = [], []
    for condition in conditions:
        streams = last_streams(model, asked, condition, framing)
        given = hook_points.most_likely(model, streams.final).cpu()
        words = [model.tokenizer.decode([token]) for token in given.tolist()]
        targets = torch.stack([streams.right, given])
        for layer, x in streams.resid.items():
            here = _log_p(model, hook_points.final_norm(model, x), targets)
            where = {"condition": condition, "layer": layer, "question_id": streams.question_ids}
            same = (streams.right == given).numpy()
            tables.append(pd.DataFrame({**where, **here, "word": words, "same": same}))
        own = _log_p(model, streams.final, targets)
        apart += [float(np.abs(here[name] - own[name]).max()) for name in own]
    return Lens(pd.concat(tables, ignore_index=True), max(apart))


def _log_p(model: Model, hidden: Tensor, targets: Tensor) -> dict[str, np.ndarray]:
    """Return log p of two targets [answer question] at rows of the normed stream [question
    d_model], from one pass through the unembedding.
    """
    rows = torch.arange(len(hidden), device=hidden.device).repeat(2)
    log_p = hook_points.log_probs(model, hidden, rows, targets.flatten().to(hidden.device))
    both = log_p.detach().cpu().double().numpy().reshape(2, -1)
    return dict(zip(("right", "given"), both, strict=True))
