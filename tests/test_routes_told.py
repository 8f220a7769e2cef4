"""Where two routes to the heads name other ones, the page says so and the expectation failed."""

from types import SimpleNamespace

import pandas as pd
import pytest
from made_up import graded

from sandbagging.heads import parts
from sandbagging.heads.head import Head
from sandbagging.suite import circuit, predictions, runs
from sandbagging.suite.runs import cells, readings

CHOSEN = (Head(2, 0), Head(9, 1))


def reading_of_08(part: str) -> str:
    (page,) = (n for n in runs.NOTEBOOKS if n.artefact == "08_circuit")
    found = cells.notebook_cells(runs.notebook_path(page))
    texts = ["".join(c["source"]).partition("\n")[2] for c in found if cells.is_reading(c)]
    (text,) = (t for t in texts if part in t)
    return text


@pytest.mark.parametrize(
    ("patched", "held", "said"),
    [
        ((Head(2, 0), Head(5, 0)), False, "Patching names other heads than zeroing: 1 of 2"),
        ((Head(9, 1), Head(2, 0)), True, "Patching names the same heads as zeroing"),
    ],
)
def test_08_says_where_patching_names_other_heads(patched, held, said):
    text = reading_of_08("Patching names other heads")
    names = {"swapped": True, "side_views": True, "joint": CHOSEN, "patched": patched,
             "verdict": SimpleNamespace(share=SimpleNamespace(value=0.8))}  # fmt: skip
    for taken, more in ((0.1, True), (0.6, False)):
        names["moved"] = pd.Series({"joint": taken, "patching": 0.5})
        told = readings.filled(text, {**names, "gate": graded("answers wrongly")})
        assert said in told and ("restores more than they carry" in told) is more
    assert circuit.same_heads(CHOSEN, patched)[0] is held


@pytest.mark.parametrize(
    ("restored", "closed", "said"),
    [
        (-0.4, 0.7, "most of what these heads close is genuine answers ruined"),
        (0.2, 0.7, "a good part of what these heads close"),
        (0.6, 0.7, "Here little is ruined"),
    ],
)
def test_08_says_why_sets_grow(restored, closed, said):
    text = reading_of_08("Single effects do not add up")
    part = text[text.index("{% if lead %}") : text.index("Net effect:")]
    part = part[: part.rindex("{% endif %}") + len("{% endif %}")]
    rows = {"set": "leading", "way": "zero", "metric": "logodds",
            "quantity": ["share_restored", "share_closed"],
            "value": [restored, closed]}  # fmt: skip
    names = {"parts": parts, "closes": pd.DataFrame(rows), "lead": CHOSEN}
    assert said in readings.filled(part, names)
    assert readings.filled(part, {**names, "lead": ()}).strip() == ""


def test_heads_that_patching_does_not_name_are_a_failed_expectation():
    said = {"08_circuit": {"routes": predictions.SAID["08_circuit"]["routes"]}}
    other, same = (Head(2, 0), Head(5, 0)), CHOSEN
    for patched, told in ((other, ["1 of 2 shared"]), (same, [])):
        outcomes = {"routes": circuit.same_heads(CHOSEN, patched)}
        failed = predictions.failed(predictions.record("08_circuit", outcomes, said))
        assert [f["told"] for f in failed] == told


def places(last, first):
    """Shares restored by zeroing at places: the intervals (low, high) of two, and of everywhere."""
    ends = {"last token": last, "instruction": first, "everywhere": (0.8, 0.9), **HIDDEN}
    rows = [{"way": way, "value": sum(e) / 2, "low": e[0], "high": e[1]} for way, e in ends.items()]
    of = {"set": "joint", "metric": "logodds", "quantity": "share_restored", "n": 9}
    return pd.DataFrame(rows).assign(**of)


HIDDEN = {circuit.WITHIN: (0.0, 0.1), circuit.BEHIND: (0.0, 0.1), circuit.LAST: (0.0, 0.1)}


@pytest.mark.parametrize(
    ("last", "first", "held", "said"),
    [
        ((0.6, 0.7), (0.1, 0.2), True, "As predicted, the last token"),
        ((0.1, 0.2), (0.6, 0.7), False, "**The prediction fails:**"),
        ((0.1, 0.5), (0.4, 0.7), None, "is not shown"),  # though the means differ
    ],
)
def test_08_says_where_heads_act_only_where_intervals_tell_places_apart(last, first, held, said):
    where = places(last, first)
    assert circuit.acts_later(where, "instruction") is held
    names = {"where": where, "by_path": where, "told": "instruction", "circuit": circuit}
    names |= {"side_views": True, "gate": graded("answers wrongly")}
    assert said in readings.filled(reading_of_08("Which of the two places"), names)
