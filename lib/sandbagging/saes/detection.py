"""How well scores tell two kinds of prompt apart: AUROC, recall at 1 % false alarms and differences
of AUROC, with intervals over questions.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from sandbagging import statistics
from sandbagging.errors import UserError
from sandbagging.saes.recipes import DEFAULT_K, parse_tag
from sandbagging.statistics import Estimate

N_RESAMPLES = 2_000
FALSE_ALARMS = 0.01
ALPHA = 0.05


class Kinds(NamedTuple):
    """Scores of two kinds of prompt, in order of questions."""

    positive: np.ndarray  # [prompt]
    negative: np.ndarray  # [prompt]
    paired: bool  # the same questions in the same order, so that whole questions are resampled


def kinds_of(scores: pd.DataFrame, label: str = "positive") -> Kinds:
    """Return the scores of a table (question_id, a column of labels, score) by kind; raises
    UserError where one kind has fewer than two prompts.
    """
    ordered = scores.sort_values("question_id", kind="stable")
    parts = [ordered[ordered[label] == kind] for kind in (True, False)]
    if min(len(part) for part in parts) < 2:
        raise UserError("Two kinds of prompt are told apart, and one of them has fewer than two.")
    ids = [list(part["question_id"]) for part in parts]
    return Kinds(*(part["score"].to_numpy(float) for part in parts), ids[0] == ids[1])


def _resampled(kinds: Kinds, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which prompts of either kind each resample takes, [resample prompt] each."""
    rng = np.random.default_rng(seed)
    sizes = [len(kinds.positive), len(kinds.negative)]
    first = rng.integers(0, sizes[0], (N_RESAMPLES, sizes[0]))
    return first, first if kinds.paired else rng.integers(0, sizes[1], (N_RESAMPLES, sizes[1]))


def auroc_draws(kinds: Kinds, seed: int = 0) -> tuple[float, np.ndarray]:
    """Return how often a positive prompt has the larger score (ties count half), and the same in
    every resample of questions.
    """
    a, b = kinds.positive[:, None], kinds.negative[None, :]
    wins = (a > b) + 0.5 * (a == b)
    first, second = (
        _counts(rows, n) / n for rows, n in zip(_resampled(kinds, seed), wins.shape, strict=True)
    )
    return float(wins.mean()), ((first @ wins) * second).sum(axis=1)


def _counts(rows: np.ndarray, n: int) -> np.ndarray:
    """Return how often each of n prompts is in each resample, [resample prompt]."""
    size = len(rows)
    places = rows + n * np.arange(size)[:, None]
    return np.bincount(places.ravel(), minlength=size * n).reshape(size, n)


