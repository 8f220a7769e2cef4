"""Where the answer turns: what the logit lens says, layer by layer, of answers given wrongly."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from sandbagging import statistics
from sandbagging.errors import UserError

RIGHT, GIVEN, NEITHER = "right", "given", "neither"


def lens_by_layer(
    table: pd.DataFrame, wrongly: Collection[str], condition: str = "sandbag", seed: int = 0
) -> pd.DataFrame:
    """Return the mean p of the right and of the given answer's first token by layer, over the
    questions of `wrongly` (answered wrongly under this condition), from `lens.logit_lens`.

    Columns: layer, p_right and p_given with _low and _high (CI95 over questions), lead (mean log p
    of given - right, nats) with _low and _high, n, leads (right, given or neither, by that CI95).
    Answers that begin with one token are left out. Raises UserError where fewer than two are left.
    """
    rows = table[(table["condition"] == condition) & table["question_id"].isin(list(wrongly))]
    rows = rows[~rows["same"]]
    wide = {name: rows.pivot(index="question_id", columns="layer", values=name)
            for name in (RIGHT, GIVEN)}  # fmt: skip
    if len(wide[RIGHT]) < 2:
        raise UserError(
            f"{len(wide[RIGHT])} of the {condition} prompts are answered wrongly by another first "
            "token than that of the right answer: too few to see where they turn."
        )
    values = {f"p_{name}": np.exp(w.to_numpy()) for name, w in wide.items()}
    values["lead"] = (wide[GIVEN] - wide[RIGHT]).to_numpy()
    found = pd.DataFrame({"layer": wide[RIGHT].columns, "n": len(wide[RIGHT])})
    for name, value in values.items():
        ends = statistics.column_cis(value, seed=seed)
        for end, column in zip(("", "_low", "_high"), ends, strict=True):
            found[name + end] = column
    sure = [found["lead_low"] > 0, found["lead_high"] < 0]
    return found.assign(leads=np.select(sure, [GIVEN, RIGHT], NEITHER))


def turning_layer(by_layer: pd.DataFrame) -> int | None:
    """Return the first layer from which on the given answer leads at every layer, or None where the
    right one never led before it: then nothing turned.

    At the last layer the given answer leads by construction, since it is what the model writes.
    """
    ordered = by_layer.sort_values("layer")
    not_given = ordered.loc[ordered["leads"] != GIVEN, "layer"]
    if not (ordered["leads"] == RIGHT).any():
        return None
    behind = ordered.loc[ordered["layer"] > not_given.max(), "layer"]
    return int(behind.min()) if len(behind) else None
