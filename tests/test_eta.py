"""The ETA: hand-set cases, and recorded runs replayed."""

import json
from pathlib import Path

import pytest

from sandbagging.suite import runner, runs
from sandbagging.suite.runner import eta, history, nodes, work
from sandbagging.suite.runner.history import Expected

RECORDED = sorted((Path(__file__).parent / "timings").glob("*.json"))
A, B, C = ("run", "a"), ("run", "b"), ("run", "c")


@pytest.fixture(autouse=True)
def whole_numbers(monkeypatch, request):
    """Hand-set cases take a page at its word."""
    if "replay" not in request.node.name and "short" not in request.node.name:
        monkeypatch.setattr(eta, "PRIOR", 0.0)


def estimator(jobs: int = 1, **waits: list) -> eta.Estimator:
    """Three pages of 10 s of telling; b measures for 100 s, c for 50 s."""
    expected = {
        A: Expected(10.0, 20.0, "forward"),
        B: Expected(10.0, 100.0, "forward"),
        C: Expected(10.0, 50.0, "forward"),
    }
    named = {"a": A, "b": B, "c": C}
    return eta.Estimator(expected, {named[n]: waits.get(n, []) for n in named}, jobs)


def test_a_page_that_ended_says_how_fast_this_machine_is():
    clock = estimator()
    clock.start(A, 0.0)
    assert clock.seconds_left(5.0) is None, "nothing has ended yet"
    clock.finish(A, 60.0, 40.0)  # twice as slow at both
    assert clock.seconds_left(60.0) == 2 * (110 + 60)
    clock.start(B, 60.0)
    assert clock.seconds_left(100.0) == 220 - 40 + 120


def test_pages_side_by_side_end_with_the_longest_way():
    clock = estimator(jobs=2)
    clock.start(A, 0.0)
    clock.finish(A, 30.0, 20.0)
    assert clock.seconds_left(30.0) == 110
    clock = estimator(jobs=2, c=[B])
    clock.start(A, 0.0)
    clock.finish(A, 30.0, 20.0)
    assert clock.seconds_left(30.0) == 110 + 60, "c reads b"


def test_what_most_seconds_wait_for_begins_first():
    planned = [
        nodes.Node(run, runner.PlannedStep(runs.notebook_of(name), {}, {}), 0, 1)
        for run, name in (("r", "00_baseline"), ("r", "07_heads"), ("q", "11_planted"))
    ]
    seconds = {"00_baseline": 10.0, "07_heads": 50.0, "11_planted": 55.0}
    expected = {n.key: Expected(seconds[n.key[1]], 0.0, "") for n in planned}
    order = [n.key[1] for n in history.longest_way_first(planned, expected)]
    assert order == ["00_baseline", "11_planted", "07_heads"]


def test_a_loop_that_takes_longer_than_expected_counts():
    clock = estimator()
    clock.start(A, 0.0)
    clock.finish(A, 30.0, 20.0)
    clock.start(B, 30.0)
    clock.report(B, "sweep", 1, 10, 50.0)
    clock.report(B, "sweep", 2, 10, 90.0)  # 40 s each
    assert clock.seconds_left(90.0) == 8 * 40 + 60


def test_a_short_page_says_little():
    clock = estimator()
    clock.start(A, 0.0)
    clock.finish(A, 45.0, 30.0)  # half as slow again at both
    telling, measuring = (15 + 20) / (10 + 20), (30 + 20) / (20 + 20)
    assert clock.seconds_left(45.0) == pytest.approx(20 * telling + 150 * measuring)
    clock = estimator()
    clock.start(A, 0.0)
    clock.finish(A, 150.0, 100.0)  # five times as slow: it may be chance
    assert clock.seconds_left(150.0) is None
    clock.start(B, 150.0)
    clock.finish(B, 700.0, 500.0)
    assert clock.seconds_left(700.0) == pytest.approx(10 * 120 / 40 + 50 * 620 / 140)


