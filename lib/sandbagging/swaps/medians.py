"""Codes of train prompts at one site: medians, shuffled labels, where a shuffle's code lies."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations
from sandbagging.errors import UserError


def median_code(codes: Tensor, convention: str = "average") -> Tensor:
    """Return the per-latent median of codes [prompt latent]: the average of the two middle values,
    or the "lower" of them.

    For a latent that is on in one condition only, the median of a half-and-half set sits on the
    jump, and the convention decides.
    """
    if convention == "lower":
        return codes.median(dim=0).values
    ordered = codes.sort(dim=0).values
    n = len(codes)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def shuffled_labels(n_genuine: int, n_sandbag: int, seed: int, balanced: bool = True) -> np.ndarray:
    """Return [prompt] over the pooled prompts (genuine first), True where labelled "genuine".

    `balanced` labels half of each condition, which needs even counts (else UserError); otherwise it
    is a plain shuffle. Prompts are relabelled, never tokens.
    """
    rng = np.random.default_rng([seed, 61])
    if not balanced:
        return rng.permutation(np.arange(n_genuine + n_sandbag) < n_genuine)
    if n_genuine % 2 or n_sandbag % 2:
        raise UserError(
            f"A balanced shuffle halves each condition, and {n_genuine} genuine and "
            f"{n_sandbag} sandbag prompts are not both even; "
            "take an even n_train, or balanced=False."
        )
    halves = [rng.permutation(np.arange(n) < n // 2) for n in (n_genuine, n_sandbag)]
    return np.concatenate(halves)


class TrainCodes(NamedTuple):
    """What the interventions know about the train prompts at one site."""

    genuine: Tensor  # [row d_model] resid_post of genuine prompts
    sandbag: Tensor  # [row d_model]
    genuine_prompt: np.ndarray  # [row] which prompt (by question) a row belongs to
    sandbag_prompt: np.ndarray

    def pooled_codes(self, sae) -> Tensor:
        """Return f of all rows, genuine first, [row latent]."""
        return sae.encode(torch.cat([self.genuine, self.sandbag]))

    def labelled(self, labels: np.ndarray) -> Tensor:
        """Return [row] over the pooled rows, True where the row's prompt is labelled "genuine"."""
        # in order of their rows
        prompts_g, prompts_s = pd.unique(self.genuine_prompt), pd.unique(self.sandbag_prompt)
        of_g = dict(zip(prompts_g, labels[: len(prompts_g)], strict=True))
        of_s = dict(zip(prompts_s, labels[len(prompts_g) :], strict=True))
        return torch.tensor(
            [of_g[p] for p in self.genuine_prompt] + [of_s[p] for p in self.sandbag_prompt]
        )

    def shuffles(self, seeds: Sequence[int], balanced: bool) -> list[Tensor]:
        """Return one row labelling a seed."""
        n = len(np.unique(self.genuine_prompt)), len(np.unique(self.sandbag_prompt))
        return [self.labelled(shuffled_labels(*n, seed, balanced)) for seed in seeds]


def train_codes(resid: Tensor, table: pd.DataFrame, position: str = "last") -> TrainCodes:
    """Return the train prompts' resid_post at one layer: at the last prompt token, or at "all" the
    question's tokens.

    resid [row d_model] and table are what notebook 01 wrote. The prefix that all prompts share is
    left out.
    """
    chosen = [
        activations.select(table, "train", condition, position == "last")
        for condition in ("genuine", "sandbag")
    ]
    return TrainCodes(
        *(resid[rows_of(c)] for c in chosen), *(c["question_id"].to_numpy() for c in chosen)
    )


def rows_of(chosen: pd.DataFrame) -> Tensor:
    return torch.tensor(chosen["row"].to_list())


def median_codes(sae, train: TrainCodes) -> tuple[Tensor, Tensor]:
    """Return m_G and m_S [latent], the median codes of genuine and of sandbag train prompts."""
    return median_code(sae.encode(train.genuine)), median_code(sae.encode(train.sandbag))


def shuffled_codes(
    codes: Tensor,
    train: TrainCodes,
    seeds: Sequence[int],
    balanced: bool = True,
    convention: str = "average",
    of_rest: bool = False,
) -> list[Tensor]:
    """Return the code [latent] of the prompts that each seed's shuffle labels "genuine", or
    `of_rest`: of the others.

    codes [row latent] are those of the pooled rows, genuine first; convention: the "average" or
    "lower" median, or the "mean".
    """
    chosen = [~labels if of_rest else labels for labels in train.shuffles(seeds, balanced)]
    return [
        codes[rows].mean(0) if convention == "mean" else median_code(codes[rows], convention)
        for rows in chosen
    ]


def shuffle_places(
    sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True, convention: str = "average"
) -> pd.DataFrame:
    """Return where each shuffle's code decodes to, on the line from D(m_S) (place 0, which E4
    takes) to D(m_G) (place 1, E6's).

    Columns: seed, share (of the rows labelled "genuine", those that are), place (NaN where the two
    ends are one point).
    """
    codes, n_genuine = train.pooled_codes(sae), len(train.genuine)
    ends = [sae.decode(median_code(part)[None]) for part in (codes[n_genuine:], codes[:n_genuine])]
    line = ends[1] - ends[0]
    shuffled = torch.stack(shuffled_codes(codes, train, seeds, balanced, convention))
    place = ((sae.decode(shuffled) - ends[0]) @ line[0]) / line.square().sum()
    share = [float(rows[:n_genuine].sum() / rows.sum()) for rows in train.shuffles(seeds, balanced)]
    return pd.DataFrame({"seed": list(seeds), "share": share, "place": place.cpu().numpy()})
