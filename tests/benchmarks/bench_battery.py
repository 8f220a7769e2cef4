"""The battery of swaps and controls at one layer, against the same interventions one by one through
the field's tools and by hand.

All routes read the same weights, SAE, codes and test questions (embedded model, layer 15,
instr_contrast, last prompt token), and every option's log p is compared. The SAE is a TopK one
trained briefly on real activations. Ours is the whole battery with its clean run. The peers are
timed on 4 interventions and extrapolated to all of them, TransformerLens from every 20th question
at that.
"""

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import NamedTuple

import timing
import torch
from peers import log_p, padded
from timing import seconds
from torch import Tensor

from sandbagging import activations, files, metrics, models, questions, saes
from sandbagging.models import hook_points, packing
from sandbagging.models.packing import Encoded
from sandbagging.swaps import edits, interventions, medians, sites

os.environ["HF_HUB_OFFLINE"] = "1"  # all weights are in the local cache
LAYER, FRAMING, N_TRAIN, STEPS = 15, "instr_contrast", 60, 300
E1_SEEDS, NOISE_SEEDS, VARIANT_SEEDS = range(20), range(5), range(2)
TIMED = (("E6", "kept", 0), ("E4", "kept", 0), ("E1", "kept", 0), ("noise", "", 0))
PEER_SHARE = 20  # TransformerLens runs every 20th question
Edit = Callable[
    [Tensor, Tensor], Tensor
]  # x [row d_model], the question of each row [row] -> new x


class Given(NamedTuple):
    """What every route starts from."""

    asked: list  # test questions
    items: list[Encoded]
    sae: object
    train: medians.TrainCodes
    oracle: Tensor  # [question d_model]
    layer: int


def given(model, n_questions: int, layer: int = LAYER, steps: int = STEPS) -> Given:
    """`steps` of the SAE's training; 0 leaves it as it was drawn."""
    test = questions.subset(questions.load("default", "test"), n_questions, 0)
    asked = {"train": questions.load("default", "train")[:N_TRAIN], "test": test}
    resid, table = activations.collect_all(model, asked, ("genuine", "sandbag"), FRAMING, [layer])
    resid = resid[layer].to(model.device)
    shape = {
        "model": "smollm2",
        "architecture": "topk",
        "layer": layer,
        "condition": "mixed",
        "d_in": model.d_model,
        "k": 64,
    }
    recipe = saes.Recipe(**shape, steps=steps or None)
    tokens, scale = saes.training_data(resid[saes.select_tokens(table, "mixed")])
    trained = (
        saes.train(recipe, tokens)[0] if steps else saes.new_sae(recipe, 1, tokens.mean(dim=0))
    )
    sae = saes.fold_scaling(trained, scale)
    sae.cfg.metadata.hook_name = f"blocks.{layer}.hook_resid_post"
    rows = (
        activations.select(table, "test", "genuine", last=True)
        .set_index("question_id")
        .loc[[q.id for q in test], "row"]
    )
    items = [metrics.encode(model, q, "sandbag", FRAMING)[1] for q in test]
    return Given(test, items, sae, medians.train_codes(resid, table), resid[rows.to_list()], layer)


# Ours ---------------------------------------------------------------------------------------------


def replacements(at: sites.Site, g: Given) -> dict[interventions.Key, Tensor]:
    """Every intervention's new x at the last prompt tokens, [question d_model]."""
    new = interventions.e6_and_e4(at.x, g.sae, g.train)
    new |= interventions.noise(at.x, new["E6", "kept", 0], NOISE_SEEDS)
    new |= interventions.e1(at.x, g.sae, g.train, E1_SEEDS) | interventions.e1_variants(
        at.x, g.sae, g.train, VARIANT_SEEDS
    )
    return new | interventions.without_sae(at.x, g.train, oracle=g.oracle, seeds=NOISE_SEEDS)


def battery(model, g: Given):
    """The whole battery, from the clean run to the table of effects."""
    (at,) = sites.find_sites(model, g.asked, FRAMING, [g.layer])
    return sites.effects_at(model, at, replacements(at, g))


