"""The losses of an SAE with their gradients written out, for a stack of SAEs at once.

A loss is one function: parameters and a batch in; loss, codes and gradients out, by the chain rule
of a few lines. No autograd: it would keep and copy what the formulas do not need. Products with
codes that are mostly zero read only the active rows of the dictionary (`Sparse`); the same products
as dense matrices (`Dense`) are the reference, and the faster way where many latents are active, and
on a GPU. Encoder and decoder both lie as [sae latent d_in] here, so that a latent is a row of
either.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]

# Share of active codes above which a dense product is faster; measured by
# tests/benchmarks/bench_sae_training.py.
DENSE_ABOVE = 0.25


# Products with codes ------------------------------------------------------------------------------


class Dense:
    """Codes [sae token latent] as they are: the three products of a step as matrix products."""

    def __init__(self, active: Tensor) -> None:
        self.active = active

    def decode(self, codes: Tensor, W_dec: Tensor) -> Tensor:
        """Return sum_j codes_j W_dec_j [sae token d_in]."""
        return torch.bmm(codes, W_dec)

    def along(self, errors: Tensor, W_dec: Tensor) -> Tensor:
        """Return errors . W_dec_j [sae token latent] where active, and 0 elsewhere."""
        return torch.bmm(errors, W_dec.mT).mul_(self.active)

    def outer(self, codes: Tensor, vectors: Tensor) -> Tensor:
        """Return sum_tokens codes_j vectors [sae latent d_in]."""
        return torch.bmm(codes.mT, vectors)


class Sparse:
    """The same products, reading only the active entries of codes [sae token latent]."""

    def __init__(self, active: Tensor) -> None:
        self.active = active
        n_saes, n_tokens, n_latents = active.shape
        # of float32 it takes twice as long
        self.token, latent = active.bool().view(-1, n_latents).nonzero(as_tuple=True)
        self.entries = self.token * n_latents + latent  # where the active codes lie, token by token
        self.rows = (
            self.token.div(n_tokens, rounding_mode="floor").mul_(n_latents).add_(latent)
            if n_saes > 1
            else latent
        )
        counts = active.sum(dim=2).flatten().long()
        ends = counts.cumsum(0)
        self.bags = ends - counts
        # The same entries latent by latent: the columns of a sparse matrix of their places.
        places, starts = np.arange(len(latent), dtype=np.int32), np.append(0, ends)
        shape = (n_saes * n_tokens, n_saes * n_latents)
        by_latent = scipy.sparse.csr_matrix((places, self.rows.numpy(), starts), shape).tocsc()
        self.tokens, self.bags_by_latent = (
            torch.from_numpy(by_latent.indices),
            torch.from_numpy(by_latent.indptr[:-1]),
        )
        self.entries_by_latent = self.entries[torch.from_numpy(by_latent.data)]

    def decode(self, codes: Tensor, W_dec: Tensor) -> Tensor:
        """Return sum_j codes_j W_dec_j [sae token d_in]."""
        values = codes.take(self.entries)
        out = F.embedding_bag(
            self.rows, W_dec.flatten(0, 1), self.bags, mode="sum", per_sample_weights=values
        )
        return out.view(*codes.shape[:2], -1)

    def along(self, errors: Tensor, W_dec: Tensor) -> Tensor:
        """Return errors . W_dec_j [sae token latent] where active, and 0 elsewhere."""
        dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
            errors.flatten(0, 1), W_dec.flatten(0, 1), self.rows, self.bags, self.token, 0
        )
        return torch.zeros_like(self.active).put_(self.entries, dots)

    def outer(self, codes: Tensor, vectors: Tensor) -> Tensor:
        """Return sum_tokens codes_j vectors [sae latent d_in]."""
        values = codes.take(self.entries_by_latent)
        out = F.embedding_bag(
            self.tokens,
            vectors.flatten(0, 1),
            self.bags_by_latent,
            mode="sum",
            per_sample_weights=values,
        )
        return out.view(len(codes), codes.shape[2], -1)


def above(values: Tensor, bound: Tensor | float) -> Tensor:
    """Return 1.0 where values > bound, else 0.0: on a CPU, arithmetic with booleans takes five
    times as long as with float32.
    """
    return torch.gt(values, bound, out=torch.empty_like(values))


def products(active: Tensor) -> Dense | Sparse:
    """Return the faster way to multiply with codes of this support, 0.0 or 1.0 [sae token latent];
    on a GPU always the dense one.
    """
    if active.is_cuda or float(active.sum()) > DENSE_ABOVE * active.numel():
        return Dense(active)
    return Sparse(active)


# Losses and their gradients -----------------------------------------------------------------------


@dataclasses.dataclass
class Pass:
    """What one batch gave: loss [sae], gradients by parameter, reconstruction error [sae token
    d_in], and 1.0 where a latent was active [sae token latent].
    """

    loss: Tensor
    grad: Weights
    error: Tensor
    active: Tensor


def topk_pass(w: Weights, x: Tensor, settings: dict[str, Any], dead: Tensor) -> Pass:
    """Return sae-lens's TopK loss on x [sae token d_in], and its gradients.

    loss = mean_token |D(z) - x|^2 + auxiliary loss; the k largest pre-activations are kept, then
    rectified. With `rescale` pre-activations are ranked in units of their decoder row's norm: the
    norm cancels in code times row. Gao et al. 2024 (arXiv 2406.04093), sections 2.3 and A.2.
    """
    centred = x - w["b_dec"].unsqueeze(1)
    pre = torch.bmm(centred, w["W_enc"].mT).add_(w["b_enc"].unsqueeze(1))
    ranked = pre * w["W_dec"].norm(dim=2).unsqueeze(1) if settings["rescale"] else pre
    active = _largest(ranked, settings["k"]).mul_(above(pre, 0.0))
    codes = pre * active
    product = products(active)
    error = product.decode(codes, w["W_dec"]).add_(w["b_dec"].unsqueeze(1)).sub_(x)
    d_out = error * (2 / x.shape[1])
    d_pre = product.along(d_out, w["W_dec"])
    grad = {"W_dec": product.outer(codes, d_out), "W_enc": product.outer(d_pre, centred)}
    grad |= {"b_enc": d_pre.sum(dim=1), "b_dec": d_out.sum(dim=1)}
    loss = _squared(error)
    for i in dead.any(dim=1).nonzero().flatten().tolist():
        loss[i] += _revive(
            _one(w, i), _one(grad, i), pre[i], centred[i], error[i], dead[i], settings
        )
    _through_input_bias(w, grad, grad["b_enc"])
    return Pass(loss, grad, error, active)


def _largest(values: Tensor, k: Sequence[int]) -> Tensor:
    """Return 1.0 at the k largest values of each token, 0.0 elsewhere [sae token latent]; the SAEs
    may differ in k.
    """
    if not values.is_cuda:
        # The k-th largest value is found in a quarter of the time that their places take.
        kth = [
            np.partition(one.numpy(), -kept, axis=1)[:, -kept, None]
            for one, kept in zip(values, k, strict=True)
        ]
        chosen = torch.ge(values, torch.from_numpy(np.stack(kth)), out=torch.empty_like(values))
        if torch.equal(
            chosen.sum(dim=2),
            torch.tensor(k, dtype=chosen.dtype).unsqueeze(1).expand(values.shape[:2]),
        ):
            return chosen
    chosen = torch.zeros_like(values)
    for i, kept in enumerate(k):
        chosen[i].scatter_(1, values[i].topk(kept, dim=1, sorted=False).indices, 1.0)
    return chosen


def _revive(
    w: Weights,
    grad: Weights,
    pre: Tensor,
    centred: Tensor,
    error: Tensor,
    dead: Tensor,
    settings: dict[str, Any],
) -> Tensor:
    """Return the auxiliary loss of one SAE, whose dead latents are to predict the error, and add
    its gradients.
    """
    n_tokens, d_in = centred.shape
    which = dead.nonzero().flatten()
    k = min(d_in // 2, len(which))
    scale = settings["aux_coefficient"] * min(len(which) / (d_in // 2), 1.0)
    pre, rows = pre[:, which], w["W_dec"][which]
    ranked = pre * rows.norm(dim=1) if settings["rescale"] else pre
    kept = torch.zeros_like(pre).scatter_(1, ranked.topk(k, dim=1, sorted=False).indices, 1.0)
    codes = pre * kept
    miss = codes @ rows + error  # the residual is x - D(z) = -error
    d_out = miss * (2 * scale / n_tokens)
    d_pre = (d_out @ rows.T).mul_(kept)
    grad["W_dec"].index_add_(0, which, codes.T @ d_out)
    grad["W_enc"].index_add_(0, which, d_pre.T @ centred)
    grad["b_enc"].index_add_(0, which, d_pre.sum(dim=0))
    return scale * miss.square().sum() / n_tokens


def jumprelu_pass(w: Weights, x: Tensor, settings: dict[str, Any], dead: Tensor) -> Pass:
    """Return the JumpReLU loss on x [sae token d_in], and its gradients.

    loss = mean_token [ |D(z) - x|^2 + `l0` * active latents + `l1` * sum of codes ]. Thresholds
    learn through a kernel K of width e: d code / d threshold = -(threshold / e) K((pre - threshold)
    / e), d active / d threshold = -(1/e) K. Rajamanoharan et al. 2024 (arXiv 2407.14435), section
    3. With K the rectangle and l1 = 0 it is sae-lens's.
    """
    threshold, n_tokens = w["threshold"].unsqueeze(1), x.shape[1]
    centred = x - w["b_dec"].unsqueeze(1)
    pre = torch.bmm(centred, w["W_enc"].mT).add_(w["b_enc"].unsqueeze(1))
    active = above(pre, threshold)
    codes = pre * active
    product = products(active)
    error = product.decode(codes, w["W_dec"]).add_(w["b_dec"].unsqueeze(1)).sub_(x)
    d_out = error * (2 / n_tokens)
    d_code = torch.bmm(d_out, w["W_dec"].mT).add_(settings["l1"] / n_tokens)
    kernel, peak = KERNELS[settings["kernel"]]
    kernel = kernel(pre.sub_(threshold), settings["bandwidth"])
    near = kernel.sum(dim=1).mul_(settings["l0"] / n_tokens)
    d_threshold = (
        kernel.mul_(d_code)
        .sum(dim=1)
        .mul_(w["threshold"])
        .add_(near)
        .mul_(-peak / settings["bandwidth"])
    )
    d_pre = d_code.mul_(active)
    grad = {"W_dec": product.outer(codes, d_out), "W_enc": product.outer(d_pre, centred)}
    grad |= {"threshold": d_threshold, "b_enc": d_pre.sum(dim=1), "b_dec": d_out.sum(dim=1)}
    _through_input_bias(w, grad, grad["b_enc"])
    penalty = settings["l0"] * active.sum(dim=(1, 2)) + settings["l1"] * codes.sum(dim=(1, 2))
    return Pass(_squared(error) + penalty / n_tokens, grad, error, active)


def _rectangle(distance: Tensor, width: float) -> Tensor:
    """1 within half a width, as in sae-lens; writes over the distances."""
    return torch.lt(distance.abs_(), width / 2, out=distance)


def _bell(distance: Tensor, width: float) -> Tensor:
    """exp(-u^2 / 2), u = distance / width; writes over the distances. Cut at 1e-35, since
    arithmetic below 1e-38 is slow.
    """
    return distance.square_().mul_(-0.5 / width**2).clamp_(min=-80.0).exp_()


# Each kernel's shape and its peak: 1 / sqrt(2 pi) for the card's.
KERNELS = {"rectangle": (_rectangle, 1.0), "gaussian": (_bell, 0.3989422804014327)}


def gated_pass(w: Weights, x: Tensor, settings: dict[str, Any], dead: Tensor) -> Pass:
    """Return sae-lens's gated loss on x [sae token d_in], and its gradients.

    gate = x W + b_gate, magnitude = exp(r_mag) x W + b_mag, code = [gate > 0] relu(magnitude); loss
    = mean_token [ |D(code) - x|^2 + |D(relu(gate)) - x|^2 + `l1` * sum_j relu(gate_j) |W_dec_j| ].
    Both reconstructions go through the decoder as one product. Rajamanoharan et al. 2024 (arXiv
    2404.16014), section 3.2; sae-lens lets the gradient of the second reconstruction reach the
    decoder.
    """
    n_tokens, l1 = x.shape[1], settings["l1"] / x.shape[1]
    centred = x - w["b_dec"].unsqueeze(1)
    shared = torch.bmm(centred, w["W_enc"].mT)
    stretch = w["r_mag"].exp().unsqueeze(1)
    gate = shared + w["b_gate"].unsqueeze(1)
    magnitude = torch.addcmul(w["b_mag"].unsqueeze(1), shared, stretch)
    opened = above(gate, 0.0)
    active = above(magnitude, 0.0).mul_(opened)
    # codes, then what the gate alone would code
    both = torch.cat([magnitude.mul_(active), gate.mul_(opened)], dim=1)
    product = products(torch.cat([active, opened], dim=1))
    error = (
        product.decode(both, w["W_dec"])
        .add_(w["b_dec"].unsqueeze(1))
        .sub_(torch.cat([x, x], dim=1))
    )
    d_out = error * (2 / n_tokens)
    d_magnitude, d_gate = product.along(d_out, w["W_dec"]).split(n_tokens, dim=1)
    norm = w["W_dec"].norm(dim=2)
    through_gate = gate.sum(dim=1)
    d_gate.addcmul_(opened, (norm * l1).unsqueeze(1))
    d_pre = torch.addcmul(d_gate, d_magnitude, stretch)
    d_row = product.outer(both, d_out).addcmul_(
        w["W_dec"], (through_gate / norm).unsqueeze(2), value=l1
    )
    grad = {"W_dec": d_row, "W_enc": products(opened).outer(d_pre, centred)}
    grad |= {
        "b_gate": d_gate.sum(dim=1),
        "b_mag": d_magnitude.sum(dim=1),
        "b_dec": d_out.sum(dim=1),
    }
    grad["r_mag"] = shared.mul_(d_magnitude).sum(dim=1).mul_(stretch.squeeze(1))
    _through_input_bias(w, grad, d_pre.sum(dim=1))
    by_code, by_gate = error.split(n_tokens, dim=1)
    return Pass(
        _squared(by_code) + _squared(by_gate) + l1 * (through_gate * norm).sum(dim=1),
        grad,
        by_code,
        active,
    )


def _through_input_bias(w: Weights, grad: Weights, d_bias: Tensor) -> None:
    """Add to b_dec's gradient what reaches it through the encoder, which reads x - b_dec."""
    grad["b_dec"].unsqueeze(1).sub_(torch.bmm(d_bias.unsqueeze(1), w["W_enc"]))


def _squared(error: Tensor) -> Tensor:
    """Return the mean over tokens of the squared error [sae]."""
    return error.square().sum(dim=(1, 2)) / error.shape[1]


def _one(tensors: Weights, i: int) -> Weights:
    return {name: value[i] for name, value in tensors.items()}


PASSES = {"topk": topk_pass, "jumprelu": jumprelu_pass, "gated": gated_pass}
