"""How far prompts are apart at their last token: means with CI95 over questions."""

import pandas as pd

from sandbagging import statistics
from sandbagging.statistics import Estimate


def summarise_last_tokens(per_question: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return means of `activations.last_tokens` with CI95 over questions: layer, condition, metric
    (norm, norm_change, distance), Estimate fields.
    """
    rows = []
    for layer, of_layer in per_question.groupby("layer"):
        wide = of_layer.pivot(index="question_id", columns="condition", values=["norm", "distance"])
        for condition in of_layer["condition"].unique():
            norm, genuine, distance = (
                wide[key].to_numpy()
                for key in (("norm", condition), ("norm", "genuine"), ("distance", condition))
            )
            found = {
                "norm": statistics.mean_ci(norm, unit="model units", seed=seed),
                "norm_change": statistics.paired_effect(
                    norm, genuine, unit="model units", scale=1.0, seed=seed
                ),
                "distance": statistics.mean_ci(
                    distance, unit="share of the genuine norm", seed=seed
                ),
            }
            rows += [
                {"layer": layer, "condition": condition, "metric": name, **value.as_dict()}
                for name, value in found.items()
            ]
    return pd.DataFrame(rows)


def further(
    per_question: pd.DataFrame, condition: str, than: str, seed: int = 0
) -> dict[int, Estimate]:
    """Return {layer: how much further from genuine one condition is than another}, paired by
    question, in % of the genuine norm.
    """
    apart = per_question.pivot(
        index=["layer", "question_id"], columns="condition", values="distance"
    ).groupby("layer")
    unit = "% of the genuine norm"
    return {
        layer: statistics.paired_effect(d[condition], d[than], unit=unit, seed=seed)
        for layer, d in apart
    }


def as_text(summary: pd.DataFrame) -> pd.DataFrame:
    """Return `summarise_last_tokens` as texts: a row a layer and condition but genuine, a column a
    metric.
    """
    fields = summary[["value", "low", "high"]].to_numpy()
    table = summary.assign(text=[f"{v:.3g} [{a:.3g}, {b:.3g}]" for v, a, b in fields])
    table = table[table["condition"] != "genuine"].pivot(
        index=["layer", "condition"], columns="metric", values="text"
    )
    names = {"distance": "distance / genuine norm", "norm_change": "norm - genuine norm"}
    return table.rename(columns=names).rename_axis(columns=None)
