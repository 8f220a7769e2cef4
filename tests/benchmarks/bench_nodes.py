"""The sweep over all nodes, heads and MLPs, beside TransformerLens's hooks and a careful loop by
hand; and what the MLPs add to the sweep of the heads.

Ours sweeps every node of the embedded model; the peers are timed on three heads and three MLPs
(early, middle, late) and extrapolated.
"""

import argparse
import contextlib
import copy
import statistics
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import NamedTuple

import timing
import torch
from bench_sweep import FRAMING, ByHand, TransformerLens
from peers import padded
from timing import seconds
from torch import Tensor
from transformers import DynamicCache

from sandbagging import files, metrics, models, nodes, questions
from sandbagging.models import hook_points, packing
from sandbagging.models.packing import Encoded
from sandbagging.nodes import Mlp, Node, ranking, sweep

TIMED = nodes.parse("L2H3 L15H1 L27H6 L2MLP L15MLP L27MLP")
PEERS = ["lens", "careful"]


class LensOfNodes(TransformerLens):
    """TransformerLens's own hook on what an MLP puts out, beside that on z."""

    def logits(self, ids: Tensor, real: Tensor, node: Node) -> Tensor:
        if not isinstance(node, Mlp):
            return super().logits(ids, real, node)
        hook = (f"blocks.{node.layer}.hook_mlp_out", lambda value, hook: torch.zeros_like(value))
        return self.model.run_with_hooks(ids, attention_mask=real, fwd_hooks=[hook])


class FromItsLayer(ByHand):
    """Plain transformers and as careful as a loop over nodes gets: what a node's layer reads is
    kept from one clean run, and under each ablation the shared prefix runs once from there on, into
    a KV cache, with all prompt x option rows batched on top.
    """

    name = "careful loop: each node from its layer on, prefix cached, rows batched"

    def __init__(self, module, items: Sequence[Encoded], batch: int) -> None:
        super().__init__(module, items, batch)
        self.layers, self.runs, cache = module.model.layers, [], DynamicCache()
        self.prefix_streams = self._run(self.prefix, cache)
        for here in self.batches:
            rows = [self.rows[r] for r in here]
            ids, real = padded([prompt + option[:-1] for prompt, option in rows])
            seen = torch.cat([real.new_ones(len(rows), self.n_prefix), real], 1)
            at = [
                (i, len(prompt) - 1 + t, token)
                for i, (prompt, option) in enumerate(rows)
                for t, token in enumerate(option)
            ]
            of_rows = self._run(ids, repeated(cache, len(rows)), attention_mask=seen)
            self.runs.append(Run(here, seen, torch.tensor(at).T, of_rows))

    def _run(self, ids: Tensor, cache: DynamicCache, **more) -> tuple[Tensor, ...]:
        """The residual stream at every layer's input, [row token d_model] each."""
        return self.module.model(
            ids, past_key_values=cache, output_hidden_states=True, **more
        ).hidden_states

    def __call__(self, node: Node) -> Tensor:
        """log p of every option, [question option]."""
        block = self.layers[node.layer]
        with from_layer(self.module.model, node.layer), zeroed(block, node):
            cache, found = DynamicCache(), torch.empty(len(self.rows))
            self.module.model(inputs_embeds=self.prefix_streams[node.layer], past_key_values=cache)
            for run in self.runs:
                hidden = self.module.model(
                    inputs_embeds=run.streams[node.layer],
                    attention_mask=run.seen,
                    past_key_values=repeated(cache, len(run.rows)),
                ).last_hidden_state
                i, position, token = run.read_at
                logits = self.module.lm_head(hidden[i, position])
                each = logits.log_softmax(-1, dtype=torch.float32).gather(1, token[:, None])[:, 0]
                found[run.rows] = each.new_zeros(len(run.rows)).index_add_(0, i, each)
        return found.view(self.shape)


class Run(NamedTuple):
    """A batch of prompt x option rows: which, who is real, where to read, and the clean streams."""

    rows: list[int]
    seen: Tensor  # [row prefix+token]
    read_at: Tensor  # [row position token, target]
    streams: tuple[Tensor, ...]


def repeated(cache: DynamicCache, n: int) -> DynamicCache:
    """A copy of a cache of one row, for n rows."""
    own = copy.deepcopy(cache)
    own.batch_repeat_interleave(n)
    return own


@contextlib.contextmanager
def from_layer(model: torch.nn.Module, first: int) -> Iterator[None]:
    """Leave out the layers below, and count the others from 0, which is how a KV cache counts."""
    layers = model.layers
    model.layers = layers[first:]
    for i, block in enumerate(model.layers):
        block.self_attn.layer_idx = i
    try:
        yield
    finally:
        model.layers = layers
        for i, block in enumerate(layers):
            block.self_attn.layer_idx = i


@contextlib.contextmanager
def zeroed(block: torch.nn.Module, node: Node) -> Iterator[None]:
    """Zero a head before W_O, or what an MLP puts out, by a plain hook."""

    def head(projection, given: tuple[Tensor]) -> tuple[Tensor]:
        z = given[0].clone()
        z[..., node.head * 64 : (node.head + 1) * 64] = 0
        return (z,)

    def mlp(projection, given: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    if isinstance(node, Mlp):
        handle = block.mlp.down_proj.register_forward_hook(mlp)
    else:
        handle = block.self_attn.o_proj.register_forward_pre_hook(head)
    try:
        yield
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
def main(n_questions: int, repeats: int, layers: Sequence[int], of: Sequence[str]) -> None:
    from transformers import AutoModelForCausalLM

    model = models.load(models.EMBEDDED, device="cpu")
    asked = questions.subset(questions.load("default", "train"), n_questions, 0)
    items = [metrics.encode(model, q, "sandbag", FRAMING)[1] for q in asked]
    pack = packing.pack(items)
    mlps = nodes.all_mlps(model, layers)
    heads = [node for node in nodes.all_nodes(model, layers) if node not in mlps]
    peers = []
    for peer in of:
        plain = AutoModelForCausalLM.from_pretrained(files.cache_folder() / models.EMBEDDED).eval()
        peers.append(
            LensOfNodes(plain, model.tokenizer, items, 16)
            if peer == "lens"
            else FromItsLayer(plain, items, 80)
        )
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
    share = median["mlps"] / median["heads"]
    rows = []
    for peer in peers:
        row = timing.row(name, peer.name, whole, median[peer.name], differ[peer.name], True)
        row["versions"]["transformer-lens"] = version("transformer-lens")
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
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        default=PEERS,
        help="time beside these alone (TransformerLens takes minutes a repeat)",
    )
    given = parser.parse_args()
    main(given.questions, given.repeats, given.layers, given.peers)
