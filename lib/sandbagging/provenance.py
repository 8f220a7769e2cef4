"""What a result was made with: the commit, the versions of packages, the device."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[1]
RECORDED_VERSIONS = (
    "torch",
    "nnsight",
    "transformers",
    "sae-lens",
    "numpy",
    "scipy",
    "pandas",
    "papermill",
)


def commit() -> str:
    """Return the repository's commit, with + when tracked files other than runs differ from it, or
    'unknown' outside git.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "-uno", "--", ".", ":!papermill_runs") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def version() -> str:
    """Return the version of this library."""
    return importlib.metadata.version("sandbagging")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in RECORDED_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """Return what computed the numbers, such as 'cpu (2 threads)'; a notebook that never imported
    torch used the CPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads() if torch is not None else os.cpu_count()} threads)"
