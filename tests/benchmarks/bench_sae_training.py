"""Training SAEs: one step of a Stack against one step of sae_lens.SAETrainer, and against the floor
of its own parts timed alone.

All read the same batches of real activations (the embedded model, layer 15, prompts of the train
questions) from the same initialisation, in one process: blocks of 20 steps in turn, through a whole
training, since the codes grow sparser on the way. "exactly the peer's work": no unit-norm decoder;
losses and held-out FVU are compared. "the card's recipe": with projected gradient, renormalised
rows and, for JumpReLU, the Gaussian kernel and L1, which the peer does not have. The floor is the
matrix products, top-k, fused Adam and renormalisation of our own step, each on ready inputs.
"""

import statistics

import sae_lens
import timing
import torch

from sandbagging import activations, models, prompts, questions, saes
from sandbagging.saes import gradients

LAYER, D_IN, BATCH = 15, 576, 128
BLOCK, BLOCKS = 20, 30
STEPS = BLOCK * BLOCKS
ALIKE = (
    20  # steps after which float32 rounding has grown too much for losses to be compared one by one
)
RECIPES = {
    "topk": {"k": 64},
    "jumprelu": {"kernel": "rectangle"},
    "gated": {},
}


def tokens() -> dict[str, torch.Tensor]:
    """Return scaled activations [token d_in] of the train questions and of 60 test questions."""
    lm = models.load("smollm2-135m-instruct")
    asked = {
        "train": questions.load("default", "train"),
        "test": questions.subset(questions.load("default", "test"), 60, 0),
    }
    resid, table = activations.collect_all(lm, asked, prompts.MAIN, "instr_contrast", [LAYER])
    rows = {split: saes.select_tokens(table, "mixed", split=split) for split in asked}
    scale = saes.input_scale(resid[LAYER][rows["train"]])
    return {split: resid[LAYER][index].float() * scale for split, index in rows.items()}


def batches(x: torch.Tensor, steps: int = STEPS) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        x[torch.randint(len(x), (BATCH,), generator=generator).to(x.device)] for _ in range(steps)
    ]


def recipe(arch: str, **settings) -> saes.Recipe:
    fields = {
        "model": "bench",
        "architecture": arch,
        "layer": LAYER,
        "condition": "mixed",
        "d_in": D_IN,
        "steps": STEPS,
    }
    return saes.Recipe(**{**fields, **RECIPES[arch], **settings})


