"""Statistics on numbers set by hand and on constructed data whose answer is known."""

import json
import warnings
from itertools import combinations
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from sandbagging import statistics as st
from sandbagging.errors import UserError

# --- Estimate ---


def test_estimate_prints_value_interval_and_n():
    effect = st.Estimate(13.711, 11.279, 16.241, 50, "pp", "paired")
    assert str(effect) == "+13.71 pp [+11.28, +16.24], n = 50"
    assert str(st.Estimate(-0.5, -1, 0.25, 8, "pp")) == "-0.50 pp [-1.00, +0.25], n = 8"
    assert str(st.Estimate(0.368, 0.31, 0.42, 50)) == "0.368 [0.310, 0.420], n = 50"


def test_estimate_prints_shorter_where_asked():
    effect = st.Estimate(13.711, 11.279, 16.241, 50, "pp", "paired")
    assert f"{effect:ci}" == "+13.71 pp [+11.28, +16.24]"
    assert f"{effect:short}" == "+13.71 [+11.28, +16.24]"
    assert f"{st.Estimate(0.368, 0.31, 0.42, 50, 'share'):short .0%}" == "37% [31%, 42%]"
    assert f"{effect:.3g}" == "13.7 pp [11.3, 16.2], n = 50"
    nan = float("nan")
    assert f"{st.Estimate(1.5, nan, nan, 4, 'pp'):short}" == "+1.50 no interval"
    assert f"{st.Estimate(nan, nan, nan, 4):ci}" == "not defined"


def test_estimate_survives_json_also_without_an_interval():
    effect = st.Estimate(1.5, float("nan"), float("nan"), 4, "", "why")
    text = json.dumps(effect.as_dict(), allow_nan=False)
    back = st.Estimate.from_dict(json.loads(text))
    assert str(back) == str(effect) == "1.500 no interval, n = 4"
    whole = st.Estimate(1.0, 0.5, 2.0, 9, "pp", "m")
    assert st.Estimate.from_dict(whole.as_dict()) == whole
    assert set(whole.as_dict()) == {"value", "low", "high", "n", "unit", "method"}


# --- bootstrap ---


def test_paired_effect_of_hand_set_numbers():
    effect = st.paired_effect([0.5, 0.4, 0.9], [0.4, 0.2, 0.6])
    assert effect.value == pytest.approx(20.0)  # mean of 10, 20, 30
    # SD 10 of three numbers, and t at 97.5 % with two degrees of freedom: 4.303
    half = 4.303 * 10 / sqrt(3)
    assert (effect.low, effect.high) == pytest.approx((20 - half, 20 + half), abs=0.01)
    assert (effect.n, effect.unit) == (3, "pp")
    assert effect.method == "paired Student's t over 3 questions"
    assert "seed 0" in st.paired_effect(np.arange(20) / 9, np.zeros(20)).method


def test_sign_is_intervened_minus_baseline():
    assert st.paired_effect([0.1, 0.2], [0.3, 0.4]).value == pytest.approx(-20)


def test_constant_values_have_an_interval_without_width():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        effect = st.paired_effect([0.5, 0.5], [0.25, 0.25])
        assert (effect.low, effect.value, effect.high) == (25, 25, 25)
        assert st.ratio_ci([1, 1], [2, 2]).low == 0.5


def test_same_seed_same_interval_other_seed_other_interval():
    x = np.random.default_rng(1).normal(size=50)
    assert st.mean_ci(x, seed=3) == st.mean_ci(x, seed=3)
    assert st.mean_ci(x, seed=3).low != st.mean_ci(x, seed=4).low


@pytest.mark.parametrize(
    "call",
    [
        lambda: st.paired_effect([0.1, 0.2, 0.3], [0.1, 0.2]),
        lambda: st.paired_effect([0.1], [0.1]),
        lambda: st.mean_ci([]),
        lambda: st.mean_ci([0.1, float("nan")]),
        lambda: st.mean_ci([[0.1, 0.2]]),
        lambda: st.equivalence([0.1, 0.2], 0),
        lambda: st.cohens_dz(np.ones((5, 2)), np.ones((5, 3))),
        lambda: st.shapley({(1,): 1.0}, [1, 2]),
    ],
)
def test_bad_input_is_one_sentence(call):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)


