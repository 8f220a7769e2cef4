"""Exercises 4 to 7, on numbers: shuffle labels, catch a fake, bootstrap, see an SAE memorise."""

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from sandbagging.suite.exercises.saying import likely, not_yet, right


def check_labels(labels: Callable[[int, int], np.ndarray], n: int = 40) -> bool:
    """Check labels(n, seed): who is called "genuine", balanced.

    One boolean each for n genuine prompts, which come first, and n sandbag prompts.
    """
    drawn = [np.asarray(labels(n, seed)) for seed in range(12)]
    if any(d.shape != (2 * n,) or d.dtype != bool for d in drawn):
        each = f"return one boolean for each of the {2 * n} prompts"
        return not_yet(f"{each}, True where a prompt is called genuine.")
    if all((d[:n]).all() for d in drawn):
        return not_yet("those are the true labels: E1 would be E6 itself. Shuffle them.")
    if len({d.tobytes() for d in drawn}) == 1:
        why = "so that E1 has a distribution and not one draw"
        return not_yet(f"every seed gives the same labels: use the seed, {why}.")
    if not np.array_equal(drawn[3], np.asarray(labels(n, 3))):
        how = "make the generator from the seed, inside the function"
        return not_yet(f"the same seed gives other labels: {how}.")
    if any(d.sum() != n for d in drawn):
        counts = sorted({int(d.sum()) for d in drawn})
        wanted = f"{n} prompts have to be called genuine, as many as there are"
        return not_yet(f"{wanted}; some draw has {counts}.")
    if any(d[:n].sum() != n // 2 for d in drawn):
        return not_yet(
            "that is a plain shuffle: a draw holds a few more of one condition, and medians of "
            "sparse codes then flip as a block. Draw half of each condition."
        )
    return right(
        "each draw calls half of each condition genuine, and another half for another seed."
    )


def check_honest(
    judge: Callable[[np.ndarray, int, int], float],
    n_heads: int = 100,
    n_questions: int = 40,
    n_top: int = 5,
) -> bool:
    """Check judge(effects [head question], n_top, seed): the mean effect of the strongest heads.

    It has to be honest where all is noise.
    """
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 1, (n_heads, n_questions)) for _ in range(60)]
    found = np.array([judge(x, n_top, seed) for seed, x in enumerate(noise)])
    curse = np.mean([np.sort(x.mean(1))[-n_top:].mean() for x in noise])
    error = found.std(ddof=1) / np.sqrt(len(found))
    if abs(found.mean() - curse) < 0.2 * curse:
        return not_yet(
            f"on pure noise it finds {found.mean():+.2f} SD: the heads are judged on the questions "
            "that chose them (the winner's curse). Choose on one half of the questions, judge on "
            "the other."
        )
    if abs(found.mean()) > 4 * error:
        noisy = f"{found.mean():+.3f} ± {error:.3f} SD on average"
        return not_yet(f"on pure noise it finds {noisy}, where there is nothing.")
    real = np.zeros((n_heads, 1))
    real[:n_top] = 2.0
    seen = np.mean([judge(x + real, n_top, seed) for seed, x in enumerate(noise)])
    if abs(seen - 2.0) > 0.2:
        return not_yet(
            f"five heads with a true effect of 2 SD each are there, and it finds {seen:+.2f}: "
            "choose the largest mean effects."
        )
    return right(
        f"{found.mean():+.3f} SD on noise, {seen:+.2f} where the truth is 2; in sample, noise "
        f"alone would give {curse:+.2f}."
    )


