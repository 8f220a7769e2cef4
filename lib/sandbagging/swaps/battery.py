"""The battery of swaps from stored activations and SAEs: E6, E4, their rivals, E1's shuffles.

Each function measures and returns tables of effects by question; what they say is told elsewhere.
`collected` holds the activations of notebook 01 with their table of rows, `trained` the SAEs of
notebook 02, a folder a tag.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from sandbagging import activations, files
from sandbagging.files import Folder
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.saes import tags as by_tag
from sandbagging.swaps import guards, interventions, medians
from sandbagging.swaps.medians import TrainCodes
from sandbagging.swaps.sites import Site, effects_at, find_sites, same_rows

if TYPE_CHECKING:
    from sae_lens import SAE

FEW = 8  # shuffles of E1's other forms
CODES = ("average", "lower", "mean")  # what stands for a set of codes


class Swaps(NamedTuple):
    """What swaps do, and what must be seen beside it."""

    effects: pd.DataFrame  # by question, see `sites.effects_at`
    guards: pd.DataFrame  # layer, tag, position and the fields of Guards
    drift: pd.DataFrame  # layer, position, share: how far x lies from what was stored, of max |x|


class Shuffles(NamedTuple):
    """What E1 does under shuffled labels, and under the true ones."""

    effects: pd.DataFrame  # by question, see `sites.effects_at`
    true_labels: pd.DataFrame  # E1 of the first SAE at the last token, which then is E6


class _Given(NamedTuple):
    """What all parts of the battery start from."""

    table: pd.DataFrame
    resid: dict[int, Tensor]
    saes: "dict[int, dict[str, SAE]]"

    def train(self, site: Site) -> TrainCodes:
        return medians.train_codes(self.resid[site.layer], self.table, site.position)


def _given(model: Model, collected: Folder, trained: Folder, tags: Sequence[str]) -> _Given:
    saes = by_tag.load_tags(trained, tags, model)
    resid = {layer: activations.load(collected, layer).to(model.device) for layer in saes}
    return _Given(files.read_csv(collected / "tokens.csv.gz"), resid, saes)


def swaps(
    model: Model,
    asked: Sequence[Question],
    framing: str,
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    positions: Sequence[str] = ("last",),
    noise_seeds: int = 5,
    balanced: bool = True,
    progress: Progress | None = None,
) -> Swaps:
    """Return what E6, E4, their delta forms, identity, noise and the rivals without an SAE do.

    Effects are those on sandbag prompts of the questions `asked`, a seed each for noise and for
    shuffled differences of means: noise_seeds of them at the last token, at most 2 (and no shuffled
    ones) at all tokens. Raises UserError for fewer than 10 questions.
    """
    given = _given(model, collected, trained, tags)
    places = find_sites(model, asked, framing, list(given.saes), positions)
    tables, measured = [], {}
    for site in places:
        train = given.train(site)
        seeds = range(noise_seeds if site.position == "last" else min(2, noise_seeds))
        for tag, sae in given.saes[site.layer].items():
            codes = medians.median_codes(sae, train)
            cell = site.layer, tag, site.position
            measured[cell] = guards.measure_guards(site.x, sae, *codes)
            new = interventions.e6_and_e4(site.x, sae, train)
            new |= interventions.noise(site.x, new["E6", "kept", 0], seeds)
            tables.append(effects_at(model, site, new, tag=tag, progress=progress))
    for site in places:
        seeds = range(noise_seeds if site.position == "last" else 0)
        # None where prompts of the two conditions differ in length
        genuine = same_rows(given.resid[site.layer], given.table, "genuine", site)
        train = given.train(site)
        new = interventions.without_sae(
            site.x, train, oracle=genuine, seeds=seeds, balanced=balanced
        )
        tables.append(effects_at(model, site, new, progress=progress))
    drift = pd.DataFrame([_drift(given, site) for site in places])
    return Swaps(pd.concat(tables, ignore_index=True), guards.guard_table(measured), drift)


def _drift(given: _Given, site: Site) -> dict:
    stored = same_rows(given.resid[site.layer], given.table, "sandbag", site)
    share = float("nan") if stored is None else float((site.x - stored).abs().max())
    share /= float(site.x.abs().max())
    return {"layer": site.layer, "position": site.position, "share": share}


def shuffles(
    model: Model,
    asked: Sequence[Question],
    framing: str,
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    positions: Sequence[str] = ("last",),
    n_shuffles: int = 20,
    balanced: bool = True,
    degenerate: Collection[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> Shuffles:
    """Return what E1 does, a seed each, and at the last token its other forms.

    A cell (tag, position) that is `degenerate` gets one shuffle: all of them are the same there.
    The other forms are those of the SAEs of mixed prompts, where there are any.
    """
    given = _given(model, collected, trained, tags)
    degenerate = {tuple(cell) for cell in degenerate}
    places = find_sites(model, asked, framing, list(given.saes), positions)
    tables = []
    for site in places:
        for tag, sae in given.saes[site.layer].items():
            seeds = range(1 if (tag, site.position) in degenerate else n_shuffles)
            new = interventions.e1(site.x, sae, given.train(site), seeds, balanced)
            tables.append(effects_at(model, site, new, tag=tag, progress=progress))
    at_last = [site for site in places if site.position == "last"]
    for site in at_last:
        of_layer, train = given.saes[site.layer], given.train(site)
        mixed = {tag: sae for tag, sae in of_layer.items() if tag.endswith("_mixed")}
        for tag, sae in (mixed or of_layer).items():
            few = range(min(FEW, n_shuffles))
            new = interventions.e1_variants(site.x, sae, train, few, balanced)
            if balanced:
                seeds = range(n_shuffles)
                new |= interventions.e1(site.x, sae, train, seeds, balanced=False, name="E1_plain")
            tables.append(effects_at(model, site, new, tag=tag, progress=progress))
    true = [_under_true_labels(model, given, site) for site in at_last[:1]]
    return Shuffles(pd.concat(tables, ignore_index=True), pd.concat(true) if true else _no_rows())


def _under_true_labels(model: Model, given: _Given, site: Site) -> pd.DataFrame:
    """Return the effects of E1 whose labels are the true ones, for a layer's first SAE."""
    tag, sae = next(iter(given.saes[site.layer].items()))
    train = given.train(site)
    n_genuine = len(pd.unique(train.genuine_prompt))
    n_sandbag = len(pd.unique(train.sandbag_prompt))
    labels = np.arange(n_genuine + n_sandbag) < n_genuine
    new = {("E6", "kept", 0): interventions.e1_with_labels(site.x, sae, train, labels)}
    return effects_at(model, site, new, tag=tag)