def test_percentile_bootstrap_covers_about_95_percent():
    # 400 samples of 60: the SE of the coverage is 1.1 points, and the percentile interval is known
    # to fall about 1 point short at this n; 0.91 to 0.98 is three SE around that.
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(400):
        ci = st.mean_ci(rng.normal(0.2, 1, 60), n_resamples=1000, seed=i)
        hits += ci.low <= 0.2 <= ci.high
    assert 0.91 <= hits / 400 <= 0.98


def test_bootstrap_agrees_with_the_t_interval():
    # Normal data: the two intervals differ by Monte Carlo error and by the t quantile, under 5 %.
    x = np.random.default_rng(2).normal(0, 1, 200)
    ci = st.mean_ci(x)
    low, high = stats.t.interval(0.95, 199, x.mean(), stats.sem(x))
    assert ci.high - ci.low == pytest.approx(high - low, rel=0.05)
    assert ci.low == pytest.approx(low, abs=0.02)


def test_unpaired_gap_is_three_to_four_times_too_wide():
    # Questions differ by SD 0.25, the gap itself by SD 0.1 around 0.1:
    # paired SD 0.1; unpaired sqrt(2 * 0.25² + 0.1²) = 0.37, so 3.7 times as wide.
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0.5, 0.25, 400)
    genuine, sandbag = difficulty + 0.1 + rng.normal(0, 0.1, 400), difficulty
    paired = st.paired_effect(genuine, sandbag)
    unpaired = stats.bootstrap(
        (genuine, sandbag),
        lambda g, s, axis: g.mean(axis=axis) - s.mean(axis=axis),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ratio = 100 * (unpaired.high - unpaired.low) / (paired.high - paired.low)
    assert 3 < ratio < 4.2


def test_questions_and_draws_are_not_more_questions():
    # Every draw sees the same 40 questions: effect = question + noise, both of SD 1. What is known
    # about the mean is bounded by 40 questions: SD 1/sqrt(40) = 0.158, not 1.41/sqrt(4000) = 0.022.
    rng = np.random.default_rng(0)
    questions = rng.normal(0, 1, (40, 1))
    effects = questions + rng.normal(0, 1, (40, 100))
    both = st.bootstrap_questions_and_draws(effects)
    as_if_independent = st.mean_ci(effects.ravel())
    assert both.n == 40
    width = both.high - both.low
    assert width == pytest.approx(2 * 1.96 * questions.std() / sqrt(40), rel=0.15)
    assert width > 5 * (as_if_independent.high - as_if_independent.low)


def test_few_draws_widen_the_interval_beyond_questions_alone():
    # The draws differ (SD 1), the questions hardly: an interval over questions alone is blind to
    # it.
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 1, (1, 10)) + rng.normal(0, 0.01, (100, 10))
    both = st.bootstrap_questions_and_draws(effects)
    questions_only = st.mean_ci(effects.mean(axis=1))
    assert both.high - both.low > 20 * (questions_only.high - questions_only.low)


def test_column_intervals_equal_scipys_with_the_same_seed():
    x = np.random.default_rng(0).normal(0.1, 1, (30, 4))
    value, low, high = st.column_cis(x, scale=100, n_resamples=2500, seed=5)
    for j in range(4):
        one = st.mean_ci(x[:, j], scale=100, n_resamples=2500, seed=5)
        assert (value[j], low[j], high[j]) == pytest.approx((one.value, one.low, one.high))


def test_ratio_of_means_is_paired():
    gap = np.array([0.1, 0.2, 0.3, 0.4])
    half = st.ratio_ci(gap / 2, gap)
    # Restoration is half of the gap on every question, so every resample gives one half.
    assert (half.low, half.value, half.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_over_a_gap_that_may_be_zero_has_no_interval():
    found = st.ratio_ci([0.1, 0.2, 0.1, 0.2], [1.0, -1.0, 1.1, -0.9])
    assert np.isnan(found.low) and "contains 0" in found.method
    assert np.isnan(st.ratio_ci([1.0, 2.0], [1.0, -1.0]).value)


def test_redundancy_of_hand_set_heads():
    # Singles add to 10 on average, the joint effect is 6: 40 % is counted twice.
    singles = np.array([[4.0, 5.0], [5.0, 6.0]] * 3)
    found = st.redundancy([5.4, 6.6] * 3, singles)
    assert found.value == pytest.approx(0.4)
    assert found.low <= found.value <= found.high


# --- equivalence and power ---


def test_tost_equals_its_closed_form():
    x = np.array([0.1, -0.2, 0.3, 0.0, 0.05, -0.1])
    se = x.std(ddof=1) / sqrt(6)
    p_low = stats.t.sf((x.mean() + 0.4) / se, 5)
    p_high = stats.t.cdf((x.mean() - 0.4) / se, 5)
    found = st.equivalence(x, 0.4)
    assert found.p == pytest.approx(max(p_low, p_high))
    low, high = stats.t.interval(0.90, 5, x.mean(), se)
    assert (found.low90, found.high90) == pytest.approx((low, high))


def test_equivalence_needs_a_small_effect_and_enough_questions():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 2000)
    noise -= noise.mean()  # truly zero
    assert st.equivalence(noise, 0.15).equivalent
    few = noise[:20] - noise[:20].mean()
    assert not st.equivalence(few, 0.15).equivalent  # not seen is not the same as zero
    assert stats.ttest_1samp(few, 0).pvalue > 0.05
    assert not st.equivalence(noise + 0.5, 0.15).equivalent  # a real effect


