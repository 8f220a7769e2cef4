"""Sweep, battery and SAE training beside their peers on a GPU, at Llama-3.2-1B's true shape.

Random weights: the time is that of the real model, the numbers mean nothing. The peers of the sweep
are timed on three heads (early, middle, late), that of the battery on four interventions, and both
are extrapolated, as in bench_sweep.py and bench_battery.py; SAEs are trained as in
bench_sae_training.py. Results are written after each part. Without a GPU nothing is measured unless
layers or the tiny model are named: the whole would take hours.
"""

import argparse
import functools
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import bench_battery
import bench_sae_training
import bench_sweep
import timing
import torch
from bench_sweep import our_logprobs, useful_flops

from sandbagging import activations, metrics, models, prompts, questions, saes
from sandbagging.heads import sweep
from sandbagging.models import packing, registry

os.environ["HF_HUB_OFFLINE"] = "1"  # random weights need nothing from the hub
MODEL, TINY, FRAMING = "llama-3.2-1b", "tiny", "caps"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Tokens in one forward pass; all heads of a layer together have about 16,000.
SIZES = {"cuda": (2048, 4096, 8192, 16384), "cpu": (1024, 2048)}
# Llama's code at a size that a CPU runs in seconds, to try this file with.
TINY_CONFIG = {**registry.LLAMA_1B, "vocab_size": 49152, "hidden_size": 256}
TINY_CONFIG |= {"intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
TINY_CONFIG |= {"num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0}


@functools.cache
def load(name: str, dtype: str) -> models.Model:
    """Return the model with random weights, made once."""
    tiny = registry.Entry(TINY, "nobody/tiny", config=TINY_CONFIG)
    registry.REGISTRY.setdefault(TINY, tiny)
    return models.load(name, random_weights=True, dtype=dtype)


def row(
    name: str, peer: str, ours: Sequence, theirs: Sequence, scale: float, differ: float, **more
) -> dict:
    """Return one result from both sides' repeats; the peer's seconds are multiplied by `scale`."""
    medians = [statistics.median(t.seconds for t in side) for side in (ours, theirs)]
    result = timing.row(name, peer, medians[0], medians[1] * scale, differ, extrapolated=True)
    if ours[0].peak_gb is not None:
        more |= {"peak_gb": max(t.peak_gb for t in ours)}
        more |= {"peer_peak_gb": max(t.peak_gb for t in theirs)}
    return result | {"repeats": len(ours)} | more


def compare(
    ours: Callable, peers: dict[str, Callable], expected: torch.Tensor, repeats: int
) -> tuple[list, dict[str, list], dict[str, float]]:
    """Time ours and its peers in turn; each peer returns log p that must be near `expected`."""
    took, theirs, differ = [], {name: [] for name in peers}, dict.fromkeys(peers, 0.0)
    for _ in range(repeats):
        took.append(timing.timed(ours))
        for name, peer in peers.items():
            theirs[name].append(timing.timed(peer))
            gap = float((theirs[name][-1].value.float() - expected).abs().max())
            differ[name] = max(differ[name], gap)
    return took, theirs, differ


# The sweep over all heads -------------------------------------------------------------------------


@torch.no_grad()
def sweep_rows(model: models.Model, n_questions: int, repeats: int, layers: Sequence[int]) -> list:
    """One row a peer."""
    asked = questions.subset(questions.load("default", "train"), n_questions, 0)
    items = [metrics.encode(model, q, "sandbag", FRAMING)[1] for q in asked]
    pack, swept = packing.pack(items), sweep.all_heads(model, layers)
    n = model.n_layers
    timed = [(layer, h % model.n_heads) for layer, h in ((0, 6), (n // 2, 14), (n - 2, 3))]
    made = [
        bench_sweep.Nnsight(model.module, model.tokenizer, items, 64),
        bench_sweep.ByHand(model.module, items, 160),
    ]
    peers = {
        peer.name: lambda peer=peer: torch.stack([peer(head) for head in timed]) for peer in made
    }
    expected = our_logprobs(model, pack, timed)
    ours, theirs, differ = compare(
        lambda: sweep.ablate_sets(model, pack, swept), peers, expected, repeats
    )
    rate = matrix_product_rate(model.dtype)
    work = useful_flops(model, pack, [heads[0] for heads in swept])
    share = work / statistics.median(t.seconds for t in ours) / rate
    dtype = str(model.dtype).removeprefix("torch.")
    more = {
        "peer_timed": f"{len(timed)} heads",
        "tokens": pack.n_tokens,
        "dtype": dtype,
        "float32_matmul": torch.get_float32_matmul_precision(),
        "matrix_product_gflops": round(rate / 1e9),
        "useful_share_of_matrix_product": round(share, 3),
    }
    name = f"sweep of {len(swept)} heads of {model.name}'s shape, "
    name += f"{n_questions} questions x 4 options, {dtype}"
    scale = len(swept) / len(timed)
    return [row(name, p, ours, theirs[p], scale, differ[p], **more) for p in peers]


def matrix_product_rate(dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product."""
    n = 8192 if DEVICE == "cuda" else 1024
    a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
    timing.seconds(lambda: a @ b)
    return 2 * n**3 / statistics.median(timing.seconds(lambda: a @ b)[0] for _ in range(9))


@torch.no_grad()
def by_batch_size(model: models.Model, n_questions: int, layers: Sequence[int]) -> dict[str, float]:
    """Seconds of the sweep by tokens in one forward pass."""
    asked = questions.subset(questions.load("default", "train"), n_questions, 0)
    pack, swept = metrics.prepare(model, asked, "sandbag", FRAMING), sweep.all_heads(model, layers)
    chosen, found = sweep.TOKENS_AT_ONCE[DEVICE], {}
    for size in SIZES[DEVICE]:
        sweep.TOKENS_AT_ONCE[DEVICE] = size
        spent, _ = timing.seconds(lambda: sweep.ablate_sets(model, pack, swept))
        found[str(size)] = round(spent, 3)
        print(f"  {size} tokens in one forward pass: {spent:.3g} s", flush=True)
    sweep.TOKENS_AT_ONCE[DEVICE] = chosen
    return found


# The battery of swaps and controls ----------------------------------------------------------------


@torch.no_grad()
def battery_rows(model: models.Model, n_questions: int, repeats: int) -> list[dict]:
    """One row: all interventions at the middle layer, with an SAE as it was drawn."""
    layer, timed = model.n_layers // 2, bench_battery.TIMED
    given = bench_battery.given(model, n_questions, layer, steps=0)
    peer = bench_battery.ByHand(model.module, given, batch=160)
    expected = bench_battery.our_logprobs(model, given)
    ours, theirs, differ = compare(
        lambda: bench_battery.battery(model, given),
        {peer.name: lambda: torch.stack([peer(key) for key in timed])},
        expected,
        repeats,
    )
    table = ours[-1].value
    bench_battery.check_timed(table, expected.cpu())
    n = len(table[["intervention", "error_term", "seed"]].drop_duplicates())
    name = f"battery of {n} interventions on {n_questions} questions, {model.name}'s shape, "
    name += f"layer {layer}, d_in {given.sae.cfg.d_in}, d_sae {given.sae.cfg.d_sae}, float32"
    more = {"peer_timed": f"{len(timed)} interventions"}
    scale = n / len(timed)
    result = row(name, peer.name, ours, theirs[peer.name], scale, differ[peer.name], **more)
    result["versions"] |= {"sae-lens": version("sae-lens")}
    return [result]


# Training SAEs ------------------------------------------------------------------------------------


def training_rows(model: models.Model, steps: int) -> list[dict]:
    """Two rows an architecture: exactly the peer's work, and the card's recipe."""
    layer = model.n_layers // 2
    asked = {split: questions.load("default", split) for split in ("train", "test")}
    asked["test"] = questions.subset(asked["test"], 60, 0)
    framing = bench_battery.FRAMING
    resid, table = activations.collect_all(model, asked, prompts.MAIN, framing, [layer])
    tokens = {
        split: resid[layer][saes.select_tokens(table, "mixed", split=split)] for split in asked
    }
    scale = saes.input_scale(tokens["train"])
    x = {split: values.float().to(DEVICE) * scale for split, values in tokens.items()}
    given = bench_sae_training.batches(x["train"], steps)
    mean = x["train"].mean(dim=0)
    where = f"SAE step, d_in {len(mean)}, d_sae {saes.Recipe.expansion * len(mean)}, "
    where += f"batch {bench_sae_training.BATCH}, "
    rows = []
    for arch in bench_sae_training.RECIPES:
        rows += bench_sae_training.one_architecture(arch, given, x["test"], mean, where)
    return rows


def main(asked: argparse.Namespace) -> int:
    """Measure part by part, the most telling first, and return how many parts failed: one that
    fails does not stop the others.
    """
    rows, begin, failed = [], time.perf_counter(), 0

    def swept(dtype: str) -> list[dict]:
        return sweep_rows(load(asked.model, dtype), asked.questions, asked.repeats, asked.layers)

    def sizes(dtype: str) -> list[dict]:
        found = by_batch_size(load(asked.model, dtype), asked.questions, asked.layers)
        for result in rows:
            if result.get("dtype") == dtype:
                result["seconds_by_tokens_at_once"] = found
        return []

    parts = {
        "sweep in float32": lambda: swept("float32"),
        "sweep in bfloat16": lambda: swept("bfloat16"),
        "battery": lambda: battery_rows(load(asked.model, "float32"), asked.swapped, asked.repeats),
        "SAE training": lambda: training_rows(load(asked.model, "float32"), asked.steps),
        "batch sizes in bfloat16": lambda: sizes("bfloat16"),
        "batch sizes in float32": lambda: sizes("float32"),
    }
    for name, run in parts.items():
        try:
            rows += run()
        except Exception:
            traceback.print_exc()
            failed += 1
        timing.save("card_model", rows, asked.out)
        print(f"  {name}: until {time.perf_counter() - begin:.0f} s", flush=True)
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=(MODEL, TINY), default=MODEL)
    parser.add_argument("--questions", type=int, default=40, help="of the sweep")
    parser.add_argument("--swapped", type=int, default=160, help="questions of the battery")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=bench_sae_training.STEPS, help="of SAE training"
    )
    parser.add_argument(
        "--layers", type=int, nargs="*", default=[], help="sweep the heads of these layers alone"
    )
    parser.add_argument("--out", type=Path, default=timing.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    reduced = asked.layers or asked.model == TINY
    if DEVICE == "cpu" and not reduced:
        sys.exit(print("  no GPU here, so nothing is measured"))
    if reduced and asked.out == timing.RESULTS:
        parser.error("a part of the measurement is not the result; name another folder: --out")
    sys.exit(main(asked))
