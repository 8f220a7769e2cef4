"""Training SAEs: one step of a Stack against one step of sae_lens.SAETrainer, and against the floor of its own parts timed alone.

Both sides take the same batches from the same initialisation, in one process, in turn. "exactly the peer's work": no unit-norm
decoder; losses and weights are compared. "the card's recipe": with projected gradient, renormalised rows and, for JumpReLU, the
Gaussian kernel and L1, which the peer does not have. The floor is the matrix products, top-k, fused Adam and renormalisation of
our own step, each on ready inputs.
"""

import functools

import sae_lens
import timing
import torch

from sandbagging import saes
from sandbagging.saes import gradients

D_IN, BATCH, N_TOKENS = 576, 128, 4096
STEPS = 20  # a repeat is so many steps
LONG = 600  # steps after which held-out FVU is compared
RECIPES = {
    "topk": {"k": 64},
    "jumprelu": {"kernel": "rectangle"},
    "gated": {},
}


def tokens(n: int = N_TOKENS, seed: int = 0) -> torch.Tensor:
    """Sparse sums of fixed directions, mean norm sqrt(d_in): [token d_in]."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(4 * D_IN, D_IN, generator=generator), dim=1)
    generator = torch.Generator().manual_seed(seed)
    on = (torch.rand(n, 4 * D_IN, generator=generator) < 0.02) * torch.rand(n, 4 * D_IN, generator=generator)
    x = on @ directions + 0.05 * torch.randn(n, D_IN, generator=generator)
    return x * (D_IN**0.5 / x.norm(dim=1).mean())


def recipe(arch: str, **settings) -> saes.Recipe:
    fields = {"model": "bench", "architecture": arch, "layer": 0, "condition": "mixed", "d_in": D_IN, "steps": LONG}
    return saes.Recipe(**{**fields, **RECIPES[arch], **settings})


def batches(n: int) -> list[torch.Tensor]:
    x = tokens()
    generator = torch.Generator().manual_seed(1)
    return [x[torch.randint(N_TOKENS, (BATCH,), generator=generator)] for _ in range(n)]


class Peer:
    """sae_lens.SAETrainer on one SAE, a step at a time."""

    def __init__(self, made: saes.Recipe, mean: torch.Tensor, lr: float = 3e-4) -> None:
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        config = SAETrainerConfig(LONG * BATCH, BATCH, lr=lr, lr_end=lr, device="cpu", logger=LoggingConfig(log_to_wandb=False))
        self.sae = saes.new_sae(made, LONG, mean)
        self.trainer = SAETrainer(config, self.sae, iter([]))

    def step(self, batch: torch.Tensor) -> float:
        loss = self.trainer.step(batch).loss.item()
        self.trainer.n_training_steps += 1
        return loss


def steps(step, given: list[torch.Tensor], losses: list, at: list) -> None:
    """Take STEPS steps, going on where the last call stopped."""
    for batch in given[at[0] : at[0] + STEPS]:
        losses.append(step(batch))
    at[0] += STEPS


def side_by_side(name: str, ours, peer, given, repeats: int = 7, per: int = 1, compare: bool = True) -> dict:
    """Time both on the same batches; `per` SAEs take part in one step of ours."""
    our_losses, peer_losses, at, peer_at = [], [], [0], [0]
    seconds = timing.alternate(
        functools.partial(steps, ours, given, our_losses, at), functools.partial(steps, peer, given, peer_losses, peer_at), repeats
    )
    differ = max(abs(a - b) / abs(b) for a, b in zip(our_losses, peer_losses, strict=True)) if compare else float("nan")
    return timing.row(name, "sae_lens.SAETrainer", seconds[0] / STEPS / per, seconds[1] / STEPS, differ)


def floor(stack: saes.Stack, batch: torch.Tensor) -> float:
    """Seconds of one step's matrix products, top-k, fused Adam and renormalisation, each on ready inputs."""
    w, k = stack.w, stack.settings["k"][0]
    x = batch.expand(1, *batch.shape)
    gated = stack.settings["architecture"] == "gated"
    with torch.no_grad():
        active = stack.run(w, x, stack.settings, torch.zeros_like(stack.since_fired, dtype=torch.bool)).active
        pre = torch.bmm(x, w["W_enc"].mT)
        support = torch.cat([active, gradients.above(pre + w["b_gate"].unsqueeze(1), 0.0)], dim=1) if gated else active
        product = gradients.products(support)
        codes = support
        errors = torch.cat([x, x], dim=1) if gated else x
        outer = gradients.products(support[:, -BATCH:])

        def parts() -> None:
            torch.bmm(x, w["W_enc"].mT)
            if k is not None:
                pre.topk(k, dim=2, sorted=False)
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
        return float((x - sae.decode(sae.encode(x))).square().sum() / (x - x.mean(dim=0)).square().sum())


def main() -> None:
    given, unseen = batches(LONG + 10 * STEPS), tokens(1024, seed=5)
    mean = tokens().mean(dim=0)
    rows = []
    for arch in RECIPES:
        exact, ours_card = recipe(arch, unit_norm_decoder=False), recipe(arch, **({"kernel": "gaussian"} if arch == "jumprelu" else {}))
        stack, peer = saes.new_stack([exact], LONG, mean), Peer(exact, mean)
        rows.append(
            side_by_side(f"{arch}: exactly the peer's work, first steps", lambda b, s=stack: s.step(b).loss.item(), peer.step, given)
        )
        for batch in given[8 * STEPS : LONG]:
            stack.step(batch), peer.step(batch)
        later = given[LONG:] if len(given) > LONG else given
        rows.append(side_by_side(f"{arch}: exactly the peer's work, after {LONG} steps",
                                 lambda b, s=stack: s.step(b).loss.item(), peer.step, later))  # fmt: skip
        rows[-1]["fvu_held_out"] = [held_out_fvu(stack.saes()[0], unseen), held_out_fvu(peer.sae, unseen)]
        card = saes.new_stack([ours_card], LONG, mean)
        for batch in given[:LONG]:
            card.step(batch)
        rows.append(side_by_side(f"{arch}: the card's recipe, after {LONG} steps", lambda b, s=card: s.step(b).loss.item(), peer.step,
                                 later, compare=False))  # fmt: skip
        lowest = floor(card, given[0])
        rows[-1] |= {"floor_s": round(lowest, 5), "over_floor": round(rows[-1]["ours_s"] / lowest, 2)}
        print(f"  floor {1e3 * lowest:.2f} ms, ours {1e3 * rows[-1]['ours_s']:.2f} ms; held-out FVU {rows[-2]['fvu_held_out']}", flush=True)
    many = saes.new_stack([recipe("topk", k=k) for k in (16, 32, 64, 128, 256)], LONG, mean)
    rows.append(side_by_side("topk: five of different k side by side, per SAE", lambda b: float(many.step(b).loss.sum()),
                             Peer(recipe("topk"), mean).step, given, per=5, compare=False))  # fmt: skip
    for row in rows:
        row["versions"] |= {"sae-lens": sae_lens.__version__}
    timing.save("sae_training", rows)


if __name__ == "__main__":
    main()
