"""Exercises 1 to 3, on a model: score an answer, find the residual stream, ablate a head.

Each check computes the learner's answer by another route.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from sandbagging import metrics
from sandbagging.heads import interventions
from sandbagging.models import hook_points, packing
from sandbagging.models.model import Model
from sandbagging.questions import Question
from sandbagging.suite.exercises.saying import likely, not_yet, right

Module = torch.nn.Module
Score = Callable[[Module, Any, str, str], float]
Read = Callable[[Module, Tensor, int], Tensor]
Ablate = Callable[[Module, Tensor, int, int], Tensor]


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def _logits(lm: Model, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return lm.module(tokens).logits[0]


# 1. Score an answer -------------------------------------------------------------------------------


def check_score(
    score: Score, lm: Model, asked: Sequence[Question], framing: str = "instr_pref"
) -> bool:
    """Check score(module, tokenizer, prompt, answer) against the packed route.

    It is log p of " " + answer behind the prompt, in nats.
    """
    items = [metrics.encode(lm, q, "genuine", framing) for q in asked]
    pack = packing.pack([item for _, item in items])
    final, _ = hook_points.forward(lm, pack)
    log_p = metrics.answer_logprobs(lm, pack, final).total[0, :, 0].tolist()
    # The longest answer shows the most: for an answer of one token, a sum, a mean and the first
    # token alone are the same.
    i = max(range(len(asked)), key=lambda i: len(items[i][1].options[0]))
    (prompt, item), expected, correct = items[i], log_p[i], asked[i].correct
    answer = float(score(lm.module, lm.tokenizer, prompt, correct))
    if abs(answer - expected) < 1e-3:
        return right(f"log p = {answer:.4f}, and the packed route gives {expected:.4f}.")
    mistake = likely(_wrong_scores(lm, item, correct), answer, 1e-3)
    plain = f"log p of {correct!r} should be {expected:.4f} and is {answer:.4f}."
    return not_yet(mistake or plain)


def _wrong_scores(lm: Model, item: packing.Encoded, answer: str) -> list[tuple[float, str]]:
    """Return what each mistake gives, and the words for it."""

    def each(option: list[int], shift: int) -> Tensor:
        ids = item.prompt + option
        log_p = _logits(lm, torch.tensor([ids], device=lm.device)).float().log_softmax(-1)
        places = range(len(item.prompt) - shift, len(ids) - shift)
        return log_p[list(places), option]

    option = item.options[0]
    bare = lm.tokenizer(answer, add_special_tokens=False).input_ids
    log_p = each(option, 1)
    return [
        (float(each(bare, 1).sum()),
         "the answer was tokenised without its space: score ' ' + answer, since that is how it "
         "stands behind the colon."),
        (float(each(option, 0).sum()),
         "the logits were read one place too late: what stands at position t predicts token "
         "t + 1."),
        (float(log_p.mean()),
         "that is the mean over the answer's tokens: log p of the whole answer is their sum."),
        (float(log_p[0]), "that is the first token alone: an answer may have several."),
        (float(log_p.sum().exp()), "that is a probability: return its logarithm."),
    ]  # fmt: skip


# 2. Find the residual stream ----------------------------------------------------------------------


def check_residual(read: Read, lm: Model, ids: Sequence[int]) -> bool:
    """Check read(module, ids [1 token], layer) against a hook on the block.

    It is resid_post [token d_model], the output of that block.
    """
    layers = (0, lm.n_layers // 2, lm.n_layers - 1)
    tokens = torch.tensor([list(ids)], device=lm.device)
    with torch.no_grad():
        states = lm.module(tokens, output_hidden_states=True).hidden_states
    for layer in layers:
        expected = _block_output(lm, tokens, layer)
        answer = torch.as_tensor(read(lm.module, tokens, layer)).squeeze()
        if not _same(answer, expected):
            last = layer == lm.n_layers - 1
            return not_yet(_residual_mistake(answer, expected, states, layer, last))
    return right(f"blocks {', '.join(map(str, layers))} give what a hook on them gives.")


def _residual_mistake(
    answer: Tensor, expected: Tensor, states: Sequence[Tensor], layer: int, last: bool
) -> str:
    if answer.shape != expected.shape:
        shape = f"[token d_model] = {list(expected.shape)}"
        return f"at layer {layer} the shape should be {shape} and is {list(answer.shape)}."
    if _same(answer, states[layer][0]):
        return (f"hidden_states[{layer}] is the *input* of block {layer}: "
                f"its output is hidden_states[{layer + 1}].")  # fmt: skip
    if last and _same(answer, states[-1][0]):
        return ("the last entry of hidden_states has gone through the final norm: "
                "take the last block's output by a hook.")  # fmt: skip
    return f"at layer {layer} the numbers are not the output of the block."


def _block_output(lm: Model, tokens: Tensor, layer: int) -> Tensor:
    caught = []
    blocks = attrgetter(hook_points.NAMES[lm.architecture].blocks)(lm.module)
    handle = blocks[layer].register_forward_hook(lambda m, i, out: caught.append(out))
    try:
        with torch.no_grad():
            lm.module(tokens)
    finally:
        handle.remove()
    return (caught[0][0] if isinstance(caught[0], tuple) else caught[0])[0]


# 3. Ablate a head by hand -------------------------------------------------------------------------


def check_ablation(ablate: Ablate, lm: Model, ids: Sequence[int]) -> bool:
    """Check ablate(module, ids [1 token], layer, head) against edited weights.

    It is the logits [token vocabulary] without one query head.
    """
    tokens = torch.tensor([list(ids)], device=lm.device)
    layer, head = lm.n_layers // 2, lm.n_heads - 1
    clean = _logits(lm, tokens)
    with interventions.zeroed_weights(lm, [(layer, head)]):
        expected = _logits(lm, tokens)
    kept = {name: weights.detach().clone() for name, weights in _weights(lm, layer)}
    answer = torch.as_tensor(ablate(lm.module, tokens, layer, head)).squeeze()
    after = _logits(lm, tokens)
    changed = [name for name, now in _weights(lm, layer) if not torch.equal(kept[name], now)]
    _restore(lm, kept)
    if changed:
        left = f"the weights {changed[0]} were left changed"
        return not_yet(f"{left}: put them back, whatever happens (try ... finally).")
    if not torch.equal(clean, after):
        _remove_hooks(lm)
        left = "the hook is still there: the model runs without the head from now on"
        return not_yet(f"{left}; remove it (try ... finally).")
    if _same(answer, expected):
        same = "are those of the model with its columns of W_O set to zero"
        return right(f"the logits without L{layer}H{head} {same}.")
    return not_yet(_ablation_mistake(lm, tokens, layer, head, answer, clean))


def _weights(lm: Model, layer: int) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of one layer, by name."""
    for name, weights in lm.module.named_parameters():
        if f".{layer}." in name:
            yield name, weights


