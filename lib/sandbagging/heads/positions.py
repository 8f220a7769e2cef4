"""Heads replaced at one part of the prompts: by zero, by a mean, or by another question's value, at
the same positions.

A position of the instruction is counted from the instruction's start, one of the demonstrations
from their end, every other from the prompt's end (the answer's tokens run on behind it). Where the
token set has no such position, its nearest one stands in. Position 0, an attention sink, is left
alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sandbagging import metrics
from sandbagging.errors import UserError
from sandbagging.heads import interventions, reading, sweep
from sandbagging.heads.head import Heads
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model, hook_points, packing
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.packing import Pack
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question

SINK = "sink"
# "cue" is what stands between the question and the last token, such as "Answer" before its colon.
PLACES = ("instruction", "demonstrations", "question", "cue", "last token", "answer")
EVERYWHERE = "everywhere"  # but for the sink
COUNTED = {"instruction": 0, "demonstrations": 1}  # apart from the rest, which is 2
NAMES = metrics.JUDGED


class Placed(NamedTuple):
    """A pack, and where in its prompt each token stands."""

    pack: Pack
    place: np.ndarray  # [token] of PLACES, or SINK
    count: np.ndarray  # [token] position within its kind, counted as the module says


def placed(model: Model, asked: Sequence[Question], condition: str, framing: Framing) -> Placed:
    """Return the pack of the questions' prompts with each token's place.

    The shared prefix ends with the demonstrations, so that whatever follows is counted from the end
    of each prompt. Raises UserError where a prompt lacks its question's text.
    """
    encoded, regions = [], []
    for question in asked:
        text, item = metrics.encode(model, question, condition, framing)
        encoded.append(item)
        regions.append(reading.token_regions(model, text, question, framing))
    asks = int(np.isin(regions[0], ("question", "cue")).argmax())
    pack = packing.pack(encoded, min(asks, packing.shared_prefix([e.prompt for e in encoded])))
    place = np.full(pack.n_tokens, "answer", dtype=object)
    place[: pack.n_prefix] = regions[0][: pack.n_prefix]
    block, position = pack.block.numpy(), pack.position_ids.numpy()
    trunk = (block >= 0) & (pack.branch.numpy() == 0)
    place[trunk] = np.concatenate([r[pack.n_prefix :] for r in regions])
    place[pack.last.numpy()] = "last token"
    place[position == 0] = SINK
    last = np.array([len(item.prompt) - 1 for item in encoded])
    count = np.where(block >= 0, last[block] - position, pack.n_prefix - position)
    return Placed(pack, place, np.where(place == "instruction", position, count))


def _kind(place: np.ndarray) -> np.ndarray:
    return np.array([COUNTED.get(name, 2) for name in place])


# What stands in for z ----------------------------------------------------------------------------


class Bank(NamedTuple):
    """The z of a named token set, and where its tokens stand."""

    tokens: str  # the condition
    placed: Placed
    z: dict[int, Tensor]  # layer -> [token head*d_head]


def bank(
    model: Model,
    asked: Sequence[Question],
    condition: str,
    framing: Framing,
    layers: Sequence[int],
) -> Bank:
    """Return z of some layers over the questions' prompts of one condition."""
    there = placed(model, asked, condition, framing)
    points = [HookPoint("z", layer) for layer in layers]
    _, saved = hook_points.forward(model, there.pack, reads=points)
    return Bank(condition, there, {point.layer: saved[point][0] for point in points})


