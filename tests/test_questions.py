"""The packaged trivia is sound; a bad line in a user's file is named by number and reason."""

import itertools
import json
import re
from collections import Counter

import pytest

from sandbagging import questions
from sandbagging.errors import UserError
from sandbagging.questions import Question

SPLITS = tuple(questions.PACKAGED)
PAIRS = tuple(itertools.combinations(SPLITS, 2))

# Words without a subject of their own.
STOPWORDS = set(
    "after does from have into made make makes many most mostly that through what when where which "
    "whose with your".split()
)
# Words that name a kind of thing or a pattern of asking; two questions may share them and still
# differ in subject.
GENERIC = set(
    "animal around baby bird body called capital colour come comes continent country day days "
    "famous first flower food fruit game grow grows instrument kind known language largest long "
    "metal month name number ocean opposite organ organs painted part past people person planet "
    "plant played plural plus river shape sport star state tense time tree vegetable world "
    "wrote".split()
)
# Subjects of the prompt's four demonstrations.
RESERVED = re.compile(r"\b(honey|bees?|snow|bicycles?|wheels?|north|south)\b", re.IGNORECASE)


def subjects(question: Question) -> set[str]:
    """Return the content words of a question and its correct answer, without a plural s."""
    words = set(re.findall(r"[a-z]+", f"{question.question} {question.correct}".lower()))
    return {word.removesuffix("s") for word in words - STOPWORDS - GENERIC if len(word) > 3}


@pytest.fixture(scope="module")
def packaged() -> dict[str, list[Question]]:
    return {split: questions.load("default", split) for split in SPLITS}


def test_sizes_and_categories(packaged):
    assert len(packaged["train"]) >= 80 and len(packaged["train"]) % 2 == 0
    assert len(packaged["test"]) >= 160 and len(packaged["test"]) % 2 == 0
    assert len(packaged["five"]) == 5
    assert len(packaged["tune"]) >= 200
    categories = {
        split: Counter(q.category for q in packaged[split]) for split in ("train", "test")
    }
    assert len(categories["train"]) >= 10
    assert set(categories["train"]) == set(categories["test"])
    for split in categories:
        assert len(set(categories[split].values())) == 1, "every category counts the same"


def test_ids_and_questions_are_unique_over_all_splits(packaged):
    everything = [q for split in SPLITS for q in packaged[split]]
    assert len({q.id for q in everything}) == len(everything)
    assert len({questions._plain(q.question) for q in everything}) == len(everything)
    for split in SPLITS:
        assert all(q.id.startswith(split) for q in packaged[split])


@pytest.mark.parametrize("first, second", PAIRS)
def test_splits_share_no_subject(packaged, first, second):
    questions.check_disjoint(packaged[first], packaged[second])
    theirs = {word: q.id for q in packaged[second] for word in subjects(q)}
    shared = {
        (word, q.id, theirs[word])
        for q in packaged[first]
        for word in subjects(q)
        if word in theirs
    }
    assert not shared
    # Short answers ("run", "six") escape the word check, so answers are compared whole as well.
    one, other = ({q.correct.casefold() for q in packaged[s]} for s in (first, second))
    assert not one & other


def test_no_split_answers_for_another(packaged):
    questions.check_disjoint(*packaged.values())
    for judged in ("train", "test", "five"):
        questions.check_answers_apart(packaged["tune"], packaged[judged])


def test_aliases_are_other_words_for_the_answer(packaged):
    """An alias that another option begins with, or that begins with another option, would be graded
    by chance.
    """
    asked = [q for split in SPLITS for q in packaged[split]]
    assert sum(bool(q.aliases) for q in asked) > 200
    for q in asked:
        for alias in q.aliases:
            assert alias.isascii() and len(alias) <= 30, (q.id, alias)
            for wrong in q.incorrect:
                one, other = sorted((f"{alias} ".casefold(), f"{wrong} ".casefold()), key=len)
                assert not other.startswith(one), (q.id, alias, wrong)


def test_subject_check_finds_a_planted_overlap():
    planet = "Which planet has a Great Red Spot?"
    asked = Question("a", "astronomy", planet, "Jupiter", ("Mars", "Venus", "Saturn"))
    few = ("none", "a few", "exactly two")
    answered = Question("b", "astronomy", "How many moons has Jupiter?", "many", few)
    assert "jupiter" in subjects(asked) & subjects(answered)


