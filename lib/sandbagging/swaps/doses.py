"""Dose and response: a direction at several strengths, on sandbag and on genuine prompts, scored
and answered freely; and the free answers under E6.

`collected` and `trained` are as in `cells`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.files import Folder
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.saes import tags as by_tag
from sandbagging.swaps import deltas, interventions, outcomes, writing
from sandbagging.swaps.cells import given
from sandbagging.swaps.interventions import Key
from sandbagging.swaps.sites import Site

MOST_STRENGTH = 2.0
STRENGTHS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
CONDITIONS = ("sandbag", "genuine")


class Answered(NamedTuple):
    """What edits at the last prompt token do to scores, and what the model then writes."""

    effects: pd.DataFrame  # by question, see `outcomes.effects_at`
    answers: pd.DataFrame  # see `writing.write_each`


def check_strengths(strengths: Sequence[float]) -> list[float]:
    """Return the strengths in order, 0 (nothing done) among them; raises UserError for any that is
    no number from -2 to 2.
    """
    wrong = [
        s
        for s in strengths
        if isinstance(s, bool) or not isinstance(s, int | float) or not abs(s) <= MOST_STRENGTH
    ]
    if wrong or not len(strengths):
        raise UserError(
            f"A strength is a number from {-MOST_STRENGTH:g} to {MOST_STRENGTH:g}, and "
            f"{wrong[0] if wrong else 'none'!r} was given; at 1 a direction is as long as the "
            "difference between the conditions."
        )
    return sorted({float(s) for s in strengths} | {0.0})


def dose_response(
    model: Model,
    asked: Sequence[Question],
    framing: str,
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    strengths: Sequence[float] = STRENGTHS,
    conditions: Sequence[str] = CONDITIONS,
    progress: Progress | None = None,
) -> Answered:
    """Return what x + strength * direction does at the last prompt token, for the difference of
    means of each layer of `tags` and for each tag's D(m_G) - D(m_S).

    Both tables have the column strength in place of seed and error_term; interventions are called
    diff_means and latents. Directions point from sandbag to genuine and come from train questions.
    Raises UserError for strengths outside -2 to 2 before anything is run.
    """
    steps = check_strengths(strengths)
    by_layer = by_tag.load_tags(trained, tags, model)
    stored, parts, done = given(model, collected, [*by_layer]), [], 0
    for condition in conditions:
        for place in outcomes.find_places(model, asked, condition, framing, [*by_layer]):
            train = stored.train(place.layer)
            along = {("diff_means", ""): train.genuine.mean(0) - train.sandbag.mean(0)}
            for tag, sae in by_layer[place.layer].items():
                along["latents", tag] = deltas.delta(sae, train)
            desk = writing.prepare(model, asked, condition, framing, place.layer)
            for (name, tag), direction in along.items():
                new = {(name, "", i): place.x + s * direction for i, s in enumerate(steps)}
                parts.append(_both(model, place, desk, condition, framing, new, tag))
            done += 1
            if progress:
                progress("dose and response", done, len(conditions) * len(by_layer))
    return Answered(*(_with_strength(_stacked(parts, name), steps) for name in Answered._fields))


def swap_answers(
    model: Model,
    asked: Sequence[Question],
    framing: str,
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    conditions: Sequence[str] = CONDITIONS,
    progress: Progress | None = None,
) -> Answered:
    """Return scores and free answers under E6 and E4 (error kept) of every tag, and under nothing
    ("none"), on prompts of each condition.
    """
    by_layer = by_tag.load_tags(trained, tags, model)
    stored, parts, done = given(model, collected, [*by_layer]), [], 0
    for condition in conditions:
        for place in outcomes.find_places(model, asked, condition, framing, [*by_layer]):
            train = stored.train(place.layer)
            desk = writing.prepare(model, asked, condition, framing, place.layer)
            for tag, sae in by_layer[place.layer].items():
                swapped = interventions.e6_and_e4(place.x, sae, train)
                new = {(name, "kept", 0): swapped[name, "kept", 0] for name in ("E6", "E4")}
                new = {("none", "", 0): place.x, **new}
                parts.append(_both(model, place, desk, condition, framing, new, tag))
                done += 1
                if progress:
                    progress("answers under E6", done, len(conditions) * len(tags))
    return Answered(*(_stacked(parts, name) for name in Answered._fields))


def _both(
    model: Model,
    place: Site,
    desk: writing.Desk,
    condition: str,
    framing: str,
    new: dict[Key, Tensor],
    tag: str,
) -> Answered:
    effects = outcomes.effects_at(model, place, condition, new, tag=tag)
    # The desk ran the same prompts without options, and its x may differ in rounding: the change is
    # what is carried over, so that no change is none there, too.
    there = {key: desk.x + (x - place.x) for key, x in new.items()}
    return Answered(effects, writing.write_each(desk, condition, framing, there, tag))


def _stacked(parts: Sequence[Answered], name: str) -> pd.DataFrame:
    return pd.concat([getattr(part, name) for part in parts], ignore_index=True)


def _with_strength(table: pd.DataFrame, steps: Sequence[float]) -> pd.DataFrame:
    strength = np.asarray(steps)[table["seed"].to_numpy()]
    table = table.drop(columns=["seed", "error_term"])
    table.insert(table.columns.get_loc("intervention") + 1, "strength", strength)
    return table
