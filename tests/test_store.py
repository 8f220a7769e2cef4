"""What is slow is measured once: keys, stored results, and what a change makes measured again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.questions import Question
from sandbagging.statistics import Estimate
from sandbagging.suite.runner import history
from sandbagging.suite.runs import codec, planes, sources
from sandbagging.suite.runs.store import Store

# A small library: two measurements that share a hook, one metric, one recipe, a plot and a rule.
LIBRARY = {
    "errors.py": "class UserError(Exception):\n    pass\n",
    "heads/__init__.py": '"""Heads."""\nfrom sandbagging.heads.sweep import sweep\n',
    "heads/hook.py": 'def edit(x):\n    """Edit."""\n    return 2 * x\n',
    "heads/sweep.py": (
        "from sandbagging import metrics\nfrom sandbagging.heads import hook\n"
        "from sandbagging.errors import UserError\n\n\n"
        "def sweep(n):\n    if n < 0:\n        raise UserError(f'{n} is below 0')\n"
        "    return [metrics.score(hook.edit(i)) for i in range(n)]\n"
    ),
    "metrics.py": (
        "from sandbagging import counting\n\n\n"
        "def score(x):\n    counting.note('score')\n    return x + 1\n"
    ),
    "saes/__init__.py": "",
    "saes/recipes.py": "STEPS = 3\n",
    "saes/training.py": (
        "from sandbagging import counting\nfrom sandbagging.saes.recipes import STEPS\n\n\n"
        "def train(k):\n    counting.note('train')\n    return {'k': k, 'steps': STEPS}\n"
    ),
    "suite/plots.py": "def draw(rows):\n    return len(rows)\n",
    "suite/rule.py": "MARGIN = 1.0\n\n\ndef verdict(rows):\n    return max(rows) > MARGIN\n",
    "counting.py": (
        "import os\n\n\ndef note(word):\n    with open(os.environ['COUNTED'], 'a') as file:\n"
        "        file.write(word + '\\n')\n"
    ),
}
PAGE = """
from sandbagging import heads
from sandbagging.saes import training
from sandbagging.suite import plots, rule
from sandbagging.suite.runs.store import Store
store = Store("mine", "07_heads")
rows = store.measure(heads.sweep, 3)
sae = store.measure(training.train, 2)
assert rows == [1, 3, 5] or CHANGED
print(plots.draw(rows), rule.verdict(rows), sae["steps"])
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A function that runs a page of a small library in a process of its own, and returns what it
    measured.
    """
    package, counted = tmp_path / "lib" / "sandbagging", tmp_path / "counted"
    for name, text in LIBRARY.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    real = provenance.PACKAGE
    for name in ("__init__.py", "files.py", "provenance.py"):
        shutil.copy(real / name, package / name)
    shutil.copy(real / "errors.py", package / "errors.py")
    shutil.copytree(real / "suite" / "runs", package / "suite" / "runs")
    (package / "suite" / "__init__.py").write_text("")
    # The page needs the store alone: begin and what it brings are left out.
    (package / "suite" / "runs" / "__init__.py").write_text("")
    monkeypatch.setenv("COUNTED", str(counted))
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")

    def run(code: str = PAGE.replace("CHANGED", "True")) -> list[str]:
        counted.write_text("")
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
        return sorted(set(counted.read_text().split()))

    run.package = package
    return run


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_second_run_measures_nothing(page):
    assert page() == ["score", "train"]
    assert page() == []


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("suite/plots.py", "len(rows)", "2 * len(rows)"),
        ("suite/rule.py", "1.0", "9.0"),
        ("heads/sweep.py", "is below 0", "is too small: give 0 or more"),
        ("heads/hook.py", '"""Edit."""', '"""Return twice x."""  # why not'),
        ("metrics.py", "    return x + 1", "\n    return (x\n            + 1)"),
    ],
    ids=["plot", "verdict rule", "error message", "docstring and comment", "layout"],
)
def test_words_rules_and_figures_measure_nothing_again(page, file, old, new):
    page()
    change(page.package / file, old, new)
    assert page() == []


@pytest.mark.parametrize(
    ("file", "old", "new", "measured"),
    [
        ("heads/hook.py", "2 * x", "3 * x", ["score"]),
        ("metrics.py", "x + 1", "x + 2", ["score"]),
        ("saes/recipes.py", "STEPS = 3", "STEPS = 4", ["train"]),
    ],
    ids=["hook", "metric", "recipe"],
)
def test_what_depends_on_a_change_is_measured_again_and_nothing_else(
    page, file, old, new, measured
):
    page()
    change(page.package / file, old, new)
    assert page() == measured
    assert page() == []


def test_other_arguments_are_another_result(page):
    page()
    assert page(PAGE.replace("train, 2", "train, 4").replace("CHANGED", "True")) == ["train"]


def test_a_damaged_result_is_named_and_measured_again_only_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    store = Store("mine", "07_heads")
    assert store.measure(files.sha256, __file__) == files.sha256(__file__)
    (path,) = store.folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=f"07_heads/stored/{path.name} .* is damaged .*--remeasure"):
        store.measure(files.sha256, __file__)
    monkeypatch.setenv("SANDBAGGING_REMEASURE", "1")
    assert store.measure(files.sha256, __file__) == files.sha256(__file__)
    monkeypatch.delenv("SANDBAGGING_REMEASURE")
    store.measure(files.sha256, __file__)
    assert list(store.used.values()) == ["stored"]


@pytest.mark.parametrize(("device", "quiet"), [("cpu (1 threads)", 3.0), ("cuda (H100)", 50.0)])
def test_seconds_spent_waiting_for_other_work_are_told_apart(tmp_path, monkeypatch, device, quiet):
    """50 seconds pass, of which this process works for 3; what a GPU does is not in the 3."""
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    monkeypatch.setattr(provenance, "device", lambda: device)
    clocks = {"time": iter((100.0, 150.0)), "process_time": iter((7.0, 10.0))}
    for name, clock in clocks.items():
        monkeypatch.setattr(f"sandbagging.suite.runs.store.time.{name}", lambda c=clock: next(c))
    store = Store("mine", "07_heads")
    store.measure(files.sha256, __file__)
    (path,) = store.folder.glob("*.json")
    record = json.loads(path.read_text())
    assert (record["seconds"], record["quiet_seconds"]) == (50.0, quiet)
    manifest = {"seconds": 60.0}
    assert history._measuring_seconds(store.artefact_folder, manifest) == quiet


def test_a_run_of_the_same_family_lends_its_results(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    Store("mine", "07_heads").measure(files.sha256, __file__)
    for run, expected in (("mine/other", "stored"), ("yours", "new")):
        store = Store(run, "07_heads")
        store.measure(files.sha256, __file__)
        assert list(store.used.values()) == [expected]


def test_unused_results_are_pruned_with_what_they_wrote(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    first = Store("mine", "01_activations")
    first.measure(files.Folder.of, first.artefact_folder)
    second = Store("mine", "01_activations")
    second.measure(files.sha256, __file__)
    second.prune()
    assert [p.name.split("-")[0] for p in first.folder.glob("*.npz")] == ["sha256"]


def test_what_was_left_out_is_named_and_made_again_when_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    monkeypatch.setattr(sources, "of_function", lambda function: {})
    weights = tmp_path / "mine" / "02_saes" / "tag" / "w.safetensors"

    def train(into: Path) -> files.Folder:
        files.write_bytes(into / "tag" / "w.safetensors", b"weights")
        return files.Folder.of(into, "tag/w.safetensors")

    def measured() -> tuple[files.Folder, str]:
        store = Store("mine", "02_saes")
        return store.measure(train), *store.used.values()

    assert [measured()[1], measured()[1]] == ["new", "stored"]
    weights.unlink()
    folder, how = measured()
    assert how == "stored"  # telling needs no weights
    for name in ("tag", "tag/w.safetensors"):
        with pytest.raises(UserError, match="saes/tag/w.safetensors is not on this machine.* 02 "):
            folder / name
    monkeypatch.setenv("SANDBAGGING_REMEASURE", "1")
    assert measured()[1] != "stored" and weights.read_bytes() == b"weights"
    assert measured()[1] == "stored"
    assert folder / "tag" == weights.parent


# Values -------------------------------------------------------------------------------------------

TABLE = pd.DataFrame(
    {"question_id": ["1", "00001", "a,b"], "value": [0.1, np.nan, 1e-300], "n": [1, 2, 3]}
)
VALUES = {
    "numbers": [0.1, 1 / 3, float("inf"), -7, True, None, "é\n"],
    "nested": {"a": (1, [2.5, {"b": ()}]), ("E6", "kept", 0): {3: "x"}},
    "array": np.linspace(0, 1, 7).astype(np.float32).reshape(7, 1),
    "tensor": torch.arange(6.0).reshape(2, 3) / 3,
    "texts": np.array(["1", None, "x"], dtype=object),
    "table": TABLE,
    "record": Estimate(0.1 + 0.2, -1.0, 1.0, 3, "pp", "by hand"),
    "question": Question("1", "c", "q?", "yes", ("no", "so", "go")),
}


def equal(a, b) -> bool:
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
        return True
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b and type(a) is type(b)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_comes_back_as_it_was(tmp_path, name):
    codec.write(tmp_path / "x.npz", VALUES[name], tmp_path)
    assert equal(VALUES[name], codec.read(tmp_path / "x.npz", tmp_path))


ARRAYS = {
    "scores of a model": np.linspace(-3, 3, 50, dtype=np.float32).astype(np.float64).reshape(5, 10),
    "means over questions": np.arange(9).reshape(3, 3) / 7,
    "beyond float32": np.array([1e-300, 1e300, -1e39]),
    "no plain numbers": np.array([np.nan, np.inf, -np.inf, -0.0]),
    "a NaN with a mark": np.array([0x7FF8000000000001], np.uint64).view(np.float64),
    "small": np.array([-3, 0, 127]),
    "large": np.array([2**40, -1]),
    "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "every second one": np.arange(10.0)[::2],
    "single": np.array(2.5),
    "none": np.zeros((0, 4)),
    "flags": np.array([[True, False]]),
    "whole": np.array([1, 2], np.uint8),
}


def test_arrays_come_back_bit_for_bit_as_numpy_keeps_them(tmp_path):
    """numpy's own file is the second route: same bytes, kind, shape and order in memory."""
    np.savez(tmp_path / "numpy.npz", **ARRAYS)
    planes.save(tmp_path / "ours.npz", ARRAYS)
    expected, found = planes.load(tmp_path / "numpy.npz"), planes.load(tmp_path / "ours.npz")
    assert list(found) == list(expected) == list(ARRAYS)
    for name, array in expected.items():
        assert found[name].tobytes() == array.tobytes(), name
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].strides == array.strides and found[name].flags.writeable


