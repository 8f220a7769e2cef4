"""Where the codes of many label shuffles decode to, between E4's place and E6's: no model is run.

`collected` and `trained` are as in `cells`.
"""

import itertools
from collections.abc import Sequence

import pandas as pd
import torch

from sandbagging.files import Folder
from sandbagging.models import Model
from sandbagging.saes import tags as by_tag
from sandbagging.saes.recipes import parse_tag
from sandbagging.swaps import medians
from sandbagging.swaps.cells import given

CODES = ("average", "lower", "mean")  # what stands for a set of codes


@torch.no_grad()
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
    stored = given(model, collected, list(dict.fromkeys(parse_tag(tag).layer for tag in tags)))
    tables = []
    for layer, of_layer in by_tag.load_tags(trained, tags, model).items():
        train = stored.train(layer)
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
