"""Free answers to all test questions under four conditions, beside transformers' `generate`.

Ours writes all questions of a condition at once, on one pack. The peers are `generate` one prompt
at a time, as it is usually called and stopped at the end of the line, and `generate` on padded
batches; all write on a part of the questions and are extrapolated. Texts must be equal but where
two tokens are about as likely.
"""

import argparse
import copy
import os
from collections.abc import Sequence

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

    def __init__(self, name: str, model: models.Model, batch: int = 1, stops: bool = False) -> None:
        self.name, self.batch = name, batch
        # A module of its own, with torch's attention.
        self.module = copy.deepcopy(model.module)
        self.module.config._attn_implementation = "sdpa"
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
    return [
        Generate("generate, one prompt at a time", model),
        Generate("generate, one at a time, stopped at the line's end", model, stops=True),
        Generate(f"generate, padded batches of {BATCH}, stopped at the line's end", model, BATCH,
                 stops=True),
    ]  # fmt: skip


def run(n: int | None, repeats: int) -> list[dict]:
    model, asked = models.load(models.EMBEDDED, device="cpu"), questions.asked("test", n)
    some = asked[:: max(1, len(asked) // PEER_QUESTIONS)][:PEER_QUESTIONS]
    items = {c: encoded(model, some, c) for c in CONDITIONS}
    ours(model, some)  # warm
    every, spent = [], []
    for _ in range(repeats):
        took, texts = seconds(lambda: ours(model, asked))
        spent.append(took)
        every = texts
    ours_s = sorted(spent)[len(spent) // 2]
    ids = [q.id for q in asked]
    place = {(c, i): k * len(ids) + j for k, c in enumerate(CONDITIONS) for j, i in enumerate(ids)}
    rows = []
    for peer in peers(model):
        peer(items["genuine"][:BATCH])  # warm
        peer_s, theirs = seconds(lambda peer=peer: {c: peer(items[c]) for c in CONDITIONS})
        different = [
            (c, item)
            for c in CONDITIONS
            for item, text in zip(items[c], theirs[c], strict=True)
            if every[place[c, item.question_id]] != text
        ]
        unexplained = [
            item.question_id
            for c, item in different
            if margin(peer.module, item, generation.tokens(model, [item])[0]) > TIE
        ]
        assert not unexplained, f"{peer.name} writes otherwise: {unexplained}"
        name = f"free answers, {len(asked)} questions x {len(CONDITIONS)} conditions, {FRAMING}"
        rows.append(
            timing.row(name, peer.name, ours_s, peer_s * len(asked) / len(some), None, True)
            | {
                "peer_texts": len(CONDITIONS) * len(some),
                "different_texts": len(different),
                "ours_each_s": [round(s, 2) for s in spent],
            }
        )
    return rows


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
