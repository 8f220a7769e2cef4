"""All that a verdict on swaps needs, measured on log-odds and p_full: one table for all cells.

`measure_cells` runs E6, E4, E1, the directions of one length, identity, noise and the rivals that
need no SAE. `measure_untrained` runs E6 through SAEs that learned nothing of the kind, beside
them. `collected` holds the activations of notebook 01 with their table of rows, `trained` the SAEs
of notebook 02, a folder a tag.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations, files
from sandbagging.errors import UserError
from sandbagging.files import Folder
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.saes import frozen
from sandbagging.saes import tags as by_tag
from sandbagging.saes.recipes import parse_tag
from sandbagging.swaps import deltas, fits, guards, interventions, medians, outcomes
from sandbagging.swaps.sites import Site, same_rows

if TYPE_CHECKING:
    from sae_lens import SAE


class Cells(NamedTuple):
    """What swaps do at the last prompt token, and what must be seen beside it."""

    effects: pd.DataFrame  # by question, see `outcomes.effects_at`
    guards: pd.DataFrame  # layer, tag, position and the fields of Guards
    fits: pd.DataFrame  # how well each SAE rebuilds what is edited, see `fits.errors_at`
    drift: pd.DataFrame  # layer, share: how far x lies from what was stored, of max |x|


class Swapped(NamedTuple):
    """The part of `Cells` that one SAE has."""

    effects: pd.DataFrame
    guards: pd.DataFrame
    fits: pd.DataFrame


class Untrained(NamedTuple):
    """What E6 does through SAEs that learned nothing of the kind."""

    effects: pd.DataFrame  # by question, see `outcomes.effects_at`
    quality: pd.DataFrame  # see `frozen.quality_of`, with layer and tag


class Given(NamedTuple):
    """Stored activations by layer, and their table of rows."""

    table: pd.DataFrame
    resid: dict[int, Tensor]

    def train(self, layer: int) -> medians.TrainCodes:
        """Return the last tokens of the train prompts at one layer."""
        return medians.train_codes(self.resid[layer], self.table, "last")

    def test(self, condition: str, place: Site) -> Tensor:
        """Return a condition's stored last tokens of the place's questions, [question d_model]."""
        return same_rows(self.resid[place.layer], self.table, condition, place)


def given(model: Model, collected: Folder, layers: Sequence[int]) -> Given:
    """Return what notebook 01 stored of some layers, on the model's device."""
    resid = {layer: activations.load(collected, layer).to(model.device) for layer in layers}
    return Given(files.read_csv(collected / "tokens.csv.gz"), resid)


def measure_cells(
    model: Model,
    asked: Sequence[Question],
    framing: str,
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    e1_seeds: int = 20,
    noise_seeds: int = 8,
    balanced: bool = True,
    progress: Progress | None = None,
) -> Cells:
    """Return the effects of every swap and rival on sandbag prompts of the questions `asked`.

    Raises UserError for fewer than 10 questions, and for fewer than 2 seeds of E1 or of noise,
    which has to be an interval.
    """
    if min(e1_seeds, noise_seeds) < 2:
        raise UserError(
            "E1 and noise are told as intervals over their seeds; set e1_seeds and noise_seeds to "
            "2 or more."
        )
    by_layer = by_tag.load_tags(trained, tags, model)
    stored, parts, rivals, drift = given(model, collected, [*by_layer]), [], [], []
    for place in outcomes.find_places(model, asked, "sandbag", framing, [*by_layer]):
        train, genuine = stored.train(place.layer), stored.test("genuine", place)
        rivals.append(rivals_at(model, place, train, genuine, noise_seeds, balanced))
        for tag, sae in by_layer[place.layer].items():
            seeds = (e1_seeds, noise_seeds)
            parts.append(swaps_at(model, place, tag, sae, train, genuine, *seeds, balanced))
            if progress:
                progress("swaps", len(parts), len(tags))
        apart = (place.x - stored.test("sandbag", place)).abs().max() / place.x.abs().max()
        drift.append({"layer": place.layer, "share": float(apart)})
    tables = [pd.concat(table, ignore_index=True) for table in zip(*parts, strict=True)]
    effects = pd.concat([tables[0], *rivals], ignore_index=True)
    return Cells(effects, *tables[1:], pd.DataFrame(drift))


