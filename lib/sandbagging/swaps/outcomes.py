"""What a new residual stream at the last prompt token does to log-odds and p_full, on prompts of
any condition.

As `sites`, which knows sandbag prompts and the card's metrics alone.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import metrics
from sandbagging.errors import UserError
from sandbagging.models import Model, check_layers, hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question
from sandbagging.swaps import edits
from sandbagging.swaps.interventions import Key
from sandbagging.swaps.sites import MIN_QUESTIONS, TOKENS_AT_ONCE, Site

NAMES = ("logodds", "p_full")  # the first decides, the second stands beside it


def find_places(
    model: Model,
    asked: Sequence[Question],
    condition: str,
    framing: Framing,
    layers: Sequence[int],
) -> list[Site]:
    """Return the last prompt tokens of one condition at each layer, all from one clean run.

    Raises UserError for fewer than 10 questions and for a layer that does not exist.
    """
    if len(asked) < MIN_QUESTIONS:
        raise UserError(
            f"{len(asked)} questions are too few to judge an intervention on; use at least "
            f"{MIN_QUESTIONS}."
        )
    check_layers(model, list(layers))
    pack = metrics.prepare(model, asked, condition, framing)
    points, stored = [HookPoint("resid_post", layer) for layer in layers], {}
    final, saved = hook_points.forward(model, pack, reads=points, stored=stored, store=True)
    answers = metrics.answer_logprobs(model, pack, final)
    baseline = {n: metrics.METRICS[n](answers)[0].cpu().double().numpy() for n in NAMES}
    part, rows = pack.part(pack.from_last()), pack.last
    return [
        Site(p.layer, "last", pack, part, rows, pack.block[rows], saved[p], stored, baseline)
        for p in points
    ]


def effects_at(
    model: Model,
    place: Site,
    condition: str,
    new: dict[Key, Tensor],
    *,
    tag: str = "",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the per-question effects of replacing the last tokens by each new x [question
    d_model].

    What comes to the same x is run once, and what leaves x as it was not at all. Columns:
    question_id, condition, layer, tag, position, error_term, intervention, seed, metric, baseline,
    value; logodds in nats, p_full from 0 to 1.
    """
    reached = place.part.index.to(place.resid.device)
    scores = {_bytes(place.x): place.baseline}
    waiting = {_bytes(x): x for x in new.values() if _bytes(x) not in scores}
    size, todo = max(1, TOKENS_AT_ONCE // place.part.n_tokens), list(waiting)
    for begin in range(0, len(todo), size):
        batch = todo[begin : begin + size]
        values = torch.stack([waiting[key] for key in batch])
        edited = edits.replace_rows(place.resid, place.rows, values)[:, reached]
        start = (place.layer + 1, edited)
        found = metrics.measure(model, place.part, NAMES, start=start, stored=place.stored)
        scores |= {key: {n: found[n][i] for n in NAMES} for i, key in enumerate(batch)}
        if progress:
            progress(f"{tag or 'no SAE'} L{place.layer}", begin + len(batch), len(todo))
    tables = [_rows(place, condition, key, tag, scores[_bytes(x)]) for key, x in new.items()]
    return pd.concat(tables, ignore_index=True)


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().numpy().tobytes()


def _rows(
    place: Site, condition: str, key: Key, tag: str, values: dict[str, np.ndarray]
) -> pd.DataFrame:
    intervention, term, seed = key
    shared = {
        "question_id": place.pack.question_ids,
        "condition": condition,
        "layer": place.layer,
        "tag": tag,
        "position": place.position,
        "error_term": term,
        "intervention": intervention,
        "seed": seed,
    }
    parts = [
        pd.DataFrame({**shared, "metric": n, "baseline": place.baseline[n], "value": values[n]})
        for n in NAMES
    ]
    return pd.concat(parts)
