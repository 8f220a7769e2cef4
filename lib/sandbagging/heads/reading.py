"""What a head looks at and what it writes: attention patterns, and direct logit attribution.

Both describe; neither shows that a head matters. Attention says where values come from, not what they hold. Direct logit attribution
sees what a head adds to the answer's logits itself, not what later layers make of it.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import statistics
from sandbagging.heads import interventions
from sandbagging.heads.interventions import Head, head_name
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.models.packing import Pack


def attention_patterns(model, ids: Sequence[int], heads: Sequence[Head]) -> dict[Head, Tensor]:
    """Return each head's attention weights over one sequence of token ids, [query key]; every row sums to 1."""
    interventions.check_heads(model, list(heads))
    config = model.module.config
    way = config._attn_implementation
    config._attn_implementation = "eager"  # the only way that hands its weights out
    try:
        with torch.no_grad():
            found = model.module(torch.tensor([list(ids)], device=model.device), output_attentions=True, use_cache=False).attentions
    finally:
        config._attn_implementation = way
    return {(layer, head): found[layer][0, head].float().cpu() for layer, head in heads}


def head_writes(model, pack: Pack, heads: Sequence[Head]) -> dict[Head, Tensor]:
    """Return what each head adds to the normed residual stream at the last prompt tokens, [question d_model].

    The final norm is frozen at the scale that the whole stream gives it, so that heads add up (Elhage et al. 2021, "A Mathematical
    Framework for Transformer Circuits").
    """
    interventions.check_heads(model, list(heads))
    last = HookPoint("resid_post", model.n_layers - 1)
    points = {layer: HookPoint("z", layer) for layer in sorted({layer for layer, _ in heads})}
    _, saved = hook_points.forward(model, pack, reads=[last, *points.values()])
    at = pack.last.to(model.device)
    stream, written = saved[last][0, at], {}
    for layer, head in heads:
        columns = interventions.head_columns(model, head)
        weight = hook_points.output_projection(model.module, layer).weight[:, columns]
        written[layer, head] = hook_points.through_frozen_norm(model, saved[points[layer]][0, at][:, columns] @ weight.T, stream)
    return written


def logit_attribution(model, pack: Pack, heads: Sequence[Head]) -> dict[Head, np.ndarray]:
    """Return what each head adds to the logits of the options' first tokens, [question option], correct option first, in nats."""
    shape = (len(pack.question_ids), pack.n_options)
    first = pack.target[torch.searchsorted(pack.target_option, torch.arange(shape[0] * shape[1]))].view(shape)
    rows = hook_points.unembedding(model.module).weight[first.to(model.device)]  # [question option d_model]
    return {head: torch.einsum("qod,qd->qo", rows.float(), written.float()).cpu().double().numpy()
            for head, written in head_writes(model, pack, heads).items()}  # fmt: skip


def logit_table(model, packs: Mapping[str, Pack], heads: Sequence[Head], seed: int = 0) -> pd.DataFrame:
    """Return, per head and condition, its mean push on logits of first answer tokens, in nats with CI95 over questions.

    Rows head, condition, to ("correct", "wrong" (mean of the wrong options) or "correct - wrong"), value, low, high, n. An option that
    shares its first token with the correct one cannot be told from it here.
    """
    rows = []
    for condition, pack in packs.items():
        for head, pushed in logit_attribution(model, pack, heads).items():
            sides = {"correct": pushed[:, 0], "wrong": pushed[:, 1:].mean(1)}
            sides["correct - wrong"] = sides["correct"] - sides["wrong"]
            for to, values in sides.items():
                found = statistics.mean_ci(values, unit="nats", seed=seed)
                rows.append({"head": head_name(head), "condition": condition, "to": to, "value": found.value, "low": found.low,
                             "high": found.high, "n": found.n})  # fmt: skip
    return pd.DataFrame(rows)


def pattern_table(model, item, heads: Sequence[Head]) -> tuple[dict[str, Tensor], list[str]]:
    """Return, for one prompt (packing.Encoded), each head's attention from the last prompt token to every token, and the tokens' texts."""
    found = attention_patterns(model, item.prompt, heads)
    texts = [model.tokenizer.decode([token]) for token in item.prompt]
    return {head_name(head): weights[-1] for head, weights in found.items()}, texts
