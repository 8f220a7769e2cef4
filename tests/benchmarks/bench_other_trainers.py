"""TopK training steps of dictionary_learning and of sparsify against ours, the card's recipe:
unit-norm decoder, projected gradient.

Both are peers that this project does not install; each is timed where it can be imported, for
example after pip install --no-deps dictionary-learning eai-sparsify natsort schedulefree
simple-parsing docstring-parser in an environment of their own. Same batches, blocks of 20 steps in
turn; initialisations differ, so that only held-out FVU is compared.
"""

import importlib.util
from importlib.metadata import version

import bench_sae_training as bench
import timing
import torch

from sandbagging import saes

K, LR = 64, 3e-4


class DictionaryLearning:
    """dictionary_learning.trainers.top_k.TopKTrainer, a step at a time."""

    package = "dictionary-learning"

    def __init__(self, mean: torch.Tensor) -> None:
        from dictionary_learning.trainers.top_k import TopKTrainer

        self.trainer = TopKTrainer(
            bench.STEPS,
            bench.D_IN,
            4 * bench.D_IN,
            K,
            layer=bench.LAYER,
            lm_name="smollm2",
            lr=LR,
            warmup_steps=0,
            seed=0,
            device="cpu",
        )
        self.done = 0

    def step(self, batch: torch.Tensor) -> float:
        self.done += 1
        return self.trainer.update(self.done - 1, batch)

    @torch.no_grad()
    def rebuild(self, x: torch.Tensor) -> torch.Tensor:
        return self.trainer.ae(x)


class Sparsify:
    """sparsify.SparseCoder with the steps that its Trainer takes around it, and Adam."""

    package = "eai-sparsify"

    def __init__(self, mean: torch.Tensor) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        torch.manual_seed(0)
        self.sae = SparseCoder(bench.D_IN, SparseCoderConfig(num_latents=4 * bench.D_IN, k=K))
        self.sae.b_dec.data.copy_(mean)
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=LR)
        self.since_fired = torch.zeros(4 * bench.D_IN)

    def step(self, batch: torch.Tensor) -> float:
        self.sae.set_decoder_norm_to_unit_norm()
        out = self.sae(batch, dead_mask=self.since_fired > 1000)
        loss = out.fvu + out.auxk_loss / 32
        loss.backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.since_fired += 1
        self.since_fired[out.latent_indices.flatten()] = 0
        return loss.item()

    @torch.no_grad()
    def rebuild(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae(x).sae_out


def main() -> None:
    x = bench.tokens()
    given, mean, rows = bench.batches(x["train"]), x["train"].mean(dim=0), []
    for module, side in (("dictionary_learning", DictionaryLearning), ("sparsify", Sparsify)):
        if importlib.util.find_spec(module) is None:
            print(f"{module} is not installed here and is left out.")
            continue
        stack, peer = saes.new_stack([bench.recipe("topk")], bench.STEPS, mean), side(mean)
        seconds, _ = bench.side_by_side(
            {"ours": lambda b, s=stack: s.step(b).loss.item(), "peer": peer.step}, given
        )
        spread = (x["test"] - x["test"].mean(dim=0)).square().sum()
        fvu = [
            bench.held_out_fvu(stack.saes()[0], x["test"]),
            float((x["test"] - peer.rebuild(x["test"])).square().sum() / spread),
        ]
        rows.append(
            bench.result(
                "topk: the card's recipe",
                seconds["ours"],
                seconds["peer"],
                None,
                module,
                fvu_held_out=fvu,
            )
        )
        rows[-1]["versions"][side.package] = version(side.package)
        print(f"  held-out FVU {fvu[0]:.4f}, peer {fvu[1]:.4f}", flush=True)
    if rows:
        timing.save("other_trainers", rows)


if __name__ == "__main__":
    main()
