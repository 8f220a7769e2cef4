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


# The model that the claim is about was not run, so nothing here speaks to it.
NOT_RUN = "not run"


RULE = """
**A claim about what is in a model is judged on that model, or it is *not run*.** The difference is
measured − published, with a CI95 that holds the errors of both (where the card gives no interval,
ours at its number of questions).
1. That CI leaves out 0: *not replicated*.
2. The measured CI is clear of zero effect on the published side, **and** the CI of the difference
   lies within ± half the published effect: *replicated*.
3. Anything else: *cannot be said*. A wide interval replicates nothing.

A claim of equivalence (|gap| < 0.15 pp) is replicated if two one-sided tests put every gap inside
the bound, and not replicated if one gap's interval, widened for the number of gaps, lies outside.
"About zero or negative" fails if the CI lies above 0.

**A claim about a tool**, one kind of SAE against another, can be seen on any model, and in its
direction alone: *same direction* or *opposite*, where the CI is clear of no difference.

No number, no direction, or grade *no* on the claim's own model: *not testable here*.
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

    same_model: the claim is about the model that was measured; else it is about a tool, and only
    its direction is judged. Whether a claim can be judged at all is said in `table.judge`.

    kind: "effect" (its direction is seen against `reference`, the value of no effect), "level" (a
    number without a direction), and of one model alone "bound" (|measured| < published, by the p
    of two one-sided tests) and "at most" (not above `reference`).
    """
    if measured is None or isnan(measured.value):
        return Judgement(NOT_TESTABLE, "not measured")
    if kind == "bound":
        return _bound(published, measured, p_equivalent)
    if isnan(measured.low) or isnan(measured.high):
        word = CANNOT_BE_SAID if same_model else NOT_TESTABLE
        return Judgement(word, "the measured number has no interval")
    if kind == "at most":
        return _at_most(measured, reference)
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


def _bound(published: Estimate, measured: Estimate, p: float | None) -> Judgement:
    bound = published.value
    if p is not None and p < ALPHA:
        return Judgement(REPLICATED, f"inside ±{bound:g} by two one-sided tests, p = {p:.3g}")
    if measured.low > bound or measured.high < -bound:
        return Judgement(NOT_REPLICATED, f"the interval lies outside ±{bound:g}")
    return Judgement(CANNOT_BE_SAID, f"at this n neither inside nor outside ±{bound:g}")


def _at_most(measured: Estimate, reference: float) -> Judgement:
    if measured.low > reference:
        return Judgement(NOT_REPLICATED, f"the CI lies above {reference:g}")
    if measured.high <= reference:
        return Judgement(REPLICATED, f"the CI does not reach above {reference:g}")
    return Judgement(
        CANNOT_BE_SAID, "the CI contains 0, and the claim names no margin for 'about zero'"
    )


def heads_verdict(published: Sequence[str], measured: Sequence[str] | None) -> Judgement:
    """Return the verdict on a list of heads of the claim's own model."""
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
