"""The robustness table on made-up runs: what holds everywhere, what fails once, what cannot be said
and what was not run.
"""

import json

import made_up
import numpy as np
import pandas as pd
import pytest

from sandbagging import files, questions
from sandbagging.errors import UserError
from sandbagging.heads import estimates, rivals, specificity
from sandbagging.heads.head import Head, join
from sandbagging.heads.rivals import Survival
from sandbagging.heads.sweep import Effects
from sandbagging.questions import Question
from sandbagging.statistics import Estimate
from sandbagging.suite import cli, robustness, runs
from sandbagging.suite.robustness import (
    DOES_NOT,
    HOLDS,
    NOT_RUN,
    UNKNOWN,
    evidence,
    held,
    leaving_out,
    plan,
    spelling,
    table,
)
from sandbagging.suite.robustness.evidence import Cell
from sandbagging.swaps import decision

SURE, CLOSED = "answers wrongly", "no"
FIVE = [Head(2, 0), Head(5, 1), Head(9, 3), Head(14, 0), Head(20, 2)]


def around(value: float, half: float, unit: str = "nats") -> Estimate:
    return Estimate(value, value - half, value + half, 60, unit)


# The rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drop", "ability", "says"),
    [
        ((40, 10), 0.6, HOLDS),  # 30 to 50 points
        ((15, 10), 0.6, UNKNOWN),  # 5 to 25: on both sides of the mark of 10
        ((4, 5), 0.6, DOES_NOT),  # -1 to 9
        ((40, 10), 0.3, DOES_NOT),  # it knows too little
    ],
)
def test_answers_wrongly(drop, ability, says):
    grade = SURE if says == HOLDS else CLOSED
    found = made_up.graded(SURE)._replace(
        grade=grade, drop=around(*drop, unit="pp"), ability=ability
    )
    assert evidence.wrongly(found).says == says


def survived(grade=rivals.FAILS, share=(0.5, 0.2), margin=(0.2, 0.1), rank_p=0.02) -> Survival:
    restored, beyond = around(*share, unit=""), around(*margin, unit="")
    full, net, closed = around(0.4, 0.2, ""), around(2.0, 0.5), around(0.9, 0.05, "")
    own, ranks = {"genuine": beyond}, {"uniform": rank_p}
    return Survival(grade, "why", restored, full, net, closed, own, ranks, 0.1, 0)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (survived(rivals.SURVIVES), HOLDS),
        (survived(rivals.PART), HOLDS),
        (survived(rivals.CHANCE, margin=(0.1, 0.2)), UNKNOWN),  # the rival may do as well
        (survived(rivals.CHANCE, margin=(-0.2, 0.1)), DOES_NOT),  # the rival does better
        (survived(share=(0.05, 0.04)), DOES_NOT),  # less than a tenth of the gap
        (survived(share=(0.3, 0.25)), UNKNOWN),
        (survived()._replace(net=around(0.05, 0.04)), DOES_NOT),  # less than 0.1 nats
        (survived()._replace(net=around(0.1, 0.05)), UNKNOWN),
        (survived(rank_p=0.2), UNKNOWN),  # one random set in five does as well, or few were drawn
        (survived(rank_p=0.6), DOES_NOT),
        (survived(rivals.NOTHING), UNKNOWN),
    ],
)
def test_a_few_heads_carry_it(found, says):
    assert evidence.carry(found).says == says


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (survived(rivals.SURVIVES, share=(0.8, 0.1)), HOLDS),
        (survived(rivals.PART, share=(0.4, 0.05)), DOES_NOT),  # 35 to 45 %
        (survived(rivals.PART, share=(0.5, 0.2)), UNKNOWN),
        (survived(rivals.CHANCE, share=(0.8, 0.1), margin=(-0.2, 0.1)), DOES_NOT),
    ],
)
def test_these_heads_carry_most_of_it(found, says):
    assert evidence.most(found).says == says


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (specificity.SPECIFIC, HOLDS),
        (specificity.LARGER_ELSEWHERE, DOES_NOT),
        (specificity.OPPOSITE, DOES_NOT),
        (specificity.NOT_SHOWN, UNKNOWN),
        (specificity.P_FULL_ALONE, UNKNOWN),
    ],
)
def test_specific_to_sandbagging(verdict, says):
    assert evidence.specific(verdict, around(1, 0.5), SURE).says == says
    assert evidence.specific(verdict, around(1, 0.5), CLOSED).says == UNKNOWN


