"""The sweep over all 512 heads of a model of Llama-3.2-1B's true shape on a GPU, beside two other ways to do it.

Random weights: the time is that of the real model, the numbers mean nothing. The peers are timed on three heads (early, middle, late)
and extrapolated, as in bench_sweep.py. Without a GPU nothing is measured unless layers are named: the whole would take hours.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import timing
import torch
from bench_sweep import ByHand, Nnsight, our_logprobs, useful_flops

from sandbagging import metrics, models, questions
from sandbagging.heads import sweep
from sandbagging.models import packing

MODEL, FRAMING, TIMED = "llama-3.2-1b", "caps", ((0, 6), (8, 14), (14, 3))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def seconds(run: Callable) -> tuple[float, object]:
    """Seconds of a call, the device's work included, and what it returns."""
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    found = run()
    wait()
    return time.perf_counter() - begin, found


def matrix_product_rate(dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    n = 8192 if DEVICE == "cuda" else 2048
    a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
    seconds(lambda: a @ b)
    return 2 * n**3 / statistics.median(seconds(lambda: a @ b)[0] for _ in range(9))


def by_batch_size(model, pack: packing.Pack, heads: Sequence, sizes: Sequence[int]) -> dict[int, float]:
    """Seconds of the sweep by tokens in one forward pass."""
    chosen, found = sweep.TOKENS_AT_ONCE[DEVICE], {}
    for size in sizes:
        sweep.TOKENS_AT_ONCE[DEVICE] = size
        found[size] = round(seconds(lambda: sweep.ablate_sets(model, pack, heads))[0], 2)
    sweep.TOKENS_AT_ONCE[DEVICE] = chosen
    return found


def measure(dtype: str, asked: Sequence, repeats: int, layers: Sequence[int], sizes: Sequence[int]) -> list[dict]:
    """One row a peer, for one dtype."""
    model = models.load(MODEL, random_weights=True, dtype=dtype)
    items = [metrics.encode(model, q, "sandbag", FRAMING)[1] for q in asked]
    pack, heads = packing.pack(items), sweep.all_heads(model, layers)
    peers = [Nnsight(model.module, model.tokenizer, items, 64), ByHand(model.module, items, 160)]
    ours, took = our_logprobs(model, pack, TIMED).cpu(), {"ours": [], **{peer.name: [] for peer in peers}}
    differ = dict.fromkeys((peer.name for peer in peers), 0.0)
    for _ in range(repeats):
        took["ours"].append(seconds(lambda: sweep.ablate_sets(model, pack, heads))[0])
        for peer in peers:
            with torch.device(DEVICE):
                spent, found = seconds(lambda peer=peer: torch.stack([peer(head) for head in TIMED]))
            took[peer.name].append(spent / len(TIMED) * len(heads))
            differ[peer.name] = max(differ[peer.name], float((found.cpu() - ours).abs().max()))
    median, rate = statistics.median(took["ours"]), matrix_product_rate(getattr(torch, dtype))
    more = {
        "repeats": repeats, "peer_timed": f"{len(TIMED)} heads", "tokens": pack.n_tokens, "dtype": dtype,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if DEVICE == "cuda" else None,
        "matrix_product_gflops": round(rate / 1e9),
        "useful_share_of_matrix_product": round(useful_flops(model, pack, [h[0] for h in heads]) / median / rate, 3),
        "seconds_by_tokens_at_once": by_batch_size(model, pack, heads, sizes),
    }  # fmt: skip
    name = f"sweep of {len(heads)} heads of {MODEL}'s shape, {len(asked)} questions x 4 options, {dtype}"
    return [timing.row(name, p.name, median, statistics.median(took[p.name]), differ[p.name], True) | more for p in peers]


@torch.no_grad()
def main(n_questions: int, repeats: int, layers: Sequence[int]) -> None:
    asked = questions.subset(questions.load("default", "train"), n_questions, 0)
    sizes, dtypes = ((8192, 16384, 32768, 65536), ("float32", "bfloat16")) if DEVICE == "cuda" else ((), ("float32",))
    rows = [row for dtype in dtypes for row in measure(dtype, asked, repeats, layers, sizes)]
    if not layers:
        timing.save("card_model", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, nargs="*", default=[], help="sweep the heads of these layers alone, and save nothing")
    asked = parser.parse_args()
    if DEVICE == "cpu" and not asked.layers:
        sys.exit(print("  no GPU here, so nothing is measured"))
    main(asked.questions, asked.repeats, asked.layers)