def test_scores_of_a_model_take_half_the_room(tmp_path):
    noise = np.random.default_rng(0).normal(size=5000)
    sizes = {}
    for kind in (np.float32, np.float64):
        path = tmp_path / f"{np.dtype(kind)}.npz"
        planes.save(path, {"a": noise.astype(kind).astype(np.float64)})
        sizes[kind] = path.stat().st_size
    assert sizes[np.float32] < 0.5 * sizes[np.float64]


def test_a_value_that_was_stored_as_numpy_does_it_is_still_read(tmp_path):
    tree = json.dumps(["dict", ["a", ["array", "a0"]], ["n", 3]])
    arrays = {"a0": np.arange(3.0), codec.TREE: np.frombuffer(tree.encode(), np.uint8)}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    found = codec.read(tmp_path / "x.npz", tmp_path)
    assert found.keys() == {"a", "n"} and found["n"] == 3 and equal(found["a"], np.arange(3.0))


def test_every_value_has_a_digest_of_its_own_and_the_same_each_time():
    digests = [codec.digest(value) for value in VALUES.values()]
    assert len(set(digests)) == len(digests)
    assert digests == [codec.digest(value) for value in VALUES.values()]
    near = [1, 1.0, True, "1", [1], (1, 2), {"1": 1}, np.array([1]), np.array([1.0])]
    assert len({codec.digest(value) for value in near}) == len(near)