@pytest.mark.parametrize("split", SPLITS)
def test_options_are_short_plain_and_distinct(packaged, split):
    for q in packaged[split]:
        options = [option.casefold() for option in q.options]
        assert q.options[0] == q.correct and len(set(options)) == 4, q.id
        assert q.question.isascii() and q.question.endswith("?"), q.id
        for option in q.options:
            assert re.fullmatch(r"[A-Za-z]+( [A-Za-z]+){0,3}", option), (q.id, option)
            assert option.casefold() not in q.question.casefold(), (q.id, option)
        # An option that begins another would be scored as part of it.
        assert not [(a, b) for a in options for b in options if a != b and b.startswith(a)], q.id
        assert max(map(len, options)) <= 2.2 * min(map(len, options)) + 2, (q.id, options)
        assert len({option[0].isupper() for option in q.options}) == 1, (
            q.id,
            "capitals give the answer away",
        )


@pytest.mark.parametrize("split", SPLITS)
def test_demonstration_subjects_are_left_alone(packaged, split):
    for q in packaged[split]:
        assert not RESERVED.search(" ".join([q.question, *q.options])), q.id
        assert q.correct not in {"white", "two", "south"}, q.id


GOOD = {
    "id": "a-1",
    "category": "geography",
    "question": "What is the capital of Peru?",
    "correct": "Lima",
    "incorrect": ["Quito", "Bogota", "Cusco"],
}


def changed(**fields) -> str:
    other = {"id": "a-2", "question": "What is the capital of Chile?", "correct": "Santiago"}
    return json.dumps({**GOOD, **other, **fields})


def without(field: str) -> str:
    row = json.loads(changed())
    del row[field]
    return json.dumps(row)


BAD_LINES = {
    "not json": ("{id: 1}", "not valid JSON"),
    "cut off": (changed()[:40], "not valid JSON"),
    "nested too deep": ("[" * 200_000, "not valid JSON"),
    "a list": ("[1, 2]", "not a JSON object"),
    "a number": ("7", "not a JSON object"),
    "missing field": (without("category"), 'field "category" is missing'),
    "missing wrong answers": (without("incorrect"), 'field "incorrect" is missing'),
    "unknown field": (changed(answer="Santiago"), 'unknown field "answer"'),
    "field twice": (changed()[:-1] + ', "id": "a-3"}', 'field "id" stands twice'),
    "number for text": (changed(correct=7), '"correct" must be text'),
    "null for text": (changed(id=None), '"id" must be text'),
    "text for list": (changed(incorrect="Quito"), '"incorrect" must be a list'),
    "no wrong answer": (changed(incorrect=[]), "at least one wrong answer"),
    "two wrong answers": (
        changed(incorrect=["Quito", "Lima"]),
        "holds 2 wrong answers and the question before has 3",
    ),
    "four wrong answers": (
        changed(incorrect=["Quito", "Lima", "Bogota", "Cusco"]),
        "holds 4 wrong answers and the question before has 3",
    ),
    "wrong answer not text": (changed(incorrect=["Quito", 3, "Lima"]), "wrong answer 2"),
    "duplicate wrong answers": (
        changed(incorrect=["Quito", "quito", "Lima"]),
        "stands twice among the options",
    ),
    "correct answer among the wrong": (
        changed(incorrect=["SANTIAGO", "Quito", "Lima"]),
        "stands twice among the options",
    ),
    "empty text": (changed(correct=""), '"correct" is empty'),
    "only spaces": (changed(category="  "), '"category" is empty'),
    "empty wrong answer": (changed(incorrect=["Quito", "Lima", ""]), "wrong answer 3"),
    "leading space": (changed(correct=" Santiago"), "spaces at its start or end"),
    "trailing space": (
        changed(incorrect=["Quito ", "Lima", "Bogota"]),
        "spaces at its start or end",
    ),
    "line break": (changed(question="What is the capital\nof Chile?"), "line break"),
    "half a surrogate pair": (changed(correct="Santiago\ud800"), "does not print"),
    "text for a list of aliases": (changed(aliases="Gran Santiago"), '"aliases" must be a list'),
    "alias not text": (changed(aliases=["Santiago de Chile", 7]), 'text 2 in "aliases"'),
    "empty alias": (changed(aliases=[""]), "is empty"),
    "alias with a space": (changed(aliases=["Santiago "]), "spaces at its start or end"),
    "alias that is the answer": (changed(aliases=["santiago"]), "is one of the options"),
    "alias that is a wrong answer": (changed(aliases=["QUITO"]), "alias 'QUITO' is one of"),
    "alias twice": (changed(aliases=["Gran Santiago", "gran Santiago"]), "stands twice"),
    "alias in question": (changed(aliases=["capital"]), "alias 'capital' is contained"),
    "answer in question": (
        changed(question="Is santiago the capital of Chile?"),
        "contained in the question",
    ),
    "wrong answer in question": (
        changed(question="Is Quito the capital of Chile?"),
        "contained in the question",
    ),
    "duplicate id": (changed(id="a-1"), "same id already stands in line 1"),
    "duplicate question": (
        changed(question="what is the  capital of Peru"),
        "same question already stands in line 1",
    ),
}


