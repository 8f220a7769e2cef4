"""What can be done to heads in a run: replace them by zero, a mean or another token's value.

Nothing here changes its arguments: edits are functions for `hook_points.forward`. `zeroed_weights`
is the second route to ablation: it edits W_O itself.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.heads.head import Head, check
from sandbagging.models import Model, hook_points
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.packing import Pack


def head_columns(model: Model, head: int) -> slice:
    """Return a query head's columns in `z` and in W_O's input."""
    return slice(head * model.d_head, (head + 1) * model.d_head)


def ablate_heads(
    model: Model,
    heads: Sequence[Head],
    replacement: str = "zero",
    bank: Mapping[int, Tensor] | None = None,
    seed: int = 0,
) -> dict[HookPoint, Edit]:
    """Return the edits that replace heads at all positions, for `hook_points.forward`.

    `replacement` is "zero", "mean" (over the tokens of `bank`) or "resample" (each token takes the
    value of a token drawn from `bank`); `bank` = {layer: z [token head*d_head]} names the token
    set, for which see `z_bank`. Raises UserError for heads that do not exist and for a replacement
    without its bank.
    """
    check(model, heads)
    if replacement not in ("zero", "mean", "resample"):
        raise UserError(f"Unknown replacement {replacement!r}; choose zero, mean or resample.")
    if replacement != "zero" and bank is None:
        raise UserError(
            f"{replacement}-ablation needs the tokens it draws on; give bank=z_bank(...)."
        )
    edits = {}
    for layer in sorted({layer for layer, _ in heads}):
        columns = [head_columns(model, h) for at, h in heads if at == layer]
        value = None if replacement == "zero" else bank[layer]
        edits[HookPoint("z", layer)] = _replace_columns(columns, replacement, value, seed + layer)
    return edits


def _replace_columns(
    columns: Sequence[slice], replacement: str, bank: Tensor | None, seed: int
) -> Edit:
    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        if replacement == "resample":
            drawn = torch.randint(
                len(bank), (z.shape[1],), generator=torch.Generator().manual_seed(seed)
            )
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
    model: Model,
    sets: Sequence[Sequence[Head]],
    replacement: str = "zero",
    bank: Mapping[int, Tensor] | None = None,
    seed: int = 0,
) -> dict[HookPoint, Edit]:
    """Return the edits under which row i of a batch has the heads of set i replaced, and only those
    (see `ablate_heads`).
    """
    by_row = [ablate_heads(model, heads, replacement, bank, seed) for heads in sets]

    def at(point: HookPoint) -> Edit:
        keep = {point: lambda z: z}
        return lambda z: torch.cat(
            [
                (edits if point in edits else keep)[point](z[i : i + 1])
                for i, edits in enumerate(by_row)
            ]
        )

    return {point: at(point) for edits in by_row for point in edits}


def z_bank(model: Model, packs: Sequence[Pack], layers: Sequence[int]) -> dict[int, Tensor]:
    """Return {layer: z [token head*d_head]} over the question tokens of some packs: a named token
    set for mean and resample.
    """
    points = [HookPoint("z", layer) for layer in layers]
    runs = [hook_points.forward(model, pack, reads=points)[1] for pack in packs]
    rows = [pack.trunk().to(model.device) for pack in packs]
    return {
        p.layer: torch.cat([saved[p][0, at] for saved, at in zip(runs, rows, strict=True)])
        for p in points
    }


@contextlib.contextmanager
def zeroed_weights(model: Model, heads: Sequence[Head]) -> Iterator[None]:
    """Zero the heads' columns of W_O within the block; put the weights back whatever happens."""
    check(model, heads)
    kept = {
        layer: hook_points.output_projection(model.module, layer).weight.detach().clone()
        for layer, _ in heads
    }
    try:
        for layer, head in heads:
            hook_points.output_projection(model.module, layer).weight.data[
                :, head_columns(model, head)
            ] = 0
        yield
    finally:
        for layer, weight in kept.items():
            hook_points.output_projection(model.module, layer).weight.data.copy_(weight)
