"""What a head reads where: one part of the prompt hidden from it, and from it alone, before its
softmax.

Zeroing a head says that it matters; hiding the instruction from it at the last token says that what
it brings there *from the instruction* matters (path patching's question: Wang et al. 2022,
arXiv:2211.00593, section 3). The attention that is left is shared out anew over the other tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sandbagging import metrics
from sandbagging.errors import UserError
from sandbagging.heads import positions
from sandbagging.heads.head import Heads, check
from sandbagging.heads.positions import NAMES, PLACES, Placed
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model, tree_attention
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question

HIDING = "tree, some keys hidden"  # the name of this attention with transformers


def without_reading(
    model: Model,
    asked: Sequence[Question],
    conditions: Sequence[str],
    framing: Framing,
    sets: Sequence[Heads],
    *,
    of: str = "instruction",
    at: Sequence[str] = ("last token", "answer"),
    names: Sequence[str] = NAMES,
    progress: Progress | None = None,
) -> dict[str, Effects]:
    """Return {condition: effects} of hiding the tokens of one place from the heads of each set, at
    the tokens of the places `at` alone; position 0 stays in sight.

    Raises UserError for heads and places that do not exist, and for prompts that lack them.
    """
    _check(model, of, at)
    sets = [tuple(sorted(heads)) for heads in sets]
    for heads in sets:
        check(model, heads)
    found = {}
    for condition in conditions:
        target = positions.placed(model, asked, condition, framing)
        hidden = torch.as_tensor(positions.at_place(target, of))
        readers = torch.as_tensor(np.flatnonzero(np.isin(target.place, at)))
        if not len(hidden) or not len(readers):
            raise UserError(
                f"The {condition} prompts of this framing hold no "
                f"{of if not len(hidden) else at[0]}, so no reading of it can be hidden."
            )
        label = f"{of} hidden, {condition}"
        found[condition] = _effects(model, target, sets, hidden, readers, names, progress, label)
    return found


def _check(model: Model, of: str, at: Sequence[str]) -> None:
    unknown = [place for place in (of, *at) if place not in PLACES]
    if unknown or not at:
        raise UserError(
            f"Unknown place {unknown[0] if unknown else '(none)'!r}; there are {', '.join(PLACES)}."
        )
    if model.remote:
        raise UserError(
            "What a head reads is hidden on this machine alone; load without remote=True."
        )


def _effects(
    model: Model,
    target: Placed,
    sets: Sequence[Heads],
    hidden: Tensor,
    readers: Tensor,
    names: Sequence[str],
    progress: Progress | None,
    label: str,
) -> Effects:
    pack = target.pack
    visible = pack.dense_mask()[readers]  # [reader key]
    visible[:, hidden] = False
    clean = metrics.measure(model, pack, names)
    rows = []
    for done, heads in enumerate(sets, start=1):
        with _hidden(model, heads, readers, visible):
            rows.append(metrics.measure(model, pack, names))
        if progress:
            progress(label, done, len(sets))
    return Effects(
        list(sets),
        pack.question_ids,
        {name: clean[name][0] for name in names},
        {name: np.concatenate([row[name] for row in rows]) for name in names},
    )


@contextmanager
def _hidden(model: Model, heads: Heads, readers: Tensor, visible: Tensor) -> Iterator[None]:
    """Let some heads see at the tokens `readers` what is `visible` [reader key] alone; put the
    model's attention back whatever happens.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    device = model.device
    hiding = partial(
        _attention, heads=by_layer, readers=readers.to(device), visible=visible.to(device)
    )
    ALL_ATTENTION_FUNCTIONS.register(HIDING, hiding)
    ALL_MASK_ATTENTION_FUNCTIONS.register(HIDING, sdpa_mask)
    config = model.module.config
    way, config._attn_implementation = config._attn_implementation, HIDING
    try:
        yield
    finally:
        config._attn_implementation = way


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    heads: Mapping[int, Sequence[int]],
    readers: Tensor,
    visible: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Tree attention, and for some heads of this layer plain attention over what they may see."""
    out, _ = tree_attention.tree_attention(
        module, query, key, value, attention_mask, scaling, **kwargs
    )
    own = heads.get(module.layer_idx, ())
    if own:
        out = out.clone()
    scale = module.head_dim**-0.5 if scaling is None else scaling
    for head in own:
        shared = head * key.shape[1] // query.shape[1]  # keys are shared by a group of heads
        scores = scale * query[:, head, readers] @ key[:, shared].mT
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1, dtype=torch.float32)
        out[:, readers, head] = weights.to(value.dtype) @ value[:, shared]
    return out, None
