"""What separates two conditions at the last prompt token, measured from what 01 and 02 stored.

`collected` is the folder of what notebook 01 wrote (a file a layer, and tokens.csv.gz), `trained`
that of notebook 02 (a SAELens folder a tag). A pair is two conditions of the same questions.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from sandbagging import activations, files, statistics
from sandbagging.files import Folder
from sandbagging.progress import Progress
from sandbagging.saes import folders, probing, tokens
from sandbagging.saes.recipes import parse_tag
from sandbagging.statistics import Estimate

SPLITS = ("train", "test")

Pairs = Sequence[tuple[str, str]]
Codes = dict[str, np.ndarray]  # condition -> [prompt latent], questions in one order


class Chosen(NamedTuple):
    """The latent of one SAE that separates the first pair best on train questions."""

    latent: int
    d_train: float  # its d_z there
    on_test: dict[str, Estimate]  # pair -> its d_z on test questions


def last_codes(
    collected: Folder, trained: Folder, tag: str, conditions: Sequence[str], split: str = "test"
) -> Codes:
    """Return one SAE's codes at the last prompt token, {condition: [prompt latent]}."""
    layer = parse_tag(tag).layer
    x = _last_tokens(collected, [layer], conditions)[split][layer]
    sae = folders.load(trained / tag)
    return {condition: sae.encode(value).numpy() for condition, value in x.items()}


def separation(
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    pairs: Pairs,
    *,
    n_flips: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return `statistics.separation_table` of every SAE on test questions, with its tag and layer.

    Behind them, under the tags diff_means_L..., stands the difference of means over train prompts:
    one direction of the residual stream, so that nothing competes with it (s0 = 0).
    """
    x = _last_tokens(collected, _layers(tags), _conditions(pairs))
    tables = []
    for done, tag in enumerate(tags):
        layer = parse_tag(tag).layer
        codes = _codes(folders.load(trained / tag), x["test"][layer])
        table = statistics.separation_table(codes, pairs, n_flips=n_flips, seed=seed)
        tables.append(table.assign(tag=tag, layer=layer))
        if progress:
            progress("separation by latents", done + 1, len(tags))
    for layer in _layers(tags):
        for pair in pairs:
            along = tokens.along_mean_difference(x["train"][layer], x["test"][layer], pair)
            table = statistics.separation_table(along, [pair], n_flips=n_flips, seed=seed, s0=0.0)
            tables.append(table.assign(tag=f"diff_means_L{layer}", layer=layer))
    return pd.concat(tables, ignore_index=True)


def chosen_latents(
    collected: Folder, trained: Folder, tags: Sequence[str], pairs: Pairs, seed: int = 0
) -> dict[str, Chosen]:
    """Return each SAE's best latent on the first pair of train prompts, and its d_z on test."""
    x = _last_tokens(collected, _layers(tags), _conditions(pairs))
    found = {}
    for tag in tags:
        of_layer = {split: x[split][parse_tag(tag).layer] for split in SPLITS}
        sae = folders.load(trained / tag)
        train, test = (_codes(sae, of_layer[split]) for split in SPLITS)
        found[tag] = Chosen(*statistics.chosen_on_train(train, test, pairs, seed=seed))
    return found


def words_of_the_cue(
    collected: Folder, trained: Folder, latents: Mapping[str, int], prompts: Folder
) -> tuple[pd.DataFrame, int]:
    """Return what latents {tag: latent} say where genuine prompts hold a sandbag prompt's cue.

    The cue is its last words; prompts: the folder of prompts.jsonl. Columns: tag; sandbag and
    genuine (mean code at the last token of test prompts); words in genuine (mean code at the
    words); share (where the third lies between genuine, 0, and sandbag, 1; NaN where that is not
    defined). The second value counts these places.
    """
    x = _last_tokens(collected, _layers(latents), ("genuine", "sandbag"))["test"]
    table = files.read_csv(collected / "tokens.csv.gz")
    places = tokens.cue_rows(pd.read_json(prompts / "prompts.jsonl", lines=True), table)
    rows = []
    for tag, latent in latents.items():
        layer = parse_tag(tag).layer
        sae = folders.load(trained / tag)
        codes = _codes(sae, x[layer])
        at_words = sae.encode(activations.load(collected, layer)[places])[:, latent]
        means = {c: codes[c][:, latent].mean() for c in ("sandbag", "genuine")}
        rows.append({"tag": tag, **means, "words in genuine": at_words.mean().item()})
    found = pd.DataFrame(rows, columns=["tag", "sandbag", "genuine", "words in genuine"])
    way = found["sandbag"] - found["genuine"]
    share = (found["words in genuine"] - found["genuine"]) / way
    return found.assign(share=share.where(np.isfinite(share))), len(places)


def detectors(
    collected: Folder, trained: Folder, tags: Sequence[str], pairs: Pairs, seed: int = 0
) -> pd.DataFrame:
    """Return `probing.probing_table` of SAEs: fitted on train, judged on test questions."""
    x = _last_tokens(collected, _layers(tags), _conditions(pairs))
    codes: dict[str, dict[str, Codes]] = {split: {} for split in SPLITS}
    for tag in tags:
        sae = folders.load(trained / tag)
        for split in SPLITS:
            codes[split][tag] = _codes(sae, x[split][parse_tag(tag).layer])
    return probing.probing_table(codes["train"], codes["test"], list(pairs), seed=seed)


def _last_tokens(
    collected: Folder, layers: Sequence[int], conditions: Sequence[str]
) -> dict[str, dict[int, dict[str, Tensor]]]:
    """Return resid_post at the last token by split, layer and condition, [prompt d_model]."""
    table = files.read_csv(collected / "tokens.csv.gz")
    stored = {layer: activations.load(collected, layer) for layer in layers}
    return {
        split: {
            layer: tokens.last_tokens(value, table, split, conditions)
            for layer, value in stored.items()
        }
        for split in SPLITS
    }


def _codes(sae, x: Mapping[str, Tensor]) -> Codes:
    return {condition: sae.encode(value).numpy() for condition, value in x.items()}


def _layers(tags: Sequence[str] | Mapping[str, int]) -> list[int]:
    """Return the layers of some SAEs, each once, in order of their first tag."""
    return list(dict.fromkeys(parse_tag(tag).layer for tag in tags))


def _conditions(pairs: Pairs) -> list[str]:
    return list(dict.fromkeys(condition for pair in pairs for condition in pair))
