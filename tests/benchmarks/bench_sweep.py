"""The sweep over all heads beside three other ways to do it, with what the numbers agree to and how
busy the processor is.

Ours sweeps every head of the embedded model; the peers are timed on three heads (early, middle,
late) and extrapolated.
1. TransformerLens 3 and a plain nnsight loop: whole prompts with their answers, in padded batches,
   an edit at a time.
2. By hand and with care: plain hooks; the shared prefix's KV cache made once per ablation; prompt x
   option rows batched on top.
"""

import argparse
import os
import statistics
from collections.abc import Sequence
from importlib.metadata import version

import matplotlib.pyplot as plt
import timing
import torch
from peers import log_p, padded
from timing import seconds
from torch import Tensor

from sandbagging import files, metrics, models, questions
from sandbagging.heads import interventions, patching, sweep
from sandbagging.heads.head import Head
from sandbagging.models import hook_points, packing
from sandbagging.models.packing import Encoded
from sandbagging.suite.plots import look

os.environ["HF_HUB_OFFLINE"] = "1"  # all weights are in the local cache
FRAMING, TIMED = "instr_contrast", ((2, 3), (15, 1), (27, 6))


# The peers ----------------------------------------------------------------------------------------


class Whole:
    """Whole prompts with one answer each, in padded batches sorted by length."""

    device = torch.device("cpu")

    def __init__(self, items: Sequence[Encoded], batch: int) -> None:
        rows = [(e.prompt, option) for e in items for option in e.options]
        order = sorted(range(len(rows)), key=lambda r: len(rows[r][0]) + len(rows[r][1]))
        self.rows, self.shape = rows, (len(items), -1)
        self.batches = [order[i : i + batch] for i in range(0, len(order), batch)]

    def __call__(self, head: Head) -> Tensor:
        """log p of every option, [question option]."""
        found = torch.empty(len(self.rows), device=self.device)
        for here in self.batches:
            ids, real = padded([self.rows[r][0] + self.rows[r][1] for r in here], self.device)
            logits = self.logits(ids, real, head)
            found[here] = torch.stack([log_p(logits[i], *self.rows[r]) for i, r in enumerate(here)])
        return found.view(self.shape)


class TransformerLens(Whole):
    name = "TransformerLens 3 hooks, padded batches"

    def __init__(self, module, tokenizer, items: Sequence[Encoded], batch: int) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        super().__init__(items, batch)
        folder = str(files.cache_folder() / models.EMBEDDED)
        self.model = TransformerBridge.boot_transformers(
            folder, hf_model=module, tokenizer=tokenizer, device="cpu"
        )

    def logits(self, ids: Tensor, real: Tensor, head: Head) -> Tensor:
        layer, index = head

        def zero(z: Tensor, hook) -> Tensor:
            if z.ndim == 4:  # [batch pos head d_head]
                z[:, :, index] = 0
            else:
                z[..., index * 64 : (index + 1) * 64] = 0
            return z

        return self.model.run_with_hooks(
            ids, attention_mask=real, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)]
        )


class Nnsight(Whole):
    name = "nnsight loop, padded batches"

    def __init__(self, module, tokenizer, items: Sequence[Encoded], batch: int) -> None:
        super().__init__(items, batch)
        self.model, self.device = hook_points.envoy(module, tokenizer), module.device

    def logits(self, ids: Tensor, real: Tensor, head: Head) -> Tensor:
        layer, index = head
        with torch.no_grad(), self.model.trace(input_ids=ids, attention_mask=real):
            projection = self.model.model.layers[layer].self_attn.o_proj
            z = projection.input.clone()
            z[:, :, index * 64 : (index + 1) * 64] = 0
            projection.input = z
            logits = self.model.output.logits.save()
        return logits


