"""House style that ruff does not check: no name hides a function of its module."""

import ast
from pathlib import Path

import pytest

import sandbagging

LIBRARY = Path(sandbagging.__file__).parent
FILES = sorted(path.relative_to(LIBRARY).as_posix() for path in LIBRARY.rglob("*.py"))


def hidden(source: str) -> list[str]:
    """Return the arguments and local names that are named after a function of their module."""
    tree = ast.parse(source)
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names = []
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.Lambda):
            inside = list(ast.walk(scope))
            names += [node.arg for node in inside if isinstance(node, ast.arg)]
            names += [
                node.id
                for node in inside
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            ]
    return sorted(functions.intersection(names))


@pytest.mark.parametrize("name", FILES)
def test_no_local_name_hides_a_function_of_its_module(name):
    assert hidden((LIBRARY / name).read_text(encoding="utf-8")) == []


def test_hidden_functions_are_found_where_they_are_set():
    code = (
        "def found(): ...\ndef kind(x): ...\n\n\ndef other(kind):\n    found = [k for k in kind]\n"
    )
    assert hidden(code) == ["found", "kind"]
    assert hidden("def kind(x): ...\n\n\ndef other(x):\n    return kind(x)\n") == []
