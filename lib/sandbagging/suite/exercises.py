"""Exercises: one idea each. A check recomputes the learner's answer by another route and, where it is wrong, names the likely mistake.

Every check prints a sentence and returns whether the answer is right. Sources lie in notebooks/exercises; `learners_copy` takes the
solutions out.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from sandbagging import files, metrics
from sandbagging.errors import UserError, nearest
from sandbagging.heads import interventions
from sandbagging.models import hook_points, packing
from sandbagging.questions import Question
from sandbagging.suite import runs

Score = Callable[[torch.nn.Module, object, str, str], float]


def _right(text: str) -> bool:
    print(f"Right: {text}")
    return True


def _not_yet(text: str) -> bool:
    print(f"Not yet: {text}")
    return False


def _likely(found: Mapping[str, float], answer: float, tolerance: float) -> str | None:
    """Return the first mistake whose result is the learner's answer."""
    return next((mistake for mistake, value in found.items() if abs(value - answer) <= tolerance), None)


# 1. Score an answer -------------------------------------------------------------------------------------------------------


def check_score(score: Score, lm, asked: Sequence[Question], framing: str = "instr_pref") -> bool:
    """Check score(module, tokenizer, prompt, answer): log p of " " + answer behind the prompt, in nats, against the packed route."""
    items = [metrics.encode(lm, q, "genuine", framing) for q in asked]
    pack = packing.pack([item for _, item in items])
    final, _ = hook_points.forward(lm, pack)
    expected = metrics.answer_logprobs(lm, pack, final).total[0, :, 0].tolist()
    # The longest answer shows the most: a sum and a mean, or a first token alone, are the same for an answer of one token.
    i = max(range(len(asked)), key=lambda i: len(items[i][1].options[0]))
    answer = float(score(lm.module, lm.tokenizer, items[i][0], asked[i].correct))
    if abs(answer - expected[i]) < 1e-3:
        return _right(f"log p = {answer:.4f}, and the packed route gives {expected[i]:.4f}.")
    mistake = _likely(_wrong_scores(lm, items[i][0], items[i][1], asked[i].correct), answer, 1e-3)
    return _not_yet(mistake or f"log p of {asked[i].correct!r} should be {expected[i]:.4f} and is {answer:.4f}.")


def _wrong_scores(lm, prompt: str, item: packing.Encoded, answer: str) -> dict[str, float]:
    def each(ids: list[int], option: list[int], shift: int) -> Tensor:
        with torch.no_grad():
            log_p = lm.module(torch.tensor([ids], device=lm.device)).logits[0].float().log_softmax(-1)
        return torch.stack([log_p[len(ids) - len(option) + t - shift, token] for t, token in enumerate(option)])

    option = item.options[0]
    right = each(item.prompt + option, option, 1)
    bare = lm.tokenizer(answer, add_special_tokens=False).input_ids
    return {
        "the answer was tokenised without its space: score ' ' + answer, since that is how it stands behind the colon.":
            float(each(item.prompt + bare, bare, 1).sum()),
        "the logits were read one place too late: what stands at position t predicts token t + 1.":
            float(each(item.prompt + option, option, 0).sum()),
        "that is the mean over the answer's tokens: log p of the whole answer is their sum.": float(right.mean()),
        "that is the first token alone: an answer may have several.": float(right[0]),
        "that is a probability: return its logarithm.": float(right.sum().exp()),
    }  # fmt: skip


# 2. Find the residual stream ----------------------------------------------------------------------------------------------


