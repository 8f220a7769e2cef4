"""Quality figures of SAEs on held-out questions."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import statistics
from sandbagging.errors import UserError
from sandbagging.saes.tokens import checked, question_rows
from sandbagging.statistics import Estimate

if TYPE_CHECKING:
    from sae_lens import SAE

CHUNK = 4096  # tokens encoded at once by quality()


@torch.no_grad()
def quality(
    sae: "SAE", tokens: Tensor, is_last: Tensor | np.ndarray | None = None, *, loss_recovered: float | None = None
) -> dict[str, float | int | None]:
    """Return quality figures of an SAE on held-out raw activations [token d_model].

    fvu = squared error / squared distance from the mean of these tokens (1 - explained variance); l0 = active latents per
    token; dead = share of latents that never fire. The same at the tokens marked by `is_last` [token], with their own mean
    (a stricter measure: it gives no credit for what all last tokens share). None where fewer than two tokens are left.
    `loss_recovered` needs the model, so it is measured elsewhere and only passed on.
    """
    tokens = checked(tokens)
    last = torch.zeros(len(tokens), dtype=torch.bool) if is_last is None else torch.as_tensor(np.asarray(is_last), dtype=torch.bool)
    if len(last) != len(tokens):
        raise UserError(f"is_last marks {len(last)} tokens, and there are {len(tokens)}.")
    figures = {"n_tokens": len(tokens), **_figures(sae, tokens)}
    at_last = {"n_tokens": int(last.sum()), **_figures(sae, tokens[last.to(tokens.device)])}
    return {**figures, **{name + "_last": value for name, value in at_last.items()}, "loss_recovered": loss_recovered}


def _figures(sae: "SAE", tokens: Tensor) -> dict[str, float | None]:
    """Return fvu, l0 and dead share on `tokens` [token d_model]."""
    if len(tokens) < 2:
        return {"fvu": None, "l0": None, "dead": None}
    mean = tokens.mean(dim=0)
    error = spread = active = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=tokens.device)
    for chunk in tokens.split(CHUNK):
        codes = sae.encode(chunk)
        error += float((chunk - sae.decode(codes)).double().square().sum())
        spread += float((chunk - mean).double().square().sum())
        active += float((codes != 0).sum())
        fired |= (codes != 0).any(dim=0)
    fvu = error / spread if spread > 0 else None
    return {"fvu": fvu, "l0": active / len(tokens), "dead": float((~fired).float().mean())}


def held_out(sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str, **more: Any) -> dict[str, Any]:
    """Return `quality` on the question tokens of one split."""
    rows = question_rows(table, condition, split)
    return quality(sae, activations[rows], table.set_index("row")["is_last"].loc[rows].to_numpy(copy=True), **more)


def fvu_pair(sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str) -> dict[str, float | None]:
    """Return fvu at all and at last question tokens of one split."""
    figures = held_out(sae, activations, table, condition, split)
    return {"fvu": figures["fvu"], "fvu_last": figures["fvu_last"]}


@torch.no_grad()
def fvu_ci(sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str, last: bool = False, seed: int = 0) -> Estimate:
    """Return FVU over the question tokens (or the last ones) of one split, with a CI95 over questions, whole questions resampled."""
    lines = table.set_index("row").loc[question_rows(table, condition, split)]
    lines = lines[lines["is_last"]] if last else lines
    tokens = checked(activations[lines.index.to_numpy(copy=True)])
    error = (tokens - sae.decode(sae.encode(tokens))).square().sum(dim=1)
    spread = (tokens - tokens.mean(dim=0)).square().sum(dim=1)
    sums = pd.DataFrame({"error": error, "spread": spread}).groupby(lines["question_id"].to_numpy()).sum()
    return statistics.ratio_ci(sums["error"], sums["spread"], unit="share of variance", seed=seed)
