"""Readings: Markdown with numbers, strict about names."""

import pytest

from sandbagging.errors import UserError
from sandbagging.statistics import Estimate
from sandbagging.suite.runs.readings import filled

GAP = Estimate(8.7187, 6.2605, 11.2926, 100, "pp", "bootstrap")


def test_numbers_are_filled_in():
    text = (
        "Gap {{ gap }}; share {{ share | percent }}; {{ heads | listed }}; {{ rows | count }} rows."
    )
    names = {"gap": GAP, "share": 0.424, "heads": ["L1H2", "L3H4"], "rows": 12345}
    assert filled(text, names) == f"Gap {GAP}; share 42 %; L1H2, L3H4; 12,345 rows."


def test_a_condition_leaves_no_empty_lines():
    text = "A.\n{% if low > 0 %}\nYes.\n{% else %}\nNo.\n{% endif %}\nB."
    assert filled(text, {"low": 1}) == "A.\nYes.\nB."


@pytest.mark.parametrize(
    "text", ["Two\n{{ rival.low }}", "Two {% if rival > 0 %}x{% endif %}", "Two {{ gap.nothing }}"]
)
def test_a_name_that_the_page_lacks_is_named_with_its_reading(text):
    with pytest.raises(UserError, match=r"reading that begins with 'Two.*(rival|nothing)"):
        filled(text, {"gap": {}})


def test_a_broken_reading_is_one_sentence():
    with pytest.raises(UserError, match="cannot be filled"):
        filled("{% if x %}", {"x": 1})
