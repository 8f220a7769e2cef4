"""SAEs of one shape that train side by side, step for step what sae_lens.SAETrainer does.

1. A `Stack` holds the parameters of all its SAEs with a leading axis `sae`.
2. The loss and its gradients come from gradients.py.
3. Each SAE's gradient is clipped by its own norm; the factor rides along in the one pass of torch's
   fused Adam.
4. Decoder rows are kept at unit norm, if wished: gradient projected before the update, rows
   renormalised after it.

With unit_norm=False every number is sae-lens's, up to the rounding of float32.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.saes import gradients

if TYPE_CHECKING:
    from sae_lens import TrainingSAE

TRANSPOSED = ("W_enc",)  # [latent d_in] here, so that a latent is a row; sae-lens has [d_in latent]


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
    """Return the settings of the loss: the SAEs' own, and what `loss` overrides."""
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
