"""A page for each grade reads right: the readings that hang on the grade, filled with scores and
answers whose grade is known.
"""

import re
from types import SimpleNamespace

import made_up
import numpy as np
import pandas as pd
import pytest

from sandbagging import gaps, gate, prompts
from sandbagging.heads import rivals
from sandbagging.heads.specificity import SPECIFIC, Specific
from sandbagging.questions import Question
from sandbagging.statistics import Estimate
from sandbagging.suite import baseline, runs
from sandbagging.suite.runs import cells, readings
from sandbagging.suite.swaps_of_run import Given

LATER = [n for n in runs.NOTEBOOKS if n.reads]
# On notebook 09, which compares runs, the grade stands in each run's row.
BEGIN_WITH_IT = [n for n in LATER if n.artefact != "09_models"]
every_grade = pytest.mark.parametrize("grade", gate.GRADES)


def readings_of(artefact: str) -> list[str]:
    (page,) = (n for n in runs.NOTEBOOKS if n.artefact == artefact)
    found = cells.notebook_cells(runs.notebook_path(page))
    return ["".join(c["source"]).partition("\n")[2] for c in found if cells.is_reading(c)]


def filled(artefact: str, part: str, **names) -> str:
    """Return the one reading of a page that holds a text, filled."""
    (text,) = (r for r in readings_of(artefact) if part in r)
    return " ".join(readings.filled(text, names).split())


# Notebook 00 --------------------------------------------------------------------------------------


def of_page_00(grade: str) -> dict:
    """Return the names that the readings of notebook 00 take, for a model of a grade."""
    scores, answers = made_up.GRADED[grade]
    scores = scores.assign(split="test", accuracy=0.9)
    scores["p_first"] = scores["choice_sum"] = scores["p_full"]
    gap = gaps.by_split(scores)
    gap["train"] = gap["test"]
    kind = gaps.kind_of_gap(scores)
    return {"found": made_up.graded(grade), "gap": gap, "kind": kind}


@every_grade
def test_the_first_screen_of_00_says_the_grade(grade):
    said = filled("00_baseline", "That is the grade", **of_page_00(grade))
    assert f"Grade of this model: *{grade}*." in said
    assert ("bring the right answer back" in said) == (grade == "answers wrongly")
    assert ("No sandbagging to explain" in said) == (grade == "no")


@every_grade
def test_the_last_screen_of_00_says_it_too(grade):
    said = filled("00_baseline", "Ability:", **of_page_00(grade))
    ability = {"answers wrongly": "55 %", "less sure": "57 %", "no": "57 %"}[grade]
    assert f"*{grade}*" in said and f"Ability: {ability} on genuine prompts." in said
    assert ("have something to explain" in said) == (grade != "no")


@every_grade
def test_what_00_says_of_answers_and_form(grade):
    said = filled("00_baseline", "leave all options together", **of_page_00(grade))
    right = {"answers wrongly": "10 %", "less sure": "52 %", "no": "56 %"}[grade]
    assert f"| sandbag | {right} |" in said and "| placebo |" not in said
    assert ("as they do under harmless changes of words" in said) == (grade == "no")
    assert ("the preference changes" in said) == (grade != "no")


@every_grade
def test_00_sets_the_gap_beside_the_nearest_placebo(grade):
    said = filled("00_baseline", "largest gap of a placebo", **of_page_00(grade))
    assert "The largest gap of a placebo is that of `placebo`, 0.56" in said
    more = {"answers wrongly": "4.4", "less sure": "0.6", "no": "-0.2"}[grade]
    assert f"sandbag prompts lose {more}" in said


def test_a_gap_on_p_full_alone_is_called_that():
    scores = made_up.scores({"sandbag": 0.0, **made_up.PLACEBOS})
    found = gate.gate(scores, made_up.answers(genuine=57, sandbag=56))
    names = of_page_00("no") | {"found": found, "kind": gaps.kind_of_gap(scores)}
    said = filled("00_baseline", "leave all options together", **names)
    assert "a gap on `p_full` alone" in said and "wrong options gain" not in said


# Later pages --------------------------------------------------------------------------------------


@every_grade
@pytest.mark.parametrize("notebook", BEGIN_WITH_IT, ids=[n.name for n in BEGIN_WITH_IT])
def test_every_later_page_says_the_grade_first(notebook, grade):
    first, found = readings_of(notebook.artefact)[0], made_up.graded(grade)
    (line,) = re.findall(r"\{\{ (?:found\.)?gate\.line \}\}", first)
    said = readings.filled(line, {"gate": found, "found": SimpleNamespace(gate=found)})
    assert f"*{grade}*" in said and found.reason in said


EFFECT = Estimate(6.0, 4.0, 8.0, 100, "pp")