def _no_rows() -> pd.DataFrame:
    return pd.DataFrame(columns=["question_id", "tag", "position", "value", "baseline"])


def shuffle_places(
    model: Model,
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    n_shuffles: int = 100,
) -> pd.DataFrame:
    """Return where shuffles' codes decode to at the last token, between E4's place and E6's.

    Columns: tag, shuffle (balanced, plain), code (average, lower, mean), seed, share, place, see
    `medians.shuffle_places`. Balanced shuffles need an even number of prompts of each condition.
    """
    given = _given(model, collected, trained, tags)
    tables = []
    for layer, of_layer in given.saes.items():
        train = medians.train_codes(given.resid[layer], given.table, "last")
        even = (len(train.genuine) + len(train.sandbag)) % 4 == 0
        kinds = {"balanced": True, "plain": False} if even else {"plain": False}
        for (tag, sae), (kind, balanced), code in itertools.product(
            of_layer.items(), kinds.items(), CODES
        ):
            seeds = range(n_shuffles)
            places = medians.shuffle_places(sae, train, seeds, balanced, code)
            tables.append(places.assign(tag=tag, shuffle=kind, code=code))
    names = ["tag", "shuffle", "code", "seed", "share", "place"]
    return pd.concat(tables, ignore_index=True)[names]
