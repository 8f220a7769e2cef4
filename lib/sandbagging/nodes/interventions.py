"""What can be done to nodes in a run: put zero, or values from elsewhere, in their place.

Nothing here changes its arguments: edits are functions for `hook_points.forward`. `zeroed_weights`
is the second route: it edits W_O and W_down themselves.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from sandbagging.heads import interventions as of_heads
from sandbagging.models import Model, hook_points
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.nodes.node import Mlp, Node, Nodes, check

# hook point -> [token width]: what takes the place of a node's output, token by token
Values = Mapping[HookPoint, Tensor]


def point_of(node: Node) -> HookPoint:
    """Return where a node's output is read and written."""
    return HookPoint("mlp" if isinstance(node, Mlp) else "z", node.layer)


def columns_of(model: Model, node: Node) -> slice:
    """Return a node's columns at its hook point: an MLP has them all."""
    return slice(None) if isinstance(node, Mlp) else of_heads.head_columns(model, node.head)


def points_of(model: Model) -> list[HookPoint]:
    """Return the hook points of all nodes, in the order in which a run reaches them."""
    return [HookPoint(kind, layer) for layer in range(model.n_layers) for kind in ("z", "mlp")]


def replace_each(
    model: Model, sets: Sequence[Nodes], values: Values | None = None, others: bool = False
) -> dict[HookPoint, Edit]:
    """Return the edits under which row i of a batch has the nodes of set i replaced at all tokens:
    by zero, or by `values`.

    With `others`, every node *but* those of set i is replaced. Raises UserError for nodes that do
    not exist.
    """
    masks = {
        point: torch.zeros(
            len(sets), model.d_model if point.kind == "mlp" else model.n_heads * model.d_head
        ).bool()
        for point in points_of(model)
    }
    for row, nodes in enumerate(sets):
        check(model, nodes)
        for node in nodes:
            masks[point_of(node)][row, columns_of(model, node)] = True
    if others:
        masks = {point: ~mask for point, mask in masks.items()}
    return {
        point: _put(mask, None if values is None else values[point])
        for point, mask in masks.items()
        if mask.any()
    }


def _put(mask: Tensor, value: Tensor | None) -> Edit:
    """Return the edit that puts a value [token width], or zero, where the mask [row width] says."""

    def edit(x: Tensor) -> Tensor:
        new = torch.zeros((), dtype=x.dtype, device=x.device) if value is None else value.to(x)
        return torch.where(mask[:, None].to(x.device), new, x)

    return edit


@contextlib.contextmanager
def zeroed_weights(model: Model, nodes: Sequence[Node]) -> Iterator[None]:
    """Zero the heads' columns of W_O, and the MLPs' W_down and its bias, within the block; put the
    weights back whatever happens.
    """
    check(model, nodes)
    heads = [node for node in nodes if not isinstance(node, Mlp)]
    down = [
        parameter
        for node in nodes
        if isinstance(node, Mlp)
        for parameter in hook_points.down_projection(model.module, node.layer).parameters()
    ]
    kept = [parameter.detach().clone() for parameter in down]
    with of_heads.zeroed_weights(model, heads):
        try:
            for parameter in down:
                parameter.data.zero_()
            yield
        finally:
            for parameter, before in zip(down, kept, strict=True):
                parameter.data.copy_(before)
