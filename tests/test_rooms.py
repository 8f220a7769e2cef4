"""The rooms of the library: who may import whom, written as contracts in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def lint(folder: Path) -> subprocess.CompletedProcess:
    """Judge the library in a folder by the contracts in its pyproject.toml."""
    return subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "lib"), "PATH": ""},
        capture_output=True,
        text=True,
    )


def test_every_room_imports_only_from_those_below_it():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("planted/base.py", "from sandbagging import models"),
        ("metrics.py", "from sandbagging.suite import runs"),
        ("models/model.py", "from sandbagging.models import loading"),
    ],
)
def test_an_import_upwards_or_in_a_circle_is_found(tmp_path, room, line):
    """Also one inside a function, where Python itself would not mind."""
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for path in (ROOT / "lib" / "sandbagging").rglob("*.py"):
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    broken = tmp_path / "lib" / "sandbagging" / room
    broken.write_text(f"{broken.read_text()}\n\ndef late():\n    {line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1 and "BROKEN" in done.stdout