def rivals_at(
    model: Model,
    place: Site,
    train: medians.TrainCodes,
    genuine: Tensor,
    seeds: int = 8,
    balanced: bool = True,
) -> pd.DataFrame:
    """Return the effects of the rivals that need no SAE at one place, the oracle (the genuine x of
    the same questions, [question d_model]) among them.
    """
    new = interventions.without_sae(
        place.x, train, oracle=genuine, seeds=range(seeds), balanced=balanced
    )
    return outcomes.effects_at(model, place, "sandbag", new)


def swaps_at(
    model: Model,
    place: Site,
    tag: str,
    sae: "SAE",
    train: medians.TrainCodes,
    genuine: Tensor,
    e1_seeds: int = 20,
    noise_seeds: int = 8,
    balanced: bool = True,
) -> Swapped:
    """Return what every swap through one SAE does at one place, and its guards."""
    few = range(noise_seeds)
    new = interventions.e6_and_e4(place.x, sae, train)
    new |= interventions.noise(place.x, new["E6", "kept", 0], few)
    new |= interventions.e1(place.x, sae, train, range(e1_seeds), balanced)
    new |= deltas.of_equal_norm(place.x, sae, train, few, balanced)
    found = guards.measure_guards(place.x, sae, *medians.median_codes(sae, train))
    x = {"genuine": genuine, "sandbag": place.x}
    return Swapped(
        outcomes.effects_at(model, place, "sandbag", new, tag=tag),
        guards.guard_table({(place.layer, tag, place.position): found}),
        fits.errors_at(x, place.pack.question_ids, sae, place.layer, tag),
    )


def measure_untrained(
    model: Model,
    asked: Sequence[Question],
    framing: str,
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    progress: Progress | None = None,
) -> Untrained:
    """Return what E6 (error kept) does on sandbag prompts through three untrained SAEs per tag, of
    its shape, data and L0 (`frozen.train_frozen`).

    Interventions are called E6_frozen_decoder, E6_near_decoder and E6_frozen_encoder.
    """
    by_layer = by_tag.load_tags(trained, tags, model)
    stored, effects, quality, done = given(model, collected, [*by_layer]), [], [], 0
    for place in outcomes.find_places(model, asked, "sandbag", framing, [*by_layer]):
        train, resid = stored.train(place.layer), stored.resid[place.layer]
        for tag, sae in by_layer[place.layer].items():
            tokens, scale = frozen.tokens_of(sae, tag, resid, stored.table)
            recipe = frozen.recipe_like(sae, tokens, scale)
            new = {}
            for kind, other in frozen.train_frozen(recipe, tokens, scale).items():
                swapped = interventions.e6_and_e4(place.x, other.sae, train)
                new[f"E6_{kind}", "kept", 0] = swapped["E6", "kept", 0]
                told = frozen.quality_of(other, tokens / scale, place.x)
                quality.append({"layer": place.layer, "tag": tag, "kind": kind, **told})
            effects.append(outcomes.effects_at(model, place, "sandbag", new, tag=tag))
            done += 1
            if progress:
                progress("untrained SAEs", done, len(tags))
    return Untrained(pd.concat(effects, ignore_index=True), pd.DataFrame(quality))


@torch.no_grad()
def all_token_medians(
    model: Model, collected: Folder, trained: Folder, tags: Sequence[str]
) -> pd.DataFrame:
    """Return how many entries of the median codes over all question tokens are not zero: layer,
    tag, nnz_genuine, nnz_sandbag.
    """
    layers = list(dict.fromkeys(parse_tag(tag).layer for tag in tags))
    stored, rows = given(model, collected, layers), []
    for layer, of_layer in by_tag.load_tags(trained, tags, model).items():
        train = medians.train_codes(stored.resid[layer], stored.table, "all")
        for tag, sae in of_layer.items():
            genuine, sandbag = (int((m != 0).sum()) for m in medians.median_codes(sae, train))
            rows.append(
                {"layer": layer, "tag": tag, "nnz_genuine": genuine, "nnz_sandbag": sandbag}
            )
    return pd.DataFrame(rows)