def our_logprobs(model, g: Given) -> Tensor:
    """log p of every option under TIMED, [intervention question option], on the way that
    `sites.effects_at` takes.
    """
    (at,) = sites.find_sites(model, g.asked, FRAMING, [g.layer])
    new = replacements(at, g)
    edited = edits.replace_rows(at.resid, at.rows, torch.stack([new[key] for key in TIMED]))
    start = (g.layer + 1, edited[:, at.part.index.to(edited.device)])
    final, _ = hook_points.forward(model, at.part, start=start, stored=at.stored)
    return metrics.answer_logprobs(model, at.part, final).total


def memory(n_questions: int) -> None:
    """Print the peak memory of this process, before and with the battery."""
    model = models.load(models.EMBEDDED, device="cpu")
    g = given(model, n_questions)
    peaks = [_peak_gb()]
    battery(model, g)
    print(json.dumps([*peaks, _peak_gb()]))


def _peak_gb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e9 if sys.platform == "darwin" else 1e6), 2)


# The peers ----------------------------------------------------------------------------------------


def codes_of(g: Given) -> dict[interventions.Key, Tensor]:
    """The code [latent] that each timed swap puts in, and the directions [question d_model] of the
    noise.
    """
    m_g, m_s = medians.median_codes(g.sae, g.train)
    shuffled = medians.shuffled_codes(g.train.pooled_codes(g.sae), g.train, [0])[0]
    directions = torch.randn(
        len(g.items), g.sae.cfg.d_in, generator=torch.Generator().manual_seed(0)
    ).to(g.oracle)
    return dict(
        zip(
            TIMED,
            (m_g, m_s, shuffled, directions / directions.norm(dim=-1, keepdim=True)),
            strict=True,
        )
    )


class ByHand:
    """Plain transformers and one forward hook: the shared prefix cached once, prompts on top of it,
    options on top of these.
    """

    name = "transformers by hand: KV caches and padded batches"

    def __init__(self, module, g: Given, batch: int) -> None:
        self.module, self.layer, self.device = module, g.layer, module.device
        self.sae, self.codes = g.sae, codes_of(g)
        self.n_prefix = packing.shared_prefix([e.prompt for e in g.items])
        self.items = g.items
        # Sorted by length, so that batches have little padding.
        order = sorted(range(len(g.items)), key=lambda i: len(g.items[i].prompt))
        self.batches = [order[i : i + batch] for i in range(0, len(order), batch)]
        prefix = torch.tensor([g.items[0].prompt[: self.n_prefix]], device=self.device)
        self.prefix = module.model(prefix, use_cache=True).past_key_values

    def __call__(self, key: interventions.Key) -> Tensor:
        """log p of every option, [question option]."""
        found = torch.empty(len(self.items), len(self.items[0].options), device=self.device)
        for questions_here in self.batches:
            found[questions_here] = self.one_batch(key, questions_here)
        return found

    def edit(self, key: interventions.Key, x: Tensor, rows: Sequence[int]) -> Tensor:
        own = self.sae.decode(self.sae.encode(x))
        if key[0] != "noise":
            return x + self.sae.decode(self.codes[key][None]) - own
        length = (self.sae.decode(self.codes["E6", "kept", 0][None]) - own).norm(
            dim=-1, keepdim=True
        )
        return x + length * self.codes[key][rows]

    def one_batch(self, key: interventions.Key, rows: list[int]) -> Tensor:
        items = [self.items[i] for i in rows]
        prompts = [e.prompt[self.n_prefix :] for e in items]
        last = torch.tensor([len(p) - 1 for p in prompts], device=self.device)
        every = torch.arange(len(items), device=self.device)

        def hook(block, inputs, output: Tensor) -> Tensor:
            output = output.clone()
            output[every, last] = self.edit(key, output[every, last], rows)
            return output

        cache = copy.deepcopy(self.prefix)
        cache.batch_repeat_interleave(len(items))
        ids, real = padded(prompts, self.device)
        real = torch.cat([real.new_ones(len(items), self.n_prefix), real], 1)
        handle = self.module.model.layers[self.layer].register_forward_hook(hook)
        try:
            hidden = self.module.model(
                ids, attention_mask=real, past_key_values=cache
            ).last_hidden_state
        finally:
            handle.remove()
        first = self.module.lm_head(hidden[every, last]).log_softmax(-1)
        log_p = torch.stack(
            [first[i, [option[0] for option in e.options]] for i, e in enumerate(items)]
        )
        # Options of several tokens go on from their prompt's cache; each needs its tokens but the
        # last.
        longer = [
            (i, k)
            for i, e in enumerate(items)
            for k, option in enumerate(e.options)
            if len(option) > 1
        ]
        if not longer:
            return log_p
        of = torch.tensor([i for i, _ in longer], device=self.device)
        cache.batch_select_indices(of)
        answers = [items[i].options[k] for i, k in longer]
        ids, inside = padded([a[:-1] for a in answers], self.device)
        position = (
            self.n_prefix + last[of, None] + 1 + torch.arange(ids.shape[1], device=self.device)
        )
        hidden = self.module.model(
            ids,
            attention_mask=torch.cat([real[of], inside], 1),
            position_ids=position,
            past_key_values=cache,
        ).last_hidden_state
        row, column = inside.nonzero(as_tuple=True)
        following = torch.tensor([token for a in answers for token in a[1:]], device=self.device)
        rest = (
            self.module.lm_head(hidden[row, column])
            .log_softmax(-1)
            .gather(1, following[:, None])[:, 0]
        )
        option = torch.tensor([k for _, k in longer], device=self.device)
        return log_p.index_put((of[row], option[row]), rest, accumulate=True)