def test_what_is_not_known_is_not_shown():
    clock = estimator()
    clock.start(A, 0.0)
    clock.finish(A, 30.0, 20.0)
    clock.expected[B] = Expected(10.0, None, "forward")
    assert clock.seconds_left(30.0) is None, "nothing is known of b"
    clock.expected[B] = Expected(10.0, 100.0, "training")
    assert clock.seconds_left(30.0) is None, "most of what is left is of a kind not seen yet"
    clock.expected[B] = Expected(10.0, 10.0, "training")
    assert clock.seconds_left(30.0) == 80
    clock.start(B, 30.0)
    assert clock.seconds_left(30.0 + 20 * eta.OVER + eta.SLACK + 1) is None, "b is not understood"


def test_more_to_do_counts_for_more():
    settings = {
        "model": "smollm2-135m-instruct", "n_train": 84, "n_test": 100, "sweep_questions": 40,
        "sweep_layers": [], "rivals_on": ["neutral"], "n_heads": 5, "draws": 100, "tags": ["*"],
        "swap_tags": ["*"], "steps": 1200, "strengths": [-1.0, 1.0], "noise_seeds": 8,
        "e1_seeds": 20, "n_flips": 1000, "seeds": [0], "layers": [], "heads": "",
    }  # fmt: skip
    assert set(work.COUNTS) == set(work.KINDS) <= {n.artefact for n in runs.NOTEBOOKS}
    counts = {name: work.amount(name, settings) for name in work.COUNTS}
    assert None not in counts.values()
    more = {
        "n_test": 200, "sweep_questions": 80, "draws": 200, "steps": 2400, "n_flips": 2000,
        "e1_seeds": 40, "seeds": [0, 1], "noise_seeds": 16,
    }  # fmt: skip
    for name, value in more.items():
        larger = {a: work.amount(a, settings | {name: value}) for a in work.COUNTS}
        assert any(1 < larger[a] / counts[a] <= 2 for a in work.COUNTS), name
        assert all(larger[a] >= counts[a] for a in work.COUNTS), name
    assert work.amount("07_heads", settings | {"model": "owner/unknown"}) is None


def replayed(path: Path) -> list[tuple[float, float]]:
    """Return (seconds shown as left, seconds truly left) twice a minute and after every event."""
    recorded = json.loads(path.read_text())
    expected = {("run", name): Expected(*value) for name, value in recorded["expected"].items()}
    reads = {n.artefact: n.reads for n in runs.NOTEBOOKS}
    waits = {key: [k for k in expected if k[1] in reads[key[1]]] for key in expected}
    clock = eta.Estimator(expected, waits, recorded["jobs"])
    end = recorded["events"][-1][0]
    shown = []
    for now, what, artefact, *more in recorded["events"]:
        key = ("run", artefact)
        if what in ("start", "skip"):
            clock.start(key, now) if what == "start" else clock.skip(key)
        elif what == "report":
            clock.report(key, *more, now)
        else:
            clock.finish(key, now, *more)
        left = clock.seconds_left(now)
        if left is not None:
            shown.append((left, end - now))
    return shown


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_replay_what_is_shown_is_within_half_of_the_truth(path):
    shown = replayed(path)
    assert len(shown) > 10
    for left, truly in shown:
        if left < 60:  # "under a minute" is what is shown
            assert truly <= 1.5 * 60 + eta.SLACK
            continue
        assert truly / 1.5 - eta.SLACK <= left <= 1.5 * truly + eta.SLACK, (left, truly)


def test_no_estimate_once_a_page_has_taken_its_time_and_its_last_loop_has_ended():
    clock = estimator()
    clock.start(A, 0.0)
    clock.finish(A, 30.0, 20.0)
    clock.start(C, 30.0)
    clock.finish(C, 90.0, 50.0)
    clock.start(B, 90.0)
    clock.report(B, "first half", 1, 2, 120.0)
    clock.report(B, "first half", 2, 2, 195.0)
    assert clock.seconds_left(196.0) == 4
    assert clock.seconds_left(230.0) is None, "past its time, and what follows is not known"
