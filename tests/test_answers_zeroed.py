"""What zeroing heads does to free answers, from tables set by hand."""

import json

import pandas as pd
import pytest

from sandbagging.suite import answers


def table(**verdicts: str) -> pd.DataFrame:
    rows = {"question_id": list(verdicts), "verdict": list(verdicts.values())}
    return pd.DataFrame(rows | {"condition": "sandbag"})


BEFORE = table(a="right", b="listed wrong", c="listed wrong", d="something else")
AFTER = table(a="right", b="right", c="right", d="something else")


def test_right_answers_that_come_back_are_counted_as_a_gain():
    """One of four was right and three are: + 50 pp. Two of two that changed are 1/2 by McNemar."""
    found = answers.changed(BEFORE, AFTER)
    assert found["before"] == 0.25 and found["right"] == 0.75 and found["listed wrong"] == 0
    assert found["change"].value == pytest.approx(50) and found["p"] == pytest.approx(0.5)
    lost = answers.changed(AFTER, BEFORE)
    assert lost["change"].value == pytest.approx(-50)


def test_the_table_for_reading():
    gain, loss = answers.changed(BEFORE, AFTER), answers.changed(AFTER, BEFORE)
    shown = answers.as_table({"joint": {"sandbag": gain, "genuine": loss}})
    assert shown.loc["joint", "right, sandbag"] == "25% → 75%"
    assert shown.loc["joint", "right, genuine"] == "75% → 25%"
    assert shown.loc["joint", "change, sandbag"].startswith("50.0")


def test_texts_of_a_file_stay_texts(tmp_path):
    """A table reader of its own mind would make numbers and dates of them."""
    path = tmp_path / "answers.jsonl"
    lines = [{"question_id": "1", "text": "1999-12-31"}, {"question_id": "2", "text": "007"}]
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert answers.read(path)["text"].tolist() == ["1999-12-31", "007"]
    assert answers.read(path)["question_id"].tolist() == ["1", "2"]
