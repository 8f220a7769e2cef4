"""The same questions with the right answer as the model itself writes it.

A model that is asked for an answer in the file's spelling may prefer another one: "Nile" where it
would say "the Nile River". Questions whose free answer was right get that answer; others keep
theirs.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbagging import files, grading, models, questions
from sandbagging.errors import UserError
from sandbagging.questions import Question
from sandbagging.suite import answers, baseline, runs
from sandbagging.suite.robustness import plan

MOST_WORDS = 4  # what is longer goes on after the answer
MARKS = " \t.,;:!?\"'"


def write(run: str) -> dict[str, int]:
    """Write the base's questions as it asks them and with the model's own spelling; return how many
    of a split were spelt anew. Files that would be the same are left alone.
    """
    settings = runs.read_manifest(f"{run}/{plan.BASE}", "00_baseline")["parameters"]
    written = answers.read(runs.run_folder(f"{run}/{plan.ANSWERS}") / "00_baseline" / answers.FILE)
    right = written[(written["condition"] == "genuine") & (written["verdict"] == grading.RIGHT)]
    changed = {}
    for split in ("train", "test"):
        own = baseline.of_framing(right, settings["framing"], split)
        texts = dict(zip(own["question_id"], own["text"], strict=True))
        source = runs.from_notebooks(settings[f"questions_{split}"])
        whole = models.questions_of(settings["model"], split, source)
        asked = questions.subset(whole, settings[f"n_{split}"], settings["seed"])
        respelt = [respell(question, texts.get(question.id, "")) for question in asked]
        _write(plan.question_file(run, plan.ASKED, split), asked)
        _write(plan.question_file(run, plan.OWN, split), respelt)
        changed[split] = sum(a.correct != b.correct for a, b in zip(asked, respelt, strict=True))
    return changed


def respell(question: Question, text: str) -> Question:
    """Return a question with a free answer as its correct one, the former among its aliases; the
    question as it is where the text is none that a question file may hold.
    """
    lines = text.strip().splitlines()
    own = lines[0].strip(MARKS) if lines else ""
    if not own or own == question.correct or len(own.split()) > MOST_WORDS:
        return question
    known = {own.casefold()}
    aliases = [a for a in question.right if not (a.casefold() in known or known.add(a.casefold()))]
    row = _row(question) | {"correct": own, "aliases": aliases}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.jsonl"
        path.write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
        try:
            return questions.load(path)[0]
        except UserError:
            return question


def _row(question: Question) -> Mapping:
    names = ("id", "category", "question", "correct")
    row = {name: getattr(question, name) for name in names}
    return row | {"incorrect": [*question.incorrect], "aliases": [*question.aliases]}


def _write(path: Path, asked: Sequence[Question]) -> None:
    lines = "".join(json.dumps(_row(q), ensure_ascii=False) + "\n" for q in asked).encode()
    if not path.is_file() or path.read_bytes() != lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, lines)