def swap(layer, verdict, basis="", oracle=(3.0, 0.5), p_zero=1.0) -> dict:
    """A row of `decision.judge_cells`, as far as it is read."""
    row = {"layer": layer, "verdict": verdict, "basis": basis, "reason": "why", "e6": around(2, 1)}
    return row | {"p_oracle_is_zero": p_zero, "oracle": around(*oracle)}


NOTHING_THERE = {"oracle": (0.0, 0.05), "p_zero": 0.001}


@pytest.mark.parametrize(
    ("first", "deep", "says"),
    [
        (
            swap(7, decision.NOTHING, **NOTHING_THERE),
            swap(22, decision.CARRIES, decision.ANY),
            (HOLDS, HOLDS, HOLDS),
        ),
        (
            swap(7, decision.UNKNOWN),  # the oracle restores 3 nats there
            swap(22, decision.CARRIES, decision.NEEDS),
            (HOLDS, DOES_NOT, DOES_NOT),
        ),
        (
            swap(7, decision.UNKNOWN, oracle=(0.3, 0.4)),
            swap(22, decision.EQUIVALENT),
            (DOES_NOT, UNKNOWN, UNKNOWN),
        ),
        (swap(7, decision.NO_GATE), swap(22, decision.NO_GATE), (UNKNOWN, UNKNOWN, UNKNOWN)),
        # A void cell says nothing of the swap, but the oracle was measured all the same.
        (
            swap(7, decision.VOID, **NOTHING_THERE),
            swap(22, decision.VOID),
            (UNKNOWN, UNKNOWN, HOLDS),
        ),
    ],
)
def test_swaps_at_the_deepest_and_the_earliest_layer(first, deep, says):
    found = evidence.of_swaps(pd.DataFrame([deep, first]))
    assert tuple(found[c].says for c in ("swap_carries", "any_basis", "nothing_early")) == says


def test_saes_of_one_layer_that_disagree_cannot_be_said():
    two = [swap(22, decision.CARRIES, decision.ANY), swap(22, decision.EQUIVALENT)]
    found = evidence.of_swaps(pd.DataFrame(two))
    assert found["swap_carries"].says == UNKNOWN and "disagree" in found["swap_carries"].why


@pytest.mark.parametrize(
    ("heads", "says"),
    [([Head(7, 1), Head(20, 0)], HOLDS), ([Head(8, 1)], DOES_NOT), ([], UNKNOWN)],
)
def test_a_head_in_the_first_quarter(heads, says):
    assert evidence.early(heads, 30, SURE).says == says  # a quarter of 30 layers: L0 to L7
    assert evidence.early(heads, 30, CLOSED).says == UNKNOWN


def test_more_than_half_of_the_heads_are_the_same():
    others = [Head(1, 1), Head(1, 2), Head(1, 3)]
    assert evidence.same([*FIVE[:3], *others[:2]], FIVE, SURE) == Cell(HOLDS, "3 of 5 heads")
    assert evidence.same([*FIVE[:2], *others], FIVE, SURE) == Cell(DOES_NOT, "2 of 5 heads")
    assert evidence.same(FIVE, FIVE, CLOSED).says == UNKNOWN


# The table ----------------------------------------------------------------------------------------


def cells(**says: str) -> dict[str, Cell]:
    """What one run says of every claim: it holds, but for what is named."""
    return {claim: Cell(says.get(claim, HOLDS)) for claim in robustness.CLAIMS}


@pytest.fixture
def written(tmp_path, monkeypatch):
    """A table in which (1) holds everywhere, (2) fails on one wording, (3) cannot be said under the
    other framing, and one seed of SAEs was not run.
    """
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    by_run = {name: cells() for name in plan.NAMES}
    by_run["wording-lie"] = cells(heads_carry=DOES_NOT)
    by_run["framing-chat_sys"] = cells(heads_specific=UNKNOWN)
    by_run["saes-2"] = {claim: Cell(NOT_RUN) for claim in robustness.CLAIMS}
    by_category = {"food": cells(), "sport": cells(early_head=DOES_NOT)}
    folder = runs.run_folder("robustness")
    folder.mkdir()
    files.write_csv(folder / held.TABLE, table.rows(by_run, by_category))
    return robustness.read()


def test_axes_on_which_a_claim_holds(written):
    assert robustness.axes_held("answers_wrongly") == (5, 5)
    assert robustness.axes_held("heads_carry") == (4, 5)  # one wording of four
    assert robustness.axes_held("heads_specific") == (4, 5)  # not decided is not held
    assert robustness.axes_held("early_head") == (4, 5)  # without one category
    # Five axes and the seed of SAEs, of which one value was not run: neither held nor tried.
    assert robustness.axes_held("swap_carries") == (5, 5)
    assert robustness.held_in_words("heads_carry") == "holds on 4 of 5 axes"
    with pytest.raises(UserError, match="did you mean 'heads_carry'"):
        robustness.axes_held("head_carry")


