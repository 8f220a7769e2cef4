"""What notebook 03 asks its probes for, and how it shows what they say."""

from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter

import pandas as pd

from sandbagging import grading, prompts
from sandbagging.models import Model
from sandbagging.questions import Question
from sandbagging.saes import turning
from sandbagging.saes.raw_probes import ANSWER, SAME
from sandbagging.statistics import Estimate
from sandbagging.suite import baseline
from sandbagging.wordings import KEPT_OUT, WORDINGS

PAIRS = (("genuine", "sandbag"), ("genuine", "placebo"))


def wordings(model: Model, framing: str) -> tuple[str, ...]:
    """Return the wordings that were kept out, or none where the model or the framing has none: a
    planted model knows its own prompts alone, and some framings have no instruction line.
    """
    return KEPT_OUT if model.framings is None and framing in prompts.INSTRUCTED else ()


def right_answers(
    answers: pd.DataFrame, framing: str, asked: Mapping[str, Sequence[Question]]
) -> dict[str, bool] | None:
    """Return {question_id: whether its sandbag prompt is answered rightly} of both splits, from
    answers.jsonl, or None where a question of either was not asked.
    """
    parts = [baseline.of_framing(answers, framing, split) for split in ("train", "test")]
    given = pd.concat(parts)
    given = given[given["condition"] == "sandbag"]
    right = dict(zip(given["question_id"], given["verdict"] == grading.RIGHT, strict=True))
    wanted = {q.id for split in asked.values() for q in split}
    return {i: bool(right[i]) for i in sorted(wanted)} if wanted <= set(right) else None


def answered_wrongly(answers: pd.DataFrame, framing: str) -> set[str]:
    """Return the test questions whose sandbag prompt is not answered rightly."""
    given = baseline.of_framing(answers, framing)
    there = (given["condition"] == "sandbag") & (given["verdict"] != grading.RIGHT)
    return set(given.loc[there, "question_id"])


def line_of(wording: str) -> str:
    """Return the sandbag instruction of a wording, or in words that it is the one of training."""
    return "as trained" if wording == SAME else WORDINGS[wording].sandbag


def read_at(probes: pd.DataFrame, layers: Sequence[int]) -> pd.DataFrame:
    """Return for reading what one kind of probe reaches at some layers, from
    `detection.probes_by_layer`: AUROC / recall at 1 % false alarms, a row an instruction, and the
    answer last.
    """
    rows = probes[probes["layer"].isin(list(layers))]
    of_answer = rows["target"] == ANSWER
    what = rows["wording"].map(line_of).where(~of_answer, "(the answer to come)")
    both = zip(rows["auroc"], rows["recall"], strict=True)
    read = [f"{auroc.value:.2f} / {recall.value:.0%}" for auroc, recall in both]
    wide = rows.assign(read=read, told=what).pivot(index="told", columns="layer", values="read")
    order = [*what[~of_answer].unique(), *what[of_answer].unique()]
    return wide.loc[order].add_prefix("layer ").rename_axis(index="told to", columns=None)


def lens_by_layer(table: pd.DataFrame, wrongly: Collection[str], seed: int = 0) -> pd.DataFrame:
    """Return `turning.lens_by_layer` of sandbag prompts, empty where fewer than two are answered
    wrongly by another first token.
    """
    rows = table[(table["condition"] == "sandbag") & table["question_id"].isin(list(wrongly))]
    if rows.loc[~rows["same"].astype(bool), "question_id"].nunique() < 2:
        return pd.DataFrame(columns=list(turning.COLUMNS))
    return turning.lens_by_layer(table, wrongly, seed=seed)


def as_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table for a CSV: each Estimate as its value, with _low and _high behind it."""
    parts: dict[str, pd.Series] = {}
    for name, column in table.items():
        if len(column) and isinstance(column.iloc[0], Estimate):
            ends = {"": "value", "_low": "low", "_high": "high"}
            parts |= {name + end: column.map(attrgetter(field)) for end, field in ends.items()}
        else:
            parts[name] = column
    return pd.DataFrame(parts)
