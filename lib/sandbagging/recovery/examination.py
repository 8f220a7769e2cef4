"""What the suite's instruments measure on organisms of which the truth is known; nothing is judged
here.

1. Scores of all conditions and free answers, for the gate.
2. The sweep over all heads, and the planted writers together.
3. E6, E4, E1 and noise with an SAE per layer, and rivals without one: before u is written, where it
   acts, after it was read.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations, generation, metrics, models, prompts, questions, saes
from sandbagging.heads import interventions as of_heads
from sandbagging.heads import sweep
from sandbagging.heads.head import Head
from sandbagging.heads.sweep import Effects
from sandbagging.planted import base as organism_base
from sandbagging.planted import planting
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.swaps import interventions, medians, sites
from sandbagging.swaps.guards import guard_table, measure_guards

if TYPE_CHECKING:
    from sae_lens import SAE

FRAMING = "instr_pref"
# before u is written, where it acts, after it was read
LAYERS = (0, organism_base.ACTS, organism_base.N_LAYERS - 1)
# Settings of the SAEs: small, and the same for all layers. A few hundred tokens need no 300 epochs.
SETTINGS = {"expansion": 4, "steps": 500, "lr": 1e-3}
KINDS = ("topk_k16",)
E1_SEEDS, NOISE_SEEDS = 20, 4


class Organism(NamedTuple):
    """An organism ready to be examined."""

    model: models.Model
    truth: dict[str, Any]
    train: list[Question]
    test: list[Question]


class Examined(NamedTuple):
    """What the instruments measure on one organism."""

    variant: str
    seed: int
    truth: dict[str, Any]
    asked: list[Question]  # the test questions
    scores: pd.DataFrame  # of these under the main conditions, see `metrics.score`
    answers: pd.DataFrame  # written by itself to genuine, sandbag and neutral prompts of these
    singles: Effects  # of every head, on sandbag prompts of the train questions
    joint: Effects | None  # of the planted writers together, on those of the test questions
    swaps: pd.DataFrame  # with an SAE, see `sites.effects_at`
    rivals: pd.DataFrame  # without one; u swaps the component along u for the genuine one
    guards: pd.DataFrame  # see `guard_table`


def load(variant: str, seed: int = 0, progress: Progress | None = None) -> Organism:
    """Return an organism, made if it is not in the cache."""
    folder = planting.ensure(variant, seed, progress)
    asked = (questions.load(folder / f"questions_{split}.jsonl") for split in ("train", "test"))
    return Organism(models.load(str(folder), device="cpu"), planting.truth(folder), *asked)


def without_writers(
    seed: int = 0, framing: str = FRAMING, progress: Progress | None = None
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the truth of the organism `heads`, and p_full on sandbag prompts of its test
    questions: columns question_id, heads, without (its writers' weights zeroed), null.
    """
    planted, null = (load(variant, seed, progress) for variant in ("heads", "null"))
    writers = [Head(*head) for head in planted.truth["writers"]]

    def p_full(model: models.Model) -> pd.Series:
        scored = metrics.score(model, planted.test, "sandbag", framing)
        return scored.set_index("question_id")["p_full"]

    with of_heads.zeroed_weights(planted.model, writers):
        without = p_full(planted.model)
    whole = {"heads": p_full(planted.model), "without": without, "null": p_full(null.model)}
    return planted.truth, pd.DataFrame(whole).reset_index()


def examine(
    variant: str,
    seed: int = 0,
    layers: Sequence[int] = LAYERS,
    kinds: Sequence[str] = KINDS,
    framing: str = FRAMING,
    progress: Progress | None = None,
) -> Examined:
    """Return what the suite's instruments measure on one organism: nothing here knows where
    anything was planted, but for `joint` and the rival u.
    """
    organism = load(variant, seed, progress)
    model, truth = organism.model, organism.truth
    train, test = (
        metrics.prepare(model, asked, "sandbag", framing)
        for asked in (organism.train, organism.test)
    )
    names = [metrics.CARD, metrics.DECIDES]
    writers = tuple(sorted(Head(*head) for head in truth["writers"]))
    return Examined(
        variant,
        seed,
        truth,
        organism.test,
        scores(organism, framing),
        answers(organism, framing),
        sweep.ablate_sets(model, train, sweep.all_heads(model), names=names),
        sweep.ablate_sets(model, test, [writers], names=names) if writers else None,
        *_swaps(organism, layers, kinds, framing),
    )