def _restore(lm: Model, kept: Mapping[str, Tensor]) -> None:
    for name, value in kept.items():
        lm.module.get_parameter(name).data.copy_(value)


def _remove_hooks(lm: Model) -> None:
    for module in lm.module.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


def _ablation_mistake(
    lm: Model, tokens: Tensor, layer: int, head: int, answer: Tensor, clean: Tensor
) -> str:
    """Return the words for the mistake that gives the learner's logits, or plain ones."""
    d, guess, group = lm.d_head, lm.d_model // lm.n_heads, lm.n_heads // lm.n_kv_heads
    guessed, shared = slice(head * guess, (head + 1) * guess), head // group
    key_value = slice(shared * d, (shared + 1) * d)
    mistakes = (
        (lambda: clean, "nothing was ablated: the logits are those of the whole model."),
        (lambda: _logits_without(lm, tokens, layer, guessed, at_output=True),
         "that slices the output of the projection, where the heads are mixed already: "
         "slice its input, z."),
        (lambda: _logits_without(lm, tokens, layer, key_value),
         f"that is the key-value head's index: with {group} query heads to a key head, "
         "h still counts query heads."),
        (lambda: _logits_without(lm, tokens, layer, guessed),
         "d_head is not d_model / n_heads here: it is in_features of W_O divided by the number of "
         f"heads, {d}."),
    )  # fmt: skip
    for made, words in mistakes:
        if _same(answer, made()):
            return words
    return (f"the logits should be {list(clean.shape)} and those of the model without head {head} "
            f"of layer {layer}.")  # fmt: skip


def _logits_without(
    lm: Model, tokens: Tensor, layer: int, columns: slice, at_output: bool = False
) -> Tensor:
    """Return the logits with columns of W_O's input (or output) set to zero."""
    projection = hook_points.output_projection(lm.module, layer)

    def zero(module, inputs, output=None):
        value = (output if at_output else inputs[0]).clone()
        value[..., columns] = 0
        return value if at_output else (value,)

    before, behind = projection.register_forward_pre_hook, projection.register_forward_hook
    handle = (behind if at_output else before)(zero)
    try:
        return _logits(lm, tokens)
    finally:
        handle.remove()