def test_an_edit_is_known_by_what_it_changes(tiny_llama):
    """Two edits of one source differ in what they were made with: the heads, their replacement, a
    direction.
    """
    from sandbagging.heads.interventions import ablate_heads

    def adding(direction):
        return {"resid_post 1": lambda x: x + direction}

    bank = {1: torch.ones(3, 48)}
    edits = [
        ablate_heads(tiny_llama, [(1, 2)]),
        ablate_heads(tiny_llama, [(1, 3)]),
        ablate_heads(tiny_llama, [(1, 2)], "mean", bank),
        ablate_heads(tiny_llama, [(1, 2)], "mean", {1: 2 * bank[1]}),
        adding(torch.ones(4)),
        adding(torch.zeros(4)),
    ]
    assert len({codec.digest(edit) for edit in edits}) == len(edits)
    assert codec.digest(edits[0]) == codec.digest(ablate_heads(tiny_llama, [(1, 2)]))


def test_a_folder_is_known_by_its_hashes_whether_its_files_are_here_or_not(tmp_path):
    (tmp_path / "w.bin").write_bytes(b"x")
    here = files.Folder.of(tmp_path, "w.bin")
    elsewhere = files.Folder(tmp_path / "nowhere", here.hashes)
    assert codec.digest(here) == codec.digest(elsewhere)
    assert codec.digest(here) != codec.digest(files.Folder(tmp_path, {"w.bin": "0"}))


def test_what_is_no_value_is_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a object"):
        codec.write(tmp_path / "x.npz", [object()], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_stored_result_can_name_no_class_from_elsewhere(tmp_path):
    class Fake(NamedTuple):
        x: int

    Fake.__module__, Fake.__qualname__ = "sandbagging.files", "shutil.rmtree"
    codec.write(tmp_path / "x.npz", Fake(1), tmp_path)
    with pytest.raises(UserError, match="which is no record"):
        codec.read(tmp_path / "x.npz", tmp_path)


# Sources ------------------------------------------------------------------------------------------


def test_planted_models_count_for_what_loads_them():
    assert {"planted/planting.py", "planted/base.py"} <= sources.closure(
        "from sandbagging import models\nmodels.load('x')"
    ).keys()


def test_a_face_is_looked_through_by_attribute():
    names = sources.closure("from sandbagging import saes\nsaes.parse_tag('x')").keys()
    assert "saes/recipes.py" in names and "saes/training.py" not in names


def test_science_depends_on_nothing_of_the_suite():
    from sandbagging.heads import patching

    assert not [
        name for name in sources.of_function(patching.other_routes) if name.startswith("suite/")
    ]
