"""Which runs the robustness table is made of: one change each, beside one run without any.

They are nested in one run (robustness/base, robustness/wording-lie and so on), so that what they
have in common is measured once.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from sandbagging.errors import UserError, nearest
from sandbagging.suite import runner, runs
from sandbagging.suite.robustness.claims import FRAMING, SAE_SEED, SPELLING, SPLIT, WORDING
from sandbagging.wordings import KEPT_OUT

SET = "robustness"
BASE = "base"  # nothing is changed
ANSWERS = "answers"  # notebook 00 alone, with free answers to train questions: how the model spells
QUESTIONS = "questions"  # the folder of question files
OWN, ASKED = "own_spelling", "asked"  # question files: respelt, and as the base asks them


class Value(NamedTuple):
    """One value that an axis takes."""

    axis: str
    value: str  # in words
    run: str  # which nested run holds it
    given: Mapping[str, str] = {}  # parameters that differ from the base's


def _wording(name: str) -> Value:
    how = "kept out" if name in KEPT_OUT else "taught"
    run, given = f"wording-{name}", {"framing": f"instr:{name}"}
    return Value(WORDING, f"{name} ({how})", *((BASE,) if name == "plain" else (run, given)))


def _seed(axis: str, run: str, seed: int) -> Value:
    return Value(axis, str(seed), *((f"{run}-{seed}", {"seed": str(seed)}) if seed else (BASE,)))


VALUES = (
    *map(_wording, ("plain", "test", "mislead", "lie")),
    Value(FRAMING, "instr", BASE),
    Value(FRAMING, "chat_sys", "framing-chat_sys", {"framing": "chat_sys"}),
    *(_seed(SPLIT, "split", seed) for seed in range(3)),
    *(_seed(SAE_SEED, "saes", seed) for seed in range(3)),
    Value(SPELLING, "as in the question files", BASE),
    Value(SPELLING, "the model's own", "spelling"),
)
NAMES = tuple(dict.fromkeys(value.run for value in VALUES))


def chosen(names: Sequence[str]) -> tuple[str, ...]:
    """Return the nested runs of some names, or all; UserError for an unknown one."""
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"The robustness table has no run {name!r}; did you mean {nearest(name, NAMES)!r}? "
                f"There are {', '.join(NAMES)}."
            )
    return tuple(names) or NAMES


def first(run: str, set_name: str) -> list[runner.Plan]:
    """Return the plans that all others rest on: the base, and how the model spells its answers."""
    answers = {"side_views": "true"}
    return [
        runner.plan(set_name, f"{run}/{BASE}"),
        runner.plan(set_name, f"{run}/{ANSWERS}", answers, ["00_baseline"]),
    ]


def others(run: str, set_name: str, names: Sequence[str]) -> list[runner.Plan]:
    """Return the plans of some runs besides the base, whose question files are there."""
    given = {value.run: dict(value.given) for value in VALUES if value.run in names}
    given.pop(BASE, None)
    plans = []
    for name, changed in given.items():
        files = _question_files(run, name)
        notebooks = _of_saes() if name.startswith("saes") else None
        plans.append(runner.plan(set_name, f"{run}/{name}", changed | files, notebooks))
    return plans


def _question_files(run: str, name: str) -> dict[str, str]:
    """Return the parameters that name question files: the seed of SAEs must draw no others."""
    kind = OWN if name == "spelling" else ASKED if name.startswith("saes") else None
    splits = ("train", "test") if kind else ()
    return {f"questions_{split}": _from_here(run, kind, split) for split in splits}


def question_file(run: str, kind: str, split: str) -> Path:
    """Return where the questions of a split lie, respelt (OWN) or as the base asks them (ASKED)."""
    return runs.run_folder(run) / QUESTIONS / f"{kind}_{split}.jsonl"


def _from_here(run: str, kind: str, split: str) -> str:
    """Return a question file as a user would name it: manifests hold no folders of a machine."""
    return os.path.relpath(question_file(run, kind, split))


def _of_saes() -> list[str]:
    """Return the notebooks that end in the verdicts on swaps."""
    needed, waiting = set(), ["06_specificity"]
    while waiting:
        notebook = runs.notebook_of(waiting.pop())
        needed.add(notebook.name)
        waiting += notebook.reads
    return sorted(needed)
