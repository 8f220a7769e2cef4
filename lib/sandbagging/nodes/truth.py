"""Which nodes carry the sandbagging in a model whose truth is known."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sandbagging.errors import UserError
from sandbagging.heads.head import Head
from sandbagging.nodes.node import Mlp, Node, parse


class Known(NamedTuple):
    """The nodes that carry it, and those set apart: they read what these write, so that replacing
    them undoes it too, and they count neither as true nor as false.
    """

    true: frozenset[Node]
    apart: frozenset[Node] = frozenset()


def of_planted(truth: Mapping[str, Any]) -> Known:
    """Return the nodes of a planted model's truth.json: the heads that write the switch are true,
    the MLP that reads it is set apart. Raises UserError where nothing was planted.
    """
    if not truth["writers"]:
        raise UserError("Nothing was planted in this model, so no node of it is a true one.")
    return Known(
        frozenset(Head(*head) for head in truth["writers"]), frozenset({Mlp(truth["layer_read"])})
    )


def of_taught(kind: str, truth: Mapping[str, Any], nodes: Iterable[Node]) -> Known:
    """Return, of a model's nodes, those that teaching could change, by its kind and truth.json.

    heads: the named ones. mlp: every MLP. late: the heads of its layers; the MLPs there, which were
    not taught, are set apart. Raises UserError for a kind whose truth names no nodes.
    """
    taught = frozenset(node for node in nodes if node.layer in truth["layers"])
    mlps = frozenset(node for node in taught if isinstance(node, Mlp))
    if kind == "heads":
        return Known(frozenset(parse(truth["heads"])))
    if kind == "mlp":
        return Known(mlps)
    if kind == "late":
        return Known(taught - mlps, mlps)
    raise UserError(
        f"The truth of a model of the kind {kind!r} names no nodes; rankings are judged on the "
        "kinds heads, mlp and late, and on planted models."
    )
