"""The ceiling, layer by layer: what the same question's genuine residual restores, on train
questions.

Where even that moves nothing, nothing can be restored there, and no SAE is to blame or to praise.
"""

from collections.abc import Sequence

import pandas as pd

from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question
from sandbagging.swaps import outcomes


def oracle_by_layer(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    layers: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return `outcomes.effects_at` of the oracle on sandbag prompts at each layer (all by default).

    `asked` are train questions, since layers are chosen by the result. Raises UserError for fewer
    than 10 questions and for a layer that does not exist.
    """
    layers = range(model.n_layers) if layers is None else layers
    genuine = outcomes.find_places(model, asked, "genuine", framing, layers)
    x_genuine = {place.layer: place.x.clone() for place in genuine}
    del genuine  # its keys and values take as much memory as those of the sandbag run
    tables = []
    for place in outcomes.find_places(model, asked, "sandbag", framing, layers):
        new = {("oracle", "", 0): x_genuine[place.layer]}
        tables.append(outcomes.effects_at(model, place, "sandbag", new))
        if progress:
            progress("the oracle by layer", len(tables), len(layers))
    return pd.concat(tables, ignore_index=True)