def check_residual(read: Callable[[torch.nn.Module, Tensor, int], Tensor], lm, ids: Sequence[int]) -> bool:
    """Check read(module, ids [1 token], layer): resid_post [token d_model], the output of that block, against a hook on the block."""
    layers = (0, lm.n_layers // 2, lm.n_layers - 1)
    tokens = torch.tensor([list(ids)], device=lm.device)
    with torch.no_grad():
        states = lm.module(tokens, output_hidden_states=True).hidden_states
    for layer in layers:
        expected, answer = _block_output(lm, tokens, layer), torch.as_tensor(read(lm.module, tokens, layer)).squeeze()
        if answer.shape == expected.shape and torch.allclose(answer, expected, rtol=1e-4, atol=1e-4):
            continue
        if answer.shape != expected.shape:
            return _not_yet(f"at layer {layer} the shape should be [token d_model] = {list(expected.shape)} and is {list(answer.shape)}.")
        if torch.allclose(answer, states[layer][0], rtol=1e-4, atol=1e-4):
            return _not_yet(f"hidden_states[{layer}] is the *input* of block {layer}: its output is hidden_states[{layer + 1}].")
        if layer == lm.n_layers - 1 and torch.allclose(answer, states[-1][0], rtol=1e-4, atol=1e-4):
            return _not_yet("the last entry of hidden_states has gone through the final norm: take the last block's output by a hook.")
        return _not_yet(f"at layer {layer} the numbers are not the output of the block.")
    return _right(f"blocks {', '.join(map(str, layers))} give what a hook on them gives.")


def _block_output(lm, tokens: Tensor, layer: int) -> Tensor:
    caught = []
    blocks = attrgetter(hook_points.NAMES[lm.architecture].blocks)(lm.module)
    handle = blocks[layer].register_forward_hook(lambda m, i, out: caught.append(out))
    try:
        with torch.no_grad():
            lm.module(tokens)
    finally:
        handle.remove()
    return (caught[0][0] if isinstance(caught[0], tuple) else caught[0])[0]


# 3. Ablate a head by hand -------------------------------------------------------------------------------------------------


def check_ablation(ablate: Callable[[torch.nn.Module, Tensor, int, int], Tensor], lm, ids: Sequence[int]) -> bool:
    """Check ablate(module, ids [1 token], layer, head): logits [token vocabulary] without one query head, against edited weights."""
    tokens, layer, head = torch.tensor([list(ids)], device=lm.device), lm.n_layers // 2, lm.n_heads - 1
    clean = _logits(lm, tokens)
    with interventions.zeroed_weights(lm, [(layer, head)]):
        expected = _logits(lm, tokens)
    kept = {name: parameter.detach().clone() for name, parameter in lm.module.named_parameters() if f".{layer}." in name}
    answer = torch.as_tensor(ablate(lm.module, tokens, layer, head)).squeeze()
    after = _logits(lm, tokens)
    changed = [name for name, parameter in lm.module.named_parameters() if name in kept and not torch.equal(kept[name], parameter)]
    _restore(lm, kept)
    if changed:
        return _not_yet(f"the weights {changed[0]} were left changed: put them back, whatever happens (try ... finally).")
    if not torch.equal(clean, after):
        _remove_hooks(lm)
        return _not_yet("the hook is still there: the model runs without the head from now on; remove it (try ... finally).")
    if answer.shape == expected.shape and torch.allclose(answer, expected, rtol=1e-4, atol=1e-4):
        return _right(f"the logits without L{layer}H{head} are those of the model with its columns of W_O set to zero.")
    return _not_yet(_ablation_mistake(lm, tokens, layer, head, answer, clean))


def _logits(lm, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return lm.module(tokens).logits[0]


def _restore(lm, kept: Mapping[str, Tensor]) -> None:
    for name, value in kept.items():
        lm.module.get_parameter(name).data.copy_(value)


def _remove_hooks(lm) -> None:
    for module in lm.module.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


def _ablation_mistake(lm, tokens: Tensor, layer: int, head: int, answer: Tensor, clean: Tensor) -> str:
    """Return the sentence for the mistake that gives the learner's logits, or a plain one."""

    def without(columns: slice, at_output: bool = False) -> Tensor:
        projection = hook_points.output_projection(lm.module, layer)

        def zero(module, inputs, output=None):
            value = (output if at_output else inputs[0]).clone()
            value[..., columns] = 0
            return value if at_output else (value,)

        register = projection.register_forward_hook if at_output else projection.register_forward_pre_hook
        handle = register(zero)
        try:
            return _logits(lm, tokens)
        finally:
            handle.remove()

    d, guess, group = lm.d_head, lm.d_model // lm.n_heads, lm.n_heads // lm.n_kv_heads
    mistakes = {
        "nothing was ablated: the logits are those of the whole model.": lambda: clean,
        "that slices the output of the projection, where the heads are mixed already: slice its input, z.":
            lambda: without(slice(head * guess, (head + 1) * guess), at_output=True),
        f"that is the key-value head's index: with {group} query heads to a key head, h still counts query heads.":
            lambda: without(slice(head // group * d, (head // group + 1) * d)),
        f"d_head is not d_model / n_heads here: it is in_features of W_O divided by the number of heads, {d}.":
            lambda: without(slice(head * guess, (head + 1) * guess)),
    }  # fmt: skip
    for words, made in mistakes.items():
        wrong = made()
        if answer.shape == wrong.shape and torch.allclose(answer, wrong, rtol=1e-4, atol=1e-4):
            return words
    return f"the logits should be {list(clean.shape)} and those of the model without head {head} of layer {layer}."


# 4. Build the shuffled-label control --------------------------------------------------------------------------------------


def check_labels(labels: Callable[[int, int], np.ndarray], n: int = 40) -> bool:
    """Check labels(n, seed): who is called "genuine" among n genuine prompts (first) and n sandbag prompts (last), balanced."""
    drawn = [np.asarray(labels(n, seed)) for seed in range(12)]
    if any(d.shape != (2 * n,) or d.dtype != bool for d in drawn):
        return _not_yet(f"return one boolean for each of the {2 * n} prompts, True where a prompt is called genuine.")
    if all((d[:n]).all() for d in drawn):
        return _not_yet("those are the true labels: E1 would be E6 itself. Shuffle them.")
    if len({d.tobytes() for d in drawn}) == 1:
        return _not_yet("every seed gives the same labels: use the seed, so that E1 has a distribution and not one draw.")
    if not np.array_equal(drawn[3], np.asarray(labels(n, 3))):
        return _not_yet("the same seed gives other labels: make the generator from the seed, inside the function.")
    if any(d.sum() != n for d in drawn):
        return _not_yet(
            f"{n} prompts have to be called genuine, as many as there are; some draw has {sorted({int(d.sum()) for d in drawn})}."
        )
    if any(d[:n].sum() != n // 2 for d in drawn):
        return _not_yet(
            "that is a plain shuffle: a draw holds a few more of one condition, and medians of sparse codes then flip as a block. "
            "Draw half of each condition."
        )
    return _right("each draw calls half of each condition genuine, and another half for another seed.")


# 5. Catch a fake finding --------------------------------------------------------------------------------------------------


def check_honest(judge: Callable[[np.ndarray, int, int], float], n_heads: int = 100, n_questions: int = 40, n_top: int = 5) -> bool:
    """Check judge(effects [head question], n_top, seed): the mean effect of the strongest heads, honest where all is noise."""
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 1, (n_heads, n_questions)) for _ in range(60)]
    found = np.array([judge(x, n_top, seed) for seed, x in enumerate(noise)])
    curse = np.mean([np.sort(x.mean(1))[-n_top:].mean() for x in noise])
    error = found.std(ddof=1) / np.sqrt(len(found))
    if abs(found.mean() - curse) < 0.2 * curse:
        return _not_yet(
            f"on pure noise it finds {found.mean():+.2f} SD: the heads are judged on the questions that chose them (the winner's "
            "curse). Choose on one half of the questions, judge on the other."
        )
    if abs(found.mean()) > 4 * error:
        return _not_yet(f"on pure noise it finds {found.mean():+.3f} ± {error:.3f} SD on average, where there is nothing.")
    real = np.zeros((n_heads, 1))
    real[:n_top] = 2.0
    seen = np.mean([judge(x + real, n_top, seed) for seed, x in enumerate(noise)])
    if abs(seen - 2.0) > 0.2:
        return _not_yet(f"five heads with a true effect of 2 SD each are there, and it finds {seen:+.2f}: choose the largest mean effects.")
    return _right(f"{found.mean():+.3f} SD on noise, {seen:+.2f} where the truth is 2; in sample, noise alone would give {curse:+.2f}.")


# 6. Bootstrap a paired effect ---------------------------------------------------------------------------------------------


def check_bootstrap(interval: Callable[[np.ndarray, np.ndarray, int], tuple[float, float]]) -> bool:
    """Check interval(after, before, seed): CI95 of mean(after - before), paired by question, against Student's t."""
    rng = np.random.default_rng(1)
    before = rng.normal(0.4, 0.2, 80)
    after = before + rng.normal(0.05, 0.04, 80)
    low, high = (float(end) for end in interval(after, before, 0))
    change = after - before
    t = stats.t.interval(0.95, 79, change.mean(), stats.sem(change))
    width, ratio = t[1] - t[0], (high - low) / (t[1] - t[0])
    unpaired = np.sqrt(after.var(ddof=1) + before.var(ddof=1)) / change.std(ddof=1)
    if not low < change.mean() < high:
        return _not_yet(f"the interval [{low:.4f}, {high:.4f}] leaves out the mean change, {change.mean():.4f}; is it after - before?")
    if abs(ratio / unpaired - 1) < 0.15:
        return _not_yet(
            f"it is {ratio:.1f} times too wide: the two columns were resampled apart. Draw questions, and take both numbers of each."
        )
    if abs(ratio - np.sqrt(80)) < 2:
        return _not_yet("those are percentiles of the changes themselves: take percentiles of the *means* of resamples.")
    if abs(ratio - 1.645 / 1.99) < 0.06:
        return _not_yet("it is about 0.83 as wide as a CI95: cut 2.5 % at each end, not 5 %.")
    if abs(ratio - 1) > 0.12 or abs(low - t[0]) > 0.15 * width:
        return _not_yet(f"it should be near [{t[0]:.4f}, {t[1]:.4f}] and is [{low:.4f}, {high:.4f}]; draw at least 2000 resamples.")
    return _right(f"[{low:.4f}, {high:.4f}]; Student's t gives [{t[0]:.4f}, {t[1]:.4f}].")


# 7. Train a tiny SAE and see it memorise ----------------------------------------------------------------------------------


def check_fvu(fvu: Callable[[Tensor, Tensor], float]) -> bool:
    """Check fvu(x [token d_model], rebuilt): squared error over squared distance from the mean, on numbers set by hand."""
    x = torch.tensor([[10.0, 0.0], [12.0, 4.0], [14.0, 8.0], [16.0, 0.0]])  # squared distances from the mean (13, 3): 20 and 44
    rebuilt = x + torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [0.0, 2.0]])  # squared errors: 10 in all
    answer = float(fvu(x, rebuilt))
    uncentred = 10 / float(x.pow(2).sum())
    per_row = float(((rebuilt - x).pow(2).sum(1) / (x - x.mean(0)).pow(2).sum(1)).mean())
    per_column = float(((rebuilt - x).pow(2).sum(0) / (x - x.mean(0)).pow(2).sum(0)).mean())
    mistakes = {
        "the denominator is not centred: subtract the mean over tokens first, or large constant coordinates make every SAE look good.":
            uncentred,
        "that is a mean of ratios over tokens: divide the summed errors by the summed distances.": per_row,
        "that is a mean of ratios over coordinates: divide the summed errors by the summed distances.": per_column,
        "that is the share that is explained: FVU is one minus it.": 1 - 10 / 64,
        "that is the squared error alone: divide it by the squared distance from the mean.": 10.0,
        "that is the mean squared error: divide it by the variance.": 10 / 8,
    }  # fmt: skip
    if abs(answer - 10 / 64) < 1e-5:
        return _right(f"10 / 64 = {answer:.5f}.")
    return _not_yet(_likely(mistakes, answer, 1e-5) or f"on the numbers set by hand it should be 10 / 64 = 0.15625 and is {answer:.5f}.")


def check_memorised(in_sample: float, held_out: float, n_tokens: int, n_latents: int) -> bool:
    """Check that two FVUs of one SAE show memorising: the held-out one is on other questions, and larger."""
    if held_out == in_sample:
        return _not_yet("both numbers are the same: was the SAE judged twice on the tokens that it was trained on?")
    if held_out < in_sample:
        return _not_yet("held-out is below in-sample: the two are exchanged, or the SAE was trained on the test tokens.")
    return _right(
        f"{n_latents} latents learned {n_tokens} tokens by heart: FVU {in_sample:.3f} there and {held_out:.3f} on other questions."
    )


# Learners' copies ---------------------------------------------------------------------------------------------------------


def folder() -> Path:
    """Return the folder of the exercises' sources."""
    return runs.notebooks_folder() / "exercises"


def names() -> list[str]:
    """Return the names of all exercises, in order."""
    return sorted(path.stem for path in folder().glob("*.ipynb"))


def find(name: str) -> Path:
    """Return an exercise's source by its name or number; raises UserError for an unknown one."""
    fits = [known for known in names() if known == name or known.split("_", 1)[0] == name or known.split("_", 1)[-1] == name]
    if len(fits) != 1:
        raise UserError(f"There is no exercise {name!r}; did you mean {nearest(name, names())}? There are: {', '.join(names())}.")
    return folder() / f"{fits[0]}.ipynb"


def without_solutions(notebook: dict) -> dict:
    """Return a notebook whose cells tagged `solution` hold their stub, with the solution folded away below them."""
    cells = []
    for cell in copy.deepcopy(notebook["cells"]):
        if "solution" not in cell["metadata"].get("tags", []):
            cells.append(cell)
            continue
        solution = "".join(cell["source"])
        cell["source"], cell["metadata"] = cell["metadata"]["stub"], {}
        folded = f"<details><summary>Solution (after you have tried)</summary>\n\n```python\n{solution}\n```\n\n</details>"
        cells += [cell, {"cell_type": "markdown", "id": cell["id"] + "-s", "metadata": {}, "source": folded}]
    return notebook | {"cells": cells}


def learners_copy(name: str, target: Path | str | None = None) -> Path:
    """Write the learner's copy of an exercise (default: NAME.ipynb in the current folder); never over a file that is there."""
    source = find(name)
    target = Path(target or f"{source.stem}.ipynb")
    if target.exists():
        raise UserError(f"{target} is there already and may hold your work; name another file with --to.")
    files.write_json(target, without_solutions(json.loads(source.read_text())))
    return target
