"""Quality figures of SAEs on held-out questions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations
from sandbagging.errors import UserError
from sandbagging.files import Folder, read_csv
from sandbagging.saes import folders
from sandbagging.saes.recipes import parse_tag
from sandbagging.saes.tokens import checked, question_rows

if TYPE_CHECKING:
    from sae_lens import SAE

CHUNK = 4096  # tokens encoded at once by quality()


@torch.no_grad()
def quality(
    sae: "SAE",
    tokens: Tensor,
    is_last: Tensor | np.ndarray | None = None,
    *,
    loss_recovered: float | None = None,
) -> dict[str, float | int | None]:
    """Return quality figures of an SAE on held-out raw activations [token d_model].

    fvu = squared error / squared distance from the mean of these tokens (1 - explained variance);
    l0 = active latents per token; dead = share of latents that never fire. The same at the tokens
    marked by `is_last` [token], with their own mean (a stricter measure: it gives no credit for
    what all last tokens share). None where fewer than two tokens are left. `loss_recovered` needs
    the model, so it is measured elsewhere and only passed on.
    """
    tokens = checked(tokens)
    last = (
        torch.zeros(len(tokens), dtype=torch.bool)
        if is_last is None
        else torch.as_tensor(np.asarray(is_last), dtype=torch.bool)
    )
    if len(last) != len(tokens):
        raise UserError(f"is_last marks {len(last)} tokens, and there are {len(tokens)}.")
    figures = {"n_tokens": len(tokens), **_figures(sae, tokens)}
    at_last = {"n_tokens": int(last.sum()), **_figures(sae, tokens[last.to(tokens.device)])}
    return {
        **figures,
        **{name + "_last": value for name, value in at_last.items()},
        "loss_recovered": loss_recovered,
    }


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


def held_out(
    sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str, **more: Any
) -> dict[str, Any]:
    """Return `quality` on the question tokens of one split."""
    rows = question_rows(table, condition, split)
    return quality(
        sae,
        activations[rows],
        table.set_index("row")["is_last"].loc[rows].to_numpy(copy=True),
        **more,
    )


def fvu_pair(
    sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str
) -> dict[str, float | None]:
    """Return fvu at all and at last question tokens of one split."""
    figures = held_out(sae, activations, table, condition, split)
    return {"fvu": figures["fvu"], "fvu_last": figures["fvu_last"]}


@torch.no_grad()
def errors_by_question(
    sae: "SAE",
    resid: Tensor,
    table: pd.DataFrame,
    condition: str,
    split: str,
    last: bool = False,
) -> pd.DataFrame:
    """Return what FVU is made of, a row a question: columns question_id, error (squared, summed
    over its tokens), spread (squared distance from the mean of all questions' tokens).

    Over the question tokens of one split, or the last ones. FVU is the sum of error over that of
    spread.
    """
    lines = table.set_index("row").loc[question_rows(table, condition, split)]
    lines = lines[lines["is_last"]] if last else lines
    tokens = checked(resid[lines.index.to_numpy(copy=True)])
    error = (tokens - sae.decode(sae.encode(tokens))).square().sum(dim=1)
    spread = (tokens - tokens.mean(dim=0)).square().sum(dim=1)
    sums = pd.DataFrame({"error": error, "spread": spread})
    return (
        sums.groupby(lines["question_id"].to_numpy()).sum().rename_axis("question_id").reset_index()
    )


def errors_of_tags(trained: Folder, tags: Sequence[str], collected: Folder) -> pd.DataFrame:
    """Return `errors_by_question` of every tag over mixed test prompts, stacked, with the columns
    tag and tokens ("all", "last") in front.
    """
    table = read_csv(collected / "tokens.csv.gz")
    parts = []
    for tag in tags:
        resid = activations.load(collected, parse_tag(tag).layer)
        sae = folders.load(trained / tag)
        for tokens in ("all", "last"):
            part = errors_by_question(sae, resid, table, "mixed", "test", tokens == "last")
            part.insert(0, "tag", tag)
            part.insert(1, "tokens", tokens)
            parts.append(part)
    return pd.concat(parts, ignore_index=True)


# A second route -----------------------------------------------------------------------------------


def encode_by_hand(x: Tensor, weights: dict[str, Tensor], k: int | None) -> Tensor:
    """Return the code [token d_sae] of activations [token d_in], from the weights alone.

    `k` is that of a TopK SAE. The names of the weights tell the architecture.
    """
    pre = (x - weights["b_dec"]) @ weights["W_enc"]
    if "b_gate" in weights:
        on = pre + weights["b_gate"] > 0
        return on * (pre * weights["r_mag"].exp() + weights["b_mag"]).relu()
    pre = pre + weights["b_enc"]
    if "threshold" in weights:
        return pre * (pre > weights["threshold"])
    kept = pre.relu().topk(k)
    return torch.zeros_like(pre).scatter(-1, kept.indices, kept.values)


@torch.no_grad()
def three_readers(
    trained: Folder, tags: Sequence[str], collected: Folder, n_tokens: int = 200
) -> pd.DataFrame:
    """Return how far three readers of the same files are apart on the last `n_tokens` rows: by
    hand, sae-lens, and `folders.load`.

    Columns: tag, row_norm (largest |1 - norm| of a decoder row), sae_lens and here (largest
    difference of a code from that by hand), no_op (largest |reconstruction + error term - x|),
    k, most_active (latents at one token).
    """
    from sae_lens import SAE
    from safetensors.torch import load_file

    rows = []
    for tag in tags:
        fields, folder = parse_tag(tag), trained / tag
        x = activations.load(collected, fields.layer)[-n_tokens:]
        weights, theirs = load_file(folder / "sae_weights.safetensors"), SAE.load_from_disk(folder)
        codes = encode_by_hand(x, weights, fields.k)
        rebuilt = codes @ weights["W_dec"] + weights["b_dec"]
        error = x - theirs.decode(theirs.encode(x))
        ours = folders.load(folder).encode(x)
        rows.append(
            {
                "tag": tag,
                "row_norm": float((weights["W_dec"].norm(dim=1) - 1).abs().max()),
                "sae_lens": float((codes - theirs.encode(x)).abs().max()),
                "here": float((codes - ours).abs().max()),
                "no_op": float((rebuilt + error - x).abs().max()),
                "k": fields.k,
                "most_active": int((ours != 0).sum(dim=1).max()),
            }
        )
    return pd.DataFrame(rows)
