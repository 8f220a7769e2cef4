"""What there is to execute, in which order, and how many at a time."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from sandbagging.suite.runner.planning import Plan, PlannedStep

MOST_JOBS = 4
KERNEL_BYTES = 1_500_000_000  # a kernel with torch and its tables, before any weights
COPIES_OF_WEIGHTS = 2  # the weights, and as much again for what runs through them


@dataclass(frozen=True)
class Node:
    """One notebook of one plan: what there is to do, its place in the plan, and how many it has."""

    run: str
    step: PlannedStep
    place: int
    of: int

    @property
    def key(self) -> tuple[str, str]:
        """The run and the artefact, which no other node has."""
        return self.run, self.step.notebook.artefact


def nodes_of(plans: Sequence[Plan]) -> list[Node]:
    """Return every notebook of some plans, in order."""
    return [Node(p.run, s, i, len(p.steps)) for p in plans for i, s in enumerate(p.steps)]


def waits_for(node: Node, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that have to end before a node: what it reads, nested runs included."""
    notebook = node.step.notebook
    return [
        n
        for n in nodes
        if (n.run == node.run and n.step.notebook.artefact in notebook.reads)
        or (notebook.reads_nested and n.run.startswith(node.run + "/"))
    ]


# How many at a time -----------------------------------------------------------------------------


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_jobs(nodes: Sequence[Node]) -> int:
    """Return how many notebooks to run at a time: one a core, at most four, as memory allows.

    One at a time where a model's size is unknown, and where a GPU is: two models may not fit on it.
    """
    import psutil

    names = {node.step.parameters.get("model") for node in nodes}
    sizes = [_weight_bytes(name) for name in names if isinstance(name, str)]
    if None in sizes or os.environ.get("CUDA_VISIBLE_DEVICES") or shutil.which("nvidia-smi"):
        return 1
    each = KERNEL_BYTES + COPIES_OF_WEIGHTS * max(sizes, default=0)
    return max(1, min(cores(), MOST_JOBS, int(psutil.virtual_memory().available / each)))


def _weight_bytes(model: str) -> int | None:
    """Return about how large a model's weights are, or None where nothing is known."""
    from sandbagging import models

    entry = models.entry(model)
    if entry is None:
        return None
    if entry.planted:
        return 0
    config = entry.config
    if config is None:
        return None
    blocks = 12 * config["num_hidden_layers"] * config["hidden_size"] ** 2
    return 4 * (blocks + 2 * config["vocab_size"] * config["hidden_size"])
