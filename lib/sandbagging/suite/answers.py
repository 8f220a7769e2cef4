"""How notebook 08 asks for free answers with heads zeroed, and what that changes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sandbagging import generation, grading, metrics
from sandbagging.heads import interventions
from sandbagging.heads.head import Heads
from sandbagging.models import Model
from sandbagging.questions import Question
from sandbagging.suite import baseline, runs

FILE = "answers.jsonl"
CONDITIONS = ("genuine", "sandbag")


def without_heads(
    step: runs.Step,
    lm: Model,
    test: Sequence[Question],
    framing: str,
    named: Mapping[str, Heads],
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Write the free answers with each set of heads zeroed, {name: heads}, to the step's
    answers.jsonl; return {name: {condition: `changed`}} against the answers of notebook 00.
    """
    zeroed = pd.concat(
        [_zeroed(step, lm, test, framing, name, heads) for name, heads in named.items()],
        ignore_index=True,
    )
    metrics.write_records(step.folder / FILE, zeroed.to_dict("records"))
    before = baseline.of_framing(read(step.input("00_baseline") / FILE), framing)
    return {
        name: {
            c: changed(_of(before, c), _of(zeroed[zeroed["intervention"] == name], c), seed)
            for c in CONDITIONS
        }
        for name in named
    }


def _zeroed(
    step: runs.Step, lm: Model, test: Sequence[Question], framing: str, name: str, heads: Heads
) -> pd.DataFrame:
    edits = interventions.ablate_heads(lm, heads)
    tables = [
        step.measure(generation.write, lm, test, condition, framing, edits=edits)
        for condition in CONDITIONS
    ]
    written = pd.concat(tables, ignore_index=True).assign(split="test")
    return baseline.graded(written, {"test": test}).assign(intervention=name)


def read(path: Path) -> pd.DataFrame:
    """Return the lines of an answers.jsonl as a table; texts stay texts."""
    with open(path, encoding="utf-8") as lines:
        return pd.DataFrame([json.loads(line) for line in lines])


def _of(answers: pd.DataFrame, condition: str) -> pd.DataFrame:
    return answers[answers["condition"] == condition]


def changed(before: pd.DataFrame, after: pd.DataFrame, seed: int = 0) -> dict[str, Any]:
    """Return {verdict: share after, before: share of right ones, change: of right ones in pp, p:
    McNemar's exact}, from two tables of graded answers to the same questions.
    """
    gain = grading.drop(after, before, seed)
    shares = {name: float((after["verdict"] == name).mean()) for name in grading.VERDICTS}
    right = float((before["verdict"] == grading.RIGHT).mean())
    return {**shares, "before": right, "change": gain.estimate, "p": gain.p}


def as_table(answered: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """Return what `without_heads` found for reading: a row a set of heads, right answers and their
    change (pp) a condition.
    """
    rows = {}
    for name, on in answered.items():
        row = {}
        for condition in ("sandbag", "genuine"):
            of = on[condition]
            row[f"right, {condition}"] = f"{of['before']:.0%} → {of[grading.RIGHT]:.0%}"
            row[f"change, {condition}"] = f"{of['change']:short .1f}"
        rows[name] = {**row, "p (McNemar), sandbag": f"{on['sandbag']['p']:.2g}"}
    return pd.DataFrame(rows).T.rename_axis("heads zeroed")


def as_expected(on: Mapping[str, Mapping[str, Any]]) -> tuple[bool, str]:
    """Return whether more answers are right on sandbag prompts and no fall is seen on genuine ones,
    and both changes in a few words.
    """
    more, fewer = on["sandbag"]["change"], on["genuine"]["change"]
    held = more.low > 0 and not fewer.high < 0
    return held, f"{more.value:+.0f} and {fewer.value:+.0f} pp"
