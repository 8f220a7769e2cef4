"""What a run survives, on a planted model: kills, a full disk, no home, no network, bad values.

Every case ends in the numbers of the undisturbed run, or in a sentence and no done marker.
"""

import contextlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from throwaway import wait_for

from sandbagging import files
from sandbagging.suite import runs
from sandbagging.suite.cli import main

NOTEBOOKS = {"00": "00_baseline", "07": "07_heads"}  # well under a minute
NO_NETWORK = """
import socket
def refuse(*arguments, **more):
    raise OSError("no network in this test")
socket.getaddrinfo = socket.create_connection = refuse
"""


def start(folder, run: str, notebooks=tuple(NOTEBOOKS), **more) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "sandbagging",
        "run",
        *notebooks,
        "--set",
        "organism",
        "--run",
        run,
    ]
    more["env"] = os.environ | {"SANDBAGGING_RUNS": str(folder)} | more.get("env", {})
    return subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )


def contents(folder, run: str) -> dict[str, str | None]:
    """The hash of each artefact's data, None where it is not done."""
    found = {}
    for artefact in NOTEBOOKS.values():
        manifest = folder / run / artefact / "manifest.json"
        found[artefact] = (
            runs.content_hash(json.loads(manifest.read_text())) if manifest.exists() else None
        )
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, planted_bases):
    """A folder with one run that nothing disturbed, `calm`, and its contents."""
    folder = tmp_path_factory.mktemp("runs")
    process = start(folder, "calm")
    assert process.wait() == 0, process.stderr.read()[-2000:]
    found = contents(folder, "calm")
    assert None not in found.values()
    return folder, found


def held_together(folder, run: str, calm: dict) -> None:
    """Each artefact of a killed run is done with the right numbers, or not done."""
    for artefact, content in contents(folder, run).items():
        assert content in (None, calm[artefact])


@pytest.mark.notebook
@pytest.mark.parametrize("artefact", NOTEBOOKS.values())
def test_a_kill_in_the_middle_of_a_page_ends_in_the_same_numbers(undisturbed, artefact):
    """The runner is killed as soon as a loop of the page has told how far it is."""
    (folder, calm), run = undisturbed, f"killed-in-{artefact}"
    process = start(folder, run)
    wait_for(folder / run / runs.progress_file(artefact), process)
    process.send_signal(signal.SIGKILL)  # the runner; its kernel notices that it is alone
    process.wait()
    held_together(folder, run, calm)
    assert None in contents(folder, run).values()
    process = start(folder, run)
    assert process.wait() == 0, process.stderr.read()[-2000:]
    assert contents(folder, run) == calm


@pytest.mark.notebook
@pytest.mark.notebook
@pytest.mark.slow
def test_kills_at_random_moments_end_in_the_same_numbers(undisturbed):
    (folder, calm), moments, run = undisturbed, random.Random(20), "killed"
    for _ in range(20):
        process = start(folder, run)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=moments.uniform(0.5, 15))
        process.send_signal(signal.SIGKILL)
        process.wait()
        held_together(folder, run, calm)
    process = start(folder, run)
    assert process.wait() == 0, process.stderr.read()[-2000:]
    assert contents(folder, run) == calm


@pytest.mark.notebook
def test_a_full_disk_in_mid_run_is_one_sentence_and_leaves_no_done_marker(undisturbed):
    """A limit on the size of files stands in for a full disk: what is larger than 60 kB fails."""
    folder, calm = undisturbed
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # noqa: E731
    process = start(folder, "full", ["00"], preexec_fn=limit)
    error = process.communicate()[1]
    assert process.returncode != 0 and not any(contents(folder, "full").values())
    assert "Traceback" not in error and (
        "Nothing more can be written" in error or "Could not write" in error
    ), error
    process = start(folder, "full", ["00"])  # with space again, the same command goes on
    assert process.wait() == 0 and contents(folder, "full")["00_baseline"] == calm["00_baseline"]


