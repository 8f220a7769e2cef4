"""The headline claims in words, what each is tried against, and what may come of it."""

CLAIMS = {
    "answers_wrongly": "told to be incorrect, the model answers wrongly",
    "heads_carry": "zeroing a few heads undoes it, at least in part",
    "heads_most": "zeroing these heads undoes most of it",
    "heads_specific": "what these heads do is specific to sandbagging",
    "swap_carries": "an SAE swap carries the difference at the deepest layer of interest",
    "any_basis": "that swap needs no trained SAE",
    "nothing_early": "nothing can be restored at the earliest layer of interest",
    "early_head": "at least one of the heads found sits in the first quarter of depth",
    "same_heads": "the same heads are chosen again",
}

# What is changed, one thing at a time.
WORDING, FRAMING, SPLIT, SAE_SEED, CATEGORY, SPELLING = AXES = (
    "wording",
    "framing",
    "question split",
    "SAE seed",
    "category left out",
    "spelling of answers",
)
ABOUT_SAES = ("swap_carries", "any_basis", "nothing_early")

HOLDS, DOES_NOT, UNKNOWN, NOT_RUN = "holds", "does not", "cannot be said", "not run"


def axes_of(claim: str) -> tuple[str, ...]:
    """Return the axes that a claim is tried on: the seed of SAEs says nothing about heads."""
    return tuple(axis for axis in AXES if axis != SAE_SEED or claim in ABOUT_SAES)
