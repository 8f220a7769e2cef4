"""Every command line that help, README, pages, papers and the library itself name can be given."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from sandbagging.suite import cli, exercises

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"(?:python3?|\$\(PY\)) -m sandbagging(?: +([a-z][^`\n;]*))?")
# What stands for something of the reader's own, and an example of it.
EXAMPLES = {
    "$(SET)": "quick", "model=NAME": "model=organism-heads", "framing=NAME": "framing=instr",
    "RUN/NAME": "mine-laptop/other", "exercise NAME": "exercise 1", "<run>": "mine-laptop",
    "<number>": "08", "teach KIND --seed N": "teach timid --seed 0",
    "{{ lesson.kind }}": "sandbagger",
}  # fmt: skip


def texts(path: Path) -> list[str]:
    """The prose and code of one file, text by text."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return ["".join(cell["source"]) for cell in json.loads(source)["cells"]]
    if path.suffix != ".py":
        return [source]
    tree = ast.parse(source)
    whole = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {id(part) for text in whole for part in text.values}
    plain = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
    ]
    return [*map(_filled, whole), *plain]


def _filled(text: ast.JoinedStr) -> str:
    """An f-string with examples in place of what is computed."""
    parts = []
    for part in text.values:
        if isinstance(part, ast.Constant):
            parts.append(part.value)
        else:
            parts.append("<number>" if "[:2]" in ast.unparse(part) else "<run>")
    return "".join(parts)


def places() -> list[Path]:
    """The files that a reader may take a command from."""
    papers = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")]
    papers += [ROOT / "environment.yml", ROOT / "papermill_runs" / "Snakefile"]
    papers += (ROOT / "papermill_runs" / "parameters").glob("*.yaml")
    papers += (ROOT / "notebooks").rglob("*.ipynb")
    papers += (ROOT / "notebooks" / "site").rglob("*.md")
    return sorted([*papers, *(ROOT / "lib").rglob("*.py")])


def commands() -> list[tuple[str, str]]:
    """(file, words after python -m sandbagging), each once."""
    found = {}
    for path in places():
        for text in texts(path):
            for match in LINE.finditer(text):
                words = (match[1] or "").split("  #")[0]
                if words.count(")") > words.count("("):
                    words = words[: words.rindex(")")]
                for name, example in EXAMPLES.items():
                    words = words.replace(name, example)
                words = re.sub(r"\{+ ?\w+ ?\}+", "mine-laptop", words).strip(" .,:")
                if words:
                    found[words] = path.relative_to(ROOT).as_posix()
    return sorted((where, words) for words, where in found.items())


COMMANDS = commands()


def test_commands_are_found_in_every_kind_of_place():
    where = {place for place, _ in COMMANDS}
    for part in ("Makefile", "CONTRIBUTING.md", "notebooks/0", "notebooks/site/", "parameters/",
                 "suite/options.py", "suite/runs/"):  # fmt: skip
        assert any(part in place for place in where), part


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=lambda text: text[:60])
def test_the_command_can_be_given(where, words, tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    if words in cli.COMMANDS:  # a mention
        return
    try:
        arguments = cli.parser().parse_args(shlex.split(words))
    except SystemExit:
        pytest.fail(f"{where}: sandbagging {words}")
    if arguments.command in ("run", "train"):
        plan = cli.planned(arguments)
        done = {step.notebook.artefact for step in plan.steps}
        assert all(set(step.notebook.reads) <= done for step in plan.steps) or plan.set_name in (
            "null_model", "placebo", "other_model"
        )  # fmt: skip
    elif arguments.command == "exercise" and arguments.name:
        exercises.find(arguments.name)
