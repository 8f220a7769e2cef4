"""Time two ways of the same work side by side: alternating repeats, medians, and whether the
results are equal.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sandbagging import provenance
from sandbagging.files import write_json

RESULTS = Path(__file__).parent / "results"


class Timed(NamedTuple):
    """A call's seconds, a GPU's work included; what it took of the GPU's memory beyond what was
    held before; what it returned.
    """

    seconds: float
    peak_gb: float | None  # None without a GPU
    value: Any


def timed(run: Callable) -> Timed:
    """Call and time."""
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    begin = time.perf_counter()
    value = run()
    if gpu:
        torch.cuda.synchronize()
    spent = time.perf_counter() - begin
    peak = round((torch.cuda.max_memory_allocated() - held) / 1e9, 3) if gpu else None
    return Timed(spent, peak, value)


def seconds(run: Callable) -> tuple[float, Any]:
    """Return the seconds of a call, a GPU's work included, and what it returned."""
    spent, _, value = timed(run)
    return spent, value


def alternate(ours: Callable, peer: Callable, repeats: int = 5) -> tuple[float, float]:
    """Return the median seconds of both, run in turn after one warm-up each, so that a busy machine
    hurts both alike.
    """
    ours(), peer()
    spent: tuple[list, list] = [], []
    for _ in range(repeats):
        for run, into in ((ours, spent[0]), (peer, spent[1])):
            into.append(seconds(run)[0])
    return statistics.median(spent[0]), statistics.median(spent[1])


def row(
    name: str,
    peer: str,
    ours_s: float,
    peer_s: float,
    max_abs_diff: float | None,
    extrapolated: bool = False,
) -> dict:
    """Return one result, with the machine and the versions it was made on."""
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    # A copy without its history is told the commit.
    commit = os.environ.get("GIT_COMMIT") or provenance.commit()
    versions = {p: version(p) for p in ("torch", "transformers", "nnsight")} | {
        "python": sys.version.split()[0]
    }
    result = {
        "name": name,
        "ours_s": round(ours_s, 6),
        "peer": peer,
        "peer_s": round(peer_s, 6),
        "ratio": round(peer_s / ours_s, 2),
        "max_abs_diff": max_abs_diff,
        "extrapolated": extrapolated,
        "device": device,
        "versions": versions,
        "commit": commit,
    }
    equal = "" if max_abs_diff is None else f", equal to {max_abs_diff:.1g}"
    print(
        f"{name}: {ours_s:.4g} s, {peer}: {peer_s:.4g} s, ratio {result['ratio']:.2f}{equal}",
        flush=True,
    )
    return result


def save(name: str, rows: list[dict], folder: Path = RESULTS) -> None:
    """Write the results of one benchmark."""
    write_json(folder / f"{name}.json", rows)