@pytest.mark.parametrize(
    ("constant", "inside"), [(0.0, True), (0.1, True), (0.15, False), (-1, False)]
)
def test_equivalence_of_constant_differences(constant, inside):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = st.equivalence(np.full(10, float(constant)), 0.15)
    assert found.equivalent is inside
    assert found.low90 == found.high90 == constant


def test_smallest_detectable_by_the_usual_formula():
    # (1.96 + 0.84) * SD / sqrt(n) for large n.
    x = np.tile([1.0, -1.0], 200)
    assert st.smallest_detectable(x) == pytest.approx(2.80 / sqrt(400), rel=0.02)
    assert st.smallest_detectable(10 * x) == pytest.approx(10 * st.smallest_detectable(x))
    assert st.smallest_detectable([0.3, 0.3]) == 0.0


# --- many comparisons ---


def test_max_t_with_one_head_is_the_exact_sign_flip_test():
    # Four questions, all +1: 1 of 16 flips has a mean as large, so p is near 1/16.
    p = st.max_t(np.ones((4, 1)), n_flips=20_000)
    assert p[0] == pytest.approx(1 / 16, abs=0.006)  # three binomial SE


def test_max_t_equals_a_plain_loop_over_t_statistics():
    x = np.random.default_rng(0).normal(0.3, 1, (12, 5))
    rng = np.random.default_rng(7)
    signs = rng.choice(np.array([-1.0, 1.0]), size=(500, 12))
    largest = [stats.ttest_1samp(s[:, None] * x, 0).statistic.max() for s in signs]
    observed = stats.ttest_1samp(x, 0).statistic
    by_loop = [st.rank_p(t - 1e-9, largest) for t in observed]
    assert st.max_t(x, n_flips=500, seed=7) == pytest.approx(by_loop)


def test_max_t_holds_its_rate_on_null_data():
    # 200 null data sets of 40 heads: at most 5 % may show any head; three binomial SE above is
    # 0.10. Without the correction, 1 − 0.95^40 = 87 % would.
    rng = np.random.default_rng(0)
    any_head = [st.max_t(rng.normal(size=(30, 40)), 300, seed=i).min() <= 0.05 for i in range(200)]
    assert np.mean(any_head) <= 0.10


def test_max_t_finds_a_planted_head_and_only_that():
    rng = np.random.default_rng(0)
    effects = rng.normal(0, 1, (60, 100))
    effects[:, 17] += 1.0  # t about 8
    p = st.max_t(effects)
    assert np.flatnonzero(p <= 0.05).tolist() == [17]
    assert st.max_t(-effects)[17] == 1  # an effect of the other sign is none


def test_max_t_of_a_head_without_effect_is_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = st.max_t(np.column_stack([np.zeros(10), np.ones(10)]), 1000)
    assert p[0] == 1 and p[1] < 0.05


def test_rank_p_and_z_by_hand():
    assert st.rank_p(5, [1, 2, 3]) == 1 / 4
    assert st.rank_p(2, [1, 2, 3]) == 3 / 4  # a tie counts against the observed
    assert st.rank_p(0, [1, 2, 3]) == 1.0
    assert st.z_score(5, [1, 2, 3]) == pytest.approx(3.0)  # mean 2, SD 1
    assert np.isnan(st.z_score(5, [2, 2, 2]))


def test_holm_by_hand():
    # 0.01 * 3, 0.02 * 2, then 0.03 * 1 may not fall below the one before.
    assert st.holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert st.holm([]).size == 0


# --- Shapley ---


def _subsets(players):
    return [c for size in range(len(players) + 1) for c in combinations(players, size)]


