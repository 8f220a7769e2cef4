"""What separates two conditions at the last prompt token, measured from what 01 and 02 stored.

`collected` is the folder of what notebook 01 wrote (a file a layer, and tokens.csv.gz), `trained`
that of notebook 02 (a SAELens folder a tag). A pair is two conditions of the same questions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from sandbagging import activations, files, statistics
from sandbagging.files import Folder
from sandbagging.progress import Progress
from sandbagging.saes import folders, tokens
from sandbagging.saes.recipes import parse_tag

SPLITS = ("train", "test")

Pairs = Sequence[tuple[str, str]]
Codes = dict[str, np.ndarray]  # condition -> [prompt latent], questions in one order


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


def _layers(tags: Sequence[str]) -> list[int]:
    """Return the layers of some SAEs, each once, in order of their first tag."""
    return list(dict.fromkeys(parse_tag(tag).layer for tag in tags))


def _conditions(pairs: Pairs) -> list[str]:
    return list(dict.fromkeys(condition for pair in pairs for condition in pair))
