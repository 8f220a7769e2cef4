"""Trivia questions: one correct answer and some wrong ones each, read from JSONL and checked line
by line.

The module can be called: `questions("test", n=40)` is `questions.asked("test", n=40)`.
"""

import itertools
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sandbagging.errors import UserError, nearest

DATA = Path(__file__).parent / "data"
PACKAGED = {
    "train": DATA / "questions_train.jsonl",
    "test": DATA / "questions_test.jsonl",
    "five": DATA / "canonical_five.jsonl",
    "tune": DATA / "questions_tune.jsonl",
}
TEXT_FIELDS = ("id", "category", "question", "correct")
FIELDS = (*TEXT_FIELDS, "incorrect")
OPTIONAL = ("aliases",)


@dataclass(frozen=True)
class Question:
    """One trivia question with its correct answer and its wrong answers: three in the packaged
    files, one or more elsewhere.

    `aliases` are further texts that count as the correct answer where free answers are graded. They
    change nothing of what is asked, so questions that differ in them alone are equal.
    """

    id: str
    category: str
    question: str
    correct: str
    incorrect: tuple[str, ...]
    aliases: tuple[str, ...] = field(default=(), compare=False)

    @property
    def options(self) -> tuple[str, ...]:
        """Return all answers, the correct one first."""
        return (self.correct, *self.incorrect)

    @property
    def right(self) -> tuple[str, ...]:
        """Return all texts that count as the correct answer, the answer itself first."""
        return (self.correct, *self.aliases)


def load(path: str | Path, split: str = "train") -> list[Question]:
    """Return the questions of a JSONL file in file order; path "default" is the packaged file of
    split "train", "test", "five" or "tune" (to teach a model on; no run asks them).

    Raises UserError with file, line number and reason when the file cannot be used.
    """
    path = _packaged(split) if str(path) == "default" else Path(path).expanduser()
    questions: list[Question] = []
    seen_ids: dict[str, int] = {}
    seen_texts: dict[str, int] = {}
    # Only "\n" ends a line: JSON strings may hold other separators that splitlines() would cut at.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            question = _parse(line)
            _note(seen_ids, question.id, number, "id")
            _note(seen_texts, _plain(question.question), number, "question")
            _check_count(question, questions)
        except ValueError as reason:
            raise UserError(f"{path}, line {number}: {reason}.") from None
        questions.append(question)
    if not questions:
        raise UserError(
            f"{path} holds no questions; write one JSON object a line with the fields "
            f"{', '.join(FIELDS)}."
        )
    return questions


def asked(source: str | Path = "train", n: int | None = None, seed: int = 0) -> list[Question]:
    """Return the questions of a packaged split ("train", "test", "five", "tune") or of a JSONL
    file, all of them or n drawn with a seed.

    Raises UserError when there is no such file, it cannot be used, or n is more than there are.
    """
    if str(source) in PACKAGED:
        found = load("default", str(source))
    elif Path(source).expanduser().exists():
        found = load(source)
    else:
        raise UserError(
            f"There is no question file {str(source)!r} and no packaged split of that name; did "
            f"you mean {nearest(str(source), PACKAGED)!r}?"
        )
    return found if n is None else subset(found, n, seed)


def check_disjoint(*lists: Sequence[Question]) -> None:
    """Raise UserError naming the ids and questions that stand in more than one of the lists (train,
    test, tune, ...), if there are any, and where the lists have other numbers of wrong answers:
    what is chance must be so in all.
    """
    shared: list[str] = []
    for one, other in itertools.combinations(lists, 2):
        ids = {q.id for q in one} & {q.id for q in other}
        texts = {_plain(q.question) for q in one}
        shared += [q.id for q in other if q.id in ids]
        shared += [
            repr(q.question) for q in other if q.id not in ids and _plain(q.question) in texts
        ]
    if shared:
        raise UserError(
            f"The question files overlap in {_some(list(dict.fromkeys(shared)))}; leave each "
            "question in one of them, since a result judged on the questions that it was chosen or "
            "taught on looks better than it is."
        )
    counts = sorted({len(q.incorrect) for q in itertools.chain(*lists)})
    if len(counts) > 1:
        raise UserError(
            f"The questions have {' and '.join(map(str, counts))} wrong answers; give all as many, "
            "since chance depends on their number."
        )


def check_answers_apart(tune: Sequence[Question], test: Sequence[Question]) -> None:
    """Raise UserError naming the test questions whose answer, or an alias of it, is that of a tune
    question of the same category: a model taught on tune might only repeat what it was taught.
    """
    taught = {(q.category, _plain(text)): q.id for q in tune for text in q.right}
    shared = [
        f"{q.id} ({text!r} in {taught[q.category, _plain(text)]})"
        for q in test
        for text in q.right
        if (q.category, _plain(text)) in taught
    ]
    if shared:
        raise UserError(
            f"Answers of test questions are taught in the same category: {_some(shared)}; take "
            "these questions out of the tune file, since the model could repeat the answer without "
            "knowing it."
        )


