"""The sweep over all nodes, heads and MLPs, beside TransformerLens's hooks and a careful loop by
hand; and what the MLPs add to the sweep of the heads.

Ours sweeps every node of the embedded model; the peers are timed on three heads and three MLPs
(early, middle, late) and extrapolated.
"""

import argparse
import statistics
from collections.abc import Sequence
from importlib.metadata import version

import timing
import torch
from bench_sweep import FRAMING, ByHand, TransformerLens
from timing import seconds
from torch import Tensor

from sandbagging import files, metrics, models, nodes, questions
from sandbagging.models import hook_points, packing
from sandbagging.nodes import Mlp, Node, ranking, sweep

TIMED = nodes.parse("L2H3 L15H1 L27H6 L2MLP L15MLP L27MLP")


class LensOfNodes(TransformerLens):
    """TransformerLens's own hook on what an MLP puts out, beside that on z."""

    def logits(self, ids: Tensor, real: Tensor, node: Node) -> Tensor:
        if not isinstance(node, Mlp):
            return super().logits(ids, real, node)
        hook = (f"blocks.{node.layer}.hook_mlp_out", lambda value, hook: torch.zeros_like(value))
        return self.model.run_with_hooks(ids, attention_mask=real, fwd_hooks=[hook])


class NodesByHand(ByHand):
    """The careful loop, with a plain hook on the down projection."""

    def __call__(self, node: Node) -> Tensor:
        """log p of every option, [question option]."""
        if not isinstance(node, Mlp):
            return super().__call__(node)
        projection = self.module.model.layers[node.layer].mlp.down_proj
        handle = projection.register_forward_hook(
            lambda module, given, output: torch.zeros_like(output)
        )
        try:
            return self.ablated()
        finally:
            handle.remove()


def our_logprobs(model, pack: packing.Pack) -> Tensor:
    """log p of every option under each ablation that is compared, [node question option]."""
    found = []
    for node in TIMED:
        final, _ = hook_points.forward(model, pack, edits=nodes.replace_each(model, [(node,)]))
        found.append(metrics.answer_logprobs(model, pack, final).total[0])
    return torch.stack(found)


def check_timed(effects: sweep.Effects, ours: Tensor) -> None:
    """The timed sweep and the log p that was compared are the same numbers."""
    for node, expected in zip(TIMED, ours[..., 0].exp(), strict=True):
        if (node,) in effects.sets:
            value = torch.tensor(effects.value["p_full"][effects.sets.index((node,))])
            assert (value - expected).abs().max() < 1e-5, node


@torch.no_grad()
def main(n_questions: int, repeats: int, layers: Sequence[int]) -> None:
    from transformers import AutoModelForCausalLM

    model = models.load(device="cpu")
    plain, bridged = (
        AutoModelForCausalLM.from_pretrained(files.cache_folder() / models.EMBEDDED).eval()
        for _ in range(2)
    )
    asked = questions.subset(questions.load("default", "train"), n_questions, 0)
    items = [metrics.encode(model, q, "sandbag", FRAMING)[1] for q in asked]
    pack = packing.pack(items)
    mlps = nodes.all_mlps(model, layers)
    heads = [node for node in nodes.all_nodes(model, layers) if node not in mlps]
    peers = [LensOfNodes(bridged, model.tokenizer, items, 16), NodesByHand(plain, items, 80)]
    ours = our_logprobs(model, pack)
    took = {"heads": [], "mlps": [], **{peer.name: [] for peer in peers}}
    differ = dict.fromkeys((peer.name for peer in peers), 0.0)
    for repeat in range(repeats):
        swept = []
        for kind, of_kind in (("heads", heads), ("mlps", mlps)):
            alone = nodes.alone(of_kind)
            spent, effects = seconds(lambda alone=alone: sweep.replace_sets(model, pack, alone))
            took[kind].append(spent)
            swept.append(effects)
            print(f"  repeat {repeat + 1} of {repeats}: {len(alone)} {kind} {spent:.1f} s")
        check_timed(ranking.together(*swept), ours)
        for peer in peers:
            runs = [seconds(lambda node=node, peer=peer: peer(node)) for node in TIMED]
            each = [
                statistics.mean(
                    run[0]
                    for run, node in zip(runs, TIMED, strict=True)
                    if isinstance(node, Mlp) == of_mlps
                )
                for of_mlps in (False, True)
            ]
            took[peer.name].append(each[0] * len(heads) + each[1] * len(mlps))
            found = torch.stack([log_p for _, log_p in runs])
            differ[peer.name] = max(differ[peer.name], float((found - ours).abs().max()))
            print(f"  {peer.name}: {each[0]:.1f} s a head, {each[1]:.1f} s an MLP", flush=True)
    median = {name: statistics.median(spent) for name, spent in took.items()}
    whole = statistics.median(map(sum, zip(took["heads"], took["mlps"], strict=True)))
    name = f"sweep of {len(heads)} heads and {len(mlps)} MLPs, {n_questions} questions x 4 options"
    rows = []
    for peer in peers:
        row = timing.row(name, peer.name, whole, median[peer.name], differ[peer.name], True)
        row["versions"]["transformer-lens"] = version("transformer-lens")
        share = median["mlps"] / median["heads"]
        rows.append(
            row
            | {
                "repeats": repeats,
                "peer_timed": "3 heads and 3 MLPs",
                "mlps_s": round(median["mlps"], 2),
                "mlps_share_of_heads": round(share, 3),
            }
        )
    print(f"  the MLPs take {share:.0%} of the heads' seconds", flush=True)
    timing.save("nodes", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--layers",
        type=int,
        nargs="*",
        default=[],
        help="sweep the nodes of these layers alone (default: all)",
    )
    given = parser.parse_args()
    main(given.questions, given.repeats, given.layers)
