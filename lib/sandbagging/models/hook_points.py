"""The only module that touches nnsight: read and write the residual stream, the heads and the MLPs
by the field's names.

`resid_post` at layer L is the output of block L (transformers' hidden_states[L + 1]); `z` is the
input of the output projection, the heads side by side before W_O mixes them; `mlp` is what an MLP
puts out, its bias included, before it is added to the residual stream.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.models import tree_attention
from sandbagging.models.model import Model
from sandbagging.models.packing import Pack


class HookPoint(NamedTuple):
    """A place in the forward pass: `kind` is "resid_post" or "mlp" ([batch token d_model]), or "z"
    ([batch token head*d_head]).
    """

    kind: str
    layer: int


class Names(NamedTuple):
    """Where an architecture keeps the parts that this suite reads and writes."""

    blocks: str
    output_projection: str  # below a block
    down_projection: str  # of the MLP, below a block
    final_norm: str
    unembedding: str


NAMES = {
    "llama": Names("model.layers", "self_attn.o_proj", "mlp.down_proj", "model.norm", "lm_head"),
    "gpt_neox": Names(
        "gpt_neox.layers",
        "attention.dense",
        "mlp.dense_4h_to_h",
        "gpt_neox.final_layer_norm",
        "lm_head",
    ),
}

Edit = Callable[[Tensor], Tensor]


def envoy(module: torch.nn.Module, tokenizer: Any) -> Any:
    """Return a transformers model under nnsight."""
    from nnsight.modeling.transformers import TransformersModel

    return TransformersModel(module, tokenizer=tokenizer, task="text-generation")


def remote_envoy(source: str, revision: str | None, tokenizer: Any) -> Any:
    """Return a model of which only the shapes are here: its traces run on nnsight's remote service
    (NDIF).
    """
    from nnsight.modeling.transformers import TransformersModel

    return TransformersModel(source, revision=revision, tokenizer=tokenizer, task="text-generation")


@contextlib.contextmanager
def _sentences(model: Model) -> Iterator[None]:
    """Turn what can go wrong between here and the remote service into one sentence."""
    if model.remote is not True:
        yield
        return
    import httpx
    from nnsight.intervention.backends.remote import RemoteError

    try:
        yield
    except (RemoteError, httpx.HTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
        ways = "check the network and NDIF_API_KEY, or load the model here (remote=False)"
        raise UserError(f"The remote service could not be used ({reason}); {ways}.") from None


# What the functions that run inside a trace are defined in: a remote trace brings their source
# along, since the service has none of it.
INSIDE_TRACES = (
    "sandbagging.models.hook_points",
    "sandbagging.heads.interventions",
    "sandbagging.heads.patching",
    "sandbagging.nodes.interventions",
)


def _ship() -> None:
    from nnsight import ndif

    for name in INSIDE_TRACES:
        if name in sys.modules:
            ndif.register(sys.modules[name])


def output_projection(module: torch.nn.Module, layer: int) -> torch.nn.Linear:
    """Return W_O of one layer: its input is `z`."""
    names = NAMES[module.config.model_type]
    return attrgetter(names.output_projection)(attrgetter(names.blocks)(module)[layer])


def down_projection(module: torch.nn.Module, layer: int) -> torch.nn.Linear:
    """Return W_down of one layer's MLP: its output is `mlp`."""
    names = NAMES[module.config.model_type]
    return attrgetter(names.down_projection)(attrgetter(names.blocks)(module)[layer])


def unembedding(module: torch.nn.Module) -> torch.nn.Linear:
    """Return W_U, which maps the normed residual stream to logits."""
    return module.get_output_embeddings()