class TransformerLens:
    """TransformerLens 3's bridge with sae-lens's hooks, as documented: the SAE attached, its codes
    replaced by a hook, padded rows.
    """

    name = "TransformerLens 3 and sae-lens, an intervention at a time"

    def __init__(self, module, tokenizer, g: Given, chosen: Sequence[int], batch: int = 16) -> None:
        from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

        folder = str(files.cache_folder() / models.EMBEDDED)
        self.model = SAETransformerBridge.boot_transformers(
            folder, hf_model=module, tokenizer=tokenizer, device="cpu"
        )
        self.sae, self.codes = g.sae, codes_of(g)
        rows = [(i, g.items[i].prompt, option) for i in chosen for option in g.items[i].options]
        self.order = sorted(range(len(rows)), key=lambda r: len(rows[r][1] + rows[r][2]))
        self.rows, self.batch, self.shape = rows, batch, (len(chosen), -1)

    def __call__(self, key: interventions.Key) -> Tensor:
        """log p of every option of the chosen questions, [question option]."""
        found = torch.empty(len(self.rows))
        for begin in range(0, len(self.order), self.batch):
            here = self.order[begin : begin + self.batch]
            found[here] = self.one_batch(key, [self.rows[r] for r in here])
        return found.view(self.shape)

    def one_batch(
        self, key: interventions.Key, rows: list[tuple[int, list[int], list[int]]]
    ) -> Tensor:
        every, last = (
            torch.arange(len(rows)),
            torch.tensor([len(prompt) - 1 for _, prompt, _ in rows]),
        )

        def swap(codes: Tensor, hook) -> Tensor:
            codes[every, last] = self.codes[key]
            return codes

        def add_noise(x: Tensor, hook) -> Tensor:
            own = self.sae.decode(self.sae.encode(x[every, last]))
            length = (self.sae.decode(self.codes["E6", "kept", 0][None]) - own).norm(
                dim=-1, keepdim=True
            )
            x[every, last] += length * self.codes[key][[i for i, _, _ in rows]]
            return x

        ids, real = padded([prompt + option for _, prompt, option in rows])
        if key[0] == "noise":
            # The next block's input: once an SAE was attached to resid_post and taken off, a hook
            # there is dropped without a word.
            logits = self.model.run_with_hooks(
                ids, attention_mask=real, fwd_hooks=[(f"blocks.{LAYER + 1}.hook_in", add_noise)]
            )
        else:
            # run_with_hooks_with_saes does not read use_error_term, so the SAE is attached by the
            # context manager.
            with self.model.saes([self.sae], use_error_term=True):
                hooks = [(self.model.get_sae_hook_name(self.sae), swap)]
                logits = self.model.run_with_hooks(ids, attention_mask=real, fwd_hooks=hooks)
        return torch.stack(
            [log_p(logits[i], prompt, option) for i, (_, prompt, option) in enumerate(rows)]
        )


