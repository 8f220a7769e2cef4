"""Tables as pages show them."""

import pandas as pd

from sandbagging.suite import tables


def test_rows_beyond_the_eighth_are_folded():
    table = pd.DataFrame({"layer": range(11), "value": [x / 7 for x in range(11)]})
    html = tables.shown(table)._repr_html_()
    opened, folded = html.split("<details>")
    assert opened.count("<tr") == 1 + 8 and folded.count("<tr") == 1 + 3
    assert "<summary>3 more rows</summary>" in folded
    assert "0.143" in opened and "0.1428" not in opened


def test_a_short_table_is_whole_and_text_holds_all_of_it():
    table = pd.DataFrame({"value": [0.5, float("nan")]}, index=pd.Index(["a", "b"], name="tag"))
    short = tables.shown(table, digits=1)
    assert "<details>" not in short._repr_html_() and "<th>a</th>" in short._repr_html_()
    assert "0.5" in repr(short) and "b" in repr(short)


def test_an_index_that_only_counts_is_left_out():
    assert "<th>0</th>" not in tables.shown(pd.DataFrame({"x": ["y"]}))._repr_html_()


def test_numbers_are_told_as_a_reader_needs_them():
    table = pd.DataFrame({"k": [64.0, float("nan")], "error": [2.4e-6, 0.0], "n": [3, 4]})
    assert tables.shown(table).text.split() == ["k", "error", "n", "64", "2e-06", "3", "0.000", "4"]


def test_words_stand_left_and_numbers_right():
    html = tables.shown(pd.DataFrame({"verdict": ["specific"], "value": [-0.5]}))._repr_html_()
    assert '<td style="text-align: left">specific' in html and "<td>-0.500" in html
