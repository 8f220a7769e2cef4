"""What notebook 07 tells of the nodes that it scored by several routes, and of its predictions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sandbagging import nodes, questions
from sandbagging.heads import agreement, growing, selection
from sandbagging.heads.growing import Grown
from sandbagging.heads.head import Heads
from sandbagging.heads.rivals import Rival
from sandbagging.heads.selection import Depth
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.nodes.ranking import PATCH, RANDOM, Ranking
from sandbagging.nodes.rankings import Scored
from sandbagging.prompts import Framing
from sandbagging.questions import Question
from sandbagging.suite import predictions, runs

# Questions that the routes are scored on, and those that their best nodes are judged on.
SCORED_ON, JUDGED_ON = 20, 40


def few(asked: Mapping[str, Sequence[Question]], seed: int = 0) -> list[list[Question]]:
    """Return as many train questions as the routes are scored on, and as many test questions as
    their best nodes are judged on, or all that there are.
    """
    return [
        questions.subset(asked[split], min(n, len(asked[split])), seed)
        for split, n in (("train", SCORED_ON), ("test", JUDGED_ON))
    ]


def sweep_mlps(
    step: runs.Step,
    lm: Model,
    asked: Sequence[Question],
    framing: Framing,
    layers: Sequence[int],
) -> dict[str, Effects]:
    """Return {condition: effects} of zeroing each MLP, on sandbag and genuine prompts."""
    every, swept = nodes.alone(nodes.all_mlps(lm, layers)), {}
    for c in ("sandbag", "genuine"):
        swept |= step.measure(nodes.sweep_conditions, lm, asked, [c], framing, every, label="mlps")
    return swept


def grow(
    step: runs.Step,
    lm: Model,
    asked: Sequence[Question],
    framing: Framing,
    swept: Mapping[str, Effects],
    n: int,
    replacement: str,
) -> dict[str, Grown]:
    """Return {condition: the n heads that join one at a time on its prompts}, out of those that
    lead its sweep.
    """
    return {
        condition: step.measure(
            growing.grow,
            lm,
            asked,
            condition,
            framing,
            selection.candidates(swept, condition),
            n,
            replacement=replacement,
        )
        for condition in swept
    }


class Routes(NamedTuple):
    """What several routes say of the same nodes."""

    rankings: Mapping[str, Ranking]
    by_head: pd.DataFrame  # other_routes.csv
    agree: pd.DataFrame  # with zeroing, over heads
    curve: pd.DataFrame  # faithfulness of the best k nodes
    league: pd.DataFrame
    heads: Heads  # the best ones by patching; none where it could not be done
    names_others: bool | None  # whether these are other heads than the chosen ones
    why_not: str  # why there is no patching, or ""

    @property
    def all_above_chance(self) -> bool | None:
        """Whether every ranking has a higher CPR than nodes at random; None without any gap."""
        by_chance, cpr = self.league["ranking"] == RANDOM, self.league["cpr"]
        if cpr.isna().any():
            return None
        return bool((cpr[~by_chance] > cpr[by_chance].max()).all())

    def summary(self) -> dict[str, Any]:
        """Return what notebook 07 records."""
        return {
            "patching_names_others": self.names_others,
            "patching_left_out": self.why_not,
            "routes": self.agree,
            "league": self.league,
        }


def routes(scored: Scored, chosen: Heads, seed: int = 0) -> Routes:
    """Return what the routes say, beside the heads that were chosen by zeroing.

    Where the framing of patching shows no gap, patching has nothing to name heads by.
    """
    rankings = nodes.rankings(scored)
    by_head = nodes.heads_by_route(rankings)
    league = nodes.league(scored.gaps, rankings, seed=seed).drop(columns=["auroc", "draws"])
    patched = PATCH in rankings and league["cpr"].notna().all()
    heads = nodes.best_heads(rankings[PATCH], len(chosen)) if patched else ()
    return Routes(
        rankings,
        by_head,
        agreement.of_routes(by_head, len(chosen)),
        nodes.curve(scored.gaps, rankings, seed=seed),
        league,
        heads,
        agreement.names_others(chosen, heads) if heads else None,
        scored.why_not,
    )


def outcomes(
    judged: nodes.Judged,
    chosen: Heads,
    depth: Depth,
    rivals: Sequence[Rival],
    shared: np.ndarray,
    others: Routes | None,
) -> list[dict]:
    """Return what came of the page's predictions; `shared` are heads that halves share [split]."""
    n, most = len(chosen), max(rival.shared for rival in rivals)
    said = {
        "found": (bool(judged.heads_found), ", ".join(map(str, judged.heads_found)) or "none"),
        "early": (len(depth.chosen) >= 0.8 * n, f"{len(depth.chosen)} of {n}"),
        "own": (2 * most < n, f"{most} of {n} are the same"),
        "halves": (shared.mean() > n / 2, f"{shared.mean():.1f} of {n}"),
        "routes": (None, "not run"),
        "league": (None, "not run"),
    }
    if others is not None:
        best = others.league.iloc[0]
        said["league"] = (others.all_above_chance, f"best: {best['ranking']}, {best['cpr']:.2f}")
    if others is not None and others.heads:
        same = len(set(others.heads) & set(chosen))
        said["routes"] = (not others.names_others, f"{same} of {n} are the same")
    return predictions.record("07_heads", said)
