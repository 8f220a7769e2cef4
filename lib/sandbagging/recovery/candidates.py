"""Heads that are tried as a circuit: those that join one at a time, rivals that were selected as
hard, and random sets.
"""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import NamedTuple

from sandbagging.errors import UserError
from sandbagging.heads import circuits, rivals, selection
from sandbagging.heads.growing import Grown
from sandbagging.heads.head import Heads
from sandbagging.heads.rivals import Rival
from sandbagging.heads.sweep import Effects
from sandbagging.recovery import growth

N_CHOSEN, N_DRAWS = 5, 40


class Candidates(NamedTuple):
    """Sets of heads that are zeroed on test questions, so that one of them can be judged."""

    chosen: Heads
    rivals: list[Rival]
    draws: dict[str, list[Heads]]

    @property
    def sets(self) -> list[Heads]:
        """All of them, each once, in the order of the model."""
        drawn = [heads for sets in self.draws.values() for heads in sets]
        every = [self.chosen, *(rival.heads for rival in self.rivals), *drawn]
        return sorted({tuple(sorted(heads)) for heads in every})


def grow_on_each(measure: Callable, name: str, swept: Mapping[str, Effects]) -> dict[str, Grown]:
    """Return {condition: the heads that join one at a time on its prompts}, out of those that lead
    its sweep.

    `measure` calls a function, or reads back what it returned (`store.measure`).
    """
    return {
        on: measure(growth.grow, name, on, selection.candidates(swept, on), N_CHOSEN)
        for on in swept
    }


def choose(
    swept: Mapping[str, Effects],
    grown: Mapping[str, Grown],
    on: str = "sandbag",
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Candidates:
    """Return the heads that were grown on the prompts `on`, rivals from every condition but
    sandbag, and random sets of each kind that the model has heads for.

    Heads grown on other prompts than sandbag ones have the next set of these as a rival, as any
    have whose rival they are. What was grown on sandbag prompts is never a rival: it would beat
    them by what is planted, and the rule would be tried on nothing.
    """
    chosen = tuple(sorted(grown[on].heads))
    return Candidates(
        chosen, rivals.choose(grown, chosen), draws(swept["sandbag"], chosen, n_draws, seed)
    )


def draws(swept: Effects, chosen: Heads, n: int, seed: int = 0) -> dict[str, list[Heads]]:
    """Return {kind: n random sets} as large as `chosen`, out of the heads that were swept; a layer
    with too few other heads leaves out the draws from the same layers.
    """
    heads = [one for (one,) in swept.sets]
    shape = SimpleNamespace(
        name="This model",
        n_layers=1 + max(head.layer for head in heads),
        n_heads=1 + max(head.head for head in heads),
    )
    found = {}
    for kind in circuits.KINDS:
        try:
            found[kind] = circuits.random_sets(shape, chosen, n, kind, seed)
        except UserError:
            if kind == "uniform":
                raise
    return found
