"""What can be done to a run: replace heads by zero, a mean or another token's value; replace the residual stream.

Nothing here changes its arguments. Head edits are functions for `hook_points.forward`; edits of the residual stream are plain
tensors, since a run can start from them. `zeroed_weights` is the second route to head ablation: it edits W_O itself.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.models import hook_points
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.packing import Pack

Head = tuple[int, int]  # layer, query head


def head_name(head: Head) -> str:
    """Return a head's name: (17, 6) is "L17H6"."""
    return f"L{head[0]}H{head[1]}"


def parse_heads(names: str | Sequence) -> list[Head]:
    """Return heads from "L17H6 L2H0", from a list of such names, or from a list of [layer, head]."""
    items = re.split(r"[\s,+]+", names.strip()) if isinstance(names, str) else list(names)
    heads = []
    for item in items:
        match = re.fullmatch(r"L(\d+)H(\d+)", item) if isinstance(item, str) else None
        if match:
            heads.append((int(match[1]), int(match[2])))
        elif not isinstance(item, str) and len(item) == 2:
            heads.append((int(item[0]), int(item[1])))
        else:
            raise UserError(f"{item!r} is no head; write heads as L17H6 or [17, 6].")
    return heads


def check_heads(model, heads: Sequence[Head]) -> None:
    """Raise UserError if a head does not exist in the model or is named twice."""
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise UserError(
                f"Head {head_name((layer, head))} does not exist: {model.name} has layers 0 to {model.n_layers - 1} "
                f"with query heads 0 to {model.n_heads - 1}."
            )
    if len(set(heads)) < len(heads):
        raise UserError(f"A head is named twice in {' '.join(map(head_name, heads))}; name each once.")


def head_columns(model, head: int) -> slice:
    """Return a query head's columns in `z` and in W_O's input."""
    return slice(head * model.d_head, (head + 1) * model.d_head)


def ablate_heads(
    model, heads: Sequence[Head], replacement: str = "zero", bank: Mapping[int, Tensor] | None = None, seed: int = 0
) -> dict[HookPoint, Edit]:
    """Return the edits that replace heads at all positions, for `hook_points.forward`.

    `replacement` is "zero", "mean" (over the tokens of `bank`) or "resample" (each token takes the value of a token drawn
    from `bank`); `bank` = {layer: z [token head*d_head]} names the token set, for which see `z_bank`.
    Raises UserError for heads that do not exist and for a replacement without its bank.
    """
    check_heads(model, heads)
    if replacement not in ("zero", "mean", "resample"):
        raise UserError(f"Unknown replacement {replacement!r}; choose zero, mean or resample.")
    if replacement != "zero" and bank is None:
        raise UserError(f"{replacement}-ablation needs the tokens it draws on; give bank=z_bank(...).")
    edits = {}
    for layer in sorted({layer for layer, _ in heads}):
        columns = [head_columns(model, h) for at, h in heads if at == layer]
        value = None if replacement == "zero" else bank[layer]
        edits[HookPoint("z", layer)] = _replace_columns(columns, replacement, value, seed + layer)
    return edits


def _replace_columns(columns: Sequence[slice], replacement: str, bank: Tensor | None, seed: int) -> Edit:
    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        if replacement == "resample":
            drawn = torch.randint(len(bank), (z.shape[1],), generator=torch.Generator().manual_seed(seed))
        for c in columns:
            if replacement == "zero":
                z[..., c] = 0
            elif replacement == "mean":
                z[..., c] = bank[:, c].mean(0)
            else:
                z[..., c] = bank[drawn][:, c]
        return z

    return edit


def ablate_each(
    model, sets: Sequence[Sequence[Head]], replacement: str = "zero", bank: Mapping[int, Tensor] | None = None, seed: int = 0
) -> dict[HookPoint, Edit]:
    """Return the edits under which row i of a batch has the heads of set i replaced, and only those (see `ablate_heads`)."""
    by_row = [ablate_heads(model, heads, replacement, bank, seed) for heads in sets]

    def at(point: HookPoint) -> Edit:
        keep = {point: lambda z: z}
        return lambda z: torch.cat([(edits if point in edits else keep)[point](z[i : i + 1]) for i, edits in enumerate(by_row)])

    return {point: at(point) for edits in by_row for point in edits}


def z_bank(model, packs: Sequence[Pack], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return {layer: z [token head*d_head]} over the question tokens of some packs: a named token set for mean and resample."""
    points = [HookPoint("z", layer) for layer in layers]
    runs = [hook_points.forward(model, pack, reads=points)[1] for pack in packs]
    rows = [pack.trunk().to(model.device) for pack in packs]
    return {p.layer: torch.cat([saved[p][0, at] for saved, at in zip(runs, rows, strict=True)]) for p in points}


@contextlib.contextmanager
def zeroed_weights(model, heads: Sequence[Head]) -> Iterator[None]:
    """Zero the heads' columns of W_O within the block, and put the weights back whatever happens."""
    check_heads(model, heads)
    kept = {layer: hook_points.output_projection(model.module, layer).weight.detach().clone() for layer, _ in heads}
    try:
        for layer, head in heads:
            hook_points.output_projection(model.module, layer).weight.data[:, head_columns(model, head)] = 0
        yield
    finally:
        for layer, weight in kept.items():
            hook_points.output_projection(model.module, layer).weight.data.copy_(weight)


# The residual stream: x is [row d_model], and each function returns a new tensor of that shape.


def swap_code(x: Tensor, sae, code: Tensor, keep_error: bool = True) -> Tensor:
    """Return x with its whole code f(x) replaced by `code` [latent]: x + D(code) - D(f(x)), or D(code) without the error."""
    decoded = sae.decode(code[None])
    return x + decoded - sae.decode(sae.encode(x)) if keep_error else decoded.expand_as(x)


def identity(x: Tensor, sae) -> Tensor:
    """Return D(f(x)): what the SAE alone costs."""
    return sae.decode(sae.encode(x))


def add_noise(x: Tensor, norm: Tensor, seed: int) -> Tensor:
    """Return x plus a random direction of length `norm` [row], drawn anew for each row."""
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    return x + direction / direction.norm(dim=-1, keepdim=True) * norm[:, None]


def replace_rows(resid: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Return resid [batch token d_model] with the tokens `rows` set to `values` [batch row d_model]."""
    edited = resid.expand(len(values), -1, -1).clone()
    edited[:, rows.to(resid.device)] = values.to(edited)
    return edited
