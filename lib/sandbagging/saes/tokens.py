"""Which tokens an SAE is trained, judged and read on, and the one factor that scales them."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.saes.recipes import CONDITIONS


def select_tokens(
    table: pd.DataFrame,
    condition: str,
    *,
    split: str = "train",
    genuine: str = "genuine",
    sandbag: str = "sandbag",
) -> np.ndarray:
    """Return the rows of the activation tensor that belong to a training condition, in order.

    `table` is tokens.csv.gz. genuine_only takes the prompts of condition `genuine`,
    sandbagging_only those of `sandbag`, mixed these and the neutral ones. The prefix that all
    prompts share (question_id "") belongs to the train split alone: held-out figures that counted
    it would be judged on tokens seen in training. Raises UserError if nothing is left.
    """
    wanted = {
        "genuine_only": {genuine},
        "sandbagging_only": {sandbag},
        "mixed": {genuine, sandbag, "neutral"},
    }
    if condition not in wanted:
        raise UserError(
            f"No training condition {condition!r}; choose one of {', '.join(CONDITIONS)}."
        )
    chosen = table["condition"].isin(wanted[condition]) & (table["split"] == split)
    if split != "train":
        chosen &= table["question_id"].fillna("") != ""
    if not chosen.any():
        raise UserError(
            f"No tokens of condition {condition!r} in split {split!r}; collect activations for it "
            "first."
        )
    return np.sort(table.loc[chosen, "row"].to_numpy())


def input_scale(activations: Tensor) -> float:
    """Return the factor that brings the mean norm of [token d_model] to sqrt(d_model)."""
    tokens = checked(activations)
    mean_norm = float(tokens.norm(dim=1).double().mean())
    if mean_norm == 0:
        raise UserError("All activations are zero, so they cannot be scaled; collect them again.")
    return math.sqrt(tokens.shape[1]) / mean_norm


def training_data(activations: Tensor, scale: float | None = None) -> tuple[Tensor, float]:
    """Return a scaled float32 copy of `activations` [token d_model], and the factor.

    Without `scale` the factor is measured on these activations. SAEs of one layer are compared with
    each other, so give all of them the factor of that layer's whole training set. Raises UserError
    for fewer than two tokens, NaN or infinity.
    """
    if scale is None:
        scale = input_scale(activations)
    return checked(activations) * scale, scale


def checked(activations: Tensor) -> Tensor:
    """Return `activations` as float32, or raise UserError where no SAE can be trained on them."""
    if activations.ndim != 2:
        raise UserError(
            f"Activations must be [token d_model]; these have the shape {list(activations.shape)}."
        )
    if len(activations) < 2:
        raise UserError(
            f"{len(activations)} activation(s) are too few to train on; collect at least two "
            "tokens."
        )
    tokens = activations.float()
    if not torch.isfinite(tokens).all():
        bad = int((~torch.isfinite(tokens)).any(dim=1).sum())
        raise UserError(
            f"{bad} of {len(tokens)} activations hold NaN or infinity; collect them again before "
            "training."
        )
    return tokens


def question_rows(table: pd.DataFrame, condition: str, split: str) -> np.ndarray:
    """Return `select_tokens` without the shared prefixes: their tokens are the same in both splits,
    so they are never held out.
    """
    rows = select_tokens(table, condition, split=split)
    of_question = table.set_index("row")["question_id"].fillna("") != ""
    return rows[of_question.loc[rows].to_numpy()]


def last_tokens(
    activations: Tensor, table: pd.DataFrame, split: str, conditions: Sequence[str]
) -> dict[str, Tensor]:
    """Return {condition: resid_post [question d_model]} at the last prompt tokens of one split,
    questions in one order throughout.

    Raises UserError where the conditions do not hold the same questions, since nothing could be
    paired.
    """
    last = table[table["is_last"] & (table["split"] == split)].sort_values("question_id")
    parts = {condition: last[last["condition"] == condition] for condition in conditions}
    rows = {condition: part["row"].to_numpy(copy=True) for condition, part in parts.items()}
    asked = {tuple(part["question_id"]) for part in parts.values()}
    if len(asked) != 1 or not asked.pop():
        raise UserError(
            f"The conditions of split {split!r} do not hold the same questions; run notebook "
            "01_collect_activations again."
        )
    return {condition: activations[index] for condition, index in rows.items()}


def along_mean_difference(
    train: dict[str, Tensor], test: dict[str, Tensor], pair: tuple[str, str]
) -> dict[str, np.ndarray]:
    """Return {condition: test tokens [question 1] along the unit vector mean(train a) - mean(train
    b)}: separation without any SAE.
    """
    direction = train[pair[0]].mean(dim=0) - train[pair[1]].mean(dim=0)
    direction = direction / direction.norm()
    return {
        condition: (test[condition] @ direction)[:, None].double().numpy() for condition in pair
    }


def cue_rows(records: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Return the rows of genuine prompts' shared prefix where a sandbag prompt's last words stand.

    With demonstrations that show both kinds of answer, "Incorrect answer:" stands in genuine
    prompts too, where nobody asks for a wrong one. `records` is prompts.jsonl. The cue is compared
    by token ids, back to the first token in which it differs from that of genuine prompts; the
    result is empty where the framing has no such place.
    """
    train = records[records["split"] == "train"].drop_duplicates("condition")
    ids = train.set_index("condition")["prompt_token_ids"]
    cue, text = ids["sandbag"], ids["genuine"]
    pairs = enumerate(zip(reversed(cue), reversed(text), strict=False))
    width = next((i for i, (a, b) in pairs if a != b), len(cue) - 1) + 1
    found = [p for p in range(width - 1, len(text)) if text[p - width + 1 : p + 1] == cue[-width:]]
    of_train = (table["split"] == "train") & (table["condition"] == "genuine")
    prefix = of_train & (table["question_id"].fillna("") == "")
    return table.loc[prefix & table["position"].isin(found), "row"].to_numpy(copy=True)