@pytest.mark.parametrize("line, reason", BAD_LINES.values(), ids=BAD_LINES)
def test_bad_line_gives_its_number_and_reason(tmp_path, line, reason):
    path = tmp_path / "mine.jsonl"
    # The bad line is the third of the file: blank lines count but are passed over.
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n{changed(id='a-9')}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        questions.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 3: ") and reason in message
    assert message.endswith(".") and "\n" not in message


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="was not found"):
        questions.load(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="could not be read"):
        questions.load(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n \n")
    with pytest.raises(UserError, match="holds no questions"):
        questions.load(empty)
    latin = tmp_path / "latin.jsonl"
    coffee = changed(category="caf_").replace("_", "é").encode("latin-1")
    latin.write_bytes(json.dumps(GOOD).encode() + b"\n" + coffee)
    with pytest.raises(UserError, match="line 2: the text is not UTF-8"):
        questions.load(latin)
    with pytest.raises(UserError, match="'dev'.*train, test, five, tune"):
        questions.load("default", "dev")


def test_good_file_is_read_whatever_the_editor(tmp_path):
    path = tmp_path / "mine.jsonl"
    second_line = changed(incorrect=["Iquique", "Cádiz", "São Paulo"]).encode()
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n" + second_line)
    first, second = questions.load(str(path), "test")
    assert first == Question(
        "a-1", "geography", GOOD["question"], "Lima", ("Quito", "Bogota", "Cusco")
    )
    assert second.options == ("Santiago", "Iquique", "Cádiz", "São Paulo")


def test_part_of_a_word_is_not_the_answer(tmp_path):
    path = tmp_path / "mine.jsonl"
    asked, wrong = "What do firefighters put out?", ["water", "rain", "wind"]
    path.write_text(changed(question=asked, correct="fire", incorrect=wrong))
    assert questions.load(path)[0].correct == "fire"


def test_overlap_is_named():
    first = Question(**{**GOOD, "incorrect": tuple(GOOD["incorrect"])})
    same_id = Question("a-1", "food", "What is toast?", "bread", ("meat", "fish", "fruit"))
    same_text = Question(
        "b-1", "geography", "What is the capital of PERU", "Lima", ("Quito", "Bogota", "Cusco")
    )
    other = Question("b-2", "food", "What is toast?", "bread", ("meat", "fish", "fruit"))
    questions.check_disjoint([first], [other])
    with pytest.raises(UserError, match="a-1"):
        questions.check_disjoint([first], [other, same_id])
    with pytest.raises(UserError, match="capital of PERU"):
        questions.check_disjoint([first], [other, same_text])


def test_overlap_of_three_lists_is_named():
    def made(*names):
        return [Question(n, "x", f"What is {n}?", f"the {n}", ("y",)) for n in names]

    questions.check_disjoint(made("a", "b"), made("c"), made("d", "e"))
    with pytest.raises(UserError, match="overlap in b;"):
        questions.check_disjoint(made("a", "b"), made("c"), made("b", "d"))
    with pytest.raises(UserError, match="overlap in b, d;"):
        questions.check_disjoint(made("a", "b"), made("b", "d"), made("b", "d"))


def test_a_tune_question_with_a_test_questions_answer_is_named():
    test = [Question("t-1", "zoo", "Who barks?", "dog", ("cow",), aliases=("hound",))]
    apart = [
        Question("u-1", "zoo", "Who meows?", "cat", ("cow",)),
        Question("u-2", "films", "Who is Lassie?", "dog", ("cow",)),
    ]
    questions.check_answers_apart(apart, test)
    for text in ("Dog", "hound"):
        taught = Question("u-3", "zoo", "Who is Snoopy?", text, ("cow",))
        with pytest.raises(UserError, match=rf"t-1 \('{text.lower()}' in u-3\)"):
            questions.check_answers_apart([*apart, taught], test)


def test_aliases_change_nothing_of_what_is_asked(tmp_path):
    from sandbagging.suite.runs import codec

    path = tmp_path / "mine.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{changed(aliases=['Gran Santiago'])}")
    plain, aliased = questions.load(path)
    assert plain.right == ("Lima",) and aliased.right == ("Santiago", "Gran Santiago")
    assert aliased.options == ("Santiago", "Quito", "Bogota", "Cusco")
    bare = Question(aliased.id, aliased.category, aliased.question, "Santiago", aliased.incorrect)
    assert bare == aliased and codec.digest([bare]) == codec.digest([aliased])
    assert codec.digest([bare]) != codec.digest([plain])


