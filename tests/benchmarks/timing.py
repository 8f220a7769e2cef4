"""Time two ways of the same work side by side: alternating repeats, medians, and whether the results are equal."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from sandbagging.files import write_json

RESULTS = Path(__file__).parent / "results"


def alternate(ours: Callable, peer: Callable, repeats: int = 5) -> tuple[float, float]:
    """Return the median seconds of both, run in turn after one warm-up each, so that a busy machine hurts both alike."""
    ours(), peer()
    seconds: tuple[list, list] = [], []
    for _ in range(repeats):
        for run, into in ((ours, seconds[0]), (peer, seconds[1])):
            begin = time.perf_counter()
            run()
            into.append(time.perf_counter() - begin)
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def row(name: str, peer: str, ours_s: float, peer_s: float, max_abs_diff: float | None, extrapolated: bool = False) -> dict:
    """Return one result, with the machine and the versions it was made on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    versions = {p: version(p) for p in ("torch", "transformers", "nnsight")} | {"python": sys.version.split()[0]}
    result = {
        "name": name, "ours_s": round(ours_s, 6), "peer": peer, "peer_s": round(peer_s, 6),
        "ratio": round(peer_s / ours_s, 2),
        "max_abs_diff": max_abs_diff, "extrapolated": extrapolated, "device": device, "versions": versions, "commit": commit,
    }  # fmt: skip
    equal = "" if max_abs_diff is None else f", equal to {max_abs_diff:.1g}"
    print(f"{name}: {ours_s:.4g} s, {peer}: {peer_s:.4g} s, ratio {result['ratio']:.2f}{equal}", flush=True)
    return result


def save(name: str, rows: list[dict]) -> None:
    """Write the results of one benchmark."""
    write_json(RESULTS / f"{name}.json", rows)
