"""How well an SAE rebuilds the residual stream where a swap edits it, question by question."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor


@torch.no_grad()
def errors_at(
    x: Mapping[str, Tensor], question_ids: tuple[str, ...], sae, layer: int, tag: str
) -> pd.DataFrame:
    """Return what FVU at the edited position is made of, from held-out x {condition: [question
    d_model]}.

    Columns: layer, tag, question_id, condition, error (squared), within and pooled (squared
    distance from the mean of its own condition, and of all of them).
    """
    overall, parts = torch.cat([*x.values()]).mean(dim=0), []
    for condition, rows in x.items():
        error = (rows - sae.decode(sae.encode(rows))).square().sum(dim=1)
        within = (rows - rows.mean(dim=0)).square().sum(dim=1)
        pooled = (rows - overall).square().sum(dim=1)
        sums = {"error": error, "within": within, "pooled": pooled}
        told = {"layer": layer, "tag": tag, "question_id": question_ids, "condition": condition}
        parts.append(pd.DataFrame({**told, **{n: v.cpu().numpy() for n, v in sums.items()}}))
    return pd.concat(parts, ignore_index=True)