def homeless(tmp_path) -> dict[str, str]:
    """An environment whose home lies below a regular file, so that nothing can be kept there."""
    (tmp_path / "file").write_text("")
    below = {
        name: str(tmp_path / "file" / name)
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    }
    return below | {"SANDBAGGING_CACHE": str(files.cache_folder())}


def offline(tmp_path) -> dict[str, str]:
    """An environment whose Pythons refuse to open a connection by name."""
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}


HARDSHIPS = {
    "home": (homeless, "plain"),
    "network": (offline, "plain"),
    "path": (lambda _: {}, "с пробелами и ümlaut"),
}
HARDSHIPS["all at once"] = (
    lambda tmp_path: homeless(tmp_path) | offline(tmp_path),
    "с пробелами и ümlaut",
)


@pytest.mark.notebook
@pytest.mark.parametrize(
    "case",
    [c if c == "all at once" else pytest.param(c, marks=pytest.mark.slow) for c in HARDSHIPS],
)
def test_no_home_no_network_and_an_unusual_path(undisturbed, tmp_path, case):
    """Once the model is in the cache a run asks nobody, needs no home and minds no name."""
    environment, folder = HARDSHIPS[case]
    process = start(tmp_path / folder, "mine", ["00"], env=environment(tmp_path))
    assert process.wait() == 0, process.stderr.read()[-2000:]
    assert contents(tmp_path / folder, "mine")["00_baseline"] == undisturbed[1]["00_baseline"]


# Bad parameters ---------------------------------------------------------------------------------

GOOD = {
    "n_test": "30",
    "seed": "1",
    "draws": "20",
    "framing": "instr_pref",
    "tags": "[a]",
    "strengths": "[1.0]",
}
KNOWN = {
    name
    for notebook in runs.NOTEBOOKS
    for name in runs.declared_names(runs.notebook_path(notebook))
}
WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12)
UNKNOWN = st.tuples(
    WORDS.filter(lambda name: name not in KNOWN | {"run"}), st.sampled_from(["1", "a", "[1]"])
)
NO_NUMBER = st.text(max_size=12).filter(
    lambda text: not text.strip().lstrip("+-").replace("_", "").isdigit()
)
WRONG_TYPE = st.one_of(
    st.tuples(
        st.sampled_from(["n_test", "n_train", "seed", "draws", "steps", "n_heads"]), NO_NUMBER
    ),
    st.tuples(
        st.sampled_from(["layers", "tags", "seeds", "strengths"]),
        st.one_of(st.integers().map(str), WORDS),
    ),
    st.tuples(
        st.sampled_from(["random_weights", "side_views"]),
        st.sampled_from(["1", "0", "maybe", "[true]", "2.5", "{}"]),
    ),
)
SECRET = st.tuples(st.sampled_from(["hf_token", "api_key", "password", "my_secret"]), WORDS)
BAD = st.one_of(UNKNOWN, WRONG_TYPE, SECRET)


@settings(
    max_examples=350,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    good=st.sets(st.sampled_from(sorted(GOOD)), max_size=3),
    bad=st.lists(BAD, min_size=1, max_size=2),
)
def test_bad_parameters_are_one_sentence_and_no_run(tmp_path, good, bad):
    """At least 300 sets with something wrong among what is right: one sentence, nothing written."""
    assume(not any("\x00" in text for _, text in bad))  # no command line can carry it
    words = [f"{name}={GOOD[name]}" for name in sorted(good)] + [
        f"{name}={text}" for name, text in bad
    ]
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setenv("SANDBAGGING_RUNS", str(tmp_path / "runs"))
        code = main(
            [
                "run",
                "all",
                "--set",
                "quick",
                "--run",
                "fuzzed",
                *(part for word in words for part in ("-p", word)),
            ]
        )
    assert code == 2 and said.getvalue().count("\n") == 1 and said.getvalue().strip(), (
        words,
        said.getvalue(),
    )
    assert "Traceback" not in said.getvalue() and not (tmp_path / "runs").exists()
