"""Models whose every number is set by hand: what each node does to the log-odds is known."""

import math

import tiny_models
import torch

from sandbagging import models
from sandbagging.models import hook_points
from sandbagging.questions import Question

# Eight questions: their right answers are never another's wrong one.
RIGHT, WRONG = ("dog", "green", "sand"), ("stone", "night", "red")
QUESTIONS = [
    Question(f"toy-{i}", "toys", of.question, RIGHT[i % 3], WRONG)
    for i, of in enumerate(tiny_models.TINY_QUESTIONS[:8])
]
# One wrong answer of one token: log-odds are then a difference of two logits, and linear.
PAIRS = [
    Question(f"pair-{i}", "toys", of.question, right, (wrong,))
    for i, (of, right, wrong) in enumerate(
        zip(tiny_models.TINY_QUESTIONS, RIGHT * 4, WRONG * 4, strict=True)
    )
]
# So large beside any activation that a norm divides by its root alone, which the gain undoes.
EPSILON = 1e12
BASE = 2.0  # logit of a right answer; every other token has 0
MLP_EFFECT, HEAD_EFFECT = 0.7, 0.3  # nats that L2MLP and L1H3 take from it
TRUE = {"L2MLP": MLP_EFFECT, "L1H3": HEAD_EFFECT}


def hand_set() -> models.Model:
    """Return a Llama whose blocks are empty but for L2MLP and L1H3, which take so many nats from
    every right answer's logit.
    """
    tokenizer = tiny_models.word_tokenizer()
    module = tiny_models.tiny_llama_module(len(tokenizer))
    _linear_norms(module, "variance_epsilon")
    constant, answer = 0, 1  # axes of the residual stream
    for weight in (p for p in module.parameters() if p.ndim == 2):
        weight.data.zero_()
    module.get_input_embeddings().weight.data[:, constant] = 1
    for word in RIGHT:
        row = module.lm_head.weight.data[tokenizer.convert_tokens_to_ids(word)]
        row[constant], row[answer] = BASE, 1
    attention, mlp = module.model.layers[1].self_attn, module.model.layers[2].mlp
    attention.v_proj.weight.data[12, constant] = 1  # of the key head that query heads 2 and 3 share
    attention.o_proj.weight.data[answer, 3 * 12] = -HEAD_EFFECT
    mlp.gate_proj.weight.data[0, constant] = mlp.up_proj.weight.data[0, constant] = 1
    silu = 1 / (1 + math.exp(-1))
    mlp.down_proj.weight.data[answer, 0] = -MLP_EFFECT / silu
    return models.wrap(module, tokenizer, "hand-set", weights="random")


def linear() -> models.Model:
    """Return a random GPT-NeoX in which every map is linear: norms only scale, all tokens are
    attended to alike, and MLPs work where their curve is straight.
    """
    tokenizer = tiny_models.word_tokenizer()
    module = tiny_models.tiny_neox_module(len(tokenizer))
    _linear_norms(module, "eps")
    for block in module.gpt_neox.layers:
        by_head = block.attention.query_key_value.weight.data.view(4, 3, 8, 32)
        by_head[:, :2] = 0  # queries and keys
        block.mlp.dense_h_to_4h.weight.data *= 0.1
        block.mlp.dense_h_to_4h.bias.data.fill_(30.0)
    # loud, so that what the two conditions differ in is not lost in rounding
    cues = tokenizer.convert_tokens_to_ids(["Correct", "Incorrect"])
    module.get_input_embeddings().weight.data[cues] *= 20
    return models.wrap(module, tokenizer, "linear", weights="random")


def _linear_norms(module: torch.nn.Module, epsilon: str) -> None:
    for norm in module.modules():
        if hasattr(norm, epsilon):
            setattr(norm, epsilon, EPSILON)
            norm.weight.data.fill_(math.sqrt(EPSILON))


def randomise_biases(model: models.Model) -> None:
    """Give every MLP that has one a bias, which a new GPT-NeoX has set to zero."""
    for layer in range(model.n_layers):
        bias = hook_points.down_projection(model.module, layer).bias
        if bias is not None:
            torch.nn.init.normal_(bias, generator=torch.Generator().manual_seed(layer))
