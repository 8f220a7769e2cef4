"""Intervals with categories as the unit, intervals at small n, and what a rule could detect."""

from math import sqrt

import numpy as np
import pytest
from scipy import stats

from sandbagging import statistics as st
from sandbagging.errors import UserError

# Ten categories of six questions.
CATEGORIES = np.repeat([f"c{i}" for i in range(10)], 6)


def alike(seed: int, within: float, between: float = 1.0) -> np.ndarray:
    """Values [question] around 0.45 whose categories differ by `between`, their questions by
    `within`.
    """
    rng = np.random.default_rng(seed)
    means = rng.normal(0, between, 10)
    return 0.45 + np.repeat(means - means.mean(), 6) + rng.normal(0, within, 60)


def test_equal_categories_have_students_interval_of_their_means():
    x = alike(0, 0.3)
    found = st.by_category(x, CATEGORIES, unit="nats", scale=2.0)
    means = 2 * x.reshape(10, 6).mean(1)
    low, high = stats.t.interval(0.95, 9, means.mean(), stats.sem(means))
    assert (found.value, found.low, found.high) == pytest.approx((means.mean(), low, high))
    assert found.n == 60 and "10 categories" in found.method


def test_unequal_categories_by_hand():
    """Category a: 1, 3; b: 2, 2, 5; c: 0, 1. Mean 2; the residuals sum to 0, 3 and -3."""
    found = st.by_category([1, 3, 2, 2, 5, 0, 1], list("aabbbcc"))
    error = sqrt(3 / 2 * (0**2 + 3**2 + 3**2)) / 7
    assert found.value == pytest.approx(2)
    assert found.high - 2 == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert 2 - found.low == pytest.approx(found.high - 2)


def test_many_alike_questions_count_as_one():
    """Six questions of a category that say the same are no six: over questions the mean is clear of
    0, over categories it is not, and the wider interval decides.
    """
    found = st.wide(alike(1, within=0.01), CATEGORIES)
    assert found.by_question.low > 0 > found.by_category.low
    assert found.estimate == found.by_category and found.decides == "categories"


def test_questions_that_differ_on_their_own_lose_nothing():
    found = st.wide(alike(1, within=0.8, between=0.0), CATEGORIES)
    assert found.by_question.low > 0 and found.by_category.low > 0 and found.estimate.low > 0
    widths = [e.high - e.low for e in (found.by_question, found.by_category)]
    assert found.estimate.high - found.estimate.low == max(widths)


def test_one_category_left_out_by_hand():
    """One category makes the whole effect."""
    values, categories = [0, 0, 0, 0, 6, 6], list("aabbcc")
    assert st.without_each(values, categories) == {"a": 3, "b": 3, "c": 0}
    assert st.wide(values, categories).range == (0, 3)
    ratio = st.without_each([1, 1, 2, 2, 9, 9], categories, over=[2, 2, 4, 4, 6, 6])
    assert ratio == pytest.approx({"a": 11 / 10, "b": 10 / 8, "c": 3 / 6})


def test_a_ratio_over_categories_ends_where_students_test_ends():
    """Fieller's ends against the p value of the test that they invert."""
    rng = np.random.default_rng(2)
    gap = rng.normal(5, 1, 60) + np.repeat(rng.normal(0, 1, 10), 6)
    closed = 0.4 * gap + rng.normal(0, 1, 60)
    found = st.by_category(closed, CATEGORIES, over=gap)
    for end in (found.low, found.high):
        left = (closed - end * gap).reshape(10, 6).sum(1)
        assert stats.ttest_1samp(left, 0).pvalue == pytest.approx(0.05)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(closed.mean() / gap.mean())


def test_a_gap_that_is_no_gap_bounds_no_ratio():
    flat = np.random.default_rng(8).normal(0, 1, 60)
    assert np.isnan(st.by_category(np.ones(60), CATEGORIES, over=flat).low)
    assert np.isnan(st.wide(np.ones(60), CATEGORIES, over=flat).estimate.low)


def test_all_that_is_said_beside_a_number():
    table = st.beside(
        {
            "gap": st.wide([0, 0, 0, 0, 6, 6], list("aabbcc"), unit="nats"),
            "alone": st.wide([1, 2], list("ab")),
        }
    ).set_index("name")
    gap, alone = table.loc["gap"], table.loc["alone"]
    assert (gap["value"], gap["without_one_low"], gap["without_one_high"]) == (2, 0, 3)
    assert gap["decides"] == "categories" and gap["low"] == gap["low_by_category"]
    assert gap["low"] < gap["low_by_question"] and gap["unit"] == "nats" and gap["why"] == ""
    assert np.isnan(alone["low_by_category"]) and "one question" in alone["why"]


