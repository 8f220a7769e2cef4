"""The pages read as prose and call the library: rules on their sources; no whole page is run."""

import ast
import re
import runpy
from collections.abc import Iterator
from types import SimpleNamespace

import jinja2
import jinja2.meta
import pytest

from sandbagging.suite import runs
from sandbagging.suite.runs import cells, readings

PAGES = runs.NOTEBOOKS

WIDEST, LONGEST = 88, 20  # columns and lines of a code cell
MOST_CELLS, MOST_LINES, MOST_LINES_TO_LOAD = 30, 110, 12  # of a page
WORDS_OF_A_SENTENCE = 6
SHOWS_TEXT = {"Markdown", "HTML", "Latex", "display_markdown", "display_html"}
LOADS = {"setting", "gate", "read_table", "read_json", "subject", "files", "input"}  # of a Step

every_page = pytest.mark.parametrize("notebook", PAGES, ids=[n.name for n in PAGES])


def code_of(notebook) -> list[str]:
    """Return the code cells of a page but for its parameters."""
    found = cells.code_cells(runs.notebook_path(notebook))
    return [cells._code(c) for c in found if not cells._has_tag(c, cells.PARAMETERS)]


def readings_of(notebook) -> list[str]:
    found = cells.notebook_cells(runs.notebook_path(notebook))
    return ["".join(c["source"]).partition("\n")[2] for c in found if cells.is_reading(c)]


def filled_lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line.strip()]


# What is looked for ------------------------------------------------------------------------------