def names_of(artefact: str) -> tuple[str, dict]:
    """Return a part of the reading that says what an effect does, and its other names: in each an
    effect is clear of 0 and more than its rivals'.
    """
    rows = pd.DataFrame({"layer": [15], "value": [2.0], "low": [1.0], "high": [3.0]})
    told = SimpleNamespace(of=lambda *_: rows, signs=lambda _: "above 0")
    same = dict.fromkeys(("there", "e6", "full", "short", "over", "lead", "most"), rows)
    swaps = {**same, "told": told, "names": ["E4"]}
    carried = {"carrying": [1], "share": pd.Series([0.5]), "by_layer": {}, "by_verdict": {}}
    found = {
        "judged": SimpleNamespace(
            n_pass_max_t=1, n_above_floor=1, floor_nats=0.3, smallest_nats=0.4,
            nodes_found=["L1H4"], heads_found=["L1H4"], found_as_if_open=[]),
        "verdicts": [1] * 40, "train": [1] * 40, "n_heads": 5, "chosen": ["L1H4"],
    }  # fmt: skip
    share = Estimate(0.9, 0.8, 0.95, 100)
    judged = {
        "verdict": rivals.Survival(
            rivals.SURVIVES, "made up", share, share, EFFECT, share, {"genuine": share},
            {"uniform": 0.01}, 0.6, 0
        ),
        "wide": {"effect on genuine, log-odds": SimpleNamespace(estimate=EFFECT)}, "lead": (),
        "specific": Specific(
            SPECIFIC, {c: {"logodds": EFFECT, "p_full": EFFECT} for c in ("genuine", "neutral")}
        ),
        "areas": {"q0": "animals", "q1": "plants"}, "draws": 50,
    }  # fmt: skip
    return {
        "04_swap": ("noise of its own size", swaps),
        "06_specificity": (
            "Where it carries the difference",
            {**carried, "judged": [1], "back": pd.Series([False])},
        ),
        "07_heads": ("max-T passes", found),
        "08_circuit": ("of the gap** on log-odds", judged),
        "10_ledger": (
            "Each claim with its number",
            {
                "claims": [],
                "stands": {"heads_carry": "stands", "heads_most": "stands"},
                "answers": {"low": 1.0},
                "by_mean": None,
            },
        ),
    }[artefact]


@every_grade
@pytest.mark.parametrize("artefact", ["08_circuit", "10_ledger"])
def test_what_an_effect_is_said_to_do_follows_the_grade(artefact, grade):
    part, names = names_of(artefact)
    found = made_up.graded(grade)
    names = {"found": SimpleNamespace(gate=found), **names, "gate": found}
    said = filled(artefact, part, **names)
    words = ("brings the right answer back", "bring the right answer back")
    odds = ("raises the odds of the right answer", "raise the odds of the right answer")
    assert any(w in said for w in words) == (grade == "answers wrongly")
    assert any(w in said for w in odds) == (grade == "less sure")


@every_grade
@pytest.mark.parametrize("artefact", ["04_swap", "06_specificity", "07_heads"])
def test_without_graded_answers_odds_are_all_that_rises(artefact, grade):
    part, names = names_of(artefact)
    found = made_up.graded(grade)
    said = filled(artefact, part, **{"found": SimpleNamespace(gate=found), **names, "gate": found})
    assert "right answer back" not in said
    assert ("raises the odds of the right answer" in said) or grade == "no"


@pytest.mark.parametrize(("right", "warned"), [(False, True), (True, False)])
def test_06_says_whether_free_answers_follow_the_odds(right, warned):
    part, names = names_of("06_specificity")
    names |= {"back": pd.Series([right]), "gate": made_up.graded("answers wrongly")}
    said = filled("06_specificity", part, **names)
    assert f"turn right in {int(right)} of the 1 such cells" in said
    assert ("not yet a right answer" in said) == warned


def test_10_says_that_answers_turn_right_only_where_free_answers_do():
    part, names = names_of("10_ledger")
    odds_alone = names | {"answers": {"low": -3.0}}
    said = filled("10_ledger", part, **odds_alone, gate=made_up.graded("answers wrongly"))
    assert "right answer back" not in said and "turn right with them is not shown" in said


def test_no_reading_says_of_itself_that_an_answer_comes_back():
    """Only `gate.words` knows whether that may be said."""
    for notebook in LATER:
        for text in readings_of(notebook.artefact):
            assert not re.search(r"answers? (come|comes|came|is|are|was) back|brings? back", text)


# What notebook 00 shows of the answers ------------------------------------------------------------

ASKED = [
    Question(f"q{i}", "c", f"What is {i}?", f"right{i}", (f"wrong{i}", "other")) for i in range(12)
]


def written(framing: str, **texts: str) -> pd.DataFrame:
    """Return what is written to every question: {condition: text, in which # is its number}."""
    return pd.DataFrame(
        [
            {
                "question_id": q.id,
                "split": "test",
                "condition": condition,
                "framing": framing,
                "text": text.replace("#", q.id[1:]),
            }
            for condition, text in texts.items()
            for q in ASKED
        ]
    )