def matches(
    target: Placed, source: Bank, at: np.ndarray, among: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return, for each target token of the indices `at`, the bank's tokens at its position, of
    those in `among` [token] bool (all without it).

    Raises UserError where the bank has no such part of a prompt at all.
    """
    own = source.placed
    allowed = own.place != SINK
    if among is not None:
        allowed &= among
    where: dict[int, dict[int, list[int]]] = {}
    kinds = _kind(own.place)
    for i in np.flatnonzero(allowed):
        where.setdefault(kinds[i], {}).setdefault(own.count[i], []).append(i)
    found = []
    for i, kind in zip(at, _kind(target.place[at]), strict=True):
        if kind not in where:
            raise UserError(
                f"The {source.tokens} prompts hold no {target.place[i]}, so nothing of theirs can "
                f"stand in for it; draw on genuine or placebo prompts, or leave that place out."
            )
        wanted = target.count[i]
        nearest = min(where[kind], key=lambda count, wanted=wanted: (abs(count - wanted), count))
        found.append(np.array(where[kind][nearest]))
    return found


def stand_ins(
    target: Placed, source: Bank, at: np.ndarray, replacement: str, seed: int = 0
) -> dict[int, Tensor]:
    """Return {layer: z [token of `at`, head*d_head]} that takes the place of a target's tokens.

    "mean": over the bank's tokens at the same position. "resample": that of another question, the
    same one for all tokens of a question, drawn by the seed.
    """
    if replacement == "resample":
        drawn = torch.as_tensor(_of_another(target, source, at, seed))
        return {layer: z[drawn.to(z.device)] for layer, z in source.z.items()}
    tokens = matches(target, source, at)
    row = torch.arange(len(at)).repeat_interleave(torch.tensor([len(t) for t in tokens]))
    weights = torch.zeros(len(at), source.placed.pack.n_tokens)
    weights[row, torch.as_tensor(np.concatenate(tokens))] = 1
    weights /= weights.sum(1, keepdim=True)
    return {layer: weights.to(z) @ z for layer, z in source.z.items()}


def _of_another(target: Placed, source: Bank, at: np.ndarray, seed: int) -> np.ndarray:
    """Return for each target token the bank's token at its position in one other question's prompt;
    of its options' tokens there, any.
    """
    rng = np.random.default_rng(seed)
    theirs, block = np.array(source.placed.pack.question_ids), source.placed.pack.block.numpy()
    of_target, found = target.pack.block.numpy()[at], np.empty(len(at), dtype=int)
    for number in np.unique(of_target):  # -1 is the prefix, which the questions share
        own = "" if number < 0 else target.pack.question_ids[number]
        others = np.flatnonzero(theirs != own)
        if not len(others):
            raise UserError(
                "Resampling takes another question's values, and there is none; draw on two "
                "questions or more."
            )
        among, here = np.isin(block, (-1, rng.choice(others))), of_target == number
        options = matches(target, source, at[here], among)
        found[here] = [rng.choice(tokens) for tokens in options]
    return found


# Ablation ----------------------------------------------------------------------------------------


def ablate_at(
    model: Model,
    asked: Sequence[Question],
    conditions: Sequence[str],
    framing: Framing,
    sets: Sequence[Heads],
    *,
    replacement: str = "zero",
    tokens: str = "genuine",
    drawn_from: Sequence[Question] = (),
    places: Sequence[str] = (*PLACES, EVERYWHERE),
    names: Sequence[str] = NAMES,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict[str, Effects]]:
    """Return {place: {condition: effects}} of replacing sets of heads at the tokens of one place
    alone; a place that a condition's prompts lack is left out there.

    `replacement` is "zero", or "mean" or "resample" of the prompts of the condition `tokens` of the
    questions `drawn_from` (those asked without them), at the same positions. Raises UserError for
    heads, places and replacements that do not exist.
    """
    _check(model, replacement, places)
    layers = sorted({layer for heads in sets for layer, _ in heads})
    source = None
    if replacement != "zero":
        source = bank(model, drawn_from or asked, tokens, framing, layers)
    found: dict[str, dict[str, Effects]] = {}
    for condition in conditions:
        target = placed(model, asked, condition, framing)
        for place in places:
            at = at_place(target, place)
            if not len(at):
                continue
            value = stand_ins(target, source, at, replacement, seed) if source else None
            found.setdefault(place, {})[condition] = _replaced(
                model, target.pack, sets, at, value, names, progress, f"{place} {condition}"
            )
    return found


def compare(
    model: Model,
    asked: Sequence[Question],
    conditions: Sequence[str],
    framing: Framing,
    sets: Sequence[Heads],
    drawn_from: Sequence[Question],
    *,
    tokens: Sequence[str] = ("genuine", "sandbag"),
    names: Sequence[str] = NAMES,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, dict[str, Effects]]:
    """Return {replacement: {condition: effects}} of sets of heads, all at the same tokens: "zero",
    and "mean genuine", "resample genuine" and so on by the token set.
    """
    ways = [("zero", "")] + [(way, of) for way in ("mean", "resample") for of in tokens]
    return {
        f"{way} {of}".strip(): ablate_at(
            model,
            asked,
            conditions,
            framing,
            sets,
            replacement=way,
            tokens=of,
            drawn_from=drawn_from,
            places=[EVERYWHERE],
            names=names,
            seed=seed,
            progress=progress,
        )[EVERYWHERE]
        for way, of in ways
    }


def at_place(target: Placed, place: str) -> np.ndarray:
    """Return the indices of a place's tokens in the pack, [token]."""
    return np.flatnonzero(target.place != SINK if place == EVERYWHERE else target.place == place)


def _check(model: Model, replacement: str, places: Sequence[str]) -> None:
    if replacement not in ("zero", "mean", "resample"):
        raise UserError(f"Unknown replacement {replacement!r}; choose zero, mean or resample.")
    unknown = [place for place in places if place not in (*PLACES, EVERYWHERE)]
    if unknown:
        raise UserError(
            f"Unknown place {unknown[0]!r}; there are {', '.join((*PLACES, EVERYWHERE))}."
        )
    if model.remote:
        raise UserError("Heads are cut at a place on this machine alone; load without remote=True.")


def _reached(pack: Pack, at: np.ndarray) -> Tensor | None:
    """Return the tokens that an edit at `at` can reach, or None for all."""
    if (pack.block[at] < 0).any():
        return None
    behind_last = pack.from_last()
    inside = torch.isin(torch.as_tensor(at), behind_last).all()
    return behind_last if inside else pack.behind_prefix()


def _replaced(
    model: Model,
    pack: Pack,
    sets: Sequence[Heads],
    at: np.ndarray,
    value: Mapping[int, Tensor] | None,
    names: Sequence[str],
    progress: Progress | None,
    label: str,
) -> Effects:
    """Return the effects of giving sets of heads a value {layer: z [token of `at`, head*d_head]} at
    some tokens of a pack; zero for None.
    """
    rows = _reached(pack, at)
    inside = torch.as_tensor(at)
    if rows is not None:
        inside = torch.searchsorted(rows, inside)

    def edits_of(batch: list[Heads]) -> dict[HookPoint, Edit]:
        return {
            HookPoint("z", layer): _put(
                [[interventions.head_columns(model, h) for at_, h in heads if at_ == layer]
                 for heads in batch],
                inside.to(model.device),
                None if value is None else value[layer],
            )
            for layer in sorted({layer for heads in batch for layer, _ in heads})
        }  # fmt: skip

    return sweep.run_sets(
        model, pack, sets, edits_of, names=names, only=rows, progress=progress, label=label
    )


def _put(by_row: Sequence[Sequence[slice]], at: Tensor, value: Tensor | None) -> Edit:
    """Return the edit that gives row i, at its columns and the tokens `at`, a value [token of `at`,
    head*d_head], or zero.
    """

    def edit(z: Tensor) -> Tensor:
        z = z.clone()
        for row, heads in enumerate(by_row):
            for columns in heads:
                z[row, at, columns] = 0 if value is None else value[:, columns].to(z)
        return z

    return edit
