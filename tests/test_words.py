"""The words of the story: each term of the glossary is explained once, where it first stands."""

import re
from functools import cache

import pytest

from sandbagging.suite import exercises, runs

MARK = re.compile(r"<!-- term: (.*?) -->")
# Terms whose own words are too common, or are written in several ways: what counts as a use of
# them.
USES = {
    "head `L17H6`": r"`L\d+H\d+`",
    "zero-, mean-, resample-ablation": r"(zero|mean|resample)[- ]?ablat|\bablat",
    "planted model (organism)": r"\bplanted models?\b|\borganisms?\b",
    "same direction, opposite, not testable here": r"\bsame direction\*|not testable here",
    "replicated, not replicated, cannot be said": r"\breplicated\b",
    "tag": r"`tags?`|\btags?\b",
    "CI95": r"\bCI95\b",
    "`f`, `D`": r"\$[fD]\b|`[fD]`|\b[fD]\(",
    "`k`, `l0`": r"`k`|\*k\*|\bL0\b|`l0`",
}
# What is no prose: code, addresses, comments and the page's title, which names what the page
# explains.
NO_PROSE = re.compile(
    r"^```.*?^```|^# .*?$|<!-- (?!term:).*?-->|\]\([^)]*\)|https?://\S+", re.M | re.S
)
SPAN = re.compile(r"`[^`\n]+`")


def prose(text: str) -> str:
    """Return a text without what is no prose; code spans that hold a path or a command go too."""
    text = NO_PROSE.sub(" ", text)
    return SPAN.sub(lambda span: " " if re.search(r"[/.]|sandbagging ", span[0]) else span[0], text)


def terms() -> list[str]:
    """Return the first column of the glossary."""
    text = (runs.notebooks_folder() / "site/glossary.md").read_text()
    rows = [line.split(" | ")[0].lstrip("| ") for line in text.splitlines() if line[:2] == "| "]
    return rows[1:]


@cache
def story() -> str:
    """Return the prose of notebooks 00 to 11 and of the exercises in order, each page under its
    name in «».
    """
    paths = [runs.notebook_path(notebook) for notebook in runs.NOTEBOOKS]
    pages = []
    for path in paths + [exercises.find(name) for name in exercises.names()]:
        pages.append(f"«{path.stem}»\n" + runs.notebook_words(path).replace("%%reading\n", ""))
    return prose("\n\n".join(pages))


def use_of(term: str) -> re.Pattern[str]:
    """Return the pattern that finds a use of a term: any of its words; in backticks where it stands
    so.
    """
    if term in USES:
        return re.compile(USES[term], re.I if term[0].islower() else 0)
    words = [re.escape(word) for word in term.split(", ")]
    return re.compile("|".join(w if "`" in w else rf"\b{w}s?\b" for w in words), re.I)


def first_use(term: str, text: str) -> re.Match[str] | None:
    """Return the first use of a term in a text, marks not counted."""
    return use_of(term).search(MARK.sub(lambda mark: " " * len(mark[0]), text))


def where(text: str, place: int) -> str:
    """Return the page and the line of a place in the story."""
    page = text.rfind("«", 0, place)
    line = text[text.rfind("\n", 0, place) + 1 : text.find("\n", place)]
    return f"{text[page + 1 : text.find('»', page)]}: {line.strip()[:120]}"


@pytest.mark.parametrize("term", terms())
def test_a_term_is_explained_once_and_before_its_other_uses(term):
    text = story()
    marks = [mark for mark in MARK.finditer(text) if mark[1] == term]
    found = first_use(term, text)
    first = where(text, found.start()) if found else "nowhere"
    assert len(marks) == 1, f"{term} has {len(marks)} marks; it is first used in {first}"
    assert found, f"{term} is marked and never used"
    assert found.start() > marks[0].start(), f"{term} is used before its mark, in {first}"
    explained = text[marks[0].end() : text.find("\n\n", marks[0].end())]
    assert use_of(term).search(explained), (
        f"the paragraph behind the mark of {term} does not name it"
    )


def hides_prose(text: str) -> list[str]:
    """Return the lines that begin with a mark and go on, or at which a mark cuts a paragraph.

    A comment at the beginning of a line makes all of the line plain HTML: `**` would show as it is.
    """
    lines = ["", *text.splitlines()]
    begins = re.compile(r"\s*(?:[-*+] |\d+\. |> )?<!-- term: .*?-->")
    pairs = zip(lines, lines[1:], strict=False)
    marked = [(before, line, begins.match(line)) for before, line in pairs]
    return [line for before, line, m in marked if m and (line[m.end() :].strip() or before.strip())]


def test_a_mark_hides_no_prose():
    for notebook in runs.NOTEBOOKS:
        words = runs.notebook_words(runs.notebook_path(notebook)).replace("%%reading\n", "")
        assert hides_prose(words) == []


def test_marks_that_hide_prose_are_found():
    mark = "<!-- term: tag -->"
    for text in (f"{mark}A *tag*", f"- {mark}A *tag*", f"Before.\n{mark}\nA *tag*"):
        assert hides_prose(text)
    for text in (f"Before.\n\n{mark}\nA *tag*", f"Before. {mark}A *tag*", f"Before. {mark}\nA"):
        assert not hides_prose(text)


def test_every_mark_names_a_term_of_the_glossary():
    assert {mark[1] for mark in MARK.finditer(story())} <= set(terms())


@pytest.mark.parametrize(
    ("term", "used", "spared"),
    [
        ("gate", "The gate is open.", "A gated SAE."),
        ("latent, `d_sae`", "two latents", "latency"),
        ("head `L17H6`", "of `L17H6`", "The heads."),
        ("`z`", "each head's `z`", "z and Z"),
        ("fvu", "FVU is 0.1", "refvue"),
        ("`f`, `D`", "x − D(f(x))", "of a D"),
    ],
)
def test_a_use_is_told_from_other_words(term, used, spared):
    assert first_use(term, used) and not first_use(term, spared)


def test_addresses_code_and_titles_are_no_prose():
    text = (
        "# 04 · E6\n[x](gate)\n```\ngate\n```\n`runs/gate` <!-- gate -->\nhttps://gate.org/gate\n"
    )
    assert not first_use("gate", prose(text))
    assert first_use("gate", prose("`x` and the gate of `a/b` and `c`"))
