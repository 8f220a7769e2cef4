"""One latent: what it writes towards, and what happens to the answer when it is taken out."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from sandbagging.files import Folder
from sandbagging.models import Model
from sandbagging.questions import Question
from sandbagging.saes import folders, probing
from sandbagging.saes.recipes import parse_tag
from sandbagging.swaps import sites


class TakenOut(NamedTuple):
    """What a latent writes, and what its removal does."""

    raises: list[str]  # tokens that its decoder row raises most on the direct path to the logits
    lowers: list[str]
    effects: pd.DataFrame  # per question, as `sites.effects_at` returns them


def taken_out(
    model: Model, asked: Sequence[Question], framing: str, trained: Folder, tag: str, latent: int
) -> TakenOut:
    """Return what one latent writes, and the effects of x - code * decoder row on sandbag prompts.

    The edit is made at the last prompt token; trained: the folder of SAEs that notebook 02 wrote.
    """
    sae = folders.load(trained / tag)
    raises, lowers = probing.direct_tokens(model, sae.W_dec[latent])
    (site,) = sites.find_sites(model, asked, framing, [parse_tag(tag).layer])
    new = {("latent removed", "", 0): probing.without_latent(site.x, sae, latent)}
    return TakenOut(raises, lowers, sites.effects_at(model, site, new, tag=tag))