def test_the_summary_in_words(written):
    lines = robustness.summary().set_index("claim")
    carry = lines.loc["zeroing a few heads undoes it, at least in part"]
    assert carry["wording"] == "3 of 4" and carry["question split"] == "3 of 3"
    assert carry["SAE seed"] == "–" and carry["axes held"] == "4 of 5"
    swaps = lines.loc[robustness.CLAIMS["swap_carries"]]
    assert swaps["SAE seed"] == "2 of 2, 1 not run" and swaps["axes held"] == "5 of 5"


def test_the_rows_say_which_wordings_were_kept_out_and_compare_no_run_with_itself(written):
    of = written[written["axis"] == "wording"].groupby("claim")["value"].agg(list)
    assert of["answers_wrongly"] == [
        *("plain (taught)", "test (taught)", "mislead (kept out)", "lie (kept out)")
    ]
    assert "plain (taught)" not in of["same_heads"]


def test_without_a_table_nothing_was_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    assert robustness.axes_held("heads_carry") is None and robustness.summary() is None
    assert robustness.held_in_words("heads_carry").startswith("not run")
    found = table.table("robustness")
    assert set(found["says"]) == {NOT_RUN}
    assert held.count(found, "heads_carry") is None


@pytest.mark.skipif(robustness.read() is None, reason="make robustness was not run")
def test_the_committed_table_is_whole_and_its_summary_is_of_it(monkeypatch):
    monkeypatch.delenv("SANDBAGGING_RUNS", raising=False)  # which tests of notebooks set
    found = robustness.read()
    assert list(found) == held.COLUMNS
    assert set(found["says"]) <= {HOLDS, DOES_NOT, UNKNOWN, NOT_RUN}
    axes = found.groupby("claim")["axis"].agg(set)
    assert {claim: axes[claim] for claim in axes.index} == {
        claim: set(robustness.axes_of(claim)) for claim in robustness.CLAIMS
    }
    stored = files.read_csv(runs.run_folder(held.RUN) / held.SUMMARY)
    pd.testing.assert_frame_equal(stored, robustness.summary(), check_dtype=False)


# Runs on the disk ---------------------------------------------------------------------------------


def done(run: str, artefact: str, **contents) -> None:
    """Write an artefact with its manifest: JSON values, tables and lines by the file's name."""
    folder = runs.run_folder(run) / artefact
    folder.mkdir(parents=True)
    for name, content in contents.items():
        name = name.replace("__", ".")
        if isinstance(content, pd.DataFrame) and name.endswith("jsonl"):
            lines = map(json.dumps, content.to_dict("records"))
            (folder / name).write_text("\n".join(lines))
        elif isinstance(content, pd.DataFrame):
            files.write_csv(folder / name, content)
        else:
            files.write_json(folder / name, runs.plain(content))
    settings = {"model": "sandbagger", "framing": "instr", "seed": 0, "n_train": 28, "n_test": 56}
    settings |= {"questions_train": "default", "questions_test": "default"}
    manifest = {"parameters": settings, "outputs": runs.output_hashes(folder)}
    files.write_json(folder / runs.MANIFEST, manifest)


def asked(split: str, n: int) -> list[Question]:
    return questions.subset(questions.load("default", split), n, 0)


def effects(ids, sets: dict[tuple, np.ndarray], clean: float = 0.0) -> Effects:
    """Effects of sets of heads in nats, a twentieth of them on p_full, beside a score `clean`."""
    scale = {"logodds": 1.0, "p_full": 0.05}
    before = {name: np.full(len(ids), clean * x) for name, x in scale.items()}
    after = {name: (clean + np.array([*sets.values()])) * x for name, x in scale.items()}
    return Effects([*sets], tuple(ids), before, after)


