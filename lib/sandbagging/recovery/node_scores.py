"""Rankings of nodes measured on a model of which the truth is known; see `league` for what it says.

Everything is asked in one framing whose genuine and sandbag prompts match token by token, so that
no route has easier prompts than another.
"""

from typing import Any, NamedTuple

from sandbagging import nodes, prompts, questions
from sandbagging.errors import UserError
from sandbagging.nodes.rankings import Scored
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.recovery import subjects
from sandbagging.wordings import MATCHED

# Train questions that rank, and test questions whose gap is measured: planted models are small.
N_PLANTED, N_TAUGHT = (20, 40), (10, 20)
ON_PURPOSE = "Answer each question correctly on purpose."  # matches "... incorrectly on purpose."


class NodeScores(NamedTuple):
    """What every route says of a model's nodes, and what is true of the model."""

    name: str
    truth: dict[str, Any]
    scored: Scored


def score_nodes(
    name: str, seed: int = 0, n: tuple[int, int] | None = None, progress: Progress | None = None
) -> NodeScores:
    """Return `nodes.score` of a model by name (organism-heads-0, mlp-0, sandbagger), on n train and
    test questions.

    Raises UserError for a model of which no truth is known, or that does not sandbag.
    """
    subject = subjects.subject(name, progress)
    planted = subjects.PLANTED.match(name)
    if not (subject.truth["writers"] if planted else subject.truth["sandbags"]):
        raise UserError(
            f"{name} does not sandbag, so it has no gap whose nodes could be ranked; name a model "
            "that does, such as organism-heads-0 or mlp-0."
        )
    framing = matched(subject.framing)
    train, test = (
        questions.subset(asked, how_many, seed)
        for asked, how_many in zip(
            (subject.train, subject.test), n or (N_PLANTED if planted else N_TAUGHT), strict=True
        )
    )
    scored = nodes.score(subject.model, train, test, framing, framing, seed=seed, progress=progress)
    return NodeScores(name, subject.truth, scored)


def matched(framing: str) -> Framing:
    """Return a framing with an instruction line whose two wordings have equally many tokens."""
    if framing == subjects.FRAMING:
        return prompts.worded(framing, genuine=ON_PURPOSE)
    return prompts.wording(framing, MATCHED)
