"""Where the answer turns: what the logit lens says, layer by layer, of answers given wrongly."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from sandbagging import statistics
from sandbagging.errors import UserError

RIGHT, GIVEN, NEITHER = "right", "given", "neither"
SEEN = 0.05  # mean p from which an answer is on its way; below it a lead is one among noise
VALUES = ("p_right", "p_given", "lead")
COLUMNS = ("layer", "n", *(v + end for v in VALUES for end in ("", "_low", "_high")), "leads")


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


def right_by_layer(
    table: pd.DataFrame, asked: Collection[str], condition: str = "genuine", seed: int = 0
) -> pd.DataFrame:
    """Return the mean p of the right answer's first token by layer over some questions under a
    condition, whatever is then given, from `lens.logit_lens`.

    Columns: layer, p_right with _low and _high (CI95 over questions), n.
    """
    rows = table[(table["condition"] == condition) & table["question_id"].isin(list(asked))]
    wide = rows.pivot(index="question_id", columns="layer", values=RIGHT)
    columns = ("p_right", "p_right_low", "p_right_high")
    ends = statistics.column_cis(np.exp(wide.to_numpy()), seed=seed)
    told = {"layer": wide.columns, **dict(zip(columns, ends, strict=True)), "n": len(wide)}
    return pd.DataFrame(told)


def turning_layer(by_layer: pd.DataFrame) -> int | None:
    """Return the first layer from which on the given answer leads at every layer, or None where the
    right one never led before it with a p of at least SEEN: then nothing turned.

    At the last layer the given answer leads by construction, since it is what the model writes.
    """
    led = by_layer[(by_layer["leads"] == RIGHT) & (by_layer["p_right"] >= SEEN)]
    if led.empty:
        return None
    return leads_from(by_layer[by_layer["layer"] > led["layer"].min()])


def leads_from(by_layer: pd.DataFrame) -> int | None:
    """Return the first layer from which on the given answer leads at every layer, or None."""
    not_given = by_layer.loc[by_layer["leads"] != GIVEN, "layer"]
    behind = by_layer["layer"]
    behind = behind if not_given.empty else behind[behind > not_given.max()]
    return int(behind.min()) if len(behind) else None