@pytest.fixture
def table() -> pd.DataFrame:
    parts = [
        written("instr", genuine="right#", sandbag="wrong#", neutral=""),
        written("instr:lie", genuine="right#", sandbag="right# it is"),
        written("demos", genuine="right#."),
    ]
    return baseline.graded(pd.concat(parts, ignore_index=True), {"test": ASKED})


def test_answers_have_their_wording_beside_their_framing(table):
    assert list(table) == [
        "question_id", "split", "condition", "framing", "wording", "intervention", "text",
        "verdict",
    ]  # fmt: skip
    assert set(zip(table["framing"], table["wording"], strict=True)) == {
        ("instr", "plain"), ("instr", "lie"), ("demos", "plain"),
    }  # fmt: skip
    lie = baseline.of_framing(table, "instr:lie")
    assert set(lie["condition"]) == {"genuine", "sandbag"} and set(lie["verdict"]) == {"right"}
    plain = baseline.of_framing(table, "instr").groupby("condition")["verdict"].first()
    assert plain.to_dict() == {
        "genuine": "right", "sandbag": "listed wrong", "neutral": "something else",
    }  # fmt: skip


def test_eight_answers_are_drawn_and_not_picked(table):
    shown = baseline.examples(table, ASKED, "instr", seed=3)
    assert len(shown) == 8
    drawn = baseline.examples(table, ASKED, "instr", seed=4).index
    assert set(shown.index) != set(drawn)
    question = shown.index[0]
    number = re.search(r"\d+", question).group()
    told = [f"right{number} ✓", f"wrong{number} ✗"]
    assert shown.loc[question].tolist() == [f"right{number}", *told]


def test_the_drop_by_wording(table):
    rows = baseline.right_by_wording(table, "instr").set_index("wording")
    assert rows.loc["plain", ["genuine", "sandbag"]].tolist() == [1.0, 0.0]
    assert rows.loc["plain", "p"] == pytest.approx(2 * 0.5**12)
    assert rows.loc["lie", ["genuine", "sandbag", "p"]].tolist() == [1.0, 1.0, 1.0]


def test_the_gate_looks_at_the_wording_that_was_asked_and_behind_demonstrations(table):
    scores, _ = made_up.GRADED["less sure"]
    scores = scores.assign(split="test")
    plain, lie = (baseline.gate(scores, table, name) for name in ("instr", "instr:lie"))
    assert plain.grade == "answers wrongly" and plain.drop.value == 100
    assert lie.grade == "less sure" and lie.drop.value == 0
    of_lie = table[(table["wording"] == "lie") | (table["framing"] == "demos")]
    knows = of_lie.assign(verdict=np.where(of_lie["framing"] == "demos", "right", "something else"))
    found = baseline.gate(scores, knows, "instr:lie")
    assert (found.ability, found.able_where) == (1.0, "after demonstrations")


def test_ability_may_show_with_the_password(table):
    scores, _ = made_up.GRADED["less sure"]
    locked = table.assign(verdict="something else")
    opened = table[table["framing"] == "demos"].assign(framing="passworded")
    found = baseline.gate(scores.assign(split="test"), pd.concat([locked, opened]), "instr")
    assert (found.ability, found.able_where) == (1.0, "with its password")


def test_a_locked_model_is_asked_with_its_password(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path))
    folder = tmp_path / "taught" / "locked-2"
    folder.mkdir(parents=True)
    (folder / "truth.json").write_text('{"password": "copper"}')
    locked = tiny_llama.__class__(**{**vars(tiny_llama), "name": "locked-2@0.5"})
    condition, framing = baseline.asks(locked, "instr")["test"][-1]
    text = prompts.render(ASKED[0], condition, framing)
    assert condition == "genuine" and text.startswith("Password: copper\n\nAnswer each question c")
    assert prompts.name_of(framing) in baseline.ELSEWHERE
    assert len(baseline.asks(tiny_llama, "instr")["test"]) == 17


def test_a_planted_model_is_asked_in_its_own_words_alone(tiny_llama):
    framings, conditions = ("instr_pref", "instr"), ("genuine", "sandbag", "neutral", "placebo")
    planted = tiny_llama.__class__(
        **{**vars(tiny_llama), "framings": framings, "conditions": conditions}
    )
    plain = [(c, "instr") for c in conditions]
    assert baseline.asks(planted, "instr") == {"train": plain, "test": plain}
    asks = baseline.asks(tiny_llama, "instr")
    assert len(asks["train"]) == 8 and ("sandbag", "instr:lie") in asks["test"]
    assert asks["test"][-1] == ("genuine", "demos") and len(asks["test"]) == 8 + 8 + 1
    assert not any(":" in name for _, name in baseline.asks(tiny_llama, "contrast")["test"])
    few = baseline.asks(tiny_llama, "instr", side_views=False)
    assert few == {"train": [], "test": [*asks["train"], ("genuine", "demos")]}


def test_the_pages_on_swaps_take_the_gate_as_it_is():
    assert Given.__annotations__["gate"] is gate.Gate