def test_shapley_of_an_additive_game_is_the_singles():
    single = {(2, 0): 3.0, (5, 3): 1.5, (17, 6): -0.5}
    game = {s: sum(single[h] for h in s) for s in _subsets(list(single))}
    assert st.shapley(game, list(single)) == pytest.approx(single)


def test_shapley_shares_what_only_two_do_together():
    game = {(): 0, ("a",): 1, ("b",): 0, ("c",): 0, ("a", "b"): 5, ("a", "c"): 1, ("b", "c"): 0}
    game[("a", "b", "c")] = 5
    shares = st.shapley(game, ["a", "b", "c"])
    assert shares == pytest.approx({"a": 3, "b": 2, "c": 0})  # a keeps its 1, the extra 4 is halved


def test_shapley_is_efficient_and_takes_frozensets():
    rng = np.random.default_rng(0)
    players = list(range(5))
    game = {frozenset(s): rng.normal() for s in _subsets(players)}
    total = game[frozenset(players)] - game[frozenset()]
    assert sum(st.shapley(game, players).values()) == pytest.approx(total)


# --- separation ---


def test_d_of_hand_set_codes():
    # Δ = 1, 2, 3: mean 2, SD 1, and s0 is that one latent's own SD: 2 / (1 + 1).
    a, b = np.array([[2.0], [3.0], [4.0]]), np.array([[1.0], [1.0], [1.0]])
    dz = st.cohens_dz(a, b)
    assert (dz.d_max, dz.s0, dz.l0, dz.n_active) == (1.0, 1.0, 1.0, 1)
    assert st.cohens_dz(a, b, s0=0).d_max == 2.0
    # var a = 1, var b = 0: denominator sqrt(1/2), doubled by s0.
    assert st.cohens_dav(a, b).d_max == pytest.approx(2 / (2 * sqrt(0.5)))
    assert st.cohens_dz(b, a).d_max == -1.0


def test_a_latent_that_fires_once_or_never_cannot_win():
    rng = np.random.default_rng(0)
    a, b = rng.normal(3, 1, (40, 6)), rng.normal(3, 1, (40, 6))
    a[:, 0] += 1
    a[:, 4] = b[:, 4] = a[:, 5] = b[:, 5] = 0
    a[3, 4] = 1e6  # fires once, strongly
    for found in (st.cohens_dz(a, b), st.cohens_dav(a, b)):
        assert found.latent_max == 0
        assert np.isnan(found.d[[4, 5]]).all()
        assert (found.n_active, found.n_excluded) == (4, 2)
        assert found.d_mean_all == pytest.approx(found.d_mean_active * 4 / 6)


def test_a_tiny_steady_latent_does_not_win_by_its_tiny_spread():
    # Δ of 0.001 with SD 0.00001 is d_z = 100 bare; beside latents of SD 1 it separates nothing.
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 1, (50, 5)), rng.normal(5, 1, (50, 5))
    a[:, 1] += 2
    b[:, 0] = 5
    a[:, 0] = 5.001 + rng.normal(0, 1e-5, 50)
    assert st.cohens_dz(a, b).latent_max == 1
    assert st.cohens_dz(a, b, s0=0).latent_max == 0  # what the guard prevents


def test_nothing_active_is_no_separation_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = st.cohens_dz(np.zeros((5, 3)), np.zeros((5, 3)))
        null = st.sign_flip_null_d_max(np.zeros((5, 3)), np.zeros((5, 3)), 10)
    assert found.latent_max == -1 and np.isnan(found.d_max) and found.n_excluded == 3
    assert np.isnan(null).all()


@pytest.mark.parametrize(("kind", "d"), [("dz", st.cohens_dz), ("dav", st.cohens_dav)])
def test_null_d_max_equals_a_plain_loop(kind, d):
    rng = np.random.default_rng(0)
    a, b = np.maximum(rng.normal(0, 1, (12, 7)), 0), np.maximum(rng.normal(0.3, 1, (12, 7)), 0)
    swaps = np.random.default_rng(3).integers(0, 2, size=(20, 12)).astype(bool)[:, :, None]
    by_loop = [abs(d(np.where(s, b, a), np.where(s, a, b)).d_max) for s in swaps]
    assert st.sign_flip_null_d_max(a, b, 20, 3, kind=kind) == pytest.approx(by_loop)


