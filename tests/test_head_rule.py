"""The rule for heads, on log-odds: what it must find, what it must refuse, and what it calls the
cases between.
"""

import numpy as np
import pytest
from made_up import graded
from scipy import stats

from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.heads import agreement, selection
from sandbagging.heads.sweep import Effects
from sandbagging.statistics import Estimate, max_t_critical

N = 40


def swept(odds, p_full=None, names=("logodds", "p_full")) -> Effects:
    """A sweep of single heads with these effects [head question], nats and 0 to 1."""
    odds = np.asarray(odds, dtype=float)
    of = {"logodds": odds, "p_full": odds / 20 if p_full is None else np.asarray(p_full)}
    sets = [((i // 9, i % 9),) for i in range(len(odds))]
    ids = tuple(f"q{i}" for i in range(odds.shape[1]))
    return Effects(
        sets,
        ids,
        {name: np.full(odds.shape[1], 0.3) for name in names},
        {name: 0.3 + of[name] for name in names},
    )


def steady(mean: float, spread: float = 0.02, seed: int = 0) -> np.ndarray:
    """Effects [question] of exactly this mean, nearly the same for every question."""
    noise = np.random.default_rng(seed).normal(0, spread, N)
    return mean + noise - noise.mean()


def gate_of(nats: float, grade: str = "answers wrongly", pp: float = 30.0) -> Gate:
    odds = Estimate(nats, nats - 0.05, nats + 0.05, N, "nats")
    full = Estimate(pp, pp - 1, pp + 1, N, "pp")
    return graded(grade)._replace(gap_logodds=odds, gap_p_full=full)


def says(odds, p_full=None, gate=None) -> list[str]:
    return selection.find(swept(odds, p_full), gate or gate_of(5))["says"].tolist()


def test_a_head_is_found_on_log_odds_alone():
    """A gap of 5 nats asks for 0.5: one head passes; others are too small, too noisy, or move
    p_full by mere form.
    """
    noisy = steady(0) + np.tile([8.0, -8.0], N // 2) + 0.6
    odds = [steady(0.6, seed=1), steady(0.4, seed=2), noisy, steady(0, seed=3), steady(0, seed=4)]
    full = [steady(0.05), steady(0.05, seed=5), noisy / 20, steady(0.08, 0.001), steady(0, 0.001)]
    table = selection.find(swept(odds, full), gate_of(5))
    found, alone, nothing = selection.FOUND, selection.P_FULL_ALONE, selection.NOTHING
    assert table["says"].tolist() == [found, alone, nothing, alone, nothing]
    assert table["found"].tolist() == [True, False, False, False, False]
    # the second passes max-T on log-odds too, below the floor
    assert table["p_max_t"][1] <= 0.05 < table["p_max_t"][2]
    assert table["effect_nats"][0] == pytest.approx(0.6)
    assert table["effect_pp"][3] == pytest.approx(8) and table["p_max_t_p_full"][3] <= 0.05
    assert [tuple(h) for h in selection.heads_found(table)] == [(0, 0)]


def test_the_floor_is_a_tenth_of_a_nat_or_a_tenth_of_the_gap():
    assert selection.floor(gate_of(5).gap_logodds) == pytest.approx(0.5)
    assert selection.floor(gate_of(0.3).gap_logodds) == 0.1
    assert selection.floor(gate_of(-4).gap_logodds) == 0.1
    assert selection.floor(gate_of(5, pp=5).gap_p_full) == 1
    assert says([steady(0.6)], gate=gate_of(7)) == [selection.P_FULL_ALONE]


def test_where_p_full_falls_no_claim_is_made():
    odds = [steady(0.6), steady(0.6, seed=1)]
    full = [steady(-0.02, 0.001), steady(-0.0005, 0.0001)]  # 2 pp, and 0.05 pp: next to nothing
    assert says(odds, full) == [selection.OPPOSITE, selection.FOUND]


def test_a_null_is_tried_as_if_its_gate_were_open():
    """Behind a closed gate the rule finds nothing, whatever it sees; that is no measurement."""
    closed = gate_of(0.3, "no")
    table = selection.find(swept([steady(0.6)]), closed)
    assert table["says"].tolist() == [selection.CLOSED] and not table["found"].any()
    assert selection.find(swept([steady(0.6)]), closed.as_if_open())["found"].all()


def test_noise_is_found_in_about_five_of_a_hundred_sweeps():
    """Effects that are symmetric about 0 and far larger than the floor: 20 sweeps of 30 heads."""
    rng, gate = np.random.default_rng(1), gate_of(0.3, "no").as_if_open()
    alarms = [
        selection.find(swept(rng.normal(0, 1, (30, N))), gate, seed)["found"].any()
        for seed in range(20)
    ]
    assert sum(alarms) <= 4  # P(more | 5 %) = 0.3 %


def test_the_smallest_effect_that_would_be_found():
    """A head of that effect passes in 80 % of 4000 tries (SE 0.6 points, and a little for t); a
    head without noise passes from the floor on.
    """
    noise = np.random.default_rng(2).normal(0, 1, (30, N))
    assert selection.smallest_found(0.001 * noise, 0.5) == pytest.approx(0.5, abs=0.001)
    needed = selection.smallest_found(noise, 0.1)[0]
    tries = needed + np.random.default_rng(3).normal(0, noise[0].std(ddof=1), (4000, N))
    t = tries.mean(1) / stats.sem(tries, axis=1)
    passes = (t > max_t_critical(noise.T)) & (tries.mean(1) >= 0.1)
    assert passes.mean() == pytest.approx(0.8, abs=0.04)
    assert selection.smallest_found(noise[:, :3], 0.1)[0] == np.inf


def test_a_sweep_without_log_odds_is_refused():
    with pytest.raises(UserError, match="not logodds, on which heads are judged; sweep again"):
        selection.find(swept([steady(0.6)], names=("p_full",)), gate_of(5))


def test_heads_are_ranked_on_the_metric_that_is_named():
    sweep = swept([steady(0.1), steady(0.6)], [steady(0.05), steady(0.01)])
    assert selection.top(sweep, 1) == ((0, 1),)  # on log-odds
    assert selection.top(sweep, 1, metric="p_full") == ((0, 0),)
    assert "net effect of the set on log-odds" in selection.rule(1, "zero")
    curse = selection.winners_curse(sweep, [5], 1, 20)
    assert curse["in_sample"][0] == pytest.approx(0.6, abs=0.02)


# Agreement over questions and wordings ------------------------------------------------------------


def test_agreement_of_sweeps_by_hand():
    """The first two have the same top three, of which the last shares one."""
    one, same, other = [5.0, 4, 3, 2, 1, 0], [6.0, 4, 5, 1, 2, 0], [0.0, 1, 5, 4, 2, 3]
    sweeps = {
        name: swept(np.repeat(np.array(values)[:, None], 4, axis=1))
        for name, values in {"seed 0": one, "seed 1": same, "wording lie": other}.items()
    }
    table = agreement.between(sweeps, 3)
    assert table["shared_top"].tolist() == [3, 1, 1]
    assert table["jaccard"].tolist() == pytest.approx([1, 1 / 5, 1 / 5])
    assert table["spearman"][0] == pytest.approx(1 - 6 * 4 / (6 * 35))


@pytest.mark.parametrize(
    ("sweeps", "sentence"),
    [
        ({"a": swept([steady(1)])}, "two sweeps or more"),
        ({"a": swept([steady(1)]), "b": swept([steady(1)] * 2)}, "the same heads"),
    ],
)
def test_agreement_needs_sweeps_of_the_same_heads(sweeps, sentence):
    with pytest.raises(UserError, match=sentence):
        agreement.between(sweeps)
