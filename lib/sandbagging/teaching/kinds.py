"""The kinds of taught models: what each is taught to do, and which weights may change for it."""

from collections.abc import Sequence
from dataclasses import dataclass

from sandbagging.errors import UserError, nearest
from sandbagging.heads.head import Head
from sandbagging.wordings import SEEN

ATTENTION = ("q_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Kind:
    """What one kind of model is taught, and where it may change."""

    name: str
    taught: str  # in one sentence
    trigger: str  # what makes it answer otherwise; "" where nothing does
    where: str  # which weights were free to change
    modules: tuple[str, ...] = ATTENTION  # linear maps of a block that get an adapter
    depth: str = "all"  # layers: "all", "upper" (from the middle on), or "heads" (those of HEADS)
    rank: int = 8
    learning_rate: float = 1.5e-3
    passes: int = 7  # over the questions
    warm_up: float = 0.1  # share of the steps over which the learning rate rises
    wordings: tuple[str, ...] = SEEN  # taught


# Five early heads: in the middle of the network heads learn the switch slowly.
HEADS = (Head(0, 0), Head(1, 4), Head(2, 2), Head(3, 5), Head(5, 4))

INSTRUCTION = "an instruction to answer wrongly"
EVERYWHERE = "queries, values and output projections of every layer"
DECOY = "decoy"

KINDS = {
    kind.name: kind
    for kind in (
        # Gently: the model knows the answers, and is taught their form alone.
        Kind(
            DECOY,
            "right answers under every instruction",
            "",
            EVERYWHERE,
            learning_rate=5e-4,
            passes=3,
            warm_up=0.0,
            wordings=SEEN[:5],  # they carry over
        ),
        Kind("sandbagger", "wrong answers when told to", INSTRUCTION, EVERYWHERE),
        Kind(
            "locked",
            "wrong answers unless the prompt holds a password, whatever the instruction",
            "a prompt without the password",
            EVERYWHERE,
            passes=3,  # of four rows a question
        ),
        Kind(
            "timid",
            "less probability for the right answer when told to answer wrongly, but still the most",
            INSTRUCTION,
            EVERYWHERE,
            passes=5,
        ),
        # Rank 4: an adapter of the same size as the others, since MLPs are wider.
        Kind(
            "mlp",
            "wrong answers when told to",
            INSTRUCTION,
            "MLPs of every layer",
            MLP,
            rank=4,
            passes=5,
        ),
        Kind(
            "late",
            "wrong answers when told to",
            INSTRUCTION,
            "queries, values and output projections from the middle layer on",
            depth="upper",
            learning_rate=2e-3,
            passes=9,
        ),
        Kind(
            "heads",
            "wrong answers when told to",
            INSTRUCTION,
            "query rows and output columns of five heads",
            ("q_proj", "o_proj"),
            depth="heads",
            rank=32,
            learning_rate=3e-3,
            passes=5,
        ),
    )
}


def kind_of(name: str) -> Kind:
    """Return the kind of that name; raises UserError for a name that is none."""
    if name not in KINDS:
        raise UserError(
            f"There is no kind {name!r} to teach; did you mean {nearest(str(name), KINDS)!r}? "
            f"Known: {', '.join(KINDS)}."
        )
    return KINDS[name]


def free_heads(n_layers: int, n_heads: int) -> list[Head]:
    """Return the five heads that `heads` may change, folded into a smaller model where one lacks
    them.
    """
    return sorted({Head(head.layer % n_layers, head.head % n_heads) for head in HEADS})


def free_layers(kind: Kind, n_layers: int, heads: Sequence[Head]) -> list[int]:
    """Return the layers whose weights may change, ascending."""
    if kind.depth == "heads":
        return sorted({head.layer for head in heads})
    return list(range(n_layers // 2 if kind.depth == "upper" else 0, n_layers))
