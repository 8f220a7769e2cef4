"""Run the card's protocol in small on a model of the true architecture and size with random
weights, and print what it took, as JSON.

python tests/card_shape.py MODEL [HEADS]
"""

import json
import resource
import sys
import time

import torch

from sandbagging import activations, metrics, models, questions, saes
from sandbagging.heads import interventions, sweep
from sandbagging.heads.head import parse

FRAMING = "caps"  # the card's words
FIVE = "L0H6 L0H3 L1H26 L4H3 L8H14"


def peak_gb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)


def ablation(model, asked, heads) -> dict:
    """The five heads zeroed by the hook and in the weights, and by the sweep's route."""
    pack = metrics.prepare(model, asked, "sandbag", FRAMING)
    clean = metrics.measure(model, pack)
    by_hook = metrics.measure(model, pack, edits=interventions.ablate_heads(model, heads))
    with interventions.zeroed_weights(model, heads):
        by_weights = metrics.measure(model, pack)
    swept = sweep.ablate_sets(model, pack, [tuple(sorted(heads))])
    values = [value for found in (clean, by_hook) for value in found.values()]
    return {
        "finite": all(bool(torch.isfinite(torch.as_tensor(v)).all()) for v in values),
        "hook_is_weights": all(
            (by_hook[name] == by_weights[name]).all().item() for name in by_hook
        ),
        "moved": bool((by_hook["logodds"] != clean["logodds"]).any()),
        "swept_difference": float(
            abs(swept.value["choice_len"][0] - by_hook["choice_len"][0]).max()
        ),
    }


def one_sae(model, asked) -> dict:
    """Activations of one layer and a TopK SAE on them, a few steps long."""
    layer = model.layers_of_interest[1]
    resid, table = activations.collect_all(
        model, {"train": asked}, ("genuine", "sandbag"), FRAMING, [layer]
    )
    recipe = saes.Recipe(model="llama", architecture="topk", layer=layer, condition="mixed",
                         d_in=model.d_model, k=64, steps=5)  # fmt: skip
    tokens, scale = saes.training_data(resid[layer][saes.select_tokens(table, "mixed")])
    sae = saes.fold_scaling(saes.train(recipe, tokens)[0], scale)
    return {
        "sae": list(sae.W_dec.shape),
        "tokens": len(tokens),
        "l0": float((sae.encode(resid[layer]) != 0).float().sum(1).mean()),
    }


def main(name: str, heads: str) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    times, begin = {}, time.perf_counter()
    model = models.load(name, random_weights=True, device=device)
    times["load"], begin = time.perf_counter() - begin, time.perf_counter()
    asked = questions.load("default", "test")[:4]
    found = ablation(model, asked, parse(heads))
    times["ablation"], begin = time.perf_counter() - begin, time.perf_counter()
    swept = sweep.all_heads(model, [model.n_layers - 2])
    sweep.ablate_sets(model, metrics.prepare(model, asked, "sandbag", FRAMING), swept)
    times["sweep"], begin = time.perf_counter() - begin, time.perf_counter()
    found |= one_sae(model, asked)
    times["sae"] = time.perf_counter() - begin
    threads = f"cpu, {torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name() if device == "cuda" else threads
    print(json.dumps({
        "model": name, "parameters": model.n_params, "peak_gb": peak_gb(),
        "heads_swept": len(swept), **found,
        "seconds": {part: round(spent, 1) for part, spent in times.items()},
        "device": where,
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else FIVE)
