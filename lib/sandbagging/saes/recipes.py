"""Recipes: the forty-two SAEs of the card by tag, and everything that decides one SAE."""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandbagging.errors import UserError

CONDITIONS = ("genuine_only", "sandbagging_only", "mixed")
ARCHITECTURES = ("jumprelu", "topk", "gated")
DEFAULT_K = 64
DEFAULT_EXPANSION = 4

# The card's own list of tags: what a tag calls the architecture, at which of the three layers,
# trained on which prompts. Nine, nine, nine, nine, three and three: forty-two for a model with
# three layers of interest.
CARD = (
    ("jumprelu", "every layer", CONDITIONS),
    ("topk", "every layer", CONDITIONS),
    ("topk_k16", "middle layer", CONDITIONS),
    ("topk_k32", "middle layer", CONDITIONS),
    ("topk_k128", "middle layer", CONDITIONS),
    ("topk_k256", "every layer", CONDITIONS),
    ("gated", "middle layer", CONDITIONS),
    ("x8_gated", "middle layer", ("mixed",)),
    ("x8_k64", "middle layer", ("mixed",)),
    ("x8_k256", "middle layer", ("mixed",)),
)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides one SAE: the fields of its tag, its size, and its training settings.

    Expansion, epochs, batch, lr, l1, k and the unit-norm decoder are the card's. What it leaves
    open is this suite's choice, told beside the field. Losses are sums over d_in and means over
    tokens, in units of scaled activations (mean norm sqrt(d_in)).
    """

    model: str
    architecture: str  # one of ARCHITECTURES
    layer: int  # the SAE reads the output of this block
    condition: str  # one of CONDITIONS
    d_in: int
    expansion: int = DEFAULT_EXPANSION  # d_sae / d_in
    k: int | None = None  # active latents per token; TopK only
    epochs: int = 300
    steps: int | None = None  # optimiser steps; given, it takes the place of epochs
    batch: int = 128  # tokens per step
    lr: float = 3e-4
    seed: int = 0
    unit_norm_decoder: bool = True  # False: the decoder rows move freely, as in sae-lens
    # The two below are sae-lens's own defaults.
    clip: float = 1.0  # largest norm of the whole gradient
    # Steps without firing after which a latent counts as dead; TopK's auxiliary loss revives it.
    dead_after: int = 1000
    # The card does not say of what its L1 coefficient is a multiple. Here: of the squared error per
    # dimension, so that the penalty is l1 * d_in * (sum of codes) beside the squared error summed
    # over d_in. JumpReLU with the Gaussian kernel, and gated.
    l1: float = 1e-3
    # JumpReLU: thresholds learn through a kernel of width `bandwidth`, where a fresh pre-activation
    # has an SD of about 0.6. "gaussian" is the card's, with its L1 penalty; "rectangle" is
    # sae-lens's, with l0_coefficient * l0 in place of L1. Thresholds move by at most lr per step,
    # so from sae-lens's 0.01 they stay near 0 for thousands of steps; from 1.0 half of the latents
    # are dead. Both by trial on SmolLM2 layer 15.
    kernel: str = "gaussian"
    bandwidth: float = 0.5
    init_threshold: float = 0.5
    lowest_threshold: float = (
        1e-3  # at 0 the Gaussian kernel's gradient is 0 too, and a threshold would never leave
    )
    l0_coefficient: float = 1.0
    warm_up: float = 0.1  # share of the steps over which a penalty on the codes rises from 0

    def __post_init__(self) -> None:
        _check_recipe(self)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.expansion * self.d_in


@dataclasses.dataclass(frozen=True)
class TagFields:
    """The parts of a tag."""

    model: str
    architecture: str
    layer: int
    condition: str
    k: int | None
    expansion: int = DEFAULT_EXPANSION

    def recipe(self, d_in: int, **settings: Any) -> Recipe:
        """Return this tag's recipe for activations of width `d_in`; `settings` come first."""
        return Recipe(**{**dataclasses.asdict(self), "d_in": d_in, **settings})


def tag(recipe: Recipe | TagFields) -> str:
    """Return the name `v4_{model}_{arch}_L{layer}_{condition}`.

    TopK carries its k unless it is 64, and another expansion than 4 stands before the architecture:
    topk_k32, x8_gated, x8_k64.
    """
    arch = recipe.architecture
    if arch == "topk" and (recipe.k != DEFAULT_K or recipe.expansion != DEFAULT_EXPANSION):
        arch = f"topk_k{recipe.k}"
    if recipe.expansion != DEFAULT_EXPANSION:
        arch = f"x{recipe.expansion}_" + arch.removeprefix("topk_")
    return f"v4_{recipe.model}_{arch}_L{recipe.layer}_{recipe.condition}"


def parse_tag(name: str, known: Sequence[str] = ()) -> TagFields:
    """Return the fields of a tag; raises UserError naming the nearest tag (among `known`, if given)
    for any other name.
    """
    fields = parsed(name)
    if fields is not None and tag(fields) == name and (not known or name in known):
        return fields
    # "topk_k64" and "L07" are read but are no tags: every SAE has one name, "topk" and "L7".
    nearest = tag(fields) if fields is not None and not known else _nearest_tag(name, known)
    raise UserError(f"There is no SAE tag {name!r}; the nearest is {nearest!r}.")