def subset(questions: Sequence[Question], n: int, seed: int) -> list[Question]:
    """Return n of the questions in file order, drawn with a seed and spread evenly over the
    categories.

    With one seed a smaller draw is part of every larger one. Raises UserError when n < 2 or n is
    more than there are.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise UserError(f"The number of questions must be a whole number, not {n!r}.")
    if n < 2:
        raise UserError(
            f"Cannot work with {n} question(s); ask for 2 or more, since a spread needs at least "
            "two."
        )
    if n > len(questions):
        raise UserError(
            f"Asked for {n} questions but only {len(questions)} are there; ask for "
            f"{len(questions)} or fewer."
        )
    generator = random.Random(seed)
    by_category: dict[str, list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        by_category[question.category].append(index)
    piles = list(by_category.values())
    generator.shuffle(piles)
    for pile in piles:
        generator.shuffle(pile)
    # Rounds: the first of each category, then the second of each, until n are there.
    rounds = [
        pile[turn] for turn in range(max(map(len, piles))) for pile in piles if turn < len(pile)
    ]
    return [questions[index] for index in sorted(rounds[:n])]


def _packaged(split: str) -> Path:
    if split not in PACKAGED:
        raise UserError(
            f"There is no packaged question file for split {split!r}; choose one of "
            f"{', '.join(PACKAGED)}."
        )
    return PACKAGED[split]


def _read(path: Path) -> str:
    try:
        # utf-8-sig: some editors begin a file with an invisible mark.
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f'Question file {path} was not found; check the path, or use "default" for the '
            "packaged questions."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: the text is not UTF-8; save the file with UTF-8 encoding."
        ) from None
    except OSError as error:
        raise UserError(
            f"Question file {path} could not be read ({error.strerror}); name a JSONL file that "
            "you may read."
        ) from None


def _parse(line: str) -> Question:
    """Turn one line into a Question, or raise ValueError with the reason."""
    try:
        row = json.loads(line, object_pairs_hook=_no_repeated_field)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deep)") from None
    if not isinstance(row, dict):
        raise ValueError(
            "not a JSON object; each line must be {...} with the fields " + ", ".join(FIELDS)
        )
    _check_fields(row)
    for name in TEXT_FIELDS:
        _check_text(row[name], f'"{name}"')
    wrong = row["incorrect"]
    if not isinstance(wrong, list):
        raise ValueError('"incorrect" must be a list of wrong answers')
    if not wrong:
        raise ValueError('"incorrect" must hold at least one wrong answer')
    for place, answer in enumerate(wrong, start=1):
        _check_text(answer, f'wrong answer {place} in "incorrect"')
    _check_options(row["question"], [row["correct"], *wrong])
    aliases = row.get("aliases", [])
    if not isinstance(aliases, list):
        raise ValueError('"aliases" must be a list of texts that count as the correct answer')
    for place, alias in enumerate(aliases, start=1):
        _check_text(alias, f'text {place} in "aliases"')
    _check_aliases(row["question"], aliases, [row["correct"], *wrong])
    return Question(*(row[name] for name in TEXT_FIELDS), tuple(wrong), tuple(aliases))


def _no_repeated_field(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'field "{repeated}" stands twice')
    return row


def _check_fields(row: dict[str, Any]) -> None:
    missing = [name for name in FIELDS if name not in row]
    if missing:
        raise ValueError(f'field "{missing[0]}" is missing')
    known = (*FIELDS, *OPTIONAL)
    unknown = [name for name in row if name not in known]
    if unknown:
        raise ValueError(f'unknown field "{unknown[0]}"; the fields are {", ".join(known)}')


def _check_text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text in quotes, not {json.dumps(value)[:40]}")
    if not value.strip():
        raise ValueError(f"{what} is empty")
    if value != value.strip():
        raise ValueError(f"{what} has spaces at its start or end: {value!r}")
    if not value.isprintable():
        raise ValueError(
            f"{what} holds a line break or another character that does not print: {value!r}"
        )


def _check_options(question: str, options: list[str]) -> None:
    folded = [option.casefold() for option in options]
    for option, key in zip(options, folded, strict=True):
        if folded.count(key) > 1:
            raise ValueError(f"answer {option!r} stands twice among the options")
        # An answer that the question already spells out is read off, not known.
        if _spelt_out(key, question):
            raise ValueError(f"answer {option!r} is contained in the question")


def _check_aliases(question: str, aliases: list[str], options: list[str]) -> None:
    folded, taken = [alias.casefold() for alias in aliases], {o.casefold() for o in options}
    for alias, key in zip(aliases, folded, strict=True):
        if key in taken:
            raise ValueError(f"alias {alias!r} is one of the options")
        if folded.count(key) > 1:
            raise ValueError(f"alias {alias!r} stands twice")
        if _spelt_out(key, question):
            raise ValueError(f"alias {alias!r} is contained in the question")


def _spelt_out(folded: str, question: str) -> bool:
    """Return whether the question holds a text, given in folded case, as whole words."""
    return re.search(rf"(?<!\w){re.escape(folded)}(?!\w)", question.casefold()) is not None


def _check_count(question: Question, before: Sequence[Question]) -> None:
    """Chance is one level for a whole file, so all its questions have as many wrong answers."""
    n, first = len(question.incorrect), len((before or [question])[0].incorrect)
    if n != first:
        raise ValueError(
            f'"incorrect" holds {n} wrong answers and the question before has {first}; give all as '
            "many"
        )


def _note(seen: dict[str, int], key: str, number: int, what: str) -> None:
    if key in seen:
        raise ValueError(f"the same {what} already stands in line {seen[key]}")
    seen[key] = number


def _plain(text: str) -> str:
    """Case, punctuation and spacing do not make a new question."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def _some(items: list[str], most: int = 5) -> str:
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")


class _Callable(ModuleType):
    """A module that can be called, so that `sb.questions` is both the module and its main use."""

    def __call__(
        self, source: str | Path = "train", n: int | None = None, seed: int = 0
    ) -> list[Question]:
        return asked(source, n, seed)


sys.modules[__name__].__class__ = _Callable
