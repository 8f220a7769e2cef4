"""Heads that join one at a time, on a model of which the truth is known: as notebook 07 chooses
them.
"""

from collections.abc import Sequence

from sandbagging.heads import growing
from sandbagging.heads.growing import Grown
from sandbagging.heads.head import Head
from sandbagging.progress import Progress
from sandbagging.recovery.subjects import subject


def grow(
    name: str,
    condition: str,
    candidates: Sequence[Head],
    n: int,
    progress: Progress | None = None,
) -> Grown:
    """Return n heads out of the candidates that join one at a time on the prompts of a condition,
    on a model's train questions (`growing.grow`).

    The model by its name, see `subjects.subject`.
    """
    of = subject(name, progress)
    return growing.grow(of.model, of.train, condition, of.framing, candidates, n, progress=progress)