def test_null_spares_noise_and_yields_to_a_real_difference():
    rng = np.random.default_rng(1)
    a, b = np.maximum(rng.normal(0, 1, (80, 50)), 0), np.maximum(rng.normal(0, 1, (80, 50)), 0)
    null = st.sign_flip_null_d_max(a, b, 400)
    assert st.rank_p(abs(st.cohens_dz(a, b).d_max), null) > 0.05
    a[:, 9] += 1
    null = st.sign_flip_null_d_max(a, b, 400)
    assert st.rank_p(abs(st.cohens_dz(a, b).d_max), null) < 0.01


def test_null_takes_a_given_s0():
    a, b = np.array([[1.0], [2.0], [4.0]]), np.array([[0.0], [0.5], [1.0]])
    # Alone, a latent's s0 is its own spread: twice the denominator, half the d.
    assert st.sign_flip_null_d_max(a, b, 30, s0=0.0) == pytest.approx(
        2 * st.sign_flip_null_d_max(a, b, 30)
    )


def test_separation_table_has_each_pair_and_formula_once():
    rng = np.random.default_rng(2)
    values = {
        c: np.maximum(rng.normal(m, 1, (40, 20)), 0)
        for c, m in (("genuine", 0), ("sandbag", 2), ("placebo", 0))
    }
    table = st.separation_table(
        values, [("genuine", "sandbag"), ("genuine", "placebo")], n_flips=200
    )
    assert list(zip(table["pair"], table["d"], strict=True)) == [
        (f"genuine vs {c}", d) for c in ("sandbag", "placebo") for d in ("dz", "dav")
    ]
    assert table["d_max"][0] == st.cohens_dz(values["genuine"], values["sandbag"]).d_max < 0
    beyond = table["d_max"].abs() > table["null_d_max"]
    assert beyond[:2].all() and not beyond[2:].all()


def test_dz_of_one_latent_by_hand():
    found = st.dz_ci(np.array([3.0, 5.0, 7.0]), np.array([1.0, 1.0, 1.0]), s0=2.0)
    assert (
        found.value == pytest.approx(4 / (2 + 2))
        and found.n == 3
        and found.low <= found.value <= found.high
    )
    assert st.dz_ci(np.ones(4), np.ones(4)).value == 0.0


def test_chosen_on_train_judges_the_train_latent_on_test():
    rng = np.random.default_rng(4)
    train = {c: np.abs(rng.normal(1, 0.3, (30, 6))) for c in ("genuine", "sandbag", "placebo")}
    test = {c: np.abs(rng.normal(1, 0.3, (30, 6))) for c in train}
    train["sandbag"][:, 2] += 1  # only here on train
    test["sandbag"][:, 5] += 3  # a better latent on test must not be taken
    latent, d, on_test = st.chosen_on_train(
        train, test, [("genuine", "sandbag"), ("genuine", "placebo")]
    )
    assert (
        latent == 2
        and d < 0
        and on_test["genuine vs sandbag"].low < 0 < on_test["genuine vs sandbag"].high
    )
    silent = {c: np.zeros((5, 3)) for c in train}
    assert st.chosen_on_train(silent, silent, [("genuine", "sandbag")])[0] == -1


def test_proportion_is_exact():
    found = st.proportion(0, 3)
    assert found.value == 0 and found.low == 0 and found.high == pytest.approx(1 - 0.025 ** (1 / 3))
    with pytest.raises(UserError, match="proportion"):
        st.proportion(4, 3)


# --- two clusters ---------------------------------------------------------------------------------


def test_two_clusters_flags_a_block_flip_and_spares_one_cloud():
    rng = np.random.default_rng(0)
    flipping = np.concatenate([rng.normal(0, 0.1, 10), rng.normal(3, 0.1, 10)])
    assert st.two_clusters(flipping)
    # A flip with a draw that landed in between, as a shuffle with exactly half of each condition
    # does.
    assert st.two_clusters(np.r_[flipping, 1.5])
    # Of clouds of 20, at most one in fifty may be called two: a normal leaves 2 or fewer in its
    # middle third about that rarely.
    assert sum(st.two_clusters(rng.normal(0, 1, 20)) for _ in range(500)) <= 10
    assert not st.two_clusters(np.zeros(20)) and not st.two_clusters(np.array([0.0, 0, 3, 3]))
    assert not st.two_clusters(np.r_[rng.normal(0, 0.1, 19), 5.0])  # one outlier is no cluster
    # two groups within a range that does not matter
    assert not st.two_clusters(flipping, negligible=5.0)
