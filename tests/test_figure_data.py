"""What a figure shows comes back from it as numbers."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import seaborn as sns
from test_plots import FIGURES, head_effects

from sandbagging.suite import plots
from sandbagging.suite.plots import data

matplotlib.use("agg")


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_gives_rows_with_axes_and_numbers(name):
    rows = data.drawn(FIGURES[name]())
    assert len(rows) > 2 and rows["x"].notna().any() and (rows["x_axis"] != "").any()
    assert set(rows["kind"]) <= {"point", "interval", "bar", "cell"}


def test_points_intervals_bars_and_cells_set_by_hand():
    fig, (left, right) = plt.subplots(1, 2)
    left.errorbar([1, 2], [5, 7], yerr=[0.5, 1], label="effect")
    left.bar([4], [3], width=1, label="bar")
    left.axhline(0)
    left.axvline(6, label="chosen")
    left.axvspan(5, 8)
    left.axline((0, 0), slope=1, label="diagonal")
    left.stairs([2, 0], [10, 11, 12], label="draws")
    left.set(title="left", xlabel="layer", ylabel="pp")
    sns.heatmap(
        np.array([[1.0, 2.0], [3.0, 4.0]]),
        ax=right,
        yticklabels=["a", "b"],
        xticklabels=["c", "d"],
        cbar=False,
    )
    plt.close(fig)
    rows = data.drawn(fig).set_index("kind")
    mine = rows[rows["panel"] == "left"]
    assert (
        mine.loc["point", ["x", "y"]].to_numpy(float).tolist()[:2] == [[1, 5], [2, 7]]
        and (mine["y_axis"] == "pp").all()
    )
    assert mine.loc["point", "series"].tolist() == ["effect", "effect", "chosen"]
    assert mine.loc["point", "x"].tolist()[2] == 6 and np.isnan(mine.loc["point", "y"].tolist()[2])
    ends = mine.loc["interval", ["x", "x_end", "y", "y_end"]].to_numpy(float).tolist()
    assert ends[:2] == [[1, 1, 4.5, 5.5], [2, 2, 6, 8]]
    assert ends[2][:2] == [5, 8] and np.isnan(ends[2][2:]).all()  # the band
    bars = mine.loc["bar", ["series", "x", "x_end", "y_end"]].to_numpy().tolist()
    assert sorted(bars) == [["bar", 3.5, 4.5, 3], ["draws", 10, 11, 2], ["draws", 11, 12, 0]]
    assert 0 not in mine.loc["point", "y"].tolist()  # the rule at zero is no datum
    cells = rows.loc["cell"]
    assert cells["value"].tolist() == [1, 2, 3, 4] and cells["y_name"].tolist() == [
        "a",
        "a",
        "b",
        "b",
    ]
    assert cells["x_name"].tolist() == ["c", "d", "c", "d"]


def test_the_numbers_are_those_of_the_table():
    table = head_effects()
    rows = data.drawn(plots.head_map(table))
    assert np.allclose(
        sorted(rows.loc[rows["kind"] == "cell", "value"].dropna()), sorted(table["effect"])
    )
