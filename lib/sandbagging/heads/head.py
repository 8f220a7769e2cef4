"""A head's name: its layer and its number among the query heads."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sandbagging.errors import UserError
from sandbagging.models import Model


class Head(NamedTuple):
    """A query head; it prints as "L17H6", and a JSON file holds it as [17, 6]."""

    layer: int
    head: int

    @classmethod
    def parse(cls, item: str | Sequence[int]) -> "Head":
        """Return the head that "L17H6" or [17, 6] names; raises UserError for anything else."""
        match = re.fullmatch(r"L(\d+)H(\d+)", item) if isinstance(item, str) else None
        try:
            given = [int(number) for number in match.groups()] if match else list(item)
            layer, number = (int(part) for part in given)
        except (TypeError, ValueError):
            given = None
        if given is None or given != [layer, number]:
            raise UserError(f"{item!r} is no head; write heads as L17H6 or [17, 6].")
        return cls(layer, number)

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"


Heads = tuple[Head, ...]


def parse(names: str | Iterable) -> list[Head]:
    """Return heads from "L17H6 L2H0" (also with commas or +), or from a list of names or pairs."""
    items = re.split(r"[\s,+]+", names.strip()) if isinstance(names, str) else names
    return [Head.parse(item) for item in items]


def join(heads: Iterable[Sequence[int]], by: str = "+") -> str:
    """Return the heads' names in one text: L2H0+L5H3."""
    return by.join(str(Head(*head)) for head in heads)


def check(model: Model, heads: Sequence[Sequence[int]]) -> None:
    """Raise UserError if a head does not exist in the model or is named twice."""
    for layer, head in heads:
        if not (0 <= layer < model.n_layers and 0 <= head < model.n_heads):
            raise UserError(
                f"Head {Head(layer, head)} does not exist: {model.name} has layers "
                f"0 to {model.n_layers - 1} with query heads 0 to {model.n_heads - 1}."
            )
    if len(set(heads)) < len(heads):
        raise UserError(f"A head is named twice in {join(heads, ' ')}; name each once.")


def as_set(model: Model, names: str | Iterable) -> Heads:
    """Return the heads that are named, as one set in order; UserError as in `parse` and `check`."""
    heads = tuple(sorted(parse(names)))
    check(model, heads)
    return heads
