"""What latents and dictionaries can tell apart on held-out prompts, at the L0 each has and at one
L0 for all; and what one latent is.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.models import Model, hook_points
from sandbagging.statistics import Estimate

N_RESAMPLES = 2_000

Codes = Mapping[str, np.ndarray]  # condition -> [prompt latent], questions in one order


def auroc(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return, for each latent, how often a prompt of `a` has the larger code than one of `b` (ties
    count half); [prompt latent] each.
    """
    return scipy.stats.mannwhitneyu(a, b, axis=0, method="asymptotic").statistic / (len(a) * len(b))


def auroc_ci(a: np.ndarray, b: np.ndarray, seed: int = 0) -> Estimate:
    """Return the AUROC of one score [prompt] in two conditions of the same questions, with a
    bootstrap CI95 over questions.
    """
    wins = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])

    def of(chosen: np.ndarray, axis: int) -> np.ndarray:
        return wins[chosen[..., :, None], chosen[..., None, :]].mean(axis=(-2, -1))

    value = float(wins.mean())
    method = f"percentile bootstrap over questions, {N_RESAMPLES} resamples, seed {seed}"
    if wins.min() == wins.max():
        return Estimate(value, value, value, len(a), "AUROC", method)
    found = scipy.stats.bootstrap(
        (np.arange(len(a)),),
        of,
        n_resamples=N_RESAMPLES,
        method="percentile",
        batch=100,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high), len(a), "AUROC", method)


def at_l0(codes: np.ndarray, l0: int) -> np.ndarray:
    """Return codes [prompt latent] with only the `l0` largest of each prompt kept."""
    if l0 >= codes.shape[1]:
        return codes
    lowest = np.partition(codes, -l0, axis=1)[:, [-l0]]
    return np.where(codes >= lowest, codes, 0.0)


def probe(
    train: Codes, test: Codes, pair: tuple[str, str], l0: int | None = None, seed: int = 0
) -> dict[str, object]:
    """Return held-out AUROCs for a pair of conditions: of the latent that is best on train, and of
    a probe over all latents.

    The probe scores a prompt by its codes along mean(a) - mean(b) over the train prompts, each
    latent in units of its spread (a diagonal discriminant, with the median spread of active latents
    added). `l0` first keeps that many codes of each prompt. Fields: l0, latent, auroc_train,
    best_latent and all_latents (Estimates), above_09 (latents with a test AUROC beyond 0.9).
    """
    a, b = pair
    shrink = (lambda codes: codes) if l0 is None else (lambda codes: at_l0(codes, l0))
    seen, unseen = {c: shrink(train[c]) for c in pair}, {c: shrink(test[c]) for c in pair}
    on_train, on_test = auroc(seen[a], seen[b]), auroc(unseen[a], unseen[b])
    latent = int(np.abs(on_train - 0.5).argmax())
    sign = 1.0 if on_train[latent] >= 0.5 else -1.0
    spread = np.sqrt((seen[a].var(axis=0) + seen[b].var(axis=0)) / 2)
    if not spread.any():
        raise UserError(
            "No latent varies over these prompts, so there is nothing to probe; train the SAE "
            "longer."
        )
    direction = (seen[a].mean(axis=0) - seen[b].mean(axis=0)) / (
        spread + np.median(spread[spread > 0])
    )
    return {
        "l0": float((np.concatenate([unseen[a], unseen[b]]) != 0).sum(axis=1).mean()),
        "latent": latent,
        "auroc_train": float(0.5 + sign * (on_train[latent] - 0.5)),
        "best_latent": auroc_ci(sign * unseen[a][:, latent], sign * unseen[b][:, latent], seed),
        "all_latents": auroc_ci(unseen[a] @ direction, unseen[b] @ direction, seed),
        "above_09": int((np.abs(on_test - 0.5) > 0.4).sum()),
    }


def probing_table(
    train: Mapping[str, Codes],
    test: Mapping[str, Codes],
    pairs: list[tuple[str, str]],
    seed: int = 0,
) -> pd.DataFrame:
    """Return `probe` for every tag and pair, at the L0 each SAE has and at the smallest L0 of all
    (`matched`), a row each.
    """
    own = {
        tag: float(np.mean([(codes != 0).sum(axis=1).mean() for codes in of_tag.values()]))
        for tag, of_tag in test.items()
    }
    smallest = max(1, int(min(own.values())))
    rows = []
    for tag in test:
        for a, b in pairs:
            for matched, l0 in (("own", None), ("matched", smallest)):
                found = probe(train[tag], test[tag], (a, b), l0, seed)
                for kind in ("best_latent", "all_latents"):
                    numbers = {
                        k: v for k, v in found.items() if k not in ("best_latent", "all_latents")
                    }
                    rows.append(
                        {
                            "tag": tag,
                            "pair": f"{a} vs {b}",
                            "at_l0": matched,
                            "by": kind,
                            **numbers,
                            **found[kind].as_dict(),
                        }
                    )
    return pd.DataFrame(rows)


def direct_tokens(model: Model, direction: Tensor, n: int = 8) -> tuple[list[str], list[str]]:
    """Return the tokens that a direction of the residual stream raises and lowers most on the
    direct path to the logits.

    The path past all later blocks: final norm's weight, then unembedding, the norm's own scale left
    out (it is one factor).
    """
    scale = dict(model.module.named_parameters())[
        hook_points.NAMES[model.architecture].final_norm + ".weight"
    ]
    effect = hook_points.unembedding(model.module).weight @ (scale * direction.to(scale))
    order = effect.detach().argsort()
    read = lambda ids: [model.tokenizer.decode([i]) for i in ids.tolist()]  # noqa: E731
    return read(order.flip(0)[:n]), read(order[:n])


def without_latent(x: Tensor, sae, latent: int) -> Tensor:
    """Return x [row d_model] without what one latent writes: x - code * decoder row."""
    with torch.no_grad():
        return x - sae.encode(x)[:, latent, None] * sae.W_dec[latent]


def strongest_prompts(
    codes: Mapping[str, np.ndarray], latent: int, texts: Mapping[str, list[str]], n: int = 6
) -> pd.DataFrame:
    """Return the prompts on which a latent is largest, over conditions: columns condition,
    question, code.
    """
    rows = [
        {"condition": condition, "question": text, "code": float(value)}
        for condition, values in codes.items()
        for text, value in zip(texts[condition], values[:, latent], strict=True)
    ]
    return pd.DataFrame(rows).nlargest(n, "code").reset_index(drop=True)
