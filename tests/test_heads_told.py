"""What page 07 says of several routes to the same heads, and of its predictions."""

import numpy as np
import pytest

from sandbagging import nodes
from sandbagging.heads.head import Head
from sandbagging.heads.rivals import Rival
from sandbagging.heads.selection import Depth
from sandbagging.nodes import Gaps, Mlp
from sandbagging.suite import heads_told

A, B, C, D = (Head(0, h) for h in range(4))
EVERY = [A, B, C, D, Mlp(0)]
ZERO = [4.0, 3.0, 2.0, 1.0, 0.0]


def scored(patching, gap=4.0, kept=None):
    """Scores of five nodes by zeroing and by patching, over four questions; a set keeps as much of
    the gap as `kept` says of its best node.
    """
    kept = kept or {A: 0.9, B: 0.8, C: 0.2, D: 0.1, Mlp(0): 0.0}
    routes = {"zero": ZERO, "patching": patching}
    chance = {"random 1": dict(zip(EVERY, (0.0, 1.0, 2.0, 3.0, 4.0), strict=True))}
    by_route = {name: np.tile(np.array(of)[:, None], (1, 4)) for name, of in routes.items()}
    found = nodes.Scored(EVERY, by_route, chance, Gaps([], (), {}, {}, {}, {}), "")
    sets = nodes.ranking.sets_to_run(nodes.rankings(found))
    noise = np.array([-0.02, -0.01, 0.01, 0.02]) if gap else np.zeros(4)
    of_sets = np.array([max(kept[node] for node in s) * gap + noise for s in sets])
    gaps = Gaps(
        sets, tuple("wxyz"), {"logodds": gap + noise}, {"logodds": np.zeros(4)},
        {"logodds": of_sets}, {"logodds": gap - of_sets},
    )  # fmt: skip
    return found._replace(gaps=gaps)


@pytest.mark.parametrize(
    ("patching", "heads", "others"),
    [(ZERO, (A, B, C), False), ([0.0, 1.0, 2.0, 3.0, 9.0], (D, C, B), False)],
)
def test_the_heads_of_patching_stand_beside_the_chosen_ones(patching, heads, others):
    told = heads_told.routes(scored(patching), (A, B, C))
    assert told.heads == heads and told.names_others is others
    assert told.summary()["patching_names_others"] is others


def test_patching_that_names_other_heads_is_recorded():
    told = heads_told.routes(scored([0.0, 1.0, 2.0, 3.0, 9.0]), (A, B))
    assert told.heads == (D, C) and told.names_others is True


def test_without_a_gap_patching_names_no_heads_and_no_list_is_the_best():
    told = heads_told.routes(scored(ZERO, gap=0.0), (A, B))
    assert told.heads == () and told.names_others is None and told.all_above_chance is None


def test_a_list_is_compared_with_nodes_at_random():
    assert heads_told.routes(scored(ZERO), (A, B)).all_above_chance is True
    worst = heads_told.routes(scored([0.0, 1.0, 2.0, 3.0, 9.0]), (A, B))
    assert worst.all_above_chance is False  # patching has the order of chance


def test_what_failed_is_recorded_as_failed_and_what_was_not_run_as_neither():
    judged = nodes.Judged(0.1, 0.2, 1, 1, [Mlp(0)], [], [Mlp(0)])
    rivals = [Rival("genuine", (A, C), False, 1), Rival("neutral", (C, D), False, 0)]
    said = heads_told.outcomes(
        judged, (A, B), Depth((A, B), 0.2, 0.5), rivals, np.array([2, 2, 1]), None
    )
    assert [found["held"] for found in said] == [False, True, False, True, None, None]
    assert said[0]["told"] == "none" and said[2]["told"] == "1 of 2 are the same"