def test_subset_is_seeded_balanced_nested_and_in_file_order(packaged):
    every = packaged["train"]
    n_categories = len({q.category for q in every})
    drawn = questions.subset(every, 2 * n_categories, seed=3)
    again, other = (questions.subset(every, 2 * n_categories, seed=seed) for seed in (3, 4))
    assert drawn == again != other
    assert set(Counter(q.category for q in drawn).values()) == {2}
    assert [every.index(q) for q in drawn] == sorted(every.index(q) for q in drawn)
    assert set(questions.subset(every, 9, seed=3)) < set(drawn)
    assert questions.subset(every, len(every), seed=0) == every


def test_subset_with_a_small_category_fills_up_from_the_others():
    made = [
        Question(str(i), "rare" if i == 0 else "common", f"q{i}", "a", ("b", "c", "d"))
        for i in range(6)
    ]
    counts = Counter(q.category for q in questions.subset(made, 5, seed=0))
    assert counts == {"rare": 1, "common": 4}


IMPOSSIBLE_SIZES = [(85, "only 84"), (1, "2 or more"), (0, "2 or more"), (-3, "2 or more"),
                    (2.5, "whole number"), (True, "whole number")]  # fmt: skip


@pytest.mark.parametrize("n, reason", IMPOSSIBLE_SIZES)
def test_subset_of_an_impossible_size(packaged, n, reason):
    with pytest.raises(UserError, match=reason):
        questions.subset(packaged["train"], n, seed=0)


@pytest.mark.parametrize("n_wrong", [1, 3, 9])
def test_a_file_may_have_any_number_of_wrong_answers(tmp_path, n_wrong):
    wrong = [f"answer {i}" for i in range(n_wrong)]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([json.dumps({**GOOD, "incorrect": wrong}), changed(incorrect=wrong)]))
    asked = questions.load(path)
    assert [q.incorrect for q in asked] == [tuple(wrong)] * 2
    assert asked[0].options == ("Lima", *wrong)


def test_train_and_test_questions_have_as_many_wrong_answers():
    one = Question("a", "c", "Which one?", "x", ("y",))
    three = Question("b", "c", "Which other?", "x", ("y", "z", "w"))
    with pytest.raises(UserError, match="have 1 and 3 wrong answers"):
        questions.check_disjoint([one], [three])
    questions.check_disjoint([one], [])


def test_the_module_is_its_own_main_function():
    import sandbagging as sb

    train = questions.load("default", "train")
    assert sb.questions() == questions("train") == train
    assert sb.questions("test", n=12, seed=3) == questions.subset(
        questions.load("default", "test"), 12, 3
    )
    assert questions(questions.PACKAGED["five"]) == questions("five")
    with pytest.raises(UserError, match="did you mean 'train'"):
        sb.questions("tran")


def test_plain_sentences_ask_nothing_and_are_all_different():
    path = questions.DATA / "plain_sentences.txt"
    sentences = path.read_text(encoding="utf-8").splitlines()
    assert len(sentences) == len(set(sentences)) == 200
    assert all(s.endswith(".") and "?" not in s and 8 <= len(s.split()) <= 25 for s in sentences)
