"""E6 and its rivals on one axis: the new residual stream that each of them puts in place of x.

x is resid_post at the edited rows of the sandbag test prompts, f and D the SAE's encoder and
decoder, m_G and m_S the median codes of genuine and sandbag train prompts. Results are keyed by
intervention, error term ("kept", "dropped" or "" where there is none) and seed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.swaps import edits
from sandbagging.swaps.medians import TrainCodes, median_code, median_codes, shuffled_codes

Key = tuple[str, str, int]  # intervention, error term, seed


def without_sae(
    x: Tensor,
    train: TrainCodes,
    *,
    oracle: Tensor | None,
    seeds: Sequence[int],
    balanced: bool = True,
) -> dict[Key, Tensor]:
    """Return {(intervention, "", seed): new x} of the rivals that need no SAE.

    oracle: the same question's genuine residual (the ceiling). diff_means: x + mean_G - mean_S.
    diff_means_shuffled: the same with shuffled labels. mean_ablation: the pooled train mean.
    """
    pooled = torch.cat([train.genuine, train.sandbag])
    out: dict[Key, Tensor] = {
        ("diff_means", "", 0): x + train.genuine.mean(0) - train.sandbag.mean(0)
    }
    if oracle is not None:
        out["oracle", "", 0] = oracle
    out["mean_ablation", "", 0] = pooled.mean(0).expand_as(x)
    for seed, labels in zip(seeds, train.shuffles(seeds, balanced), strict=True):
        out["diff_means_shuffled", "", seed] = x + pooled[labels].mean(0) - pooled[~labels].mean(0)
    return out


def e6_and_e4(x: Tensor, sae, train: TrainCodes) -> dict[Key, Tensor]:
    """Return E6 and E4, error kept and dropped, their delta forms, and identity."""
    m_g, m_s = median_codes(sae, train)
    delta = sae.decode(m_g[None]) - sae.decode(m_s[None])
    out: dict[Key, Tensor] = {("identity", "dropped", 0): edits.identity(x, sae)}
    out["delta+", "kept", 0], out["delta-", "kept", 0] = x + delta, x - delta
    for term, keep in (("kept", True), ("dropped", False)):
        out["E6", term, 0] = edits.swap_code(x, sae, m_g, keep)
        out["E4", term, 0] = edits.swap_code(x, sae, m_s, keep)
    return out


def e1(
    x: Tensor, sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True, name: str = "E1"
) -> dict[Key, Tensor]:
    """Return E1 (error kept): E6 with the median code of the prompts that a shuffle labels
    "genuine", a seed each.
    """
    if not len(seeds):
        raise UserError(
            "E1 needs at least one shuffle; "
            "set e1_seeds to 1 or more (20 or more to see their spread)."
        )
    shuffled = shuffled_codes(train.pooled_codes(sae), train, seeds, balanced)
    return {
        (name, "kept", seed): edits.swap_code(x, sae, code)
        for seed, code in zip(seeds, shuffled, strict=True)
    }


def e1_variants(
    x: Tensor, sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True
) -> dict[Key, Tensor]:
    """Return E1's other forms, a seed each: error dropped, by the lower median (E1_lower), by the
    mean code (E1_mean), and delta_E1.

    delta_E1 is x + D(code of those labelled "genuine") - D(code of the others): a direction with
    expectation 0.
    """
    codes, out = train.pooled_codes(sae), {}
    forms = [shuffled_codes(codes, train, seeds, balanced, c) for c in ("average", "lower", "mean")]
    rest = shuffled_codes(codes, train, seeds, balanced, of_rest=True)
    for seed, own, lower, mean, other in zip(seeds, *forms, rest, strict=True):
        out["E1", "dropped", seed] = edits.swap_code(x, sae, own, keep_error=False)
        out["E1_lower", "kept", seed] = edits.swap_code(x, sae, lower)
        out["E1_mean", "kept", seed] = edits.swap_code(x, sae, mean)
        out["delta_E1", "kept", seed] = x + sae.decode(own[None]) - sae.decode(other[None])
    return out


def e1_with_labels(x: Tensor, sae, train: TrainCodes, labels: np.ndarray) -> Tensor:
    """Return E1 (error kept) under a given label vector over the pooled prompts; with the true
    labels it is E6.
    """
    return edits.swap_code(x, sae, median_code(train.pooled_codes(sae)[train.labelled(labels)]))


def noise(x: Tensor, like: Tensor, seeds: Sequence[int]) -> dict[Key, Tensor]:
    """Return x plus random directions as long as the change from x to `like` (E6's), a seed each.

    Raises UserError without a seed: an effect that is not compared with noise cannot be judged.
    """
    if not len(seeds):
        raise UserError("Noise needs at least one seed; set noise_seeds to 1 or more.")
    norm = (like - x).norm(dim=-1)
    return {("noise", "", seed): edits.add_noise(x, norm, seed) for seed in seeds}
