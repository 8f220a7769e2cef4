"""GPUs held apart: each one that a process holds has a lock file on this machine."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sandbagging.errors import UserError


@contextlib.contextmanager
def held(n: int) -> Iterator[list[str]]:
    """Hold n GPUs for this process alone, and yield their names, as CUDA_VISIBLE_DEVICES has them.

    Snakemake's gpu=1 only counts: two cells on one machine would both take the first device. What a
    cluster has assigned is left as it is. Raises UserError if fewer than n are here or free.
    """
    if n == 0 or os.environ.get("SLURM_JOB_ID"):
        yield []
        return
    there = known()
    if len(there) < n:
        raise UserError(
            f"A cell asks for {n} GPUs and {len(there)} are here; set gpu: 0 in the grid to use "
            "the CPU."
        )
    with contextlib.ExitStack() as stack:
        taken = []
        for name in there:
            path = Path(tempfile.gettempdir()) / f"sandbagging-gpu-{name}.lock"
            if not path.exists():
                path.touch()
            # Opened for reading, since it may be another user's; filelock would write to it.
            lock = stack.enter_context(open(path))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken.append(name)
            if len(taken) == n:
                break
        if len(taken) < n:
            raise UserError(
                f"{n} GPUs are asked for and all but {len(taken)} are in use; start fewer cells "
                "at a time (--jobs)."
            )
        before = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
        try:
            yield taken
        finally:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            if before is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def known() -> list[str]:
    """Return the names of the GPUs that this process may use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        return os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
