"""Training: SAEs of one shape that read the same tokens, side by side, step for step what
sae_lens.SAETrainer does.

1. A `Stack` holds the parameters of all its SAEs with a leading axis `sae`.
2. The loss and its gradients come from gradients.py.
3. Each SAE's gradient is clipped by its own norm; the factor rides along in the one pass of torch's
   fused Adam.
4. Decoder rows are kept at unit norm, if wished: gradient projected before the update, rows
   renormalised after it.

With unit_norm=False every number is sae-lens's, up to the rounding of float32; with the Gaussian
kernel the loss is the card's. sae-lens takes ten seconds to import, so it is imported inside the
functions that need it.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.files import atomic_path
from sandbagging.saes import gradients
from sandbagging.saes.recipes import Recipe, tag
from sandbagging.saes.tokens import checked

if TYPE_CHECKING:
    from sae_lens import TrainingSAE

TRANSPOSED = ("W_enc",)  # [latent d_in] here, so that a latent is a row; sae-lens has [d_in latent]
CHECKPOINT_SECONDS = 30.0


# From recipes to trained SAEs ---------------------------------------------------------------------


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
    history = _resume(checkpoint, recipes, stack)
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
            _save_checkpoint(checkpoint, recipes, stack, history)
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


def new_stack(recipes: Sequence[Recipe], total: int, mean: Tensor) -> "Stack":
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


# Checkpoints --------------------------------------------------------------------------------------


def _save_checkpoint(
    path: Path, recipes: Sequence[Recipe], stack: "Stack", history: list[dict[str, float]]
) -> None:
    """Write the whole state of a training, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    told = {
        "recipes": json.dumps([dataclasses.asdict(recipe) for recipe in recipes]),
        "history": json.dumps(history),
    }
    with atomic_path(path) as temporary:
        try:
            save_file(stack.state(), temporary, told)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def _resume(path: Path | None, recipes: Sequence[Recipe], stack: "Stack") -> list[dict[str, float]]:
    """Load a checkpoint into `stack`, if there is one, and return its history; raises UserError if
    it is of other recipes.
    """
    if path is None or not path.exists():
        return []
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        before, history = json.loads(told["recipes"]), json.loads(told["history"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"The checkpoint {path} is damaged; delete it, and training starts anew."
        ) from None
    now = [dataclasses.asdict(recipe) for recipe in recipes]
    if before != now:
        differ = difference(before, now)
        raise UserError(
            f"{path} is the checkpoint of another training ({differ}); go on with those settings, "
            "or delete it."
        )
    stack.restore(state)
    return history


def difference(before: list[dict], now: list[dict]) -> str:
    """Return which hyperparameters differ, with both values."""
    if len(before) != len(now):
        return f"{len(before)} SAEs there, {len(now)} now"
    differ = {
        name: (a.get(name), b.get(name))
        for a, b in zip(before, now, strict=True)
        for name in a | b
        if a.get(name) != b.get(name)
    }
    return ", ".join(
        f"{name} = {there} there, {here} now" for name, (there, here) in differ.items()
    )


# Steps --------------------------------------------------------------------------------------------


class Stack:
    """SAEs of one shape and one loss, trained side by side on the same or on their own tokens.

    `saes` are sae-lens training SAEs (TopK, JumpReLU with the step penalty, gated); their
    configurations hold the hyperparameters of the loss, and `loss` overrides settings of it.
    `dead_after` counts steps. Raises UserError where they differ in more than k.
    """

    def __init__(
        self,
        saes: Sequence["TrainingSAE"],
        *,
        lr: float = 3e-4,
        clip: float = 1.0,
        dead_after: int = 1000,
        unit_norm: bool = True,
        **loss: Any,
    ) -> None:
        self.originals = list(saes)
        self.settings = _settings(self.originals, loss)
        self.run = gradients.PASSES[saes[0].cfg.architecture()]
        self.clip, self.dead_after, self.unit_norm = clip, dead_after, unit_norm
        self.w = {name: _stacked(self.originals, name) for name, _ in saes[0].named_parameters()}
        self.since_fired = torch.zeros(self.w["W_dec"].shape[:2], device=self.w["W_dec"].device)
        self.done = 0
        # glibc hands memory back unless it has seen a block of this size freed, and new pages for
        # every gradient are slow.
        torch.empty(7_000_000)
        self._project()
        self.optimizers = [self._optimizer(i, lr) for i in range(len(self.originals))]

    def _optimizer(self, i: int, lr: float) -> torch.optim.Adam:
        """Return torch's fused Adam over one SAE's share of the stack, its moments at 0."""
        parts = [value[i] for value in self.w.values()]
        optimizer = torch.optim.Adam(parts, lr=lr, fused=True)
        for part in parts:
            zeros = {"exp_avg": torch.zeros_like(part), "exp_avg_sq": torch.zeros_like(part)}
            optimizer.state[part] = {"step": torch.zeros((), device=part.device), **zeros}
        return optimizer

    @torch.no_grad()
    def step(self, batch: Tensor) -> gradients.Pass:
        """Take one optimiser step on scaled tokens [token d_in] or [sae token d_in]; return what
        the batch gave before it.
        """
        x = batch.expand(len(self.originals), *batch.shape[-2:])
        settings = self.settings | {
            name: _warmed(*value, self.done) for name, value in self.settings["warm_up"].items()
        }
        done = self.run(self.w, x, settings, self.since_fired > self.dead_after)
        if self.unit_norm:
            along = torch.linalg.vecdot(done.grad["W_dec"], self.w["W_dec"]).unsqueeze(2)
            done.grad["W_dec"].addcmul_(along, self.w["W_dec"], value=-1)
        self._update(done.grad)
        self._project()
        if self.run is gradients.topk_pass:  # the other losses do not ask which latents are dead
            self.since_fired.add_(1).masked_fill_(done.active.sum(dim=1) > 0, 0)
        self.done += 1
        return done

    def _update(self, grad: gradients.Weights) -> None:
        """Clip each SAE's gradient by its norm and take the step of Adam, which divides by the
        factor as under mixed precision.
        """
        for i, optimizer in enumerate(self.optimizers):
            parts = {name: value[i] for name, value in grad.items()}
            norm = sum(torch.dot(part.flatten(), part.flatten()) for part in parts.values()).sqrt()
            scale = ((norm + 1e-6) / self.clip).clamp(min=1)
            for name, parameter in zip(self.w, optimizer.state, strict=True):
                parameter.grad = parts[name]
            # a factor of 1 costs a pass; a GPU is not asked
            optimizer.grad_scale = scale if scale.is_cuda or scale > 1 else None
            optimizer.step()

    def _project(self) -> None:
        """Bring decoder rows back to unit norm and thresholds back above the lowest one."""
        if self.unit_norm:
            self.w["W_dec"].div_(self.w["W_dec"].norm(dim=2, keepdim=True))
        if "threshold" in self.w:
            self.w["threshold"].clamp_(min=self.settings["lowest_threshold"])

    @torch.no_grad()
    def saes(self) -> list["TrainingSAE"]:
        """Write the weights back into the SAEs that the stack was made of, and return these."""
        for i, sae in enumerate(self.originals):
            for name, parameter in sae.named_parameters():
                value = self.w[name][i]
                parameter.copy_(value.T if name in TRANSPOSED else value)
        return self.originals

    def state(self) -> dict[str, Tensor]:
        """Return all that changes in training, by name: weights, Adam's moments, counters."""
        return {**self._tensors(), "done": torch.tensor(self.done)}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take over a state that `state` returned."""
        for name, value in self._tensors().items():
            value.copy_(state[name])
        self.done = int(state["done"])

    def _tensors(self) -> dict[str, Tensor]:
        moments = {
            f"adam.{i}.{j}.{name}": value
            for i, optimizer in enumerate(self.optimizers)
            for j, part in enumerate(optimizer.state.values())
            for name, value in part.items()
        }
        return {**self.w, "since_fired": self.since_fired, **moments}


@torch.no_grad()
def _stacked(saes: Sequence["TrainingSAE"], name: str) -> Tensor:
    """Return one parameter of all SAEs, [sae ...], copied; the encoder as [sae latent d_in]."""
    values = [sae.get_parameter(name).detach().float() for sae in saes]
    return torch.stack([value.T if name in TRANSPOSED else value for value in values]).contiguous()


def _settings(saes: Sequence["TrainingSAE"], loss: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the loss: those of the SAEs' configurations, and what `loss`
    overrides.
    """
    read = [_settings_of(sae) for sae in saes]
    shared = [{name: value for name, value in one.items() if name != "k"} for one in read]
    if any(one != shared[0] for one in shared):
        raise UserError(
            "SAEs that train together must have one architecture, shape and loss; only k may "
            "differ."
        )
    unknown = set(loss) - set(shared[0])
    if unknown:
        raise UserError(
            f"The loss of {shared[0]['architecture']} SAEs has no setting "
            f"{', '.join(sorted(unknown))}."
        )
    warm_up = loss.get(
        "warm_up", {name: value for name, value in shared[0]["warm_up"].items() if name not in loss}
    )
    return {**shared[0], "k": [one["k"] for one in read], **loss, "warm_up": warm_up}


def _settings_of(sae: "TrainingSAE") -> dict[str, Any]:
    cfg = sae.cfg
    settings = {
        "architecture": cfg.architecture(),
        "shape": (cfg.d_in, cfg.d_sae),
        "k": None,
        "warm_up": {},
    }
    if not cfg.apply_b_dec_to_input or cfg.normalize_activations != "none":
        raise UserError(
            "Only SAEs whose encoder reads x - b_dec, unnormalised, can be trained here."
        )
    if settings["architecture"] == "topk":
        return {
            **settings,
            "k": cfg.k,
            "rescale": cfg.rescale_acts_by_decoder_norm,
            "aux_coefficient": cfg.aux_loss_coefficient,
        }
    if settings["architecture"] == "gated":
        return {
            **settings,
            "l1": cfg.l1_coefficient,
            "warm_up": {"l1": (cfg.l1_coefficient, cfg.l1_warm_up_steps)},
        }
    if settings["architecture"] != "jumprelu":
        raise UserError(
            f"No training step for architecture {settings['architecture']!r}; there is one for "
            f"{', '.join(gradients.PASSES)}."
        )
    if (
        cfg.jumprelu_sparsity_loss_mode != "step"
        or cfg.pre_act_loss_coefficient is not None
        or cfg.jumprelu_ste_to_input
    ):
        raise UserError(
            "Only JumpReLU SAEs with the step penalty and without extras can be trained here."
        )
    warm_up = {"l0": (cfg.l0_coefficient, cfg.l0_warm_up_steps)}
    more = {
        "bandwidth": cfg.jumprelu_bandwidth,
        "kernel": "rectangle",
        "l0": cfg.l0_coefficient,
        "l1": 0.0,
    }
    return {**settings, **more, "lowest_threshold": 0.0, "warm_up": warm_up}


def _warmed(final: float, steps: int, done: int) -> float:
    """Return a coefficient that rises from 0 over the first `steps`, as in sae-lens."""
    return final if steps == 0 else final * min(done / steps, 1.0)
