"""What the suite's instruments measure on models of which the truth is known; nothing is judged
here.

1. `scored`: scores of all conditions and free answers, for the gate.
2. `swept` and `zeroed`: every head alone on train questions, and sets of heads on test questions.
3. `swapped`: E6 and all its rivals with an SAE per layer: before u is written, where it acts, after
   it was read.

Each takes a model by its name, see `subjects.subject`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations, generation, metrics, models, prompts, saes
from sandbagging.heads import interventions as of_heads
from sandbagging.heads import sweep
from sandbagging.heads.head import Head, Heads
from sandbagging.heads.sweep import Effects
from sandbagging.planted import base as organism_base
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.recovery.subjects import FRAMING, Subject, load, subject
from sandbagging.saes import frozen
from sandbagging.swaps import cells, interventions, medians, outcomes
from sandbagging.swaps.sites import Site, same_rows

if TYPE_CHECKING:
    from sae_lens import SAE

# before u is written, where it acts, after it was read
LAYERS = (0, organism_base.ACTS, organism_base.N_LAYERS - 1)
# Settings of the SAEs: small, and the same for all layers. A few hundred tokens need no 300 epochs.
SETTINGS = {"expansion": 4, "steps": 500, "lr": 1e-3}
KINDS = ("topk_k16",)
NAMES = (metrics.DECIDES, metrics.CARD)  # the first decides, the second stands beside it
PAIR = ("genuine", "sandbag")
WRITTEN_FREELY = ("genuine", "sandbag", "neutral")  # what the gate asks for


class Scored(NamedTuple):
    """What the gate rests on."""

    asked: list[Question]  # the test questions
    scores: pd.DataFrame  # of these under every condition, see `metrics.score`
    answers: pd.DataFrame  # free ones to their prompts, see `generation.write`


class Swapped(NamedTuple):
    """What a verdict on swaps rests on."""

    effects: pd.DataFrame  # by question, see `outcomes.effects_at`; u swaps the part along u alone
    guards: pd.DataFrame  # see `guards.guard_table`


class Examined(NamedTuple):
    """What the instruments measure on one planted model."""

    variant: str
    seed: int
    truth: dict[str, Any]
    gate: Scored
    heads: dict[str, Effects]  # condition -> of every head, on train questions
    joint: dict[str, Effects]  # the same of the planted writers together, on test; empty without
    swaps: Swapped

    @property
    def name(self) -> str:
        """The model's name, see `subjects.subject`."""
        return f"organism-{self.variant}-{self.seed}"


