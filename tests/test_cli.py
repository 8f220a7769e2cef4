"""The command line: what it answers, how fast; a mistake is one sentence and exit code 2."""

import subprocess
import sys

import pytest

from sandbagging.suite.cli import main

HEAVY = ("torch", "pandas", "papermill", "transformers", "nnsight", "matplotlib")


def test_help_needs_no_heavy_module():
    code = f"""
import sys
from sandbagging.suite.cli import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
assert not set({HEAVY!r}) & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    commands = (
        "run",
        "status",
        "compare",
        "models",
        "fetch",
        "train",
        "audit",
        "release",
        "export-ablated",
        "refresh",
    )
    assert all(word in done.stdout for word in (*commands, "examples"))


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder of runs; the parameter sets stay the repository's."""
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    monkeypatch.delenv("SANDBAGGING_REFRESH", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["run", "all", "--set", "quik"], "There is no parameter set quik; did you mean quick?"),
        (["run", "12", "--set", "quick"], "There is no notebook 12"),
        (["run", "00", "-p", "n_test"], "-p takes name=value"),
        (["run", "all", "--run", "../elsewhere"], "A run's name is made of letters"),
        (["status", "nothing"], "There is no run nothing"),
        (["compare", "a", "b"], "There is no run a"),
        (
            ["train", "--tags", "v4_smollm2_topk_L15_mixed"],
            "names the model 'smollm2', and this run's is 'sandbagger': name that",
        ),
        (
            ["train", "--tags", "v4_smollm2_topk_L15_mixd"],
            "the nearest is 'v4_smollm2_topk_L15_mixed'",
        ),
        (["train", "--tags", "*_gatted_*"], "No SAE tag matches '*_gatted_*'"),
        (["audit", "no-such-release"], "sae-lens knows no release of that name"),
        (["release", "out", "--run", "nothing"], "There are no trained SAEs"),
        (["export-ablated", "out", "--run", "nothing"], "The run nothing has found no heads yet"),
        (["export-ablated", "out", "--heads", "17.6"], "write heads as L17H6"),
    ],
)
def test_mistakes_get_one_sentence_and_exit_code_2(empty, capsys, words, sentence):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_models_lists_the_registry(capsys):
    assert main(["models"]) == 0
    assert "smollm2-135m-instruct" in capsys.readouterr().out


def test_interruption_says_how_to_go_on(monkeypatch, capsys):
    from sandbagging.suite import runner

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "plan", interrupt)
    assert main(["run", "all"]) == 130
    assert "run the same command to go on" in capsys.readouterr().err


def test_fetch_without_a_name_fetches_what_the_story_is_about(monkeypatch, capsys):
    from sandbagging import models

    asked = []
    monkeypatch.setattr(
        models, "ensure_available", lambda name, adapter: asked.append(name + adapter)
    )
    assert main(["fetch"]) == 0 and main(["fetch", "organism-null"]) == 0
    assert main(["fetch", "tinyllama", "--adapter", "+lora"]) == 0
    assert (
        asked == [models.SUBJECT, "organism-null", "tinyllama+lora"]
        and "in place" in capsys.readouterr().out
    )


def test_random_weights_is_a_parameter_like_any_other(empty, monkeypatch):
    from sandbagging.suite import runner

    plans = []
    monkeypatch.setattr(runner, "execute", lambda plan, **more: plans.append(plan))
    assert main(["run", "00", "--set", "llama", "--random-weights"]) == 0
    (step,) = plans[0].steps
    assert step.parameters["random_weights"] is True and step.parameters["model"] == "llama-3.2-1b"
    assert step.parameters["framing"] == "caps" and step.parameters["n_test"] == 50
