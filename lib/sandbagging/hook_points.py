"""The only module that touches nnsight: read and write the residual stream and the heads by the field's names.

`resid_post` at layer L is the output of block L (transformers' hidden_states[L + 1]); `z` is the input of the output
projection, the heads side by side before W_O mixes them.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from sandbagging import tree_attention
from sandbagging.packing import Pack


class HookPoint(NamedTuple):
    """A place in the forward pass: `kind` is "resid_post" ([batch token d_model]) or "z" ([batch token head*d_head])."""

    kind: str
    layer: int


class Names(NamedTuple):
    """Where an architecture keeps the parts that this suite reads and writes."""

    blocks: str
    output_projection: str  # below a block
    final_norm: str


NAMES = {
    "llama": Names("model.layers", "self_attn.o_proj", "model.norm"),
    "gpt_neox": Names("gpt_neox.layers", "attention.dense", "gpt_neox.final_layer_norm"),
}

Edit = Callable[[Tensor], Tensor]


def envoy(module: torch.nn.Module, tokenizer):
    """Return a transformers model under nnsight."""
    from nnsight.modeling.transformers import TransformersModel

    return TransformersModel(module, tokenizer=tokenizer, task="text-generation")


def output_projection(module: torch.nn.Module, layer: int) -> torch.nn.Linear:
    """Return W_O of one layer: its input is `z`."""
    names = NAMES[module.config.model_type]
    return attrgetter(names.output_projection)(attrgetter(names.blocks)(module)[layer])


def unembedding(module: torch.nn.Module) -> torch.nn.Linear:
    """Return W_U, which maps the normed residual stream to logits."""
    return module.get_output_embeddings()


def run(
    model,
    pack: Pack,
    *,
    edits: Mapping[HookPoint, Edit] | None = None,
    reads: Sequence[HookPoint] = (),
    start: tuple[int, Tensor] | None = None,
    batch: int = 1,
    dense: bool = False,
    stored: tree_attention.KeysValues | None = None,
    store: bool = False,
) -> tuple[Tensor, dict[HookPoint, Tensor]]:
    """Run a pack through the model, editing and reading on the way.

    `edits` maps a hook point to a function from its value to the new one, which must not change its argument.
    `start` = (L, resid [batch token d_model]) begins at block L with this residual stream: the blocks below are skipped.
    `store` fills `stored` with every layer's keys and values; a part of a pack (`Pack.part`) reads the rest from there.
    `dense` uses an ordinary attention mask in place of tree attention (slower, the same numbers).
    Returns the residual stream after the final norm [batch token d_model] and the values read.
    """
    edits, saved, first = edits or {}, {}, 0
    if start is not None:
        first, resid = start[0], start[1].to(model.device)
        batch = len(resid)
    names, inputs = NAMES[model.architecture], _inputs(model, pack, batch)
    if dense:
        inputs["attention_mask"] = pack.dense_mask().to(model.device).expand(batch, 1, -1, -1)
    else:
        inputs["tree"] = tree_attention.tree_of(pack, model.device, stored, store)
    with torch.no_grad(), model.lm.trace(**inputs):
        for layer, block in enumerate(attrgetter(names.blocks)(model.lm)):
            if layer < first:
                block.skip(resid)
                continue
            point, heads = HookPoint("z", layer), attrgetter(names.output_projection)(block)
            if point in edits:
                heads.input = edits[point](heads.input)
            if point in reads:
                saved[point] = heads.input.save()
            point = HookPoint("resid_post", layer)
            if point in edits:
                block.output = edits[point](block.output)
            if point in reads:
                saved[point] = block.output.save()
        final = attrgetter(names.final_norm)(model.lm).output.save()
    return final, saved


def _inputs(model, pack: Pack, batch: int) -> dict[str, object]:
    """Return what a forward call of the whole pack is given, but for the tree."""
    return {
        "input_ids": pack.input_ids.to(model.device)[None].expand(batch, -1),
        "position_ids": pack.position_ids.to(model.device)[None],
        # A mask of four axes is handed on unread, so that transformers builds none of its own.
        "attention_mask": torch.ones(batch, 1, 1, 1, device=model.device),
        "use_cache": False,
        "logits_to_keep": 1,
    }


def gradients(model, pack: Pack, objective: Callable[[Tensor], Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return z of every layer [token head*d_head] and the gradient of an objective by it, from one forward and one backward pass.

    `objective` maps the residual stream after the final norm [batch token d_model] to one number.
    """
    names, saved = NAMES[model.architecture], {}
    inputs = _inputs(model, pack, 1) | {"tree": tree_attention.tree_of(pack, model.device)}
    with torch.enable_grad(), model.lm.trace(**inputs):
        for layer, block in enumerate(attrgetter(names.blocks)(model.lm)):
            heads = attrgetter(names.output_projection)(block)
            if layer == 0:
                # The weights ask for no gradient, so the graph begins here.
                heads.input = heads.input.detach().requires_grad_()
            saved[layer] = heads.input.save()
        final = attrgetter(names.final_norm)(model.lm).output.save()
    with torch.enable_grad():
        found = torch.autograd.grad(objective(final), list(saved.values()))
    return {layer: z[0].detach() for layer, z in saved.items()}, {layer: g[0] for layer, g in zip(saved, found, strict=True)}


def final_norm(model, resid: Tensor) -> Tensor:
    """Return the residual stream after the last block, normed as the model does before the unembedding."""
    with torch.no_grad():
        return attrgetter(NAMES[model.architecture].final_norm)(model.module)(resid)


def through_frozen_norm(model, part: Tensor, stream: Tensor) -> Tensor:
    """Return what a part [row d_model] of the residual stream [row d_model] becomes in the final norm, at the whole stream's scale."""
    norm = attrgetter(NAMES[model.architecture].final_norm)(model.module)
    if isinstance(norm, torch.nn.LayerNorm):
        part, stream, epsilon = part - part.mean(-1, keepdim=True), stream - stream.mean(-1, keepdim=True), norm.eps
    else:
        epsilon = norm.variance_epsilon
    return part / (stream.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * norm.weight
