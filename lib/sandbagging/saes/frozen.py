"""SAEs that learned nothing of the kind: the same shape, data and L0, with half of the dictionary
held at random.

Where such an SAE does as well as a trained one, what the trained one does is no sign that its
latents mean anything (Korznikov et al. 2026, arXiv 2602.14111, figure 1).
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.saes import evaluation, gradients
from sandbagging.saes.recipes import Recipe, parse_tag
from sandbagging.saes.saving import fold_scaling
from sandbagging.saes.stack import Stack
from sandbagging.saes.tokens import checked, select_tokens, training_data
from sandbagging.saes.training import new_sae, total_steps

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE

# The decoder stays as it began; its rows stay within a cone about where they began; the encoder
# stays as it began. All else is trained.
KINDS = ("frozen_decoder", "near_decoder", "frozen_encoder")
HELD = {"frozen_decoder": "W_dec", "frozen_encoder": "W_enc"}
LEAST_COSINE = 0.8  # of a row of the near decoder and its start


class Frozen(NamedTuple):
    """An untrained SAE on raw activations, and the decoder rows with which it began."""

    sae: "SAE"
    start: Tensor  # [latent d_in], of unit norm


class ConstrainedStack(Stack):
    """A stack whose SAEs keep part of their dictionary where it began, each by its kind."""

    def __init__(
        self, saes: Sequence["TrainingSAE"], kinds: Sequence[str], lr: float, **settings
    ) -> None:
        self.kinds, self.start = tuple(kinds), None
        super().__init__(saes, lr=lr, **settings)
        self.start = self.w["W_dec"].clone()

    def _update(self, grad: gradients.Weights) -> None:
        for i, kind in enumerate(self.kinds):
            if kind in HELD:  # Adam leaves alone what never had a gradient
                grad[HELD[kind]][i].zero_()
        super()._update(grad)

    def _project(self) -> None:
        super()._project()
        if self.start is None:
            return
        for i, kind in enumerate(self.kinds):
            if kind == "near_decoder":
                self.w["W_dec"][i] = kept_near(self.w["W_dec"][i], self.start[i])
            elif kind == "frozen_decoder":  # dividing by a norm of 1 rounds
                self.w["W_dec"][i] = self.start[i]


def kept_near(rows: Tensor, start: Tensor, least: float = LEAST_COSINE) -> Tensor:
    """Return rows of unit norm [latent d_in] turned back, where they left the cone of cosine
    `least` about their start, to its edge.
    """
    cosine = (rows * start).sum(dim=1, keepdim=True)
    aside = rows - cosine * start
    aside = aside / aside.norm(dim=1, keepdim=True).clamp_min(1e-12)
    edge = least * start + (1 - least**2) ** 0.5 * aside
    return torch.where(cosine < least, edge, rows)


def recipe_like(sae: "SAE", tokens: Tensor, scale: float) -> Recipe:
    """Return the recipe of untrained SAEs beside a trained one: TopK with its mean L0 on these
    scaled training tokens [token d_in], since a hard k gives an L0 without a search.

    Raises UserError where the SAE does not say how it was trained.
    """
    told = sae.cfg.metadata.get("recipe")
    if not isinstance(told, dict):
        raise UserError(
            "This SAE does not say how it was trained, so none can be trained beside it; train it "
            "with notebook 02."
        )
    with torch.no_grad():
        l0 = float((sae.encode(tokens / scale) != 0).sum(dim=1).float().mean())
    recipe = Recipe(**told)
    return dataclasses.replace(recipe, architecture="topk", k=max(1, round(l0)))


def tokens_of(sae: "SAE", tag: str, resid: Tensor, table: pd.DataFrame) -> tuple[Tensor, float]:
    """Return the scaled tokens [token d_in] that an SAE was trained on, and the factor."""
    rows = select_tokens(table, parse_tag(tag).condition)
    return training_data(resid[rows], sae.cfg.metadata.get("input_scale"))


def train_frozen(
    recipe: Recipe, tokens: Tensor, scale: float = 1.0, kinds: Sequence[str] = KINDS
) -> dict[str, Frozen]:
    """Train an SAE of each kind on scaled tokens [token d_in], side by side, from one start and on
    one order of batches; return them by kind, on raw activations.

    Raises UserError for an unknown kind, for another architecture than TopK, and for decoder rows
    that are not kept at unit norm.
    """
    _check(recipe, kinds)
    tokens = checked(tokens)
    total, mean = total_steps(recipe, len(tokens)), tokens.mean(dim=0)
    stack = ConstrainedStack(
        [new_sae(recipe, total, mean) for _ in kinds],
        kinds,
        recipe.lr,
        clip=recipe.clip,
        dead_after=recipe.dead_after,
    )
    for rows in itertools.islice(batches(recipe, len(tokens)), total):
        stack.step(tokens[rows.to(tokens.device)])
    return {
        kind: Frozen(fold_scaling(sae, scale), start)
        for kind, sae, start in zip(kinds, stack.saes(), stack.start, strict=True)
    }


def _check(recipe: Recipe, kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UserError(
            f"Unknown kind of untrained SAE {', '.join(unknown) or '(none)'}; there are "
            f"{', '.join(KINDS)}."
        )
    if recipe.architecture != "topk" or not recipe.unit_norm_decoder:
        raise UserError(
            "Untrained SAEs are TopK with decoder rows of unit norm; take such a recipe, with the "
            "L0 of the SAE beside them as k."
        )


def batches(recipe: Recipe, n_tokens: int) -> Iterator[Tensor]:
    """Yield rows without end, in the order in which `training.train` takes them."""
    generator = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.batch, n_tokens)
    while True:
        order = torch.randperm(n_tokens, generator=generator)
        yield from order[: n_tokens // size * size].split(size)


def quality_of(frozen: Frozen, tokens: Tensor, x: Tensor) -> dict[str, float]:
    """Return how an untrained SAE turned out, on raw training tokens and on held-out x at the
    edited position: l0, fvu, fvu_within, and the cosine of its decoder rows with their start
    (lowest and mean).
    """
    cosine = (frozen.sae.W_dec * frozen.start).sum(dim=1)
    on_tokens, at_x = (evaluation.quality(frozen.sae, rows) for rows in (tokens, x))
    return {
        "l0": on_tokens["l0"],
        "fvu": on_tokens["fvu"],
        "fvu_within": at_x["fvu"],
        "cosine_low": float(cosine.min()),
        "cosine_mean": float(cosine.mean()),
    }