class Peer:
    """sae_lens.SAETrainer on one SAE, a step at a time."""

    def __init__(self, made: saes.Recipe, mean: torch.Tensor, lr: float = 3e-4) -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        config = SAETrainerConfig(
            STEPS * BATCH,
            BATCH,
            lr=lr,
            lr_end=lr,
            device=str(mean.device),
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.sae = saes.new_sae(made, STEPS, mean)
        self.trainer = SAETrainer(config, self.sae, iter([]))

    def step(self, batch: torch.Tensor) -> float:
        loss = self.trainer.step(batch).loss.item()
        self.trainer.n_training_steps += 1
        return loss


def side_by_side(
    sides: dict, given: list[torch.Tensor]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Train all sides on the same batches, a block each in turn; return seconds per step of each
    block, and losses.
    """
    seconds, losses = {name: [] for name in sides}, {name: [] for name in sides}
    for start in range(0, len(given), BLOCK):
        for name, step in sides.items():
            spent, found = timing.seconds(
                lambda step=step, start=start: [
                    step(batch) for batch in given[start : start + BLOCK]
                ]
            )
            seconds[name].append(spent / BLOCK)
            losses[name] += found
    return seconds, losses


def result(
    name: str,
    ours: list[float],
    peer: list[float],
    differ: float | None,
    of: str = "sae_lens.SAETrainer",
    **more,
) -> dict:
    """Medians over blocks; the ratio of the first and of the last five blocks tells what sparser
    codes change.
    """
    made = timing.row(name, of, statistics.median(ours), statistics.median(peer), differ)
    early, late = (
        round(statistics.median(peer[part]) / statistics.median(ours[part]), 2)
        for part in (slice(0, 5), slice(-5, None))
    )
    made["versions"] |= {"sae-lens": sae_lens.__version__}
    return {
        **made,
        "repeats": len(ours),
        "ratio_first_blocks": early,
        "ratio_last_blocks": late,
        **more,
    }


def one_architecture(
    arch: str, given: list[torch.Tensor], unseen: torch.Tensor, mean: torch.Tensor, where: str = ""
) -> list[dict]:
    """Both rows of an architecture, on batches [token d_in]; `where` begins their names."""
    d_in, kernel = len(mean), {"kernel": "gaussian"} if arch == "jumprelu" else {}
    exact = recipe(arch, d_in=d_in, unit_norm_decoder=False)
    stack = saes.new_stack([exact], STEPS, mean)
    card = saes.new_stack([recipe(arch, d_in=d_in, **kernel)], STEPS, mean)
    peer = Peer(exact, mean)
    sides = {
        "peer": peer.step,
        "ours": lambda b: stack.step(b).loss.item(),
        "card": lambda b: card.step(b).loss.item(),
    }
    lowest = [floor(card, given[0])]  # at first and at last
    seconds, losses = side_by_side(sides, given)
    lowest.append(floor(card, given[0]))
    differ = max(
        abs(a - b) / abs(b)
        for a, b in zip(losses["ours"][:ALIKE], losses["peer"][:ALIKE], strict=True)
    )
    fvu = [held_out_fvu(stack.saes()[0], unseen), held_out_fvu(peer.sae, unseen)]
    ends = (seconds["card"][:5], seconds["card"][-5:])
    over = [round(statistics.median(of) / low, 2) for of, low in zip(ends, lowest, strict=True)]
    peak = {
        name: timing.timed(lambda step=step: step(given[0])).peak_gb for name, step in sides.items()
    }
    exactly, own = (
        {"peak_gb": peak[name], "peer_peak_gb": peak["peer"]} if peak["peer"] else {}
        for name in ("ours", "card")
    )
    rows = [
        result(
            f"{where}{arch}: exactly the peer's work",
            seconds["ours"],
            seconds["peer"],
            differ,
            fvu_held_out=fvu,
            **exactly,
        ),
        result(
            f"{where}{arch}: the card's recipe",
            seconds["card"],
            seconds["peer"],
            None,
            floor_s=lowest,
            over_floor=over,
            **own,
        ),
    ]
    print(
        f"  ratio {rows[0]['ratio_first_blocks']} at first, {rows[0]['ratio_last_blocks']} at "
        f"last; card's recipe over its floor: {over}"
    )
    print(
        f"  floor {1e3 * lowest[0]:.1f} and {1e3 * lowest[1]:.1f} ms; held-out FVU {fvu[0]:.4f}, "
        f"peer {fvu[1]:.4f}",
        flush=True,
    )
    return rows


def floor(stack: saes.Stack, batch: torch.Tensor) -> float:
    """Seconds of one step's matrix products, top-k, fused Adam and renormalisation, each on ready
    inputs.
    """
    w, k = stack.w, stack.settings["k"]
    x = batch.expand(1, *batch.shape)
    gated = stack.settings["architecture"] == "gated"
    with torch.no_grad():
        active = stack.run(
            w, x, stack.settings, torch.zeros_like(stack.since_fired, dtype=torch.bool)
        ).active
        pre = torch.bmm(x, w["W_enc"].mT)
        support = (
            torch.cat([active, gradients.above(pre + w["b_gate"].unsqueeze(1), 0.0)], dim=1)
            if gated
            else active
        )
        product = gradients.products(support)
        codes = support
        errors = torch.cat([x, x], dim=1) if gated else x
        outer = gradients.products(support[:, -BATCH:])

        def parts() -> None:
            torch.bmm(x, w["W_enc"].mT)
            if k[0] is not None:
                gradients._largest(pre, k)
            product.decode(codes, w["W_dec"])
            if "threshold" in w:
                torch.bmm(errors, w["W_dec"].mT)
            else:
                product.along(errors, w["W_dec"])
            product.outer(codes, errors)
            outer.outer(codes[:, -BATCH:], x)
            stack.optimizers[0].step()
            w["W_dec"].div_(w["W_dec"].norm(dim=2, keepdim=True))

        return timing.alternate(parts, lambda: None, repeats=41)[0]


def held_out_fvu(sae, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float(
            (x - sae.decode(sae.encode(x))).square().sum() / (x - x.mean(dim=0)).square().sum()
        )


def main() -> None:
    x = tokens()
    given, mean = batches(x["train"]), x["train"].mean(dim=0)
    rows = [row for arch in RECIPES for row in one_architecture(arch, given, x["test"], mean)]
    for name, ks in (
        ("three of k = 64", (64, 64, 64)),
        ("five of different k", (16, 32, 64, 128, 256)),
    ):
        many, peer = (
            saes.new_stack([recipe("topk", k=k) for k in ks], STEPS, mean),
            Peer(recipe("topk"), mean),
        )
        seconds, _ = side_by_side(
            {"ours": lambda b, s=many: float(s.step(b).loss.sum()), "peer": peer.step},
            given[: 10 * BLOCK],
        )
        rows.append(
            result(
                f"topk: {name} side by side, per SAE",
                [s / len(ks) for s in seconds["ours"]],
                seconds["peer"],
                None,
            )
        )
    timing.save("sae_training", rows)


if __name__ == "__main__":
    main()
