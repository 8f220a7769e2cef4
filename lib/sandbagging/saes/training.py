"""Training: from recipes and tokens to trained SAEs.

Initialisation is sae-lens's; with the Gaussian kernel the loss is the card's. sae-lens takes ten
seconds to import, so it is imported inside the functions that need it.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.saes import checkpoints, gradients
from sandbagging.saes.recipes import Recipe, tag
from sandbagging.saes.stack import Stack
from sandbagging.saes.tokens import checked

if TYPE_CHECKING:
    from sae_lens import TrainingSAE

CHECKPOINT_SECONDS = 30.0


def train(recipe: Recipe, tokens: Tensor, **settings: Any) -> tuple["TrainingSAE", pd.DataFrame]:
    """Train one SAE: `train_together` for a single recipe."""
    return train_together([recipe], tokens, **settings)[0]


def train_together(
    recipes: Sequence[Recipe],
    tokens: Tensor,
    *,
    progress: Callable[[int, int], None] | None = None,
    history_every: int = 50,
    checkpoint: Path | None = None,
) -> list[tuple["TrainingSAE", pd.DataFrame]]:
    """Train SAEs that differ in k alone on scaled tokens [token d_in]; return each, and its history
    (step, loss, fvu, l0).

    loss is that of the batch before its update, l0 the active latents per token, fvu the squared
    error over the squared distance from the training mean, both on that batch. `progress(done,
    total)` counts steps. With a `checkpoint` file a killed training goes on where it was. The
    results read scaled tokens: see fold_scaling. Raises UserError for unusable tokens, a checkpoint
    of other recipes, or a loss that stops being finite.
    """
    tokens = checked(tokens)
    first = recipes[0]
    if tokens.shape[1] != first.d_in:
        raise UserError(
            f"The recipe is for activations of width {first.d_in}, and these have width "
            f"{tokens.shape[1]}."
        )
    total, mean = total_steps(first, len(tokens)), tokens.mean(dim=0)
    stack = new_stack(recipes, total, mean)
    history = checkpoints.resume(checkpoint, recipes, stack)
    saved = time.monotonic()
    for rows in _batches(first, len(tokens), total, skip=stack.done):
        batch = tokens[rows.to(tokens.device)]
        at = stack.done
        done = stack.step(batch)
        if at % history_every == 0 or at == total - 1:
            history += _figures(recipes, at, done, batch, mean)
            if progress is not None:
                progress(at + 1, total)
        if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoints.save(checkpoint, recipes, stack, history)
            saved = time.monotonic()
    lines = pd.DataFrame(history)
    return [
        (sae, lines[lines["sae"] == i].drop(columns="sae").reset_index(drop=True))
        for i, sae in enumerate(stack.saes())
    ]


def groups(recipes: Sequence[Recipe]) -> list[list[Recipe]]:
    """Return the recipes in groups that can train together: those that differ in k alone."""
    found: dict[tuple, list[Recipe]] = {}
    for recipe in recipes:
        found.setdefault(_but_k(recipe), []).append(recipe)
    return list(found.values())


def _but_k(recipe: Recipe) -> tuple:
    return tuple(value for name, value in dataclasses.asdict(recipe).items() if name != "k")


def total_steps(recipe: Recipe, n_tokens: int) -> int:
    """Return the number of optimiser steps that `recipe` takes on `n_tokens`."""
    return (
        recipe.steps
        if recipe.steps is not None
        else recipe.epochs * max(1, n_tokens // recipe.batch)
    )


def new_stack(recipes: Sequence[Recipe], total: int, mean: Tensor) -> Stack:
    """Return freshly initialised SAEs of recipes that differ in k alone; `total` steps set the
    warm-up, `mean` [d_in] the decoder bias.
    """
    first = recipes[0]
    if any(_but_k(recipe) != _but_k(first) for recipe in recipes):
        raise UserError("SAEs that train together must have recipes that differ in k alone.")
    saes = [new_sae(recipe, total, mean) for recipe in recipes]
    return Stack(
        saes,
        lr=first.lr,
        clip=first.clip,
        dead_after=first.dead_after,
        unit_norm=first.unit_norm_decoder,
        **_card_loss(first, total),
    )


def _card_loss(recipe: Recipe, total: int) -> dict[str, Any]:
    """Return what the card's JumpReLU loss sets differently from sae-lens's."""
    if recipe.architecture != "jumprelu" or recipe.kernel != "gaussian":
        return {}
    l1 = recipe.l1 * recipe.d_in
    warm_up = {"l1": (l1, int(recipe.warm_up * total))}
    return {
        "kernel": "gaussian",
        "l0": 0.0,
        "l1": l1,
        "lowest_threshold": recipe.lowest_threshold,
        "warm_up": warm_up,
    }


def new_sae(recipe: Recipe, total: int, mean: Tensor) -> "TrainingSAE":
    """Return sae-lens's training SAE for `recipe`, seeded, its decoder bias at `mean` [d_in];
    `total` steps set the warm-up.
    """
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
        torch.manual_seed(recipe.seed)
        sae = {"topk": _topk, "jumprelu": _jumprelu, "gated": _gated}[recipe.architecture](
            recipe, total
        )
    sae.b_dec.data.copy_(mean)
    return sae.to(mean.device)


def _topk(recipe: Recipe, total: int) -> "TrainingSAE":
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    # Rows of unit norm need no rescaling of the codes by the decoder's norms.
    config = TopKTrainingSAEConfig(
        d_in=recipe.d_in,
        d_sae=recipe.d_sae,
        k=recipe.k,
        decoder_init_norm=1.0,
        rescale_acts_by_decoder_norm=not recipe.unit_norm_decoder,
    )
    return TopKTrainingSAE(config)


def _jumprelu(recipe: Recipe, total: int) -> "TrainingSAE":
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

    config = JumpReLUTrainingSAEConfig(
        d_in=recipe.d_in,
        d_sae=recipe.d_sae,
        decoder_init_norm=1.0,
        jumprelu_sparsity_loss_mode="step",
        jumprelu_bandwidth=recipe.bandwidth,
        jumprelu_init_threshold=recipe.init_threshold,
        l0_coefficient=recipe.l0_coefficient,
        l0_warm_up_steps=int(recipe.warm_up * total),
    )
    return JumpReLUTrainingSAE(config)


def _gated(recipe: Recipe, total: int) -> "TrainingSAE":
    from sae_lens import GatedTrainingSAE, GatedTrainingSAEConfig

    config = GatedTrainingSAEConfig(
        d_in=recipe.d_in,
        d_sae=recipe.d_sae,
        decoder_init_norm=1.0,
        l1_coefficient=recipe.l1 * recipe.d_in,
        l1_warm_up_steps=int(recipe.warm_up * total),
    )
    return GatedTrainingSAE(config)


def _batches(recipe: Recipe, n_tokens: int, total: int, skip: int = 0) -> Iterator[Tensor]:
    """Yield the batches of rows from step `skip` to `total`: each epoch is a new seeded order, its
    incomplete last batch left out.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.batch, n_tokens)
    done = 0
    while done < total:
        order = torch.randperm(n_tokens, generator=generator)
        for start in range(0, n_tokens - size + 1, size):
            if done == total:
                return
            if done >= skip:
                yield order[start : start + size]
            done += 1


def _figures(
    recipes: Sequence[Recipe], step: int, done: gradients.Pass, batch: Tensor, mean: Tensor
) -> list[dict[str, float]]:
    """Return one line of history for each SAE; raises UserError where the loss is not finite."""
    spread = (batch - mean).square().sum()
    fvu = (done.error.square().sum(dim=(1, 2)) / spread).tolist()
    l0 = done.active.sum(dim=2).mean(dim=1).tolist()
    lines = [
        {"sae": i, "step": step, "loss": loss, "fvu": fvu[i], "l0": l0[i]}
        for i, loss in enumerate(done.loss.tolist())
    ]
    for recipe, line in zip(recipes, lines, strict=True):
        if not math.isfinite(line["loss"]):
            raise UserError(
                f"Training of {tag(recipe)} diverged at step {step}; lower the learning rate (lr "
                f"= {recipe.lr})."
            )
    return lines