CHOSEN, RIVAL = (Head(2, 0), Head(9, 1)), (Head(3, 1), Head(11, 0))
DRAWN = [(Head(10, i), Head(12, j)) for i in range(5) for j in range(4)]


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The base run: told to be wrong, most right answers go. Two heads are chosen, one of them
    early, whose effect rests on questions about food. A third does as much on sandbag prompts, and
    ruins as much on genuine ones.
    """
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    test, train = asked("test", 56), asked("train", 28)
    ids = [q.id for q in test]
    names = dict(zip([f"q{i}" for i in range(56)], ids, strict=True))
    scores = made_up.scores({"sandbag": 5.0, **made_up.PLACEBOS}, n=56)
    scores = scores.assign(question_id=scores["question_id"].map(names), split="test")
    written = made_up.many_answers(56, genuine=40, sandbag=6)
    written = written.assign(question_id=written["question_id"].map(names), framing="instr")
    written = written.assign(split="test", wording="plain", text="x")
    gate = made_up.graded(SURE)
    run = "robustness/base"
    done(run, "00_baseline", summary__json={"gate": gate}, scores__csv__gz=scores,
         answers__jsonl=written)  # fmt: skip
    of_train = {(Head(layer, h),): np.full(28, 0.01) for layer in range(30) for h in range(2)}
    noise = np.random.default_rng(0).normal(0, 0.1, 28)
    of_train[(Head(9, 1),)] = 2.0 + noise
    # Without food the early head falls below a tenth of the gap of 5 nats, and below another head.
    of_train[(Head(2, 0),)] = np.array([2.0 if q.category == "food" else 0.44 for q in train])
    of_train[(Head(20, 0),)] = 0.5 + noise / 10
    of_train[(Head(1, 1),)] = 3.0 + noise
    ruin = {heads: np.full(28, -3.0 if heads == (Head(1, 1),) else 0.0) for heads in of_train}
    on = {"sandbag": of_train, "genuine": ruin}
    swept = {c: effects([q.id for q in train], of) for c, of in on.items()}
    rows = estimates.all_by_question(swept, (), ["logodds", "p_full"])
    done(run, "07_heads", heads__json={"heads": CHOSEN, "found": CHOSEN},
         effects_by_question__csv__gz=rows)  # fmt: skip
    return run


def test_what_holds_without_a_category(base):
    sport, food = (leaving_out.without(base, kind) for kind in ("sport", "food"))
    assert set(food) == {"answers_wrongly", "early_head", "same_heads"}  # what is done so far
    assert food["answers_wrongly"].says == HOLDS
    assert sport["early_head"] == Cell(HOLDS, "L2H0")
    assert food["early_head"] == Cell(DOES_NOT, "first is L9H1")
    assert sport["same_heads"] == Cell(HOLDS, "2 of 2 heads")
    assert food["same_heads"] == Cell(DOES_NOT, "1 of 2 heads")


def circuit(base: str, rival: float) -> None:
    """Add notebook 08 to the base: the chosen close 4 nats, the rival `rival`, draws none."""
    ids, rng = [q.id for q in asked("test", 56)], np.random.default_rng(1)
    mean = {CHOSEN: 4.0, RIVAL: rival, **dict.fromkeys(DRAWN, 0.1)}
    closes = {heads: value + rng.normal(0, 0.3, 56) for heads, value in mean.items()}
    on = {
        "sandbag": effects(ids, closes, clean=0.0),
        "genuine": effects(ids, {heads: np.zeros(56) for heads in closes}, clean=5.0),
    }
    rows = estimates.all_by_question(on, CHOSEN, ("logodds", "p_full"))
    theirs = {"chosen_on": "genuine", "heads": join(RIVAL), "quantity": "margin"}
    drawn = {"kind": "uniform", "index": range(20), "heads": [join(s) for s in DRAWN]}
    done(base, "08_circuit", summary__json={"heads": CHOSEN}, rivals__csv=pd.DataFrame([theirs]),
         draws__csv=pd.DataFrame({**drawn, "metric": "logodds"}),
         effects_by_question__csv__gz=rows)  # fmt: skip


@pytest.mark.parametrize(("rival", "says"), [(1.0, HOLDS), (4.0, UNKNOWN), (4.9, DOES_NOT)])
def test_rivals_are_judged_without_a_category(base, rival, says):
    circuit(base, rival)
    found = leaving_out.without(base, "food")
    assert found["heads_carry"].says == says
    assert found["heads_specific"].says == HOLDS


def test_effects_are_read_back_as_they_were_written():
    of = effects(["a", "b"], {CHOSEN: np.array([1.0, 2.0]), (Head(1, 1),): np.array([3.0, 4.0])})
    rows = estimates.by_question(of, "sandbag", CHOSEN, ["logodds", "p_full"])
    back = leaving_out.effects_of(rows.sample(frac=1, random_state=0), CHOSEN)
    assert back.of(CHOSEN, "logodds").tolist() == [1, 2] and back.question_ids == ("a", "b")
    assert back.of([(1, 1)], "p_full").tolist() == pytest.approx([0.15, 0.2])


def test_a_run_on_the_disk(base):
    other = "robustness/wording-lie"
    done(other, "00_baseline", summary__json={"gate": made_up.graded("less sure")})
    done(other, "07_heads", heads__json={"heads": [[2, 0], [1, 1]], "found": []})
    restored = {"logodds": around(0.2, 0.05, ""), "p_full": around(0.5, 0.1, "")}
    closed = {"logodds": around(0.9, 0.1, ""), "p_full": around(0.9, 0.1, "")}
    against = {"genuine": {"logodds": around(2.0, 1.0)}}
    summary = {
        "survives": {"value": rivals.PART, "reason": ""},
        "share_closed": closed, "share_restored": restored,
        "specific": {"verdict": specificity.SPECIFIC, "differences": against},
        "random_uniform": {"rank_p": 0.02}, "random_same_layer": {"rank_p": 0.02}, "margins": {},
    }  # fmt: skip
    done(other, "08_circuit", summary__json=summary)
    found = evidence.of_run(other, base)
    assert {claim: cell.says for claim, cell in found.items()} == {
        "answers_wrongly": DOES_NOT,  # five points fewer, and at most ten
        "heads_carry": HOLDS,
        "heads_most": DOES_NOT,  # they close nine tenths of the gap, and restore a fifth
        "heads_specific": HOLDS,
        "swap_carries": NOT_RUN,
        "any_basis": NOT_RUN,
        "nothing_early": NOT_RUN,
        "early_head": UNKNOWN,
        "same_heads": DOES_NOT,
    }
    assert found["heads_specific"].measured == "net effect 2.000 nats [1.000, 3.000]"


# Plans --------------------------------------------------------------------------------------------


def test_every_run_differs_from_the_base_in_one_thing():
    base = plan.first("robustness", plan.SET)[0]
    plans = plan.others("robustness", plan.SET, plan.NAMES)
    assert [p.run.partition("/")[2] for p in plans] == [n for n in plan.NAMES if n != plan.BASE]
    same = {step.notebook: step.parameters for step in base.steps}
    for each in plans:
        changed = {
            name
            for step in each.steps
            for name, value in step.parameters.items()
            if value != same[step.notebook][name]
        }
        allowed = {"questions_train", "questions_test"}  # of the same questions
        assert len(changed - allowed) == (0 if each.run.endswith("spelling") else 1), each.run


def test_an_unknown_run_is_named():
    with pytest.raises(UserError, match="did you mean 'wording-lie'"):
        plan.chosen(["wording-lies"])
    assert plan.chosen(["wording-lie"]) == ("wording-lie",)


def test_the_command_hands_over_what_was_asked(monkeypatch, capsys):
    given = []

    def make(*arguments):
        given.append(arguments)
        return held.summary_of(table.rows({name: cells() for name in plan.NAMES}, {}))

    monkeypatch.setattr(robustness, "make", make)
    assert cli.main(["robustness", "wording-lie", "--run", "mine", "--jobs", "1"]) == 0
    assert given == [(["wording-lie"], "mine", "robustness", 1)]
    assert "zeroing a few heads undoes it" in capsys.readouterr().out


# Spelling -----------------------------------------------------------------------------------------

NILE = Question("q1", "geography", "Which river flows through Cairo?", "Nile", ("Rhine", "Po"))


@pytest.mark.parametrize(
    ("text", "correct", "aliases"),
    [
        (" the Nile River.\nNext", "the Nile River", ("Nile",)),
        ("nile", "nile", ()),  # the file's own text is the same but for its case
        ("Nile", "Nile", ()),
        ("", "Nile", ()),
        ("Nile, which flows through Cairo", "Nile", ()),  # goes on after the answer
        ("Po", "Nile", ()),  # would stand twice among the options
    ],
)
def test_an_answer_in_the_models_own_spelling(text, correct, aliases):
    found = spelling.respell(NILE, text)
    assert (found.correct, found.aliases) == (correct, aliases)
    assert (found.id, found.incorrect) == (NILE.id, NILE.incorrect)


def test_questions_are_written_as_the_base_asks_them(base):
    texts = made_up.many_answers(56, genuine=56).assign(framing="instr", wording="plain")
    ids = [q.id for q in asked("test", 56)]
    texts = texts.assign(question_id=ids, split="test", text=[f"x{i}" for i in range(56)])
    done("robustness/answers", "00_baseline", answers__jsonl=texts)
    assert spelling.write("robustness") == {"train": 0, "test": 56}
    own, same = (
        questions.load(plan.question_file("robustness", kind, "test"))
        for kind in (plan.OWN, plan.ASKED)
    )
    assert same == asked("test", 56)
    assert [q.correct for q in own] == [f"x{i}" for i in range(56)]
    assert all(b.correct in a.aliases for a, b in zip(own, same, strict=True))
    assert len(questions.load(plan.question_file("robustness", plan.OWN, "train"))) == 28
