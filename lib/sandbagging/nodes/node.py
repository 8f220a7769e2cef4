"""A node's name: a head, or the MLP of a layer."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sandbagging.errors import UserError
from sandbagging.heads.head import Head
from sandbagging.models import Model, check_layers


class Mlp(NamedTuple):
    """The MLP of a layer; it prints as "L17MLP", and a JSON file holds it as [17]."""

    layer: int

    def __str__(self) -> str:
        return f"L{self.layer}MLP"


Node = Head | Mlp
Nodes = tuple[Node, ...]


def parse_one(item: str | Sequence[int]) -> Node:
    """Return the node that "L17H6", "L17MLP", [17, 6] or [17] names; raises UserError for anything
    else.
    """
    match = re.fullmatch(r"L(\d+)MLP", item) if isinstance(item, str) else None
    if match:
        return Mlp(int(match[1]))
    if isinstance(item, list | tuple) and len(item) == 1 and isinstance(item[0], int):
        return Mlp(item[0])
    try:
        return Head.parse(item)
    except UserError:
        raise UserError(f"{item!r} is no node; write nodes as L17H6 or L17MLP.") from None


def parse(names: str | Iterable) -> list[Node]:
    """Return nodes from "L17MLP L2H0" (also with commas or +), or from a list of names or
    numbers.
    """
    items = re.split(r"[\s,+]+", names.strip()) if isinstance(names, str) else names
    return [parse_one(item) for item in items]


def join(nodes: Iterable[Node], by: str = "+") -> str:
    """Return the nodes' names in one text: L2H0+L5MLP."""
    return by.join(map(str, nodes))


def check(model: Model, nodes: Sequence[Node]) -> None:
    """Raise UserError if a node does not exist in the model or is named twice."""
    for node in nodes:
        if not (0 <= node.layer < model.n_layers) or not (
            isinstance(node, Mlp) or 0 <= node.head < model.n_heads
        ):
            raise UserError(
                f"Node {node} does not exist: {model.name} has layers 0 to {model.n_layers - 1}, "
                f"each with query heads 0 to {model.n_heads - 1} and one MLP."
            )
    if len(set(nodes)) < len(nodes):
        raise UserError(f"A node is named twice in {join(nodes, ' ')}; name each once.")


def all_mlps(model: Model, layers: Sequence[int] = ()) -> list[Node]:
    """Return the MLP of every layer, or of some; raises UserError for a layer that does not
    exist.
    """
    check_layers(model, list(layers))
    return [Mlp(layer) for layer in sorted(set(layers)) or range(model.n_layers)]


def all_nodes(model: Model, layers: Sequence[int] = ()) -> list[Node]:
    """Return every head and MLP of the model, or of some layers, layer by layer; raises UserError
    for a layer that does not exist.
    """
    return [
        node
        for mlp in all_mlps(model, layers)
        for node in (*(Head(mlp.layer, head) for head in range(model.n_heads)), mlp)
    ]


def alone(nodes: Iterable[Node]) -> list[Nodes]:
    """Return each node as a set of one."""
    return [(node,) for node in nodes]
