"""What a page expected and what came of it."""

import numpy as np
import pytest

from sandbagging.suite import predictions

SAID = {"07_heads": {"early": "The heads sit early.", "routes": "Two routes name the same heads."}}


def test_outcomes_keep_the_order_of_what_was_said_and_plain_flags():
    outcomes = {"routes": (None, "not run"), "early": (np.bool_(False), "L17H6")}
    assert predictions.record("07_heads", outcomes, SAID) == [
        {"said": "The heads sit early.", "held": False, "told": "L17H6"},
        {"said": "Two routes name the same heads.", "held": None, "told": "not run"},
    ]


@pytest.mark.parametrize("names", [["early"], ["early", "routes", "late"]])
def test_an_expectation_cannot_be_dropped_or_added_by_the_page_alone(names):
    with pytest.raises(ValueError, match="expects"):
        predictions.record("07_heads", {name: (True, "") for name in names}, SAID)


def test_what_failed_is_neither_what_held_nor_what_could_not_be_said():
    told = [{"said": str(held), "held": held, "told": ""} for held in (True, False, None)]
    assert [found["said"] for found in predictions.failed(told)] == ["False"]


def test_what_is_expected_of_cells_is_expected_of_all_of_them():
    assert predictions.in_all([True, True]) == (True, "2 of 2 cells")
    assert predictions.in_all([True, False]) == (False, "1 of 2 cells")
    assert predictions.in_all([]) == (None, "0 of 0 cells")
    tags = ["v4_tiny_topk_L7_mixed", "v4_tiny_topk_L9_mixed"]
    where = "1 of 2 cells, not in L9 topk mixed"
    assert predictions.in_all([True, False], tags) == (False, where)
    assert predictions.in_all([False, False], tags) == (False, "0 of 2 cells")
