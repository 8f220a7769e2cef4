"""Directions of one length: what D(m_G) - D(m_S) does, beside what any direction of its size does.

x is resid_post at the edited rows, f and D the SAE's encoder and decoder. Results are keyed as in
`interventions`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.swaps.interventions import Key
from sandbagging.swaps.medians import TrainCodes, median_codes, shuffled_codes


def delta(sae, train: TrainCodes) -> Tensor:
    """Return D(m_G) - D(m_S) [d_model], the direction of delta+."""
    m_g, m_s = median_codes(sae, train)
    return (sae.decode(m_g[None]) - sae.decode(m_s[None]))[0]


def of_equal_norm(
    x: Tensor, sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True
) -> dict[Key, Tensor]:
    """Return x plus directions as long as that of delta+, a seed each.

    delta_E1: D(code of the prompts that a shuffle labels "genuine") - D(code of the others).
    delta_span: a random sum of the decoder rows that fire on these train prompts. A direction of
    length 0 stays 0. Raises UserError without a seed.
    """
    if not len(seeds):
        raise UserError("Shuffled and random directions need at least one seed.")
    codes, norm = train.pooled_codes(sae), delta(sae, train).norm()
    own = shuffled_codes(codes, train, seeds, balanced)
    rest = shuffled_codes(codes, train, seeds, balanced, of_rest=True)
    out: dict[Key, Tensor] = {}
    for seed, code, other in zip(seeds, own, rest, strict=True):
        shuffled = (sae.decode(code[None]) - sae.decode(other[None]))[0]
        out["delta_E1", "kept", seed] = x + scaled(shuffled, norm)
        out["delta_span", "kept", seed] = x + scaled(in_span(sae, codes, seed), norm)
    return out


def in_span(sae, codes: Tensor, seed: int) -> Tensor:
    """Return a random sum [d_model] of the decoder rows whose latents fire in codes [row latent],
    with normal weights.
    """
    fires = (codes != 0).any(dim=0)
    weights = torch.randn(len(fires), generator=torch.Generator().manual_seed(seed)).to(codes)
    nothing = torch.zeros_like(codes[:1])
    return (sae.decode((weights * fires)[None]) - sae.decode(nothing))[0]


def scaled(direction: Tensor, norm: Tensor | float) -> Tensor:
    """Return a direction [d_model] at a given length; one of length 0 stays 0."""
    length = direction.norm()
    return direction * (norm / length) if length > 0 else direction
