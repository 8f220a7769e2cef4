"""Which way of ranking nodes finds the true ones: the league over models whose truth is known."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from sandbagging import nodes
from sandbagging.models import taught
from sandbagging.nodes import Known
from sandbagging.recovery import subjects
from sandbagging.recovery.node_scores import NodeScores

# planted twice over: few heads that matter alone, and many of which none does
MODELS = ("organism-heads-0", "organism-heads-1", "organism-heads-2", "organism-direction-0",
          "heads-0", "mlp-0", "late-0", "sandbagger")  # fmt: skip
UNKNOWN = "not known"
TRUTHS = {
    "organism": "the heads that write the switch",
    "heads": "the five heads that were taught",
    "mlp": "every MLP",
    "late": "the heads from the middle layer on",
}


def kind_of(name: str) -> str:
    """Return the kind of a model by its name: organism, heads, mlp, late, sandbagger ..."""
    stem, _ = subjects.dose_of(name)
    if subjects.PLANTED.fullmatch(stem):
        return "organism"
    match = taught.NAME.fullmatch(stem)
    return match["kind"] if match else stem


def known(found: NodeScores) -> Known | None:
    """Return the true nodes of a model, or None where its truth names no nodes."""
    kind = kind_of(found.name)
    if kind == "organism":
        return nodes.of_planted(found.truth)
    if kind in TRUTHS:
        return nodes.of_taught(kind, found.truth, found.scored.nodes)
    return None


def league(every: Iterable[NodeScores], seconds: Mapping[str, float] | None = None) -> pd.DataFrame:
    """Return one row a model and ranking, best first within a model: model, truth, ranking, cpr,
    cmd, cpr_removed (see `nodes.league`), auroc, low, high, n_true, n_nodes, n_train, n_test,
    seconds (of the model's measuring, as given).

    auroc has its CI95 over the questions that ranked; that of chance is a mean of draws without
    one; where no nodes are known to be true, there is none.
    """
    return pd.concat([_of_model(one, seconds or {}) for one in every], ignore_index=True)


def _of_model(found: NodeScores, seconds: Mapping[str, float]) -> pd.DataFrame:
    scored, truth = found.scored, known(found)
    true, apart = truth or Known(frozenset())
    table = nodes.league(scored.gaps, nodes.rankings(scored), true, apart)
    intervals = {
        name: nodes.auroc_interval(scored.nodes, values, true, apart)
        for name, values in scored.scores.items()
        if true
    }
    ends = [intervals.get(name) for name in table["ranking"]]
    return table[["ranking", "cpr", "cmd", "cpr_removed", "auroc"]].assign(
        model=found.name,
        truth=TRUTHS[kind_of(found.name)] if true else UNKNOWN,
        low=[one.low if one else np.nan for one in ends],
        high=[one.high if one else np.nan for one in ends],
        n_true=len(true),
        n_nodes=len(scored.nodes) - len(apart),
        n_train=scored.scores["mean"].shape[1],
        n_test=len(scored.gaps.question_ids),
        seconds=seconds.get(found.name, np.nan),
    )[COLUMNS]


COLUMNS = ["model", "truth", "ranking", "cpr", "cmd", "cpr_removed", "auroc", "low", "high",
           "n_true", "n_nodes", "n_train", "n_test", "seconds"]  # fmt: skip


def over_models(table: pd.DataFrame) -> pd.DataFrame:
    """Return a league's table with one row a ranking and one column a model, its node AUROC; best
    first by the mean of them. Models without true nodes are left out.
    """
    told = table[table["truth"] != UNKNOWN]
    wide = told.pivot(index="ranking", columns="model", values="auroc")
    wide = wide[[model for model in dict.fromkeys(told["model"])]]
    return wide.assign(mean=wide.mean(axis=1)).sort_values("mean", ascending=False).reset_index()