class ByHand:
    """Plain transformers: under each ablation the shared prefix once into a KV cache, then all
    prompt x option rows on top of it.
    """

    name = "careful loop: prefix cached under each ablation, rows batched"

    def __init__(self, module, items: Sequence[Encoded], batch: int) -> None:
        self.module, self.device = module, module.device
        self.n_prefix = packing.shared_prefix([e.prompt for e in items])
        self.prefix = torch.tensor([items[0].prompt[: self.n_prefix]], device=self.device)
        rows = [(e.prompt[self.n_prefix :], option) for e in items for option in e.options]
        order = sorted(range(len(rows)), key=lambda r: len(rows[r][0]) + len(rows[r][1]))
        self.rows, self.shape = rows, (len(items), -1)
        self.batches = [order[i : i + batch] for i in range(0, len(order), batch)]

    def __call__(self, head: Head) -> Tensor:
        """log p of every option, [question option]."""
        columns = slice(head[1] * 64, (head[1] + 1) * 64)

        def zero(projection, inputs: tuple[Tensor]) -> tuple[Tensor]:
            z = inputs[0].clone()
            z[..., columns] = 0
            return (z,)

        handle = self.module.model.layers[head[0]].self_attn.o_proj.register_forward_pre_hook(zero)
        try:
            return self.ablated()
        finally:
            handle.remove()

    def ablated(self) -> Tensor:
        import copy

        cache = self.module.model(self.prefix, use_cache=True).past_key_values
        found = torch.empty(len(self.rows), device=self.device)
        for here in self.batches:
            rows, own = [self.rows[r] for r in here], copy.deepcopy(cache)
            own.batch_repeat_interleave(len(rows))
            ids, real = padded([prompt + option[:-1] for prompt, option in rows], self.device)
            seen = torch.cat([real.new_ones(len(rows), self.n_prefix), real], 1)
            hidden = self.module.model(
                ids, attention_mask=seen, past_key_values=own
            ).last_hidden_state
            at = [
                (i, len(prompt) - 1 + t, token)
                for i, (prompt, option) in enumerate(rows)
                for t, token in enumerate(option)
            ]
            i, position, token = torch.tensor(at, device=self.device).T
            logits = self.module.lm_head(hidden[i, position])
            each = logits.log_softmax(-1, dtype=torch.float32).gather(1, token[:, None])[:, 0]
            found[here] = each.new_zeros(len(rows)).index_add_(0, i, each)
        return found.view(self.shape)


# Ours ---------------------------------------------------------------------------------------------


def our_logprobs(model, pack: packing.Pack, heads: Sequence[Head]) -> Tensor:
    """log p of every option under each ablation, [head question option], from the pack in one batch
    per head.
    """
    found = []
    for head in heads:
        final, _ = hook_points.forward(model, pack, edits=interventions.ablate_heads(model, [head]))
        found.append(metrics.answer_logprobs(model, pack, final).total[0])
    return torch.stack(found)


def useful_flops(model, pack: packing.Pack, heads: Sequence[Head]) -> float:
    """Floating point operations that any method has to run: above each ablation every token once,
    logits where answers are read.

    Counted per head at layer L: W_O and the MLP of L, all of the layers above, attention over the
    keys that a token sees, W_U.
    """
    config = model.module.config
    d, d_z, d_kv, d_mlp = (
        model.d_model,
        model.n_heads * model.d_head,
        model.n_kv_heads * model.d_head,
        config.intermediate_size,
    )
    top = 2 * pack.n_tokens * (d_z * d + 3 * d * d_mlp)
    below = 2 * pack.n_tokens * (d * d_z + 2 * d * d_kv) + 4 * int(pack.dense_mask().sum()) * d_z
    unembedding = 2 * len(torch.unique(pack.read_at)) * d * config.vocab_size
    return sum(
        top + (model.n_layers - 1 - layer) * (top + below) + unembedding for layer, _ in heads
    )


