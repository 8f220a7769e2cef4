"""A second route to the same heads: put a head's output of the genuine run into the sandbag run,
and see what comes back.

Direction, always: from the genuine run into the sandbag run. An effect is m(sandbag, heads patched)
- m(sandbag), so a positive one restores the right answer, as in ablation.

1. `patch_sets` is exact: one run per set of heads (Vig et al. 2020, arXiv:2004.12265; Wang et al.
   2022, arXiv:2211.00593).
2. `attribution` is its linear approximation, two passes for all heads: the gradient of m in the
   sandbag run times the change of z (Nanda 2023, "Attribution patching"; Syed et al. 2023,
   arXiv:2310.10348). With 0 in the place of the genuine z it approximates zero-ablation.

Both need prompts that match token by token, which the framing `one_token` gives: there the two
prompts differ in one token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sandbagging import metrics
from sandbagging.errors import UserError
from sandbagging.heads import interventions, sweep
from sandbagging.heads.head import Heads
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model, hook_points
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.packing import Pack
from sandbagging.progress import Progress
from sandbagging.questions import Question


def match(genuine: Pack, sandbag: Pack) -> bool:
    """Return whether the prompts of two packs have the same form, token by token, so that z of one
    can be put into the other.
    """
    if genuine.question_ids != sandbag.question_ids or genuine.n_tokens != sandbag.n_tokens:
        return False
    return all(
        torch.equal(getattr(genuine, a), getattr(sandbag, a))
        for a in ("block", "branch", "position_ids")
    )


def reached(genuine: Pack, sandbag: Pack) -> Tensor:
    """Return the indices of the tokens at or behind which the two packs differ, [token]: elsewhere
    both runs are the same.

    Raises UserError where the two do not match token by token.
    """
    if not match(genuine, sandbag):
        raise UserError(
            "Patching needs genuine and sandbag prompts that match token by token, and with this "
            "framing and tokenizer they do not; "
            "choose the framing one_token."
        )
    at = (genuine.input_ids != sandbag.input_ids).nonzero().squeeze(1)
    if (genuine.block[at] < 0).any():
        # every token sees the prefix, of which tree attention runs all or nothing
        return torch.arange(genuine.n_tokens)
    first = torch.full((len(genuine.question_ids),), genuine.n_tokens)
    first.scatter_reduce_(0, genuine.block[at], at, "amin")
    index = torch.arange(genuine.n_tokens)
    wanted = index >= torch.where(
        genuine.block >= 0, first[genuine.block.clamp_min(0)], genuine.n_tokens
    )
    wanted[genuine.read_at] = True  # a part of a pack runs what is read, whatever the edit reaches
    return wanted.nonzero().squeeze(1)


def patch_sets(
    model: Model,
    genuine: Pack,
    sandbag: Pack,
    sets: Sequence[Heads],
    *,
    names: Sequence[str] = metrics.JUDGED,
    progress: Progress | None = None,
    label: str = "patching",
) -> Effects:
    """Return the effect, on sandbag prompts, of giving each set of heads its z of the genuine run,
    at all positions.

    Raises UserError where the prompts do not match token by token.
    """
    rows = reached(genuine, sandbag)
    layers = sorted({layer for heads in sets for layer, _ in heads})
    points = {layer: HookPoint("z", layer) for layer in layers}
    _, saved = hook_points.forward(model, genuine, reads=list(points.values()))
    source = {layer: saved[point][0, rows.to(model.device)] for layer, point in points.items()}

    def edits_of(batch: list[Heads]) -> Mapping[HookPoint, Edit]:
        here = sorted({layer for heads in batch for layer, _ in heads})
        by_row = {
            layer: [
                [interventions.head_columns(model, h) for at, h in heads if at == layer]
                for heads in batch
            ]
            for layer in here
        }
        return {points[layer]: _patch(source[layer], by_row[layer]) for layer in here}

    return sweep.run_sets(
        model, sandbag, sets, edits_of, names=names, only=rows, progress=progress, label=label
    )


def _patch(source: Tensor, by_row: Sequence[Sequence[slice]]) -> Edit:
    """Return the edit that gives row i, at its columns, the z of `source` [token head*d_head]."""

    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        for row, heads in enumerate(by_row):
            for columns in heads:
                z[row, :, columns] = source[:, columns]
        return z

    return edit


def attribution(
    model: Model,
    sandbag: Sequence[Pack],
    genuine: Sequence[Pack] | None = None,
    metric: str = metrics.CARD,
) -> np.ndarray:
    """Return the first-order estimate, [layer head], of each head's mean effect: sum over tokens of
    gradient x (new z - z).

    New z is that of the genuine packs, or 0 without them (zero-ablation). Packs are parts of the
    questions, one backward pass each, which bounds the memory; the mean is over all questions. The
    unit is the metric's (0 to 1).
    """
    total, n = np.zeros((model.n_layers, model.n_heads)), 0
    # the last step, from the stream to the metric, is always taken on this machine
    here = replace(model, remote=False)
    for i, pack in enumerate(sandbag):
        z, slope = hook_points.gradients(
            model, pack, lambda final, pack=pack: _summed(here, pack, final, metric)
        )
        new = None
        if genuine is not None:
            reached(genuine[i], pack)  # refuses prompts that do not match
            new = hook_points.forward(
                model, genuine[i], reads=[HookPoint("z", layer) for layer in z]
            )[1]
        for layer in z:
            change = -z[layer] if new is None else new[HookPoint("z", layer)][0] - z[layer]
            by_column = (slope[layer] * change).double().sum(0)
            total[layer] += by_column.view(model.n_heads, model.d_head).sum(-1).cpu().numpy()
        n += len(pack.question_ids)
    return total / n


def _summed(model: Model, pack: Pack, final: Tensor, metric: str) -> Tensor:
    return metrics.METRICS[metric](metrics.answer_logprobs(model, pack, final)).sum()


def in_parts(
    model: Model, questions: Sequence, condition: str, framing: str, size: int = 10
) -> list[Pack]:
    """Return the questions of one condition as packs of at most `size` questions, which bounds the
    memory of a backward pass.
    """
    return [
        metrics.prepare(model, questions[i : i + size], condition, framing)
        for i in range(0, len(questions), size)
    ]


class Routes(NamedTuple):
    """Effects of every head by other routes than zero-ablation."""

    effects: dict[str, np.ndarray]  # method -> [head], in pp
    # method -> its cost in runs of all tokens through all layers; backward passes count twice
    passes: dict[str, float]
    why_not: str  # why patching could not be done, or ""


ZERO_SLOPE, ZERO_SLOPE_THERE = "attribution to zero", "attribution to zero, patching's framing"
PATCH, PATCH_SLOPE = "activation patching", "attribution patching"


def other_routes(
    model: Model,
    asked: Sequence[Question],
    heads: Sequence[Heads],
    framing: str,
    patch_framing: str = "one_token",
    progress: Progress | None = None,
) -> Routes:
    """Return each head's effect on p_full of sandbag prompts, in pp, by patching and by gradients.

    `heads` are sets of one head. Attribution to zero uses `framing`, as the zero-ablation that it
    approximates, and again `patch_framing`, so that a difference of method can be told from one of
    framing. Patching uses `patch_framing`, whose genuine and sandbag prompts have to match token by
    token: where they do not, `why_not` says so.
    """
    at = tuple(zip(*(heads_of[0] for heads_of in heads), strict=True))
    found, passes = {}, {}
    for name, words in ((ZERO_SLOPE, framing), (ZERO_SLOPE_THERE, patch_framing)):
        found[name], passes[name] = (
            100 * attribution(model, in_parts(model, asked, "sandbag", words))[at],
            3.0,
        )
    genuine, sandbag = (
        [metrics.prepare(model, asked, c, patch_framing)] for c in ("genuine", "sandbag")
    )
    if not match(genuine[0], sandbag[0]):
        why = (
            f"with the framing {patch_framing} and this tokenizer, genuine and sandbag prompts "
            "do not match token by token"
        )
        return Routes(found, passes, why)
    patched = patch_sets(model, genuine[0], sandbag[0], heads, progress=progress)
    share = len(reached(genuine[0], sandbag[0])) / sandbag[0].n_tokens
    parts = [
        in_parts(model, asked, condition, patch_framing) for condition in ("sandbag", "genuine")
    ]
    found |= {
        PATCH: 100 * patched.effect().mean(1),
        PATCH_SLOPE: 100 * attribution(model, *parts)[at],
    }
    passes |= {PATCH: 2 + share * sweep_passes(model, heads), PATCH_SLOPE: 4.0}
    return Routes(found, passes, "")


def sweep_passes(model: Model, heads: Sequence[Heads]) -> float:
    """Return the cost of one run per set, begun at its lowest layer, in runs of all tokens through
    all layers.
    """
    return sum(1 - min(layer for layer, _ in heads_of) / model.n_layers for heads_of in heads)
