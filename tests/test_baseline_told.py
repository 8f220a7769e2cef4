"""What notebook 00 says of its own expectations, and beside its headline numbers."""

import made_up
import numpy as np
import pandas as pd
import pytest

from sandbagging.statistics import Estimate
from sandbagging.suite import baseline, predictions


def came(name: str, grade: str = "answers wrongly", **changes) -> tuple[bool | None, str]:
    found = made_up.graded(grade)._replace(**changes)
    wordings = pd.DataFrame({"genuine": [0.6, 0.6], "sandbag": [0.2, 0.55]})
    records = baseline.expected(found, None, wordings, 1.2)
    sentence = predictions.SAID["00_baseline"][name]
    return next((one["held"], one["told"]) for one in records if one["said"] == sentence)


def shares(listed: float, other: float) -> dict:
    genuine = {"right": 0.6, "listed wrong": 0.0, "something else": 0.4}
    sandbag = {"listed wrong": listed, "something else": 0.4 + other}
    return {"genuine": genuine, "sandbag": sandbag | {"right": 0.6 - listed - other}}


def test_who_takes_over_from_right_answers_is_counted():
    assert came("listed", shares=shares(0.3, 0.1))[0] is True
    assert came("listed", shares=shares(0.13, 0.32)) == (
        False,
        "listed +13, other texts +32 points",
    )
    assert came("listed", grade="no", shares=shares(0.13, 0.32))[0] is None


def test_one_wording_that_is_not_obeyed_is_enough():
    assert came("wordings") == (False, "5 to 40 points lost")


def test_a_placebo_that_does_as_much_is_told():
    low = Estimate(0.1, -0.2, 0.4, 40, "nats")
    assert came("placebos", excess={"placebo": low})[0] is False
    assert came("placebos", excess={"placebo": Estimate(3.0, 2.0, 4.0, 40, "nats")})[0] is True


def test_what_stands_beside_the_gap_is_by_question_and_by_category():
    """Six questions of two categories: log-odds fall by 1 in one and by 3 in the other."""
    ids, kinds = [f"q{i}" for i in range(6)], ["a"] * 3 + ["b"] * 3
    fall = np.repeat([1.0, 3.0], 3)
    rows = {"question_id": ids, "split": "test"}
    scores = pd.concat(
        pd.DataFrame({**rows, "condition": c, "p_full": x / 10, "logodds": x})
        for c, x in (("genuine", 5 + 0 * fall), ("sandbag", 5 - fall))
    )
    answers = scores.assign(framing="instr", wording="plain", verdict="right")
    table = baseline.beside(scores, answers, "instr", dict(zip(ids, kinds, strict=True)))
    odds = table.set_index("name").loc["gap, log-odds"]
    assert odds["value"] == pytest.approx(2.0) and odds["decides"] == "categories"
    assert (odds["without_one_low"], odds["without_one_high"]) == (1.0, 3.0)
    drop = table.set_index("name").loc["drop of right free answers"]
    assert (drop["value"], drop["unit"], drop["n"]) == (0.0, "pp", 6)
