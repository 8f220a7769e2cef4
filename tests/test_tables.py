"""Tables on a page: what is open, what is folded, and that nothing is cut."""

import pandas as pd

from sandbagging.suite import tables


def test_what_is_beyond_the_open_rows_is_folded():
    table = pd.DataFrame({"claim": [f"claim-{i}" for i in range(10)]})
    before, _, folded = tables.shown(table, rows=8).html.partition("<details>")
    assert "claim-7" in before and "claim-8" not in before
    assert "claim-8" in folded and "claim-9" in folded and "claim-7" not in folded
    assert "<details>" not in tables.shown(table[:8]).html


def test_a_table_can_be_folded_whole():
    html = tables.shown(pd.DataFrame({"claim": ["first", "second"]}), rows=0).html
    assert html.startswith("<details>") and "first" in html and "2 rows" in html


def test_an_index_that_only_counts_is_left_out():
    assert "<th>0</th>" not in tables.shown(pd.DataFrame({"x": ["y"]}))._repr_html_()


def test_numbers_are_told_as_a_reader_needs_them():
    table = pd.DataFrame({"k": [64.0, float("nan")], "error": [2.4e-6, 0.0], "n": [3, 4]})
    assert tables.shown(table).text.split() == ["k", "error", "n", "64", "2e-06", "3", "0.000", "4"]


def test_words_stand_left_and_numbers_right():
    html = tables.shown(pd.DataFrame({"verdict": ["specific"], "value": [-0.5]}))._repr_html_()
    assert '<td style="text-align: left">specific' in html and "<td>-0.500" in html


def test_long_texts_are_not_cut():
    words = "word " * 40 + "end"
    shown = tables.shown(pd.DataFrame({"why": [words]}))
    assert words in shown.html and words in repr(shown)