def matrix_product_rate(n: int = 2048, repeats: int = 9) -> float:
    """Operations per second of a large float32 matrix product."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / statistics.median(seconds(lambda: a @ b)[0] for _ in range(repeats))


def cost_curve(model, asked: Sequence, sizes: Sequence[int], layers: Sequence[int]) -> list[dict]:
    """Seconds of the sweep by number of questions (heads of three layers) and by number of heads
    (all questions).
    """
    rows = []
    for n in sizes:
        pack, heads = (
            metrics.prepare(model, asked[:n], "sandbag", FRAMING),
            sweep.all_heads(model, layers),
        )
        spent, _ = seconds(lambda pack=pack, heads=heads: sweep.ablate_sets(model, pack, heads))
        rows.append(
            {
                "questions": n,
                "heads": len(heads),
                "tokens": pack.n_tokens,
                "seconds": round(spent, 2),
            }
        )
    pack = metrics.prepare(model, asked, "sandbag", FRAMING)
    for count in (3, 6, 9):
        heads = [((layer, head),) for layer in layers for head in range(count)]
        spent, _ = seconds(lambda heads=heads: sweep.ablate_sets(model, pack, heads))
        rows.append(
            {
                "questions": len(asked),
                "heads": len(heads),
                "tokens": pack.n_tokens,
                "seconds": round(spent, 2),
            }
        )
    return rows


@torch.no_grad()
def main(n_questions: int, repeats: int, layers: Sequence[int]) -> None:
    from transformers import AutoModelForCausalLM

    model = models.load(models.EMBEDDED, device="cpu")
    plain, bridged, traced = (
        AutoModelForCausalLM.from_pretrained(files.cache_folder() / models.EMBEDDED).eval()
        for _ in range(3)
    )
    train = questions.load("default", "train")
    asked = questions.subset(train, n_questions, 0)
    items = [metrics.encode(model, q, "sandbag", FRAMING)[1] for q in asked]
    pack, swept = packing.pack(items), sweep.all_heads(model, layers)
    heads = [s[0] for s in swept]
    peers = [
        TransformerLens(bridged, model.tokenizer, items, 16),
        Nnsight(traced, model.tokenizer, items, 16),
        ByHand(plain, items, 80),
    ]
    ours = our_logprobs(model, pack, TIMED)
    took, differ, rates = (
        {"ours": [], **{peer.name: [] for peer in peers}},
        dict.fromkeys((p.name for p in peers), 0.0),
        [],
    )
    for repeat in range(repeats):
        rates.append(matrix_product_rate())
        spent, effects = seconds(lambda: sweep.ablate_sets(model, pack, swept))
        took["ours"].append(spent)
        print(
            f"  repeat {repeat + 1} of {repeats}: ours {spent:.1f} s for {len(heads)} heads",
            flush=True,
        )
        for peer in peers:
            spent, found = seconds(lambda peer=peer: torch.stack([peer(head) for head in TIMED]))
            took[peer.name].append(spent / len(TIMED) * len(heads))
            differ[peer.name] = max(differ[peer.name], float((found - ours).abs().max()))
            print(
                f"  {peer.name}: {spent / len(TIMED):.1f} s a head, log p equal to "
                f"{differ[peer.name]:.1g}",
                flush=True,
            )
        rates.append(matrix_product_rate())
    check_timed(effects, ours)
    median = statistics.median(took["ours"])
    busy = useful_flops(model, pack, heads) / median / statistics.median(rates)
    print(
        f"  useful work at {busy:.0%} of a large matrix product's "
        f"{statistics.median(rates) / 1e9:.0f} GFLOP/s",
        flush=True,
    )
    curve = cost_curve(model, questions.subset(train, 80, 0), (10, 20, 40, 80), (5, 15, 25))
    draw_cost(curve)
    second_routes = other_routes(model, asked)
    rows = []
    for peer in peers:
        name = f"sweep of {len(heads)} heads, {n_questions} questions x 4 options"
        row = timing.row(
            name, peer.name, median, statistics.median(took[peer.name]), differ[peer.name], True
        )
        row["versions"] |= {p: version(p) for p in ("transformer-lens", "nnsight")}
        rows.append(
            row
            | {
                "repeats": repeats,
                "peer_timed": f"{len(TIMED)} heads",
                "useful_share_of_matrix_product": round(busy, 3),
                "matrix_product_gflops": round(statistics.median(rates) / 1e9, 1),
                "cost": curve,
                "other_routes": second_routes,
            }
        )
    timing.save("sweep", rows)


def draw_cost(curve: Sequence[dict]) -> None:
    """Save the cost curve beside the results: seconds by questions and by heads, each with the line
    through its largest point.
    """
    by_questions = [row for row in curve if row["heads"] == max(r["heads"] for r in curve)]
    by_heads = [row for row in curve if row["questions"] == max(r["questions"] for r in curve)]
    with plt.rc_context(look.style()):
        fig, axes = plt.subplots(1, 2, figsize=(look.WIDTH, 3))
        for ax, rows, name in ((axes[0], by_questions, "questions"), (axes[1], by_heads, "heads")):
            largest = max(rows, key=lambda row: row[name])
            ax.plot(
                [0, largest[name]],
                [0, largest["seconds"]],
                color=look.GREY,
                linewidth=0.8,
                linestyle="--",
                label="in proportion",
            )
            ax.plot(
                [row[name] for row in rows],
                [row["seconds"] for row in rows],
                "o",
                color=look.BLUE,
                label="measured",
            )
            ax.set(xlabel=name, ylabel="seconds", xlim=(0, None), ylim=(0, None))
            ax.legend()
        fig.suptitle("Cost of the sweep", x=0.01, ha="left", fontsize=11, fontweight="bold")
        fig.savefig(timing.RESULTS / "sweep_cost.png", dpi=120)
    plt.close(fig)


def other_routes(model, asked: Sequence) -> dict[str, float]:
    """Seconds of patching every head, and of attribution patching, on the same questions under the
    framing one_token.
    """
    genuine, sandbag = (
        metrics.prepare(model, asked, condition, "one_token")
        for condition in ("genuine", "sandbag")
    )
    parts = [
        patching.in_parts(model, asked, condition, "one_token")
        for condition in ("sandbag", "genuine")
    ]
    return {
        patching.PATCH: round(
            seconds(lambda: patching.patch_sets(model, genuine, sandbag, sweep.all_heads(model)))[
                0
            ],
            1,
        ),
        patching.PATCH_SLOPE: round(seconds(lambda: patching.attribution(model, *parts))[0], 1),
    }


def check_timed(effects: sweep.Effects, ours: Tensor) -> None:
    """The timed sweep and the log p that was compared are the same numbers."""
    for head, expected in zip(TIMED, ours[..., 0].exp(), strict=True):
        if (head,) in effects.sets:
            value = torch.tensor(effects.value["p_full"][effects.sets.index((head,))])
            assert (value - expected).abs().max() < 1e-5, head


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--layers",
        type=int,
        nargs="*",
        default=[],
        help="sweep the heads of these layers alone (default: all)",
    )
    asked = parser.parse_args()
    main(asked.questions, asked.repeats, asked.layers)
