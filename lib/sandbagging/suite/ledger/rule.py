"""The rule of the ledger: from a published and a measured number to a verdict.

`RULE` says it in words, `verdict` applies it to two numbers, `heads_verdict` to two lists of heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, isnan, sqrt
from typing import NamedTuple

import numpy as np

from sandbagging.statistics import Estimate

ALPHA = 0.05


# A replication is shown to be at least half and at most one and a half times the published effect.
AGREES = 0.5


# How things were made and what a release holds: nothing here can confirm or refute it.
NO_FINDING = "no finding"


REPLICATED, NOT_REPLICATED, CANNOT_BE_SAID = "replicated", "not replicated", "cannot be said"


SAME_DIRECTION, OPPOSITE, NOT_TESTABLE = "same direction", "opposite", "not testable here"


RULE = """
**For the model that the claim is about.** The difference is measured − published, and its CI95
holds the errors of both. Where the card gives no interval, its error is taken to be ours at its
number of questions (as wide as ours where it gives no number either).
1. The CI of the difference leaves out 0: *not replicated* (the words beside it say whether the sign
   or the size differs).
2. The measured CI is clear of zero effect on the published side, **and** the CI of the difference
   lies within ± half the published effect: *replicated*.
3. Anything else: *cannot be said*. A wide interval therefore replicates nothing.

**For any other model.** Sizes cannot agree or disagree, so three answers are left: *same direction*
(the measured CI is clear of zero effect on the published side), *opposite* (on the other side), and
*not testable here* (the CI contains zero effect, or the claim has no direction: a list of heads, a
level, a spread).

**A claim that something is smaller than a bound** (|gap| < 0.15 pp) is a claim of equivalence. It
holds (*replicated*, or *same direction*) only if two one-sided tests put every gap inside the
bound. It fails (*not replicated*, or *opposite*) if the interval of one gap, widened for the number
of gaps (Bonferroni), lies outside. Not significant is not equal.

**A claim in words, "about zero or negative",** fails if the CI lies above 0 and holds if it lies
below; "about zero" without a margin cannot be shown.

