"""What a model answers freely when the last prompt token's residual stream is replaced.

The prompts are run once. Each new x then starts in the block above, at the last tokens alone, and
writes on from there: what lies below and before was not changed.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from sandbagging import generation, prompts
from sandbagging.errors import UserError
from sandbagging.models import Model, check_layers, hook_points, packing
from sandbagging.models.hook_points import HookPoint
from sandbagging.models.packing import Pack
from sandbagging.prompts import Framing
from sandbagging.questions import Question
from sandbagging.swaps.interventions import Key


class Desk(NamedTuple):
    """Prompts that were run once, ready to be answered from a new x at their last tokens."""

    model: Model
    layer: int
    most: int  # tokens of an answer
    question_ids: list[str]
    pack: Pack  # with room for the answers
    last: Tensor  # [question] index of the last prompt token
    stored: dict  # keys and values by layer
    x: Tensor  # [question d_model] the clean resid_post at the last tokens
    texts: dict[bytes, list[str]]  # what was written so far, by x


def prepare(
    model: Model,
    asked: Sequence[Question],
    condition: str,
    framing: Framing,
    layer: int,
    most: int = generation.MOST,
) -> Desk:
    """Run the prompts of one condition once, and return what writing from layer `layer` needs.

    Raises UserError for a remote model, which keeps nothing between two steps, and for a layer that
    does not exist.
    """
    if model.remote:
        raise UserError("Answers under an edit need the model on this machine; load it here.")
    check_layers(model, [layer])
    special = not prompts.is_chat(framing)
    items = [
        packing.encode(
            model.tokenizer,
            q.id,
            prompts.render(q, condition, framing, model.tokenizer),
            (),
            special,
        )
        for q in asked
    ]
    pack, last = generation._pack(items, most)
    run = generation._of_prompts(pack, last, most)
    point, stored = HookPoint("resid_post", layer), {}
    _, saved = hook_points.forward(model, pack.part(run), reads=[point], stored=stored, store=True)
    x = saved[point][0, torch.searchsorted(run, last).to(model.device)]
    return Desk(model, layer, most, [i.question_id for i in items], pack, last, stored, x, {})


def write(desk: Desk, x: Tensor) -> list[str]:
    """Return the greedy answers to the desk's questions, in order, from x [question d_model] at
    their last tokens.
    """
    model, pack = desk.model, desk.pack
    written: list[list[int]] = [[] for _ in desk.question_ids]
    unfinished, start = torch.arange(len(written)), (desk.layer + 1, x[None].to(model.device))
    for step in range(desk.most):
        part = pack.part(desk.last[unfinished] + step)
        final, _ = hook_points.forward(model, part, start=start, stored=desk.stored, store=True)
        new, start = generation._next(model, final[0]), None  # only the first token was edited
        for question, token in zip(unfinished.tolist(), new.tolist(), strict=True):
            written[question].append(token)
        on = [not generation._ends(model, written[q]) for q in unfinished.tolist()]
        goes_on = torch.tensor(on)
        unfinished, new = unfinished[goes_on], new[goes_on]
        if not len(unfinished) or step == desk.most - 1:
            break
        pack.input_ids[desk.last[unfinished] + step + 1] = new
    return [generation._text(model, ids) for ids in written]


def write_each(
    desk: Desk, condition: str, framing: Framing, new: Mapping[Key, Tensor], tag: str = ""
) -> pd.DataFrame:
    """Return `write` of each new x {(intervention, error term, seed): [question d_model]}, stacked.

    Columns: question_id, condition, framing, layer, tag, error_term, intervention, seed, text. What
    comes to the same x is written once.
    """
    tables = []
    for (intervention, term, seed), x in new.items():
        key = x.detach().cpu().contiguous().numpy().tobytes()
        if key not in desk.texts:
            desk.texts[key] = write(desk, x)
        shared = {
            "question_id": desk.question_ids,
            "condition": condition,
            "framing": prompts.name_of(framing),
            "layer": desk.layer,
            "tag": tag,
            "error_term": term,
            "intervention": intervention,
            "seed": seed,
        }
        tables.append(pd.DataFrame({**shared, "text": desk.texts[key]}))
    return pd.concat(tables, ignore_index=True)
