"""Probes of the raw residual stream, without any SAE: what can be read of a prompt, layer by layer.

Trained on train questions, at the last prompt token. Two things are read: the condition (sandbag
against genuine), on the wording of training and on wordings that it never saw; and, within sandbag
prompts, which answer will be given. Reading the prompt is not reading the intent.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import prompts
from sandbagging.errors import UserError
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.saes.streams import Streams, last_streams
from sandbagging.wordings import KEPT_OUT

SAME = "same"  # the wording of training
CONDITION, ANSWER = "condition", "answer"  # what is read
MIN_EACH = 10  # train prompts of either kind, below which no probe is trained
PENALTY = 1.0  # of the logistic probe, on the squared weights of standardised inputs; not tuned


class Direction(NamedTuple):
    """A probe: the score of x is ((x - mean) / scale) . weights, larger for the positive kind."""

    mean: np.ndarray  # [d_model]
    scale: np.ndarray  # [d_model]
    weights: np.ndarray  # [d_model]

    def score(self, x: np.ndarray) -> np.ndarray:
        """Return the score [prompt] of x [prompt d_model]."""
        return ((x - self.mean) / self.scale) @ self.weights


def difference_of_means(positive: np.ndarray, negative: np.ndarray) -> Direction:
    """Return the probe along mean(positive) - mean(negative), [prompt d_model] each."""
    weights = positive.mean(axis=0) - negative.mean(axis=0)
    return Direction(np.zeros_like(weights), np.ones_like(weights), weights)


def logistic(positive: np.ndarray, negative: np.ndarray) -> Direction:
    """Return the logistic regression of positive against negative, [prompt d_model] each, with an
    L2 penalty of PENALTY / 2 times the squared weights, inputs standardised and the intercept free.
    """
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    x = np.concatenate([positive, negative])
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1.0  # a constant tells nothing, and is not divided by 0
    design = np.column_stack([np.ones(len(x)), (x - mean) / scale])
    label = np.arange(len(x)) < len(positive)
    penalty = np.full(design.shape[1], PENALTY / len(x))
    penalty[0] = 0.0
    with warnings.catch_warnings():
        # the optimiser stops where float64 ends, and calls that a failure
        warnings.simplefilter("ignore")
        fitted = GLM(label.astype(float), design, Binomial()).fit_regularized(
            alpha=penalty, L1_wt=0.0, opt_method="l-bfgs-b"
        )
    return Direction(mean, scale, np.asarray(fitted.params)[1:])


PROBES = {"logistic": logistic, "diff_means": difference_of_means}


def probe_scores(
    model: Model,
    asked: Mapping[str, Sequence[Question]],
    framing: str,
    wordings: Sequence[str] = KEPT_OUT,
    right: Mapping[str, bool] | None = None,
    layers: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the scores of test prompts by probes that were trained on train prompts, at `layers`
    (all by default).

    asked: {"train": ..., "test": ...}; right: {question_id: whether the free answer to its sandbag
    prompt is right}, of both splits. Without it, or with fewer than MIN_EACH train prompts of
    either kind, the answer is not read. Columns: layer, probe, question_id, target, wording,
    positive (sandbag; or: will be answered wrongly), score. Raises UserError for questions that
    stand in both splits, and for wordings with a framing that has no instruction line.
    """
    _check(asked)
    worded = {SAME: framing} | {name: prompts.wording(framing, name) for name in wordings}

    def of(split: str, condition: str, wording: str = SAME) -> Streams:
        return last_streams(model, asked[split], condition, worded[wording], layers)

    pair = ("sandbag", "genuine")
    train = {c: of("train", c) for c in pair}
    fitted = {
        (layer, name): fit(*(_at(train[c], layer) for c in pair))
        for layer in train["sandbag"].resid
        for name, fit in PROBES.items()
    }
    tables = []
    for done, wording in enumerate(worded):
        test = {c: of("test", c, wording) for c in pair}
        for (layer, name), probe in fitted.items():
            for c in pair:
                shown_as = {"target": CONDITION, "wording": wording, "positive": c == "sandbag"}
                tables.append(_scored(probe, layer, name, test[c], **shown_as))
        if wording == SAME and right is not None:
            tables += _of_the_answer(train["sandbag"], test["sandbag"], right)
        if progress:
            progress("raw probes", done + 1, len(worded))
    return pd.concat(tables, ignore_index=True)


def _check(asked: Mapping[str, Sequence[Question]]) -> None:
    shared = {q.id for q in asked["train"]} & {q.id for q in asked["test"]}
    if shared:
        raise UserError(
            f"{len(shared)} questions, such as {min(shared)!r}, stand in train and in test; judge "
            "a probe on questions that it was not trained on."
        )


def _at(streams: Streams, layer: int) -> np.ndarray:
    return streams.resid[layer].double().cpu().numpy()


def _scored(
    probe: Direction, layer: int, name: str, streams: Streams, **shown_as: object
) -> pd.DataFrame:
    score = probe.score(_at(streams, layer))
    where = {"layer": layer, "probe": name, "question_id": streams.question_ids}
    return pd.DataFrame({**where, **shown_as, "score": score})


def _of_the_answer(train: Streams, test: Streams, right: Mapping[str, bool]) -> list[pd.DataFrame]:
    """Return the scores of sandbag test prompts by whether they will be answered wrongly."""
    wrongly, test_wrongly = (
        np.array([not right[i] for i in streams.question_ids]) for streams in (train, test)
    )
    if min(wrongly.sum(), (~wrongly).sum()) < MIN_EACH:
        return []
    tables = []
    for layer in train.resid:
        x = _at(train, layer)
        for name, fit in PROBES.items():
            probe = fit(x[wrongly], x[~wrongly])
            shown_as = {"target": ANSWER, "wording": SAME, "positive": test_wrongly}
            tables.append(_scored(probe, layer, name, test, **shown_as))
    return tables
