"""The sweep over all nodes, heads and MLPs, beside TransformerLens's hooks and a careful loop by
hand; and what the MLPs add to the sweep of the heads.

Ours sweeps every node of the embedded model; the careful loop is timed on three heads and three
MLPs (early, middle, late) and extrapolated, TransformerLens, which runs every layer for every node,
on a head and an MLP. Beside seconds stand those that the processor worked: on a busy machine, where
seconds say little, their ratio holds, best with OMP_NUM_THREADS=1.
"""

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
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

    timed = nodes.parse("L15H1 L15MLP")

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
    timed = TIMED

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


class Spent(NamedTuple):
    """Seconds by the clock, and those that the processor worked."""

    clock: float
    worked: float

    @classmethod
    def of(cls, run: Callable) -> tuple["Spent", object]:
        """Call and time; return what the call returned, too."""
        began = time.process_time()
        clock, value = seconds(run)
        return cls(clock, time.process_time() - began), value


def median(each: Sequence[Spent]) -> Spent:
    return Spent(*map(statistics.median, zip(*each, strict=True)))


def summed(parts: Sequence[Spent]) -> Spent:
    return Spent(*map(sum, zip(*parts, strict=True)))


def extrapolated(each: Sequence[Spent], n: int) -> Spent:
    """What n nodes take that take what these took on average."""
    whole = summed(each)
    return Spent(whole.clock / len(each) * n, whole.worked / len(each) * n)


def our_logprobs(model, pack: packing.Pack) -> dict[Node, Tensor]:
    """log p of every option under each ablation that is compared, [question option]."""
    found = {}
    for node in TIMED:
        final, _ = hook_points.forward(model, pack, edits=nodes.replace_each(model, [(node,)]))
        found[node] = metrics.answer_logprobs(model, pack, final).total[0]
    return found


def check_timed(effects: sweep.Effects, ours: dict[Node, Tensor]) -> None:
    """The timed sweep and the log p that was compared are the same numbers."""
    for node, log_p in ours.items():
        if (node,) in effects.sets:
            value = torch.tensor(effects.value["p_full"][effects.sets.index((node,))])
            assert (value - log_p[:, 0].exp()).abs().max() < 1e-5, node


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
            spent, effects = Spent.of(lambda alone=alone: sweep.replace_sets(model, pack, alone))
            took[kind].append(spent)
            swept.append(effects)
            print(f"  repeat {repeat + 1} of {repeats}: {len(alone)} {kind} {said(spent)}")
        check_timed(ranking.together(*swept), ours)
        for peer in peers:
            each = {}
            for node in peer.timed:
                each[node], found = Spent.of(lambda node=node, peer=peer: peer(node))
                off = float((found - ours[node]).abs().max())
                differ[peer.name] = max(differ[peer.name], off)
                print(f"  {peer.name}: {node} {said(each[node])}", flush=True)
            of_heads = [spent for node, spent in each.items() if not isinstance(node, Mlp)]
            of_mlps = [spent for node, spent in each.items() if isinstance(node, Mlp)]
            parts = extrapolated(of_heads, len(heads)), extrapolated(of_mlps, len(mlps))
            took[peer.name].append(summed(parts))
    whole = median([summed(parts) for parts in zip(took["heads"], took["mlps"], strict=True)])
    of_kinds = {kind: median(took[kind]) for kind in ("heads", "mlps")}
    share = of_kinds["mlps"].worked / of_kinds["heads"].worked
    print(f"  the MLPs take {share:.0%} of the heads' seconds", flush=True)
    name = f"sweep of {len(heads)} heads and {len(mlps)} MLPs, {n_questions} questions x 4 options"
    rows = []
    for peer in peers:
        theirs = median(took[peer.name])
        row = timing.row(name, peer.name, whole.clock, theirs.clock, differ[peer.name], True)
        row["versions"]["transformer-lens"] = version("transformer-lens")
        rows.append(
            row
            | {
                "processor_s": round(whole.worked, 2),
                "peer_processor_s": round(theirs.worked, 2),
                "processor_ratio": round(theirs.worked / whole.worked, 2),
                "repeats": repeats,
                "peer_timed": " ".join(map(str, peer.timed)),
                "mlps_s": round(of_kinds["mlps"].clock, 2),
                "mlps_share_of_heads": round(share, 3),
            }
        )
        print(f"  seconds of the processor: ratio {rows[-1]['processor_ratio']}", flush=True)
    timing.save("nodes", rows)


def said(spent: Spent) -> str:
    return f"{spent.clock:.1f} s ({spent.worked:.1f} s of the processor)"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument(
        "--repeats", type=int, default=1, help="of about 7 minutes each on two quiet cores"
    )
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