def forward(
    model: Model,
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

    `edits` maps a hook point to a function from its value to the new one, which must not change its
    argument. `start` = (L, resid [batch token d_model]) begins at block L with this residual
    stream: the blocks below are skipped. `store` fills `stored` with every layer's keys and values
    of the tokens that are run; a part of a pack (`Pack.part`) reads the rest from there. `dense`
    uses an ordinary attention mask in place of tree attention (slower, the same numbers). Returns
    the residual stream after the final norm [batch token d_model] and the values read.
    """
    if model.remote and pack.index is not None:
        return _part_of_whole(model, pack, edits or {}, reads, start, batch, stored)
    edits, saved, first = edits or {}, {}, 0
    if start is not None:
        first, resid = start[0], start[1].to(model.device)
        batch = len(resid)
    lm, names, inputs = model.lm, NAMES[model.architecture], _inputs(model, pack, batch)
    if dense or model.remote:
        inputs["attention_mask"] = pack.dense_mask().to(model.device).expand(batch, 1, -1, -1)
    else:
        inputs["tree"] = tree_attention.tree_of(pack, model.device, stored, store)
    # A remote run stores the residual stream in place of keys and values.
    kept = (
        [HookPoint("resid_post", layer) for layer in range(model.n_layers)]
        if store and model.remote
        else []
    )
    wanted = {*reads, *kept}
    with _sentences(model), torch.no_grad(), lm.trace(**inputs):
        for layer, block in enumerate(attrgetter(names.blocks)(lm)):
            if layer < first:
                block.skip(resid)
                continue
            point, heads = HookPoint("z", layer), attrgetter(names.output_projection)(block)
            if point in edits:
                heads.input = edits[point](heads.input)
            if point in wanted:
                saved[point] = heads.input.save()
            point, mlp = HookPoint("mlp", layer), attrgetter(names.down_projection)(block)
            if point in edits:
                mlp.output = edits[point](mlp.output)
            if point in wanted:
                saved[point] = mlp.output.save()
            point = HookPoint("resid_post", layer)
            if point in edits:
                block.output = edits[point](block.output)
            if point in wanted:
                saved[point] = block.output.save()
        final = attrgetter(names.final_norm)(lm).output.save()
    if kept:
        stored |= {point.layer: saved[point] for point in kept}
    return final, {point: saved[point] for point in reads}


def _part_of_whole(
    model: Model,
    pack: Pack,
    edits: Mapping[HookPoint, Edit],
    reads: Sequence[HookPoint],
    start: tuple[int, Tensor] | None,
    batch: int,
    stored: Mapping[int, Tensor],
) -> tuple[Tensor, dict[HookPoint, Tensor]]:
    """Run the whole pack where a part is asked for: a remote run has no keys and values to take
    over, and starts from a stored stream.
    """
    at = pack.index
    if start is not None:
        first, resid = start
        whole = stored[first - 1].expand(len(resid), -1, -1).clone()
        whole[:, at] = resid.to(whole)
        start = (first, whole)

    def on_part(edit: Edit) -> Edit:
        def edited(value: Tensor) -> Tensor:
            value = value.clone()
            value[:, at] = edit(value[:, at])
            return value

        return edited

    final, saved = forward(
        model,
        pack.whole,
        edits={point: on_part(edit) for point, edit in edits.items()},
        reads=reads,
        start=start,
        batch=batch,
    )
    return final[:, at], {point: value[:, at] for point, value in saved.items()}


def _inputs(model: Model, pack: Pack, batch: int) -> dict[str, object]:
    """Return what a forward call of the whole pack is given, but for the tree."""
    return {
        "input_ids": pack.input_ids.to(model.device)[None].expand(batch, -1),
        "position_ids": pack.position_ids.to(model.device)[None],
        # A mask of four axes is handed on unread, so that transformers builds none of its own.
        "attention_mask": torch.ones(batch, 1, 1, 1, device=model.device),
        "use_cache": False,
        "logits_to_keep": 1,
    } | _where(model)


def _where(model: Model) -> dict[str, object]:
    """Return what tells a trace where to run."""
    if not model.remote:
        return {}
    _ship()
    return {"remote": model.remote}


def gradients(
    model: Model, pack: Pack, objective: Callable[[Tensor], Tensor]
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return z of every layer [token head*d_head] and the gradient of an objective by it, from one
    forward and one backward pass.

    `objective` maps the residual stream after the final norm [batch token d_model] to one number.
    """
    points = [HookPoint("z", layer) for layer in range(model.n_layers)]
    values, by = slopes(model, pack, objective, points)
    return {p.layer: values[p] for p in points}, {p.layer: by[p] for p in points}


# What block 0 reads: known to `slopes` alone.
EMBEDDING = HookPoint("resid_pre", 0)


def slopes(
    model: Model,
    pack: Pack,
    objective: Callable[[Tensor], Tensor],
    points: Sequence[HookPoint],
    stream: Tensor | None = None,
) -> tuple[dict[HookPoint, Tensor], dict[HookPoint, Tensor]]:
    """Return the values at EMBEDDING and at points "z" and "mlp", each [token width], and the
    gradients of an objective by them, from one forward and one backward pass.

    `objective` as in `gradients`; `stream` [token d_model] takes the place of the embedding.
    """
    if model.remote is True:
        raise UserError(
            "Gradients need the model's weights on this machine; load it without remote=True."
        )
    lm, names, saved = model.lm, NAMES[model.architecture], {}
    inputs = _inputs(model, pack, 1)
    if model.remote:
        inputs["attention_mask"] = pack.dense_mask().to(model.device)[None, None]
    else:
        inputs["tree"] = tree_attention.tree_of(pack, model.device)
    with torch.enable_grad(), lm.trace(**inputs):
        for layer, block in enumerate(attrgetter(names.blocks)(lm)):
            if layer == 0:
                # The weights ask for no gradient, so the graph begins here.
                begin = block.input if stream is None else stream[None]
                block.input = begin.detach().requires_grad_()
                saved[EMBEDDING] = block.input.save()
            if HookPoint("z", layer) in points:
                heads = attrgetter(names.output_projection)(block)
                saved[HookPoint("z", layer)] = heads.input.save()
            if HookPoint("mlp", layer) in points:
                mlp = attrgetter(names.down_projection)(block)
                saved[HookPoint("mlp", layer)] = mlp.output.save()
        final = attrgetter(names.final_norm)(lm).output.save()
    with torch.enable_grad():
        found = torch.autograd.grad(objective(final), list(saved.values()))
    values = {point: value[0].detach() for point, value in saved.items()}
    return values, {point: slope[0] for point, slope in zip(saved, found, strict=True)}


def final_norm(model: Model, resid: Tensor) -> Tensor:
    """Return the residual stream after the last block, normed as the model does before the
    unembedding.
    """
    lm, where = model.lm, NAMES[model.architecture].final_norm
    if not model.remote:
        with torch.no_grad():
            return attrgetter(where)(model.module)(resid)
    with (
        _sentences(model),
        torch.no_grad(),
        lm.trace(input_ids=torch.zeros(1, 1, dtype=torch.long), **_where(model)),
    ):
        found = attrgetter(where)(lm)(resid).save()
    return found


def log_probs(model: Model, hidden: Tensor, row: Tensor, target: Tensor) -> Tensor:
    """Return log p of token ids [target], each read at a row of the normed residual stream [row
    d_model], in float32.
    """
    if not model.remote:
        logits = unembedding(model.module)(hidden).float()
        return logits[row, target] - torch.logsumexp(logits, -1)[row]
    lm, where = model.lm, NAMES[model.architecture].unembedding
    with (
        _sentences(model),
        torch.no_grad(),
        lm.trace(input_ids=torch.zeros(1, 1, dtype=torch.long), **_where(model)),
    ):
        logits = attrgetter(where)(lm)(hidden).float()
        # not the logits, which are large, but what is read
        found = (logits[row, target] - torch.logsumexp(logits, -1)[row]).save()
    return found


def most_likely(model: Model, hidden: Tensor) -> Tensor:
    """Return the token id [row] with the largest logit at each row of the normed residual stream
    [row d_model].
    """
    if not model.remote:
        with torch.no_grad():
            return unembedding(model.module)(hidden).argmax(-1)
    lm, where = model.lm, NAMES[model.architecture].unembedding
    with (
        _sentences(model),
        torch.no_grad(),
        lm.trace(input_ids=torch.zeros(1, 1, dtype=torch.long), **_where(model)),
    ):
        found = attrgetter(where)(lm)(hidden).argmax(-1).save()
    return found


def through_frozen_norm(model: Model, part: Tensor, stream: Tensor) -> Tensor:
    """Return what a part [row d_model] of the residual stream [row d_model] becomes in the final
    norm, at the whole stream's scale.
    """
    norm = attrgetter(NAMES[model.architecture].final_norm)(model.module)
    if isinstance(norm, torch.nn.LayerNorm):
        part, stream, epsilon = (
            part - part.mean(-1, keepdim=True),
            stream - stream.mean(-1, keepdim=True),
            norm.eps,
        )
    else:
        epsilon = norm.variance_epsilon
    return part / (stream.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * norm.weight