@pytest.mark.parametrize(
    ("categories", "sentence"),
    [
        (list("aabbc"), "category 'c' has one question,"),
        (list("aabcd"), "has one question \\(as have 2 more\\)"),
        (list("aaaaa"), "of one category"),
    ],
)
def test_too_few_questions_of_a_category_are_refused_or_said(categories, sentence):
    values = [1.0, 2.0, 1.5, 0.5, 1.0]
    with pytest.raises(UserError, match=sentence):
        st.by_category(values, categories)
    found = st.wide(values, categories)
    assert found.estimate == found.by_question and found.by_category is None
    assert found.why.count(". ") == 0 and found.why.endswith(".") and found.decides == "questions"


def test_every_question_needs_its_category():
    with pytest.raises(UserError, match="Question q2 has no category"):
        st.named(["q1", "q2"], {"q1": "a"})
    with pytest.raises(UserError, match="5 questions and 4 categories"):
        st.by_category([1, 2, 3, 4, 5], list("aabb"))


# Small n ------------------------------------------------------------------------------------------


def test_five_questions_get_an_interval_that_holds_the_mean():
    """1000 samples of five normal numbers: Student's covers 95 %, the percentile interval that
    stood here before 83 %. SE of the coverages: 0.7 and 1.2 points.
    """
    x = np.random.default_rng(0).normal(0, 1, (1000, 5))
    found = [st.mean_ci(row) for row in x]
    now = np.mean([e.low <= 0 <= e.high for e in found])
    picks = np.random.default_rng(1).integers(0, 5, (400, 5))
    low, high = np.percentile(x[:, picks].mean(-1), [2.5, 97.5], axis=1)
    assert 0.93 <= now <= 0.97 and np.mean((low <= 0) & (high >= 0)) < 0.88
    assert found[0].method == "Student's t over 5 questions"


def test_below_twenty_all_routes_to_an_interval_agree():
    x = np.random.default_rng(3).normal(1, 1, 19)
    low, high = stats.t.interval(0.95, 18, x.mean(), stats.sem(x))
    as_mean, as_ratio = st.mean_ci(x), st.ratio_ci(x, np.full(19, 2.0), scale=2.0)
    as_column = [c[0] for c in st.column_cis(x[:, None])]
    for value in ((as_mean.low, as_mean.high), (as_ratio.low, as_ratio.high), as_column[1:]):
        assert tuple(value) == pytest.approx((low, high))
    assert "bootstrap" in st.mean_ci(np.append(x, 1.0)).method  # from 20 on as before


def test_fiellers_ends_invert_the_paired_test():
    rng = np.random.default_rng(4)
    bottom = rng.normal(-4, 1, 8)
    top = 0.5 * bottom + rng.normal(0, 0.5, 8)
    found = st.ratio_ci(top, bottom)
    assert found.low < found.value < found.high
    for end in (found.low, found.high):
        assert stats.ttest_1samp(top - end * bottom, 0).pvalue == pytest.approx(0.05)


# What could be detected ---------------------------------------------------------------------------


def test_the_smallest_detectable_effect_lies_above_the_rules_threshold():
    """Samples of that mean pass "CI95 above the threshold" in 80 % of 2000 tries (SE 0.9)."""
    x = np.random.default_rng(5).normal(0, 2, 40)
    against_0 = st.smallest_detectable(x)
    needed = st.smallest_detectable(x, threshold=0.5)
    assert needed == pytest.approx(0.5 + against_0)
    tries = needed + np.random.default_rng(6).normal(0, x.std(ddof=1), (2000, 40))
    below = tries.mean(1) - stats.t.ppf(0.975, 39) * stats.sem(tries, axis=1)
    assert np.mean(below > 0.5) == pytest.approx(0.8, abs=0.03)
    assert np.mean(tries.mean(1) - against_0 > 0.5) < 0.55  # what was told before would not do


def test_the_critical_t_parts_heads_as_their_p_values_do():
    effects = np.random.default_rng(7).normal(0.45, 1, (40, 60))
    t = effects.mean(0) / stats.sem(effects)
    needed, p = st.max_t_critical(effects), st.max_t(effects)
    assert ((t > needed) == (p <= 0.05)).all() and 0 < (p <= 0.05).sum() < 60
    assert st.max_t_critical(effects[:3]) == np.inf  # 8 patterns of signs: no p below 1/8
