"""Scoring by prefix-tree packing, against one forward call per prompt and answer option, and
against padded batches.
"""

import timing
import torch

from sandbagging import files, metrics, models, prompts, questions
from sandbagging.models import packing

N_QUESTIONS = 8


def encoded(model, items):
    return [
        packing.encode(
            model.tokenizer, q.id, prompts.render(q, "sandbag", "instr_contrast"), q.options
        )
        for q in items
    ]


def log_p(logits, prompt, option):
    rows = logits[len(prompt) - 1 : len(prompt) - 1 + len(option)].float().log_softmax(-1)
    return rows[torch.arange(len(option)), torch.tensor(option)].sum()


@torch.no_grad()
def one_by_one(module, items):
    return torch.stack(
        [
            log_p(module(torch.tensor([e.prompt + o])).logits[0], e.prompt, o)
            for e in items
            for o in e.options
        ]
    )


@torch.no_grad()
def padded(module, items):
    """All prompt and option rows of the questions as one right-padded batch: the documented way."""
    rows = [(e.prompt, o) for e in items for o in e.options]
    width = max(len(p) + len(o) for p, o in rows)
    ids = torch.tensor([p + o + [0] * (width - len(p) - len(o)) for p, o in rows])
    mask = torch.tensor(
        [[1] * (len(p) + len(o)) + [0] * (width - len(p) - len(o)) for p, o in rows]
    )
    logits = module(ids, attention_mask=mask).logits
    return torch.stack([log_p(logits[i], p, o) for i, (p, o) in enumerate(rows)])


def packed(model, items):
    from sandbagging.models import hook_points

    pack = packing.pack(items)
    return metrics.answer_logprobs(model, pack, hook_points.forward(model, pack)[0]).total.flatten()


def main() -> None:
    from transformers import AutoModelForCausalLM

    model = models.load(models.EMBEDDED, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(files.cache_folder() / models.EMBEDDED).eval()
    items = encoded(model, questions.load("default", "train")[:N_QUESTIONS])
    ours = packed(model, items)
    rows = []
    for name, peer in (("one forward call per option", one_by_one), ("one padded batch", padded)):
        difference = float((ours - peer(plain, items)).abs().max())
        seconds = timing.alternate(
            lambda: packed(model, items), lambda peer=peer: peer(plain, items)
        )
        rows.append(
            timing.row(
                f"score {N_QUESTIONS} questions x 4 options, log p", name, *seconds, difference
            )
        )
    timing.save("packing", rows)


if __name__ == "__main__":
    main()