def without_writers(
    seed: int = 0, framing: str = FRAMING, progress: Progress | None = None
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the truth of the organism `heads`, and p_full on sandbag prompts of its test
    questions: columns question_id, heads, without (its writers' weights zeroed), null.
    """
    planted, null = (load(variant, seed, progress=progress) for variant in ("heads", "null"))
    writers = _writers(planted)

    def p_full(model: models.Model) -> pd.Series:
        found = metrics.score(model, planted.test, "sandbag", framing)
        return found.set_index("question_id")["p_full"]

    with of_heads.zeroed_weights(planted.model, writers):
        without = p_full(planted.model)
    whole = {"heads": p_full(planted.model), "without": without, "null": p_full(null.model)}
    return planted.truth, pd.DataFrame(whole).reset_index()


def examine(variant: str, seed: int = 0, progress: Progress | None = None) -> Examined:
    """Return what the suite's instruments measure on one planted model: nothing here knows where
    anything was planted, but for `joint` and the rival u.
    """
    of = load(variant, seed, progress=progress)
    writers = _writers(of)
    return Examined(
        variant,
        seed,
        of.truth,
        _scored(of, prompts.MAIN, WRITTEN_FREELY),
        _swept(of, prompts.MAIN),
        _zeroed(of, [writers], PAIR) if writers else {},
        _swapped(of, LAYERS, KINDS, untrained=True),
    )


def scored(name: str, progress: Progress | None = None) -> Scored:
    """Return what the gate of a model rests on, and free answers to every placebo."""
    of = subject(name, progress)
    asked = conditions_of(of)
    return _scored(of, asked, asked, progress)


def swept(
    name: str, conditions: Sequence[str] = prompts.MAIN, progress: Progress | None = None
) -> dict[str, Effects]:
    """Return what zeroing each head of a model does to its train questions: {condition:
    effects}.
    """
    return _swept(subject(name, progress), conditions, progress)


def zeroed(
    name: str,
    sets: Sequence[Heads],
    conditions: Sequence[str] = PAIR,
    progress: Progress | None = None,
) -> dict[str, Effects]:
    """Return what zeroing sets of heads does to a model's test questions: {condition: effects}."""
    return _zeroed(subject(name, progress), sets, conditions, progress)


def swapped(
    name: str, layers: Sequence[int], untrained: bool = True, progress: Progress | None = None
) -> Swapped:
    """Return what a model's swaps through one SAE a layer do, all rivals and E6 through SAEs that
    learned nothing (`untrained`) among them.
    """
    return _swapped(subject(name, progress), layers, KINDS, untrained)


def conditions_of(of: Subject) -> tuple[str, ...]:
    """Return the conditions that a model knows: a planted one those that it was trained on."""
    planted = "variant" in of.truth
    return prompts.MAIN if planted else metrics.available_conditions(of.model, of.framing)


def _writers(of: Subject) -> Heads:
    return tuple(sorted(Head(*head) for head in of.truth["writers"]))


def _scored(
    of: Subject,
    conditions: Sequence[str],
    written: Sequence[str],
    progress: Progress | None = None,
) -> Scored:
    scores, texts, n = [], [], len(conditions) + len(written)
    for condition in conditions:
        scores.append(metrics.score(of.model, of.test, condition, of.framing))
        if progress:
            progress("scores and answers", len(scores), n)
    for condition in written:
        texts.append(generation.write(of.model, of.test, condition, of.framing))
        if progress:
            progress("scores and answers", len(scores) + len(texts), n)
    return Scored(of.test, *(pd.concat(part, ignore_index=True) for part in (scores, texts)))


def _swept(
    of: Subject, conditions: Sequence[str], progress: Progress | None = None
) -> dict[str, Effects]:
    every = sweep.all_heads(of.model)
    return sweep.sweep_conditions(
        of.model, of.train, conditions, of.framing, every, names=NAMES, progress=progress
    )


def _zeroed(
    of: Subject,
    sets: Sequence[Heads],
    conditions: Sequence[str],
    progress: Progress | None = None,
) -> dict[str, Effects]:
    return sweep.sweep_conditions(
        of.model, of.test, conditions, of.framing, sets, names=NAMES, label="sets",
        progress=progress,
    )  # fmt: skip


def _swapped(of: Subject, layers: Sequence[int], kinds: Sequence[str], untrained: bool) -> Swapped:
    """Return the effects of swaps with an SAE and of rivals without one, and the guards; all at the
    last token.
    """
    asked = {"train": of.train, "test": of.test}
    conditions = ("genuine", "sandbag", "neutral")
    resid, tokens = activations.collect_all(of.model, asked, conditions, of.framing, layers)
    by_layer = _train_saes(of, resid, tokens, layers, kinds)
    effects, guards = [], []
    for place in outcomes.find_places(of.model, of.test, "sandbag", of.framing, layers):
        train = medians.train_codes(resid[place.layer], tokens)
        genuine = same_rows(resid[place.layer], tokens, "genuine", place)
        effects.append(cells.rivals_at(of.model, place, train, genuine))
        if "u" in of.truth:
            effects.append(_along_u(of, place, genuine))
        for tag, sae in by_layer[place.layer].items():
            found = cells.swaps_at(of.model, place, tag, sae, train, genuine)
            effects.append(found.effects)
            guards.append(found.guards)
            if untrained:
                learned = frozen.tokens_of(sae, tag, resid[place.layer], tokens)
                effects.append(_untrained(of, place, tag, sae, train, *learned))
    return Swapped(*(pd.concat(part, ignore_index=True) for part in (effects, guards)))


def _along_u(of: Subject, place: Site, genuine: Tensor) -> pd.DataFrame:
    u = torch.tensor(of.truth["u"], dtype=torch.float32)
    new = {("u", "", 0): place.x + ((genuine - place.x) @ u)[:, None] * u}
    return outcomes.effects_at(of.model, place, "sandbag", new)


def _untrained(
    of: Subject,
    place: Site,
    tag: str,
    sae: "SAE",
    train: medians.TrainCodes,
    tokens: Tensor,
    scale: float,
) -> pd.DataFrame:
    """Return what E6 does through SAEs beside `sae` that learned nothing of the kind."""
    recipe = frozen.recipe_like(sae, tokens, scale)
    new = {}
    for kind, other in frozen.train_frozen(recipe, tokens, scale).items():
        swaps = interventions.e6_and_e4(place.x, other.sae, train)
        new[f"E6_{kind}", "kept", 0] = swaps["E6", "kept", 0]
    return outcomes.effects_at(of.model, place, "sandbag", new, tag=tag)


def _train_saes(
    of: Subject,
    resid: dict[int, Tensor],
    tokens: pd.DataFrame,
    layers: Sequence[int],
    kinds: Sequence[str],
) -> dict[int, dict[str, "SAE"]]:
    """Return {layer: {tag: SAE}} of SAEs trained on mixed prompts: genuine, sandbag and neutral."""
    tags = [f"v4_organism_{kind}_L{layer}_mixed" for layer in layers for kind in kinds]
    recipes = saes.recipes("organism", of.model.d_model, layers, tags, **SETTINGS)
    rows = saes.select_tokens(tokens, "mixed")
    scale = {layer: saes.input_scale(resid[layer][rows]) for layer in layers}
    source = saes.Source(resid, tokens, scale, "organism", "questions_train.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        trained = saes.train_tags(recipes, source, Path(folder))
    found: dict[int, dict[str, SAE]] = {}
    for recipe, one in zip(recipes, trained, strict=True):
        found.setdefault(recipe.layer, {})[saes.tag(recipe)] = one.sae
    return found
