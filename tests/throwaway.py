"""A throw-away repository with three small notebooks, which run in a second each."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from sandbagging import provenance

LIBRARY = provenance.PACKAGE
METRICS = '''
"""A stand-in module."""
from sandbagging import circuits_math


def gap(n, speed):
    """Return a gap."""
    return circuits_math.times(n, speed)
'''
CIRCUITS_MATH = "def times(a, b):\n    return a * b\n"
CIRCUITS = 'def heads(k):\n    """Return k heads."""\n    return [[17, i] for i in range(k)]\n'

# The flag files stand outside the repository: wait holds the page up, fail makes it stop.
CELLS_00 = [
    "import os\nimport pathlib\nimport time\n\nfrom sandbagging import metrics\n"
    "from sandbagging.suite import runs",
    'step = runs.begin("00_baseline", globals())',
    'flags = pathlib.Path(os.environ["SANDBAGGING_RUNS"]).parent\n'
    '(flags / f"started-{run}").touch()\n'
    'while (flags / "wait").exists():\n    time.sleep(0.02)',
    'if (flags / "fail").exists():\n    exec((flags / "fail").read_text())',
    'for done in range(3):\n    step.progress("questions", done + 1, 3)',
    'gap = {"value": metrics.gap(n_test, speed), "low": 0.1, "high": 2.0, "n": n_test,\n'
    '       "unit": "pp", "method": "test"}\n'
    'step.json("summary.json", {"gap": gap})\nstep.done()',
]
CELLS_07 = [
    "from sandbagging import circuits\nfrom sandbagging.suite import runs",
    'step = runs.begin("07_heads", globals())\nassert step.setting("n_test") > 0',
    'step.json("heads.json", {"heads": circuits.heads(k)})\nstep.done()',
]
CELLS_08 = [
    "from sandbagging.suite import runs",
    'step = runs.begin("08_circuit", globals())',
    'heads = step.read_json("07_heads", "heads.json")["heads"]\n'
    'step.json("summary.json", {"heads": len(heads), "n_test": step.setting("n_test")})\n'
    "step.done()",
]
PARAMETERS_00 = (
    'run: str = "mine"  # the run\'s name\nn_test: int = 3  # questions\n'
    "speed: float = 0.5  # anything\n"
    'label: str = "default"  # a word\nlayers: list[int] = [1, 2]  # layers'
)


def write_notebook(path: Path, parameters: str, cells: list[str]) -> None:
    first = nbformat.v4.new_code_cell(parameters)
    first.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    nbformat.write(notebook, path)


def make_repository(root: Path) -> Path:
    package = root / "lib" / "sandbagging"
    shutil.copytree(LIBRARY, package, ignore=shutil.ignore_patterns("__pycache__", "data"))
    (package / "data").mkdir()
    (package / "metrics.py").write_text(METRICS)
    (package / "circuits_math.py").write_text(CIRCUITS_MATH)
    (package / "circuits.py").write_text(CIRCUITS)
    (root / "notebooks").mkdir()
    write_notebook(root / "notebooks" / "00_can_it_sandbag.ipynb", PARAMETERS_00, CELLS_00)
    write_notebook(
        root / "notebooks" / "07_find_the_heads.ipynb",
        'run: str = "mine"  # name\nk: int = 2  # heads',
        CELLS_07,
    )
    write_notebook(
        root / "notebooks" / "08_ablate_five_heads.ipynb",
        'run: str = "mine"  # name\nn_draws: int = 4  # draws',
        CELLS_08,
    )
    sets = root / "papermill_runs" / "parameters"
    sets.mkdir(parents=True)
    names = "notebooks: [00_can_it_sandbag, 07_find_the_heads, '08']\n"
    (sets / "laptop.yaml").write_text("# nothing differs\n" + names)
    (sets / "quick.yaml").write_text("n_test: 2\n" + names)
    return root


def use(repository: Path, patch: pytest.MonkeyPatch) -> None:
    """Make this process and its kernels see the throw-away repository.

    A broken kernel of the user's stands in the way.
    """
    broken = repository / "jupyter" / "kernels" / "python3"
    broken.mkdir(parents=True, exist_ok=True)
    (broken / "kernel.json").write_text(
        '{"argv": ["/bin/false"], "display_name": "broken", "language": "python"}'
    )
    patch.setenv("JUPYTER_PATH", str(repository / "jupyter"))
    patch.setattr(provenance, "PACKAGE", repository / "lib" / "sandbagging")
    patch.setattr(provenance, "REPOSITORY", repository)
    patch.setenv("PYTHONPATH", str(repository / "lib"))
    patch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for name in (
        "SANDBAGGING_RUNS",
        "SANDBAGGING_NOTEBOOKS",
        "SANDBAGGING_RUNNER",
        "SANDBAGGING_REFRESH",
    ):
        patch.delenv(name, raising=False)


def command(repository: Path, *words: str) -> subprocess.Popen:
    """Start the command line on the throw-away repository.

    Ctrl-C works even if the tests themselves run in the background.
    """
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("SANDBAGGING_")
    }
    environment |= {"PYTHONPATH": str(repository / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "sandbagging", *words],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    for _ in range(6000):  # a page loads its model first, beside other work
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} never came")