def check_bootstrap(interval: Callable[[np.ndarray, np.ndarray, int], tuple[float, float]]) -> bool:
    """Check interval(after, before, seed) against Student's t.

    It is the CI95 of mean(after - before), paired by question.
    """
    rng = np.random.default_rng(1)
    before = rng.normal(0.4, 0.2, 80)
    after = before + rng.normal(0.05, 0.04, 80)
    low, high = (float(end) for end in interval(after, before, 0))
    change = after - before
    t = stats.t.interval(0.95, 79, change.mean(), stats.sem(change))
    width, ratio = t[1] - t[0], (high - low) / (t[1] - t[0])
    unpaired = np.sqrt(after.var(ddof=1) + before.var(ddof=1)) / change.std(ddof=1)
    if not low < change.mean() < high:
        return not_yet(
            f"the interval [{low:.4f}, {high:.4f}] leaves out the mean change, "
            f"{change.mean():.4f}; is it after - before?"
        )
    if abs(ratio / unpaired - 1) < 0.15:
        return not_yet(
            f"it is {ratio:.1f} times too wide: the two columns were resampled apart. Draw "
            "questions, and take both numbers of each."
        )
    if abs(ratio - np.sqrt(80)) < 2:
        return not_yet(
            "those are percentiles of the changes themselves: take percentiles of the *means* of "
            "resamples."
        )
    if abs(ratio - 1.645 / 1.99) < 0.06:
        return not_yet("it is about 0.83 as wide as a CI95: cut 2.5 % at each end, not 5 %.")
    if abs(ratio - 1) > 0.12 or abs(low - t[0]) > 0.15 * width:
        return not_yet(
            f"it should be near [{t[0]:.4f}, {t[1]:.4f}] and is [{low:.4f}, {high:.4f}]; draw at "
            "least 2000 resamples."
        )
    return right(f"[{low:.4f}, {high:.4f}]; Student's t gives [{t[0]:.4f}, {t[1]:.4f}].")


def check_fvu(fvu: Callable[[Tensor, Tensor], float]) -> bool:
    """Check fvu(x [token d_model], rebuilt) on numbers set by hand.

    It is the squared error over the squared distance from the mean.
    """
    # Squared distances from the mean (13, 3): 20 and 44; squared errors: 10 in all.
    x = torch.tensor([[10.0, 0.0], [12.0, 4.0], [14.0, 8.0], [16.0, 0.0]])
    off = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 2.0]])
    answer = float(fvu(x, x + off))
    from_mean = (x - x.mean(0)).pow(2)
    by_token, by_coordinate = (float((off.pow(2).sum(i) / from_mean.sum(i)).mean()) for i in (1, 0))
    summed = "divide the summed errors by the summed distances"
    mistakes = [
        (10 / float(x.pow(2).sum()),
         "the denominator is not centred: subtract the mean over tokens first, or large constant "
         "coordinates make every SAE look good."),
        (by_token, f"that is a mean of ratios over tokens: {summed}."),
        (by_coordinate, f"that is a mean of ratios over coordinates: {summed}."),
        (1 - 10 / 64, "that is the share that is explained: FVU is one minus it."),
        (10.0, "that is the squared error alone: divide it by the squared distance from the mean."),
        (10 / 8, "that is the mean squared error: divide it by the variance."),
    ]  # fmt: skip
    if abs(answer - 10 / 64) < 1e-5:
        return right(f"10 / 64 = {answer:.5f}.")
    return not_yet(
        likely(mistakes, answer, 1e-5)
        or f"on the numbers set by hand it should be 10 / 64 = 0.15625 and is {answer:.5f}."
    )


def check_memorised(in_sample: float, held_out: float, n_tokens: int, n_latents: int) -> bool:
    """Check that two FVUs of one SAE show memorising: the one on other questions is larger."""
    if held_out == in_sample:
        twice = "was the SAE judged twice on the tokens that it was trained on?"
        return not_yet(f"both numbers are the same: {twice}")
    if held_out < in_sample:
        return not_yet(
            "held-out is below in-sample: the two are exchanged, or the SAE was trained on the "
            "test tokens."
        )
    return right(
        f"{n_latents} latents learned {n_tokens} tokens by heart: FVU {in_sample:.3f} there and "
        f"{held_out:.3f} on other questions."
    )
