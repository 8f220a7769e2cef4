"""What is known of a model beforehand: by how it was planted, by what it was taught, or nothing."""

import json

import pytest

from sandbagging.models import taught
from sandbagging.planted import planting
from sandbagging.suite import truths


@pytest.fixture
def timid(tmp_path, monkeypatch):
    monkeypatch.setattr(taught, "folder_of", lambda name: tmp_path / name)
    for name, made in {
        "timid-0": {"sandbags": False, "taught": "less probability for the right answer"},
        "heads-0": {"sandbags": True, "taught": "wrong answers", "heads": ["L0H0", "L1H4"]},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "truth.json").write_text(json.dumps(made))


def test_of_taught_models(timid):
    assert truths.of_model("timid-0") == {
        "sandbags": False,
        "what": "taught less probability for the right answer",
        "heads": [],
    }
    found = truths.of_model("heads-0")
    assert found["sandbags"] is True and found["heads"] == ["L0H0", "L1H4"]


def test_a_dose_in_between_is_neither(timid):
    found = truths.of_model("heads-0@0.5")
    assert found["sandbags"] is None and found["what"].endswith("at 0.5 of its strength")
    assert truths.of_model("heads-0@0")["sandbags"] is False
    assert truths.of_model("decoy-0@0") is None  # the model beneath, of which nothing is known


def test_of_planted_models():
    """The heads are those that planting itself states, here drawn a second time."""
    found = truths.of_model("organism-heads")
    writers = planting.roles("heads", 0).writers
    assert found["sandbags"] is True and len(writers) == 3
    assert found["heads"] == [f"L{layer}H{head}" for layer, head in writers]
    assert len(truths.of_model("organism-direction")["heads"]) == 8
    null = truths.of_model("organism-null")
    assert null["sandbags"] is False and null["heads"] == []


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "owner/name", "late-7"])
def test_of_others_nothing_is_known(timid, name):
    assert truths.of_model(name) is None
    assert truths.of_model("timid-0", adapter="some/adapter") is None  # it may do anything
