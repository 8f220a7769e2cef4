"""What a verdict on a swap rests on: one cell's paired effects, in nats and pp, and their tests.

Log-odds decide, p_full stands beside them. Here are estimates alone; `decision` holds the rules.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import metrics, statistics
from sandbagging.gaps import NEGLIGIBLE
from sandbagging.statistics import Estimate
from sandbagging.swaps.estimates import (
    MARGIN_PP,
    by_question,
    by_question_and_seed,
    has,
    over_seeds,
    sd,
)
from sandbagging.swaps.guards import Guards
from sandbagging.swaps.soundness import degenerate, in_clusters

DECIDES, BESIDE = "logodds", "p_full"
ALPHA = 0.05
# So little is nothing: of log-odds the floor below which no gap counts, of p_full the card's own.
FLOOR = NEGLIGIBLE[DECIDES]
MARGINS = {DECIDES: FLOOR, BESIDE: MARGIN_PP}
# What carrying the difference takes, all of it above 0.
FOUR = ("e6", "gap_e1", "gap_e4", "gap_delta")
# E6 without a trained SAE: one direction, and SAEs that learned nothing of the kind.
UNTRAINED = ("E6_frozen_decoder", "E6_near_decoder", "E6_frozen_encoder")
RIVALS = ("diff_means", *UNTRAINED)


class Evidence(NamedTuple):
    """What one cell's verdict rests on; effects on sandbag prompts."""

    odds: dict[str, Estimate]  # nats
    full: dict[str, Estimate]  # pp
    void: str  # why the cell cannot be judged, or ""
    oracle_p: float  # of the oracle's equivalence to zero, the larger over both metrics
    equivalent_p: float  # of that of E6 - E1 and E6 - E4, the largest over both metrics
    four_p: float  # the largest one-sided sign-flip p of FOUR
    rivals_p: float  # the same of E6 minus each rival basis; NaN where one was not run
    seed_sd: float  # of E1's mean effect, nats
    detectable: float  # the smallest gap seen with 80 % power, nats

    @property
    def claims(self) -> bool:
        """Whether the cell makes a claim, so that Holm counts it."""
        return not self.void and not self.oracle_p < ALPHA


def evidence_of(cell: pd.DataFrame, g: Guards, error_term: str = "kept", seed: int = 0) -> Evidence:
    """Return what one cell's verdict rests on: E6, E4, E1, the deltas, identity, noise, the oracle
    and the rivals together.

    Differences are paired by question, E1 averaged over its seeds; those from noise and random
    directions have a CI over seeds and questions.
    """
    change = {m: _changes(cell, error_term, m) for m in (DECIDES, BESIDE)}
    odds, full = (_estimates(cell, change[m], error_term, m, seed) for m in (DECIDES, BESIDE))
    seeds = by_question_and_seed(cell, "E1", error_term, DECIDES).mean(axis=0).to_numpy()
    own = change[DECIDES]
    rivals = [f"over_{name}" for name in RIVALS]
    tried = set(rivals) <= set(own)
    return Evidence(
        odds,
        full,
        degenerate(g) or in_clusters(seeds, odds["e6"].value, odds["e4"].value),
        _equivalence(change, ["oracle"]),
        _equivalence(change, ["gap_e1", "gap_e4"]),
        _largest_p(own, FOUR, seed),
        _largest_p(own, rivals, seed) if tried else float("nan"),
        sd(seeds),
        max(statistics.smallest_detectable(own[gap]) for gap in ("gap_e1", "gap_e4")),
    )


def _changes(cell: pd.DataFrame, term: str, metric: str) -> dict[str, np.ndarray]:
    """Return effects and paired differences by question, [question] each, in nats or pp."""
    of = {
        "e6": ("E6", term), "e4": ("E4", term), "e1": ("E1", term), "oracle": ("oracle", ""),
        "identity": ("identity", "dropped"), "up": ("delta+", "kept"), "down": ("delta-", "kept"),
    }  # fmt: skip
    found = {name: by_question(cell, *form, metric) for name, form in of.items()}
    found["gap_delta"] = found.pop("up") - found.pop("down")
    found |= {f"gap_{name}": found["e6"] - found[name] for name in ("e1", "e4")}
    for rival in RIVALS:
        form = (rival, "" if rival == "diff_means" else term)
        if has(cell, *form):
            found[f"over_{rival}"] = found["e6"] - by_question(cell, *form, metric)
    return found


def _estimates(
    cell: pd.DataFrame, changes: dict[str, np.ndarray], term: str, metric: str, seed: int
) -> dict[str, Estimate]:
    unit, n = metrics.unit_of_change(metric)[0], len(changes["e6"])
    method = f"percentile bootstrap over questions, {statistics.N_RESAMPLES} resamples, seed {seed}"
    ends = np.transpose(statistics.column_cis(np.column_stack([*changes.values()]), seed=seed))
    found = {
        name: Estimate(*map(float, end), n, unit, method)
        for name, end in zip(changes, ends, strict=True)
    }
    # Draws of noise are not questions: an interval over both.
    noise = by_question_and_seed(cell, "noise", "", metric).to_numpy()
    found["noise"] = over_seeds(noise, unit, seed)
    found["over_noise"] = over_seeds(changes["e6"][:, None] - noise, unit, seed)
    for name, against in (("over_span", "delta_span"), ("over_delta_e1", "delta_E1")):
        if has(cell, against, "kept"):
            up = by_question(cell, "delta+", "kept", metric)[:, None]
            drawn = by_question_and_seed(cell, against, "kept", metric).to_numpy()
            found[name] = over_seeds(up - drawn, unit, seed)
    return found


def _equivalence(change: dict[str, dict[str, np.ndarray]], names: list[str]) -> float:
    """Return the largest p of two one-sided tests over effects and both metrics."""
    return max(
        statistics.equivalence(change[metric][name], margin).p
        for metric, margin in MARGINS.items()
        for name in names
    )


def nothing_to_restore(cell: pd.DataFrame) -> float:
    """Return the p of the oracle's equivalence to zero, the larger over both metrics: where it is
    small, nothing can be restored there.
    """
    return _equivalence(
        {m: {"oracle": by_question(cell, "oracle", "", m)} for m in MARGINS}, ["oracle"]
    )


def _largest_p(changes: dict[str, np.ndarray], names: Sequence[str], seed: int) -> float:
    """Return the largest one-sided sign-flip p: where it is small, all effects lie above 0."""
    return max(float(statistics.max_t(changes[n][:, None], seed=seed)[0]) for n in names)
