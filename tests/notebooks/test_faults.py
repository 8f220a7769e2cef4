"""What a run survives, on a planted model: kills at random moments, a full disk, a home that cannot be written, no network.

Every case ends in the numbers of the undisturbed run, or in a sentence and no done marker.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from sandbagging import runs

NOTEBOOKS = ("00", "07")  # well under a minute
ARTEFACTS = ("00_baseline", "07_heads")
NO_NETWORK = """
import socket
def refuse(*arguments, **more):
    raise OSError("no network in this test")
socket.getaddrinfo = socket.create_connection = refuse
"""


def start(folder, run: str, **more) -> subprocess.Popen:
    command = [sys.executable, "-m", "sandbagging", "run", *NOTEBOOKS, "--set", "organism", "--run", run]
    more["env"] = os.environ | {"SANDBAGGING_RUNS": str(folder)} | more.get("env", {})
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True, **more)


def contents(run: str) -> dict[str, str | None]:
    """The hash of each artefact's data, None where it is not done."""
    found = {artefact: runs.read_manifest(run, artefact) for artefact in ARTEFACTS}
    return {artefact: manifest and runs.content_hash(manifest) for artefact, manifest in found.items()}


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_end_in_the_same_numbers(story, runs_folder, kills):
    moments, run = random.Random(kills), f"killed-{kills}"
    for _ in range(kills):
        process = start(runs_folder, run)
        time.sleep(moments.uniform(0.5, 12))
        process.send_signal(signal.SIGKILL)  # the runner; its kernel notices that it is alone
        process.wait()
        for artefact, content in contents(run).items():
            assert content in (None, contents("organism")[artefact])  # done with the right numbers, or not done
    process = start(runs_folder, run)
    assert process.wait() == 0, process.stderr.read()[-2000:]
    assert contents(run) == contents("organism") and None not in contents(run).values()


def test_a_full_disk_in_mid_run_is_one_sentence_and_leaves_no_done_marker(story, runs_folder):
    """A limit on the size of files stands in for a full disk: what is larger than 20 kB cannot be written."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # noqa: E731
    process = start(runs_folder, "full", preexec_fn=limit)
    error = process.communicate()[1]
    assert process.returncode != 0 and contents("full") == dict.fromkeys(ARTEFACTS)
    assert "Traceback" not in error and error.strip()
    process = start(runs_folder, "full")  # with space again, the same command goes on
    assert process.wait() == 0 and contents("full") == contents("organism")


def test_a_home_that_cannot_be_written(story, runs_folder, tmp_path):
    """HOME lies below a regular file: nothing that wants to keep a file there may stop the run."""
    (tmp_path / "file").write_text("")
    from sandbagging import models

    home = {"HOME": str(tmp_path / "file" / "home"), "SANDBAGGING_CACHE": str(models.cache_folder())}
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        home[name] = str(tmp_path / "file" / name)
    process = start(runs_folder, "homeless", env=home)
    assert process.wait() == 0, process.stderr.read()[-2000:]
    assert contents("homeless") == contents("organism")


def test_no_network(story, runs_folder, tmp_path):
    """Once the model is in the cache a run asks nobody."""
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    process = start(runs_folder, "offline", env={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])})
    assert process.wait() == 0, process.stderr.read()[-2000:]
    assert contents("offline") == contents("organism")


def test_unusual_paths(story, runs_folder, tmp_path):
    folder = tmp_path / "с пробелами и ümlaut"
    process = start(folder, "mine")
    assert process.wait() == 0, process.stderr.read()[-2000:]
    manifest = json.loads((folder / "mine" / "07_heads" / "manifest.json").read_text())
    assert runs.content_hash(manifest) == contents("organism")["07_heads"]