def recall_draws(kinds: Kinds, seed: int = 0) -> tuple[float, np.ndarray]:
    """Return the share of positive prompts above all but 1 % of the negative ones (of fewer than a
    hundred: above all of them), and the same in every resample of questions.
    """
    allowed = int(FALSE_ALARMS * len(kinds.negative))

    def recall(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        threshold = np.sort(b, axis=-1)[..., [-1 - allowed]]
        return (a > threshold).mean(axis=-1)

    first, second = _resampled(kinds, seed)
    value = recall(kinds.positive, kinds.negative)
    return float(value), recall(kinds.positive[first], kinds.negative[second])


def _estimate(value: float, draws: np.ndarray, n: int, unit: str) -> Estimate:
    low, high = np.percentile(draws, [2.5, 97.5])
    method = f"percentile bootstrap over questions, {N_RESAMPLES} resamples"
    return Estimate(value, float(low), float(high), n, unit, method)


def detected(
    scores: pd.DataFrame, by: Sequence[str], label: str = "positive", seed: int = 0
) -> pd.DataFrame:
    """Return AUROC and recall at 1 % false alarms for each group of a table of scores.

    Columns: those of `by`, auroc and recall (Estimates), n_positive, n_negative, p (one-sided
    Mann-Whitney).
    """
    rows = []
    for key, part in scores.groupby(list(by), sort=False):
        kinds = kinds_of(part, label)
        sizes = {"n_positive": len(kinds.positive), "n_negative": len(kinds.negative)}
        n = min(sizes.values())
        p = scipy.stats.mannwhitneyu(kinds.positive, kinds.negative, alternative="greater").pvalue
        found = {
            "auroc": _estimate(*auroc_draws(kinds, seed), n, "AUROC"),
            "recall": _estimate(*recall_draws(kinds, seed), n, "share"),
        }
        rows.append({**dict(zip(by, key, strict=True)), **found, **sizes, "p": float(p)})
    return pd.DataFrame(rows)


def probes_by_layer(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return `detected` of `raw_probes.probe_scores`, with p_holm over the layers of each probe,
    target and wording, and reads: whether the target can be read there.

    It can where p_holm is below 0.05: the best of thirty layers is no evidence by itself.
    """
    groups = ["probe", "target", "wording"]
    found = detected(scores, [*groups, "layer"], seed=seed)
    p_holm = found.groupby(groups)["p"].transform(statistics.holm)
    return found.assign(p_holm=p_holm, reads=p_holm < ALPHA)


def reads_from(by_layer: pd.DataFrame) -> int | None:
    """Return the first layer from which on some rows of `probes_by_layer` read their target at
    every layer and in every wording; None where there is no such layer.
    """
    fails = by_layer.loc[~by_layer["reads"].astype(bool), "layer"].max()
    behind = (
        by_layer["layer"] if np.isnan(fails) else by_layer.loc[by_layer["layer"] > fails, "layer"]
    )
    return int(behind.min()) if len(behind) else None


def backwards(by_layer: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `probes_by_layer` whose AUROC has its CI95 below 0.5: the probe takes one
    kind for the other; the worst first.
    """
    wrong_way = [e.high < 0.5 for e in by_layer["auroc"]]
    found = by_layer[np.array(wrong_way, dtype=bool)]
    return found.loc[found["auroc"].map(lambda e: e.value).sort_values().index]


def reading_of(by_layer: pd.DataFrame, probe: str = "logistic") -> str:
    """Return in words what one probe reads, from `probes_by_layer`: the prompt's words, the demand
    behind them (every wording at one layer), or which answer will be given.
    """
    rows = by_layer[by_layer["probe"] == probe]
    of_prompt = rows["target"] == "condition"
    same, others = (rows[of_prompt & there] for there in _same_and_others(rows))
    answer = rows[~of_prompt]
    if not same["reads"].any():
        return "it does not even tell the two conditions apart"
    if answer["reads"].any():
        return "it reads which answer will be given"
    if others.empty:
        read = "it reads the wording that it was trained on, and was tried on no other"
    elif others.groupby("layer")["reads"].all().any():
        read = "it reads the demand in other words too"
    else:
        read = "it reads the wording that it was trained on, and not all others"
    if answer.empty:
        untried = "which answer will be given could not be tried, for want of train prompts"
        return f"{read}; {untried}"
    return f"{read}, and not which answer will be given"


def _same_and_others(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    return rows["wording"] == "same", rows["wording"] != "same"


# Detectors by latents -----------------------------------------------------------------------------


def leads(scores: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return how far JumpReLU's mean AUROC lies above TopK's, from `matched.detector_scores`, for
    each pair, detector and kind of L0, over the layers and training conditions that have both.

    A TopK SAE of another k than the default is another architecture, and left out. Columns: pair,
    by, at_l0, lead (an Estimate; both architectures resampled by the same questions), n (pairs of
    SAEs), sign ("JumpReLU", "TopK", or "" where the CI95 holds 0).
    """
    rows = []
    for key, part in scores.groupby(["pair", "by", "at_l0"], sort=False):
        twins = _twins(part["tag"].unique())
        if not twins:
            continue
        drawn = {
            tag: auroc_draws(kinds_of(part[part["tag"] == tag], "first"), seed)
            for tag in (tag for pair in twins for tag in pair)
        }
        value, draws = (
            np.mean([drawn[jumprelu][i] - drawn[topk][i] for topk, jumprelu in twins], axis=0)
            for i in (0, 1)
        )
        lead = _estimate(float(value), draws, part["question_id"].nunique(), "AUROC")
        sign = "JumpReLU" if lead.low > 0 else "TopK" if lead.high < 0 else ""
        where = dict(zip(["pair", "by", "at_l0"], key, strict=True))
        rows.append({**where, "lead": lead, "n": len(twins), "sign": sign})
    return pd.DataFrame(rows, columns=["pair", "by", "at_l0", "lead", "n", "sign"])


def _twins(tags: Iterable[str]) -> list[tuple[str, str]]:
    """Return the tags of TopK and JumpReLU SAEs of one layer, condition and expansion, in pairs."""
    fields = {tag: parse_tag(tag) for tag in tags}
    of = {
        name: {(f.layer, f.condition, f.expansion): tag for tag, f in fields.items()
               if f.architecture == name and f.k in (None, DEFAULT_K)}
        for name in ("topk", "jumprelu")
    }  # fmt: skip
    return [(of["topk"][at], of["jumprelu"][at]) for at in of["topk"] if at in of["jumprelu"]]


def not_matched(scores: pd.DataFrame) -> str:
    """Return the sentence that says where no two SAEs could be matched by L0, or ""."""
    there = scores[scores["at_l0"] == "matched"]["layer"].unique()
    lacking = sorted(set(scores["layer"].unique()) - set(there))
    if not lacking:
        return ""
    names = ", ".join(map(str, lacking))
    own = scores[(scores["at_l0"] == "own") & scores["layer"].isin(lacking)]
    where = f"layer{'s' * (len(lacking) > 1)} {names}"
    return (
        f"At {where} no two architectures have 16 or more active latents at the last token (the "
        f"sparsest SAE has {own['l0'].min():.1f}), so none are compared there at one L0."
    )
