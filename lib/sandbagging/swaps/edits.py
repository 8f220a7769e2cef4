"""Edits of the residual stream: x is [row d_model], and each function returns a new tensor of that
shape; a run can start from it.
"""

import torch
from torch import Tensor


def swap_code(x: Tensor, sae, code: Tensor, keep_error: bool = True) -> Tensor:
    """Return x with its whole code f(x) replaced by `code` [latent]: x + D(code) - D(f(x)), or
    D(code) without the error.
    """
    decoded = sae.decode(code[None])
    return x + decoded - sae.decode(sae.encode(x)) if keep_error else decoded.expand_as(x)


def identity(x: Tensor, sae) -> Tensor:
    """Return D(f(x)): what the SAE alone costs."""
    return sae.decode(sae.encode(x))


def add_noise(x: Tensor, norm: Tensor, seed: int) -> Tensor:
    """Return x plus a random direction of length `norm` [row], drawn anew for each row."""
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    return x + direction / direction.norm(dim=-1, keepdim=True) * norm[:, None]


def replace_rows(resid: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """Return resid [batch token d_model] with tokens `rows` set to `values` [batch row d_model]."""
    edited = resid.expand(len(values), -1, -1).clone()
    edited[:, rows.to(resid.device)] = values.to(edited)
    return edited