def called(node: ast.Call) -> str:
    """Return the last name of what a call calls."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def prose_in(code: str) -> list[str]:
    """Return what in a cell's code builds prose: shown text, and texts as long as a sentence."""
    tree = ast.parse(code)
    found = [
        f"{called(node)}(...)"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) in SHOWS_TEXT
    ]
    texts = [
        "".join(part.value for part in node.values if isinstance(part, ast.Constant))
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
    ]
    texts += [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return found + [t for t in texts if len(re.findall(r"[A-Za-z]{2,}", t)) >= WORDS_OF_A_SENTENCE]


def lines_to_load(code: str) -> int:
    """Return how many lines import, read settings and load."""
    return sum(
        node.end_lineno - node.lineno + 1 for node in ast.parse(code).body if is_loading(node)
    )


def is_loading(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    of_step = {
        n.func.attr
        for n in ast.walk(node)
        if isinstance(n, ast.Call)
        and isinstance(n.func, ast.Attribute)
        and isinstance(n.func.value, ast.Name)
        and n.func.value.id in ("step", "runs")
    }
    return isinstance(node, ast.Assign) and bool(of_step) and of_step <= LOADS | {"begin"}


def set_by(code: str) -> set[str]:
    """Return the names that some code binds."""
    return set(_bound(ast.parse(code)))


def _bound(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def wanted_by(reading: str) -> set[str]:
    """Return the names that a reading takes from its page; an unknown filter is an error."""
    environment = jinja2.Environment()
    environment.filters |= readings.FILTERS
    environment.from_string(reading)  # compiled, so that unknown filters are seen
    return jinja2.meta.find_undeclared_variables(environment.parse(reading)) - set(
        environment.globals
    )


# The rules ---------------------------------------------------------------------------------------


@every_page
def test_no_code_cell_builds_prose(notebook):
    assert [found for code in code_of(notebook) for found in prose_in(code)] == []


@every_page
def test_code_cells_are_narrow_and_short(notebook):
    found = cells.code_cells(runs.notebook_path(notebook))  # parameters too
    for code in map(cells._code, found):
        wide = [line for line in code.splitlines() if len(line) > WIDEST]
        assert not wide, wide
        assert len(filled_lines(code)) <= LONGEST, code


@every_page
def test_a_page_has_few_cells_and_little_code(notebook):
    code = code_of(notebook)
    assert len(code) <= MOST_CELLS
    assert sum(len(filled_lines(c)) for c in code) <= MOST_LINES


@every_page
def test_imports_settings_and_loading_are_short(notebook):
    assert sum(lines_to_load(code) for code in code_of(notebook)) <= MOST_LINES_TO_LOAD


@every_page
def test_the_last_section_is_something_to_try(notebook):
    headings = re.findall(r"^## (.+)$", cells.notebook_words(runs.notebook_path(notebook)), re.M)
    assert headings[-1] == "Try it" and headings.count("Try it") == 1


@every_page
def test_a_reading_takes_names_that_a_cell_before_it_sets(notebook):
    known: set[str] = set()
    for cell in cells.notebook_cells(runs.notebook_path(notebook)):
        source = "".join(cell["source"])
        if cells.is_reading(cell):
            unknown = wanted_by(source.partition("\n")[2]) - known
            assert not unknown, f"{source[:80]!r}: {unknown}"
        elif cell["cell_type"] == "code":
            known |= set_by(cells._code(cell))


# The detectors themselves: each flags a fake and spares what is right ----------------------------


@pytest.mark.parametrize(
    "code",
    [
        'Markdown(f"n = {n}")',
        "display(Markdown(text))",
        'print(f"The heads close {share:.0%} of the gap in {n} models.")',
        'text = "The difference of means does as well as the swap"',
        'display(HTML("<b>x</b>"))',
    ],
)
def test_prose_is_found(code):
    assert prose_in(code)


def test_code_is_no_prose():
    assert not prose_in('step.figure("fig_x.png", plots.x(table, what="|d_max| (SD units)"))')
    assert not prose_in("judged[judged['verdict'] == 'no sandbagging to explain']")


def test_loading_is_counted_and_measuring_is_not():
    code = """
import numpy as np
step = runs.begin("03_separation", globals())
gate = step.read_json("00_baseline", "summary.json")["gate"]
found = step.measure(module.function, lm, step.setting("seed"))
verdicts.grid(judged, position=step.setting("strengths")[0])
a, b = (step.setting("seed"),
        step.setting("model"))
"""
    assert lines_to_load(code) == 5


def test_names_of_a_reading_are_found():
    text = "{% for a in rows %}{{ a.x | pp }}{% endfor %} {{ n }}{% if odd %}!{% endif %}"
    assert wanted_by(text) == {"rows", "n", "odd"}
    assert set_by("import pandas as pd\na, b = 1, 2\nfor i in x: pass") == {"pd", "a", "b", "i"}
    with pytest.raises(jinja2.TemplateAssertionError):
        wanted_by("{{ n | no_such_filter }}")


# What a page writes out by hand holds for every architecture --------------------------------------


def section(notebook, heading: str) -> str:
    """Return the code of one section of a page."""
    inside, found = False, []
    for cell in cells.notebook_cells(runs.notebook_path(notebook)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and source.startswith("## "):
            inside = heading in source.partition("\n")[0]
        elif inside and cell["cell_type"] == "code" and not cells.is_reading(cell):
            found.append(source)
    return "\n".join(found)


def test_the_swap_by_hand_holds_on_every_architecture(tiny, tiny_questions, tmp_path):
    page = next(n for n in runs.NOTEBOOKS if n.artefact == "04_swap")
    names = {
        "lm": tiny,
        "asked": {"train": tiny_questions, "test": tiny_questions},
        "framing": "instr_contrast",
        "test": tiny_questions,
        "main": {1: "v4_tiny_topk_k8_L1_mixed"},
        "given": SimpleNamespace(tags=["v4_tiny_topk_k8_L1_mixed"]),
    }
    script = tmp_path / "by_hand.py"  # nnsight reads the source of a trace from its file
    script.write_text(code_of(page)[0] + "\n" + section(page, "by hand"))
    names = runpy.run_path(str(script), names)  # its own assertions are the test
    assert abs(names["by_hand"] - names["by_library"]["baseline"]) > 1e-6
