"""What a head looks at and what it writes: attention patterns, and direct logit attribution.

Both describe; neither shows that a head matters. Attention says where values come from, not what
they hold. Direct logit attribution sees what a head adds to the answer's logits itself, not what
later layers make of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import metrics, prompts
from sandbagging.heads import interventions
from sandbagging.heads.head import Head, check
from sandbagging.models import Model, hook_points, packing
from sandbagging.models.hook_points import HookPoint
from sandbagging.models.packing import Encoded, Pack
from sandbagging.progress import Progress
from sandbagging.questions import Question

# the first token is a place to look at nothing, whatever it says
REGIONS = ("sink", *prompts.REGIONS)


@contextmanager
def _weights_handed_out(model: Model) -> Iterator[None]:
    """Let the model attend in the only way that returns its weights."""
    config = model.module.config
    way = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = way


def _batch(model: Model, ids: Sequence[int]) -> Tensor:
    return torch.tensor([list(ids)], device=model.device)


def attention_from_last(
    model: Model,
    encoded: Sequence[Encoded],
    heads: Sequence[Head],
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """Return each head's attention from the last token of each prompt, [head key]; rows sum to 1.

    What the prompts share at the front is run once and its keys and values are kept.
    """
    check(model, list(heads))
    n = packing.shared_prefix([item.prompt for item in encoded])
    weights = []
    with _weights_handed_out(model), torch.no_grad():
        shared = _batch(model, encoded[0].prompt[:n])
        kept = model.module(shared, use_cache=True).past_key_values if n else None
        for done, item in enumerate(encoded, start=1):
            own = _batch(model, item.prompt[n:])
            output = model.module(
                own, past_key_values=kept, use_cache=n > 0, output_attentions=True
            )
            last = [output.attentions[layer][0, head, -1] for layer, head in heads]
            weights.append(torch.stack(last).double().cpu().numpy())
            if kept is not None:
                kept.crop(n - len(item.prompt))  # this prompt's own tokens go, the shared ones stay
            if progress:
                progress("attention", done, len(encoded))
    return weights


def token_regions(model: Model, text: str, question: Question, framing: str) -> np.ndarray:
    """Return the region of each prompt token, [token] of REGIONS.

    The first token is the sink; every other belongs to the region of its last character.
    """
    special = not prompts.is_chat(framing)
    tokens = model.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ends = [max(end, 1) for _, end in tokens.offset_mapping]
    parts = prompts.regions(text, question)
    borders = [end for _, end in parts.values()]
    names = np.array(list(parts))[np.searchsorted(borders, ends)]
    return np.array(["sink", *names[1:]])


def attention_shares(
    model: Model,
    asked: Sequence[Question],
    conditions: Sequence[str],
    framing: str,
    heads: Sequence[Head],
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return each head's attention from the last prompt token to the parts of a prompt, as shares.

    Rows head, condition, region (of REGIONS), question_id, share (0 to 1) and tokens, how many the
    region has. Raises UserError where a prompt lacks its question's text.
    """
    tables = []
    for condition in conditions:
        prompted = [(q, *metrics.encode(model, q, condition, framing)) for q in asked]
        weights = attention_from_last(model, [item for _, _, item in prompted], heads, progress)
        places = [token_regions(model, text, q, framing) for q, text, _ in prompted]
        pairs = list(zip(weights, places, strict=True))
        for region in REGIONS:
            mass = np.array([w[:, at == region].sum(1) for w, at in pairs])  # [question head]
            tokens = [int((at == region).sum()) for at in places]
            for head, shares in zip(heads, mass.T, strict=True):
                where = {"head": str(Head(*head)), "condition": condition, "region": region}
                own = {"question_id": [q.id for q in asked], "share": shares, "tokens": tokens}
                tables.append(pd.DataFrame({**where, **own}))
    return pd.concat(tables, ignore_index=True)


def head_writes(model: Model, pack: Pack, heads: Sequence[Head]) -> dict[Head, Tensor]:
    """Return what each head adds to the normed stream at the last tokens, [question d_model].

    The final norm is frozen at the scale that the whole stream gives it, so that heads add up
    (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
    """
    check(model, list(heads))
    last = HookPoint("resid_post", model.n_layers - 1)
    points = {layer: HookPoint("z", layer) for layer in sorted({layer for layer, _ in heads})}
    _, saved = hook_points.forward(model, pack, reads=[last, *points.values()])
    at = pack.last.to(model.device)
    stream, written = saved[last][0, at], {}
    for layer, head in heads:
        columns = interventions.head_columns(model, head)
        weight = hook_points.output_projection(model.module, layer).weight[:, columns]
        written[layer, head] = hook_points.through_frozen_norm(
            model, saved[points[layer]][0, at][:, columns] @ weight.T, stream
        )
    return written


def logit_attribution(model: Model, pack: Pack, heads: Sequence[Head]) -> dict[Head, np.ndarray]:
    """Return what each head adds to the logits of the options' first tokens, [question option],
    correct option first, in nats.
    """
    shape = (len(pack.question_ids), pack.n_options)
    first = pack.target[
        torch.searchsorted(pack.target_option, torch.arange(shape[0] * shape[1]))
    ].view(shape)
    # [question option d_model]
    rows = hook_points.unembedding(model.module).weight[first.to(model.device)]
    return {
        head: torch.einsum("qod,qd->qo", rows.float(), written.float()).cpu().double().numpy()
        for head, written in head_writes(model, pack, heads).items()
    }


def logit_pushes(
    model: Model,
    asked: Sequence[Question],
    conditions: Sequence[str],
    framing: str,
    heads: Sequence[Head],
) -> pd.DataFrame:
    """Return each head's push on the logits of the options' first tokens, in nats, by question.

    Rows head, condition, to ("correct", "wrong" (mean of the wrong options) or "correct - wrong"),
    question_id, value. An option that shares its first token with the correct one cannot be told
    from it here.
    """
    tables = []
    for condition in conditions:
        pack = metrics.prepare(model, asked, condition, framing)
        for head, pushed in logit_attribution(model, pack, heads).items():
            sides = {"correct": pushed[:, 0], "wrong": pushed[:, 1:].mean(1)}
            sides["correct - wrong"] = sides["correct"] - sides["wrong"]
            for to, values in sides.items():
                where = {"head": str(Head(*head)), "condition": condition, "to": to}
                own = {"question_id": pack.question_ids, "value": values}
                tables.append(pd.DataFrame({**where, **own}))
    return pd.concat(tables, ignore_index=True)
