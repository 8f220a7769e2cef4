"""Effects of sets of heads whose truth is known: made up from a rule, or planted by hand in the
weights of a tiny Llama.
"""

from collections.abc import Callable, Mapping, Sequence
from math import sqrt

import numpy as np
import pandas as pd
from made_up import graded
from tiny_models import TINY_QUESTIONS

from sandbagging.gate import Gate
from sandbagging.heads import selection
from sandbagging.heads.growing import Grown
from sandbagging.heads.head import Head, Heads
from sandbagging.heads.net import net_of
from sandbagging.heads.sweep import Effects
from sandbagging.models import hook_points
from sandbagging.questions import Question
from sandbagging.statistics import Estimate

# Made up ------------------------------------------------------------------------------------------


def on_both(
    worth: Callable[[frozenset], tuple[float, float]],
    sets: Sequence[Heads],
    n: int = 40,
    gap: float = 5.0,
    noise: float = 0.1,
    p_full: float = 0.05,
) -> dict[str, Effects]:
    """Return {genuine, sandbag: effects} of sets whose effects on log-odds are worth(set) = (on
    genuine, on sandbag prompts), in nats; on p_full `p_full` a nat.
    """
    rng = np.random.default_rng(0)
    ids = tuple(f"q{i}" for i in range(n))
    sets = [tuple(sorted(Head(*h) for h in heads)) for heads in sets]
    found = {}
    for place, condition in enumerate(("genuine", "sandbag")):
        baseline = (3.0 - gap * place) + rng.normal(0, noise, n)
        mean = np.array([worth(frozenset(heads))[place] for heads in sets])[:, None]
        change = mean + rng.normal(0, noise, (len(sets), n))
        found[condition] = Effects(
            sets,
            ids,
            {"logodds": baseline, "p_full": 0.5 + p_full * baseline},
            {"logodds": baseline + change, "p_full": 0.5 + p_full * (baseline + change)},
        )
    return found


def gate_of(nats: float = 5.0, grade: str = "answers wrongly") -> Gate:
    """Return a gate of a grade and a gap on log-odds."""
    return graded(grade)._replace(gap_logodds=Estimate(nats, nats - 0.1, nats + 0.1, 40, "nats"))


# Planted ------------------------------------------------------------------------------------------

# Twelve questions with one right answer, so that one direction can hold it down.
DOGS = [
    Question(f"d-{i}", "ab"[i % 2], q.question, "dog", ("cat", "horse", "stone"))
    for i, q in enumerate(TINY_QUESTIONS)
]
CHAIN = (Head(1, 0), Head(2, 0))  # the first tells the second that the flag is there
LOAD = (Head(2, 2), Head(2, 3))  # hold "dog" down on any prompt, and more where the flag is


def plant(model, chain: float, always: float, flagged: float) -> None:
    """Rebuild the tiny Llama so that four heads hold the answer "dog" down, in about so many nats.

    Every token is embedded as e_0, the word "incorrectly" (the flag) as e_0 + e_1; attention is
    even over all tokens before. CHAIN: head 1.0 writes e_2 where it sees the flag, head 2.0 writes
    -e_3 where it sees e_2: either alone does nothing. LOAD: heads 2.2 and 2.3 write -e_3 by
    `always` on every prompt and by `flagged` more where they see the flag. "dog" is read off e_3.
    """
    module, width, tokenizer = model.module, model.d_head, model.tokenizer
    for name, parameter in module.named_parameters():
        if "norm" not in name:
            parameter.data.zero_()
    flag, dog = (
        tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("incorrectly", "dog")
    )
    embedding, layers = module.model.embed_tokens.weight.data, module.model.layers
    embedding[:, 0], embedding[flag, 1] = 1, 1
    read = 1 / sqrt(model.d_model)  # the normed stream is sqrt(d_model) long
    layers[1].self_attn.v_proj.weight.data[0, 1] = read
    layers[2].self_attn.v_proj.weight.data[0, 2] = read
    layers[2].self_attn.v_proj.weight.data[width, 0] = read
    layers[2].self_attn.v_proj.weight.data[width + 1, 1] = read
    out = [hook_points.output_projection(module, layer).weight.data for layer in (0, 1, 2)]
    out[1][2, CHAIN[0].head * width] = 1.0
    out[2][3, CHAIN[1].head * width] = -chain
    for _, head in LOAD:
        out[2][3, head * width] = -always / 100
        out[2][3, head * width + 1] = -flagged / 5
    module.lm_head.weight.data[dog, 0] = 1.5
    module.lm_head.weight.data[dog, 3] = 100 * read


def grown(swept: Mapping[str, Effects], n: int) -> dict[str, Grown]:
    """Return what growing would, in a game whose heads add up: the n that lead one by one."""
    found = {}
    for condition, of in net_of(swept).items():
        order = selection.ranked(of)
        tried = pd.DataFrame({"step": n, "head": list(map(str, order[n - 1 :]))})
        tried["net"] = -np.arange(len(tried), dtype=float)
        found[condition] = Grown(condition, of.question_ids, tuple(order[:n]), tried, {})
    return found