def short_tag(name: str) -> str:
    """Return a tag without the model's name: v4_smollm2_topk_L7_mixed is "L7 topk mixed"."""
    fields = parse_tag(name)
    return f"L{fields.layer} {name.split('_', 2)[2].replace(f'_L{fields.layer}_', ' ', 1)}"


def card_tags(model: str, layers: Sequence[int]) -> list[str]:
    """Return the card's tags for a model's layers of interest: 42 for three layers, the middle one
    taking the card's L8-only recipes.
    """
    middle = layers[len(layers) // 2]
    return [
        f"v4_{model}_{arch}_L{layer}_{condition}"
        for arch, where, conditions in CARD
        for layer in (layers if where == "every layer" else [middle])
        for condition in conditions
    ]


def matching(globs: Sequence[str], model: str, layers: Sequence[int]) -> list[str]:
    """Return the tags that any of `globs` names, in the card's order; a whole tag need not be one
    of the card's.

    Raises UserError, naming the nearest tag, for a glob that matches nothing.
    """
    known = card_tags(model, layers)
    chosen: list[str] = []
    for glob in globs:
        found = fnmatch.filter(known, glob)
        if not found and not re.search(r"[*?\[]", glob):
            found = [tag(parse_tag(glob))]
        if not found:
            raise UserError(
                f"No SAE tag matches {glob!r}; the nearest is {_nearest_tag(glob, known)!r}."
            )
        chosen += found
    order = {name: i for i, name in enumerate(known)}
    return sorted(dict.fromkeys(chosen), key=lambda name: order.get(name, len(order)))


def recipes(
    model_name: str, d_in: int, layers: Sequence[int], globs: Sequence[str], **settings: Any
) -> list[Recipe]:
    """Return the recipes whose tags any of `globs` names; `settings` hold for all. Raises UserError
    for a glob that matches nothing.
    """
    return [
        parse_tag(name).recipe(d_in, **settings)
        for name in matching(globs, short_name(model_name), layers)
    ]


def short_name(model_name: str) -> str:
    """Return what a tag calls a model: the first word of its name, so that smollm2-135m-instruct is
    smollm2.
    """
    return re.sub(r"[^A-Za-z0-9.]", "", re.split(r"[-_]", Path(model_name).name)[0]) or "model"


def parsed(name: str) -> TagFields | None:
    """Return the fields that `name` spells out, or None."""
    arch = (
        r"(x(?P<expansion>[1-9]\d?)_)?(?P<arch>jumprelu|gated|topk|k(?=\d))"
        r"(_?k?(?P<k>[1-9]\d{0,5}))?"
    )
    match = re.fullmatch(
        rf"v4_(?P<model>[A-Za-z0-9.\-]+)_{arch}_L(?P<layer>\d{{1,4}})_(?P<condition>[a-z_]+)", name
    )
    if (
        match is None
        or match["condition"] not in CONDITIONS
        or (match["arch"] in ("jumprelu", "gated") and match["k"])
    ):
        return None
    arch = "topk" if match["arch"] == "k" else match["arch"]
    k = int(match["k"] or DEFAULT_K) if arch == "topk" else None
    return TagFields(
        match["model"],
        arch,
        int(match["layer"]),
        match["condition"],
        k,
        int(match["expansion"] or DEFAULT_EXPANSION),
    )


def _nearest_tag(name: str, known: Sequence[str]) -> str:
    """Return the tag most like `name`, among `known` or else among all tags of the model and layer
    that it seems to mean.
    """
    parts = name.split("_")
    model = next((part for part in parts[1:] if re.fullmatch(r"[A-Za-z0-9.\-]+", part)), "llama")
    layer = next((int(part[1:]) for part in parts if re.fullmatch(r"[Ll]\d+", part)), 8)
    return difflib.get_close_matches(
        name, list(known) or card_tags(model, [layer]), n=1, cutoff=0.0
    )[0]


def _check_recipe(recipe: Recipe) -> None:
    """Raise UserError with one sentence for a recipe that contradicts itself."""
    if recipe.architecture not in ARCHITECTURES:
        raise UserError(
            f"No recipe for architecture {recipe.architecture!r}; choose one of "
            f"{', '.join(ARCHITECTURES)}."
        )
    if recipe.condition not in CONDITIONS:
        raise UserError(
            f"No training condition {recipe.condition!r}; choose one of {', '.join(CONDITIONS)}."
        )
    if (recipe.architecture == "topk") != (recipe.k is not None):
        raise UserError(
            "A TopK recipe needs k, the number of active latents per token, and no other recipe "
            "takes one."
        )
    if recipe.k is not None and not 1 <= recipe.k <= recipe.d_sae:
        raise UserError(
            f"k = {recipe.k} does not lie between 1 and the number of latents, d_sae = "
            f"{recipe.d_sae}."
        )
    for name in ("d_in", "expansion", "epochs", "batch", "lr", "bandwidth"):
        if not getattr(recipe, name) > 0:
            raise UserError(f"{name} = {getattr(recipe, name)} must be above 0.")
    if recipe.steps is not None and recipe.steps < 1:
        raise UserError(f"steps = {recipe.steps} must be 1 or more.")
    if recipe.kernel not in ("gaussian", "rectangle"):
        raise UserError(
            f"kernel = {recipe.kernel!r} is unknown; choose 'gaussian' (the card's) or "
            "'rectangle' (that of sae-lens)."
        )
