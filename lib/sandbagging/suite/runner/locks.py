"""One writer for one run: a lock that the system frees however its holder ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from sandbagging.errors import UserError
from sandbagging.suite.runs import places

NAME = places.LOCK


@contextlib.contextmanager
def held(folder: Path, run: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a run's folder; with `wait`, begin when another holder has ended.

    Raises UserError that names the holder's process where there is one, and for a file system that
    knows no locks.
    """
    path = folder / NAME
    lock = _lock(path, -1 if wait else 0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"The run {run} is being written by another process ({_holder(path)}); wait "
            "for it to end, or choose another name with --run."
        ) from None
    except OSError as error:
        raise UserError(
            f"The run {run} cannot be locked in {folder} ({error.strerror}): set "
            "SANDBAGGING_RUNS to a folder on a disk of this machine."
        ) from None
    try:
        path.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def _lock(path: Path, seconds: float) -> filelock.FileLock:
    # A lock file that merely exists would outlive a killed holder, so there is no soft fallback.
    return filelock.FileLock(
        path, timeout=seconds, fallback_to_soft=False, thread_local=False, poll_interval=0.2
    )


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip() or "unknown"
    return "unknown"