# Side by side -------------------------------------------------------------------------------------


@torch.no_grad()
def main(n_questions: int, repeats: int) -> None:
    from transformers import AutoModelForCausalLM

    model = models.load(models.EMBEDDED, device="cpu")
    plain, under_bridge = (
        AutoModelForCausalLM.from_pretrained(files.cache_folder() / models.EMBEDDED).eval()
        for _ in range(2)
    )
    g = given(model, n_questions)
    chosen = list(range(0, n_questions, PEER_SHARE))
    peers = {
        ByHand(plain, g, batch=40): (slice(None), 1.0),
        TransformerLens(under_bridge, model.tokenizer, g, chosen): (
            chosen,
            n_questions / len(chosen),
        ),
    }
    ours = our_logprobs(model, g)
    took = {"ours": [], **{peer: [] for peer in peers}}
    differ = dict.fromkeys(peers, 0.0)
    for repeat in range(repeats):
        spent, table = seconds(lambda: battery(model, g))
        took["ours"].append(spent)
        print(f"  repeat {repeat + 1} of {repeats}: ours {spent:.1f} s", flush=True)
        for peer, (rows, more_questions) in peers.items():
            spent, found = seconds(lambda peer=peer: torch.stack([peer(key) for key in TIMED]))
            took[peer].append(
                spent / len(TIMED) * more_questions
            )  # of one intervention on all questions
            differ[peer] = max(differ[peer], float((found - ours[:, rows]).abs().max()))
            print(
                f"  {peer.name}: {took[peer][-1]:.1f} s per intervention, log p equal to "
                f"{differ[peer]:.1g}",
                flush=True,
            )
    keys = table[["intervention", "error_term", "seed"]].drop_duplicates()
    check_timed(table, ours)
    peaks = json.loads(
        subprocess.run(
            [sys.executable, __file__, "--memory", "--questions", str(n_questions)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
    )
    rows = []
    for peer, (_, more_questions) in peers.items():
        n_of_peer = n_questions / more_questions
        name = f"battery of {len(keys)} interventions on {n_questions} questions, layer {LAYER}"
        row = timing.row(
            name,
            peer.name,
            statistics.median(took["ours"]),
            statistics.median(took[peer]) * len(keys),
            differ[peer],
            True,
        )
        row["versions"] |= {p: version(p) for p in ("transformer-lens", "sae-lens")}
        rows.append(
            row
            | {
                "repeats": repeats,
                "peer_timed": f"{len(TIMED)} interventions on {n_of_peer:.0f} questions",
                "peak_memory_before_gb": peaks[0],
                "peak_memory_gb": peaks[1],
            }
        )
    print(
        f"  peak memory of the process {peaks[1]} GB, of it {peaks[0]} GB before the battery",
        flush=True,
    )
    timing.save("battery", rows)


def check_timed(table, ours: Tensor) -> None:
    """The timed battery and the log p that was compared are the same numbers."""
    for (name, term, seed), expected in zip(TIMED, ours[..., 0].exp(), strict=True):
        rows = table[
            (table["intervention"] == name)
            & (table["error_term"] == term)
            & (table["seed"] == seed)
        ]
        value = torch.tensor(rows.loc[rows["metric"] == "p_full", "value"].to_numpy())
        assert (value - expected).abs().max() < 1e-5, name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=160, help="test questions, at least 10")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--memory",
        action="store_true",
        help="print the peak memory of the battery, and nothing else",
    )
    asked = parser.parse_args()
    memory(asked.questions) if asked.memory else main(asked.questions, asked.repeats)
