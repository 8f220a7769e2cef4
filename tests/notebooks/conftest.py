"""One run of every notebook on a planted model, through the strict runner, shared by the tests
here; and, slow, the quick set.
"""

import json

import pytest

from sandbagging.suite import runner, runs

RUN = "organism"


@pytest.fixture(scope="session")
def runs_folder(tmp_path_factory):
    """A runs folder of the tests' own; the committed ones stay untouched."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBAGGING_RUNS", str(folder))
        yield folder


@pytest.fixture(scope="session")
def execute(runs_folder, planted_bases):
    """Run one notebook (and, first, whatever before it is not done) and return its manifest."""

    def run(notebook: str, set_name: str = "organism", run_name: str = RUN, **overrides):
        found = runner.find_notebook(notebook)
        texts = {name: json.dumps(value) for name, value in overrides.items()}
        runner.execute(runner.plan(set_name, run_name, texts, [found.name]))
        return runs.read_manifest(run_name, found.artefact)

    return run


@pytest.fixture(scope="session")
def story(execute, runs_folder):
    """The folder of the run on the planted model, with every notebook done."""
    for notebook in runs.NOTEBOOKS:
        execute(notebook.name)
    return runs_folder / RUN


@pytest.fixture(scope="session")
def quick(runs_folder):
    """The folder of a quick run on the embedded model; minutes of work, so for slow tests."""
    runner.execute(runner.plan("quick", "quick"))
    return runs_folder / "quick"
