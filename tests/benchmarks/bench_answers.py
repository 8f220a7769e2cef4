"""Free answers to all test questions under four conditions, beside transformers' `generate`.

Ours writes all questions of a condition at once, on one pack. The peers are `generate` one prompt
at a time, as it is usually called and stopped at the end of the line, and `generate` on padded
batches; all write on a part of the questions and are extrapolated. Texts must be equal but where
two tokens are about as likely.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable, Sequence
from statistics import median

import timing
import torch
from timing import seconds

from sandbagging import generation, models, prompts, questions
from sandbagging.models import packing
from sandbagging.models.packing import Encoded

os.environ["HF_HUB_OFFLINE"] = "1"  # all weights are in the local cache
FRAMING, CONDITIONS = "instr", ("genuine", "sandbag", "neutral", "placebo")
PEER_QUESTIONS, BATCH = 14, 14  # of each condition; rows of a padded batch
TIE = 1e-3  # logits closer than this may change places by rounding


class Generate:
    """transformers' `generate`, greedy, at most 12 new tokens."""

    def __init__(
        self, name: str, model: models.Model, module: torch.nn.Module, batch: int, stops: bool
    ) -> None:
        self.name, self.module, self.batch = name, module, batch
        self.tokenizer = model.tokenizer
        self.ends = sorted(generation.end_tokens(model))
        if stops:
            vocabulary = range(len(model.tokenizer))
            self.ends += [i for i in vocabulary if "\n" in model.tokenizer.decode([i])]

    def __call__(self, items: Sequence[Encoded]) -> list[str]:
        """Return the first line written behind each prompt."""
        found = []
        for begin in range(0, len(items), self.batch):
            rows = [item.prompt for item in items[begin : begin + self.batch]]
            width = max(map(len, rows))
            ids = torch.tensor([[self.ends[0]] * (width - len(r)) + r for r in rows])
            real = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
            written = self.module.generate(
                ids, attention_mask=real, do_sample=False, max_new_tokens=generation.MOST,
                eos_token_id=self.ends, pad_token_id=self.ends[0],
            )[:, width:]  # fmt: skip
            texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
            found += [text.split("\n")[0].strip() for text in texts]
        return found


def ours(model: models.Model, asked: Sequence) -> list[str]:
    return [t for c in CONDITIONS for t in generation.write(model, asked, c, FRAMING)["text"]]


def encoded(model: models.Model, asked: Sequence, condition: str) -> list[Encoded]:
    texts = [prompts.render(q, condition, FRAMING, model.tokenizer) for q in asked]
    return [
        packing.encode(model.tokenizer, q.id, text, ())
        for q, text in zip(asked, texts, strict=True)
    ]


def margin(module: torch.nn.Module, item: Encoded, ids: Sequence[int]) -> float:
    """Return the smallest lead of a token that was written over the next one, in logits."""
    with torch.no_grad():
        logits = module(torch.tensor([item.prompt + list(ids[:-1])])).logits[0]
    two = logits[len(item.prompt) - 1 :].topk(2).values
    return float((two[:, 0] - two[:, 1]).min())


def peers(model: models.Model) -> list[Generate]:
    module = copy.deepcopy(model.module)  # of their own, with torch's attention
    module.config._attn_implementation = "sdpa"
    line = "stopped at the line's end"
    return [
        Generate("generate, one prompt at a time", model, module, 1, False),
        Generate(f"generate, one prompt at a time, {line}", model, module, 1, True),
        Generate(f"generate, padded batches of {BATCH}, {line}", model, module, BATCH, True),
    ]


def clocks(call: Callable) -> tuple[float, float, list[str]]:
    """Return the seconds of a call, those that processors worked for it, and what it returned."""
    worked = time.process_time()
    spent, value = seconds(call)
    return spent, time.process_time() - worked, value


def run(n: int | None, repeats: int) -> list[dict]:
    model, asked = models.load(models.EMBEDDED, device="cpu"), questions.asked("test", n)
    some = asked[:: max(1, len(asked) // PEER_QUESTIONS)][:PEER_QUESTIONS]
    items = [item for c in CONDITIONS for item in encoded(model, some, c)]
    ways = {"ours": lambda: ours(model, asked)}
    ways |= {peer.name: lambda peer=peer: peer(items) for peer in peers(model)}
    ours(model, some[:2])  # warm
    spent: dict[str, list] = {name: [] for name in ways}
    worked: dict[str, list] = {name: [] for name in ways}
    texts = {}
    for _ in range(repeats):  # in turn, so that a busy machine hurts all alike
        for name, way in ways.items():
            wall, processors, texts[name] = clocks(way)
            spent[name].append(wall)
            worked[name].append(processors)
    chosen = [asked.index(q) + k * len(asked) for k in range(len(CONDITIONS)) for q in some]
    written = texts.pop("ours")
    same = [written[i] for i in chosen]
    share = len(asked) / len(some)
    title = f"free answers, {len(asked)} questions x {len(CONDITIONS)} conditions, {FRAMING}"
    ours_s, ours_worked = median(spent["ours"]), median(worked["ours"])
    return [
        timing.row(title, name, ours_s, share * median(spent[name]), None, extrapolated=True)
        | {
            "ours_processor_s": round(ours_worked, 2),
            "peer_processor_s": round(share * median(worked[name]), 2),
            "ratio_processor": round(share * median(worked[name]) / ours_worked, 2),
            "texts_compared": len(theirs),
            "texts_different": _ties(model, items, same, theirs),
        }
        for name, theirs in texts.items()
    ]


def _ties(model, items: Sequence[Encoded], same: Sequence[str], theirs: Sequence[str]) -> int:
    """Return how many texts differ; each must hold a token that another nearly equals."""
    different = [n for n in range(len(items)) if same[n] != theirs[n]]
    for n in different:
        (ids,) = generation.tokens(model, [items[n]])
        lead = margin(model.module, items[n], ids)
        assert lead < TIE, f"{items[n].question_id}: {same[n]!r} is not {theirs[n]!r} ({lead})"
    return len(different)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=None, help="of the test questions")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rows = run(given.questions, given.repeats)
    if given.questions is None:
        timing.save("answers", rows)


if __name__ == "__main__":
    main()