def scores(organism: Organism, framing: str = FRAMING) -> pd.DataFrame:
    """Return `metrics.score` of the test questions under the main conditions, stacked."""
    return pd.concat(
        [metrics.score(organism.model, organism.test, c, framing) for c in prompts.MAIN],
        ignore_index=True,
    )


def answers(organism: Organism, framing: str = FRAMING) -> pd.DataFrame:
    """Return `generation.write` of the test questions under the conditions that the gate asks for,
    stacked.
    """
    conditions = ("genuine", "sandbag", "neutral")
    return pd.concat(
        [generation.write(organism.model, organism.test, c, framing) for c in conditions],
        ignore_index=True,
    )


def _swaps(
    organism: Organism, layers: Sequence[int], kinds: Sequence[str], framing: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the effects of swaps with an SAE and of rivals without one, and the guards; all at the
    last token.
    """
    model, asked = organism.model, {"train": organism.train, "test": organism.test}
    resid, tokens = activations.collect_all(
        model, asked, ("genuine", "sandbag", "neutral"), framing, layers
    )
    by_layer = _train_saes(organism, resid, tokens, layers, kinds)
    u = torch.tensor(organism.truth["u"], dtype=torch.float32)
    with_sae, without, guards = [], [], {}
    for site in sites.find_sites(model, organism.test, framing, layers):
        train = medians.train_codes(resid[site.layer], tokens)
        genuine = sites.same_rows(resid[site.layer], tokens, "genuine", site)
        new = interventions.without_sae(site.x, train, oracle=genuine, seeds=[])
        new["u", "", 0] = site.x + ((genuine - site.x) @ u)[:, None] * u
        without.append(sites.effects_at(model, site, new))
        for tag, sae in by_layer[site.layer].items():
            new = interventions.e6_and_e4(site.x, sae, train)
            new |= interventions.e1(site.x, sae, train, range(E1_SEEDS))
            new |= interventions.noise(site.x, new["E6", "kept", 0], range(NOISE_SEEDS))
            with_sae.append(sites.effects_at(model, site, new, tag=tag))
            guards[site.layer, tag, site.position] = measure_guards(
                site.x, sae, *medians.median_codes(sae, train)
            )
    tables = (pd.concat(parts, ignore_index=True) for parts in (with_sae, without))
    return *tables, guard_table(guards)


def _train_saes(
    organism: Organism,
    resid: dict[int, Tensor],
    tokens: pd.DataFrame,
    layers: Sequence[int],
    kinds: Sequence[str],
) -> dict[int, dict[str, "SAE"]]:
    """Return {layer: {tag: SAE}} of SAEs trained on mixed prompts: genuine, sandbag and neutral."""
    tags = [f"v4_organism_{kind}_L{layer}_mixed" for layer in layers for kind in kinds]
    recipes = saes.recipes("organism", organism.model.d_model, layers, tags, **SETTINGS)
    rows = saes.select_tokens(tokens, "mixed")
    scale = {layer: saes.input_scale(resid[layer][rows]) for layer in layers}
    source = saes.Source(resid, tokens, scale, "organism", "questions_train.jsonl")
    with tempfile.TemporaryDirectory() as folder:
        trained = saes.train_tags(recipes, source, Path(folder))
    found: dict[int, dict[str, SAE]] = {}
    for recipe, one in zip(recipes, trained, strict=True):
        found.setdefault(recipe.layer, {})[saes.tag(recipe)] = one.sae
    return found