Grade *no*, an intervention that is degenerate by design, or a missing measurement: *not testable
here*.
""".strip()


class Judgement(NamedTuple):
    """A verdict of the rule, and the reason in words."""

    verdict: str
    why: str


def difference(published: Estimate, measured: Estimate) -> Estimate:
    """Return measured - published with a CI95 that holds both errors, as of independent samples.

    A published number without an interval gets ours, times the square root of the ratio of the
    numbers of questions.
    """
    below, above = measured.value - measured.low, measured.high - measured.value
    published_below = published.value - published.low
    published_above = published.high - published.value
    if isnan(published_below):
        factor = sqrt(measured.n / published.n) if published.n else 1.0
        published_below, published_above = below * factor, above * factor
    value = measured.value - published.value
    low, high = value - hypot(below, published_above), value + hypot(above, published_below)
    return Estimate(value, low, high, measured.n, measured.unit)


def verdict(
    published: Estimate,
    measured: Estimate | None,
    same_model: bool,
    *,
    kind: str = "effect",
    reference: float = 0.0,
    p_equivalent: float | None = None,
) -> Judgement:
    """Return the verdict of `RULE` on one claim; the reason says what decided.

    kind: "effect" (its direction is seen against `reference`, the value of no effect), "level" (a
    number without a direction), "bound" (|measured| < published, by the p of two one-sided tests)
    or "at most" (not above `reference`).
    """
    if measured is None or isnan(measured.value):
        return Judgement(NOT_TESTABLE, "not measured")
    if kind == "bound":
        return _bound(published, measured, same_model, p_equivalent)
    if isnan(measured.low) or isnan(measured.high):
        word = CANNOT_BE_SAID if same_model else NOT_TESTABLE
        return Judgement(word, "the measured number has no interval")
    if kind == "at most":
        return _at_most(measured, same_model, reference)
    if same_model:
        return _same_model(published, measured, reference)
    if kind == "effect":
        return _direction(published, measured, reference)
    return Judgement(NOT_TESTABLE, "no direction to compare")


def _side(measured: Estimate, reference: float) -> int:
    """Return +1 (-1) where the interval lies above (below) the value of no effect, else 0."""
    return int(measured.low > reference) - int(measured.high < reference)


def _published_side(published: Estimate, reference: float) -> int:
    value = published.low if isnan(published.value) else published.value
    return int(np.sign(value - reference))


def _direction(published: Estimate, measured: Estimate, reference: float) -> Judgement:
    side = _side(measured, reference)
    if side == 0:
        return Judgement(NOT_TESTABLE, f"at this n the CI contains no effect ({reference:g})")
    if side == _published_side(published, reference):
        return Judgement(SAME_DIRECTION, "the CI is clear of no effect, on the published side")
    return Judgement(OPPOSITE, "the CI is clear of no effect, on the other side")


def _same_model(published: Estimate, measured: Estimate, reference: float) -> Judgement:
    side, published_side = _side(measured, reference), _published_side(published, reference)
    if isnan(published.value):  # a range in place of a number
        inside = published.low <= measured.low and measured.high <= published.high
        outside = measured.high < published.low or measured.low > published.high
        word = REPLICATED if inside else NOT_REPLICATED if outside else CANNOT_BE_SAID
        return Judgement(word, "the CI beside the published range")
    gap = difference(published, measured)
    shown = f"measured − published = {gap:short +.3g}"
    if gap.low > 0 or gap.high < 0:
        how = "the size differs" if side else "no effect is seen"
        if side == -published_side:
            how = "the sign is the other one"
        return Judgement(NOT_REPLICATED, f"{how}: {shown}")
    room = AGREES * abs(published.value - reference)
    if side == published_side and -room < gap.low and gap.high < room:
        return Judgement(REPLICATED, shown)
    doubt = "the intervals are too wide" if side == published_side else "the direction is not clear"
    return Judgement(CANNOT_BE_SAID, f"{doubt}: {shown}")


def _bound(published: Estimate, measured: Estimate, same_model: bool, p: float | None) -> Judgement:
    bound = published.value
    if p is not None and p < ALPHA:
        word = REPLICATED if same_model else SAME_DIRECTION
        return Judgement(word, f"inside ±{bound:g} by two one-sided tests, p = {p:.3g}")
    if measured.low > bound or measured.high < -bound:
        word = NOT_REPLICATED if same_model else OPPOSITE
        return Judgement(word, f"the interval lies outside ±{bound:g}")
    word = CANNOT_BE_SAID if same_model else NOT_TESTABLE
    return Judgement(word, f"at this n neither inside nor outside ±{bound:g}")


def _at_most(measured: Estimate, same_model: bool, reference: float) -> Judgement:
    if measured.low > reference:
        return Judgement(
            NOT_REPLICATED if same_model else OPPOSITE, f"the CI lies above {reference:g}"
        )
    if measured.high <= reference:
        return Judgement(
            REPLICATED if same_model else SAME_DIRECTION,
            f"the CI does not reach above {reference:g}",
        )
    return Judgement(
        CANNOT_BE_SAID if same_model else NOT_TESTABLE,
        "the CI contains 0, and the claim names no margin for 'about zero'",
    )


def heads_verdict(
    published: Sequence[str], measured: Sequence[str] | None, same_model: bool
) -> Judgement:
    """Return the verdict on a list of heads: names mean the same head in one model only."""
    if not same_model:
        return Judgement(NOT_TESTABLE, "a head's name means nothing in another model")
    if not measured:
        return Judgement(NOT_TESTABLE, "not measured")
    shared = len(set(published) & set(measured))
    word = (
        REPLICATED
        if shared == len(published) == len(measured)
        else NOT_REPLICATED
        if shared == 0
        else CANNOT_BE_SAID
    )
    return Judgement(word, f"{shared} of {len(published)} heads are the same")
