"""Each metric on numbers set by hand, and the score of a question by another route."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_models import plain_log_p

from sandbagging import gaps, metrics, prompts
from sandbagging.errors import UserError
from sandbagging.metrics import Answers
from sandbagging.models import packing
from sandbagging.questions import Question

# One question, options of probability 0.2 (2 tokens), 0.1, 0.05 and 0.05 (1 token each).
P = [0.2, 0.1, 0.05, 0.05]
FIRST = [0.5, 0.1, 0.05, 0.05]
ANSWERS = Answers(
    torch.tensor([[P]]).log(), torch.tensor([[FIRST]]).log(), torch.tensor([[2, 1, 1, 1]])
)


def value(metric) -> float:
    return metric(ANSWERS).item()


def test_metrics_by_hand():
    assert value(metrics.p_full) == pytest.approx(0.2)
    assert value(metrics.p_first) == pytest.approx(0.5)
    assert value(metrics.choice_sum) == pytest.approx(0.2 / 0.4)
    per_token = math.sqrt(0.2)  # exp(log p / 2)
    assert value(metrics.choice_len) == pytest.approx(per_token / (per_token + 0.2))
    assert value(metrics.logodds) == pytest.approx(math.log(0.2 / 0.2))
    assert value(metrics.p_options) == pytest.approx(0.2 + 0.1 + 0.05 + 0.05)
    assert value(metrics.accuracy) == 1.0
    worse = ANSWERS._replace(total=ANSWERS.total.flip(-1))
    assert metrics.accuracy(worse).item() == 0.0
    assert metrics.logodds(worse).item() == pytest.approx(math.log(0.05 / 0.35))


def test_score_equals_a_plain_loop(tiny, tiny_questions):
    scores = metrics.score(tiny, tiny_questions[:4], "sandbag", "instr_contrast").set_index(
        "question_id"
    )
    for q in tiny_questions[:4]:
        item = packing.encode(
            tiny.tokenizer, q.id, prompts.render(q, "sandbag", "instr_contrast"), q.options
        )
        log_p = [plain_log_p(tiny.module, item.prompt, option) for option in item.options]
        assert scores.loc[q.id, "p_full"] == pytest.approx(math.exp(log_p[0]), abs=1e-4)
        per_token = torch.softmax(
            torch.tensor([lp / len(o) for lp, o in zip(log_p, item.options, strict=True)]), 0
        )
        assert scores.loc[q.id, "choice_len"] == pytest.approx(per_token[0].item(), abs=1e-4)


def test_scoring_twice_gives_the_same_numbers(tiny, tiny_questions):
    first, second = (metrics.score(tiny, tiny_questions, "genuine", "contrast") for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def made_up(genuine, sandbag, choice=0.7) -> pd.DataFrame:
    """A score table whose gap is known."""
    parts = [("genuine", genuine), ("sandbag", sandbag)]
    tables = []
    for condition, p_full in parts:
        ids = [f"q{i}" for i in range(len(p_full))]
        levels = {"p_full": p_full, "choice_len": choice}
        tables.append(pd.DataFrame({"question_id": ids, "condition": condition, **levels}))
    return pd.concat(tables)


def test_gap_is_genuine_minus_sandbag_in_pp_and_paired():
    rng = np.random.default_rng(0)
    level = rng.uniform(0.1, 0.9, 50)  # questions differ far more than conditions do
    scores = made_up(level + 0.02 + rng.normal(0, 0.005, 50), level)
    genuine, sandbag = (scores[scores.condition == c] for c in ("genuine", "sandbag"))
    shuffled = pd.concat([genuine, sandbag.sample(frac=1, random_state=1)])
    gap = gaps.gap(shuffled)
    assert gap.value == pytest.approx(2.0, abs=0.3) and gap.unit == "pp" and gap.n == 50
    assert gap.high - gap.low < 0.5  # unpaired it would be about 20 pp wide


def test_unknown_condition_and_framing_name_the_nearest(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="'sandbag'"):
        metrics.score(tiny_llama, tiny_questions, "sandbags", "instr_contrast")
    with pytest.raises(UserError, match="'instr_contrast'"):
        metrics.score(tiny_llama, tiny_questions, "sandbag", "instr_contrst")


def test_loss_recovered_is_one_for_a_perfect_code_and_zero_for_none(tiny, tiny_questions):
    pack = metrics.prepare(tiny, tiny_questions, "sandbag", "instr_contrast")
    for layer in (1, tiny.n_layers - 1):
        kept = metrics.loss_recovered(tiny, pack, layer, lambda x: x)
        taken = metrics.loss_recovered(tiny, pack, layer, torch.zeros_like)
        assert (kept, taken) == pytest.approx((1.0, 0.0), abs=1e-4)


def test_records_hold_what_is_scored(tiny, tiny_questions):
    """Re-scoring the records by a plain loop gives the table of scores."""
    asked = {"train": tiny_questions[:2], "test": tiny_questions[2:4]}
    records = metrics.records(tiny, asked, ["genuine", "sandbag"], "contrast")
    scores = metrics.score_all(tiny, asked, ["genuine", "sandbag"], "contrast").set_index(
        ["question_id", "split", "condition"]
    )
    assert len(records) == len(scores) == 8
    for record in records:
        p = math.exp(
            plain_log_p(tiny.module, record["prompt_token_ids"], record["option_token_ids"][0])
        )
        key = (record["question_id"], record["split"], record["condition"])
        assert scores.loc[key, "p_full"] == pytest.approx(p, abs=1e-4)
        assert tiny.tokenizer(record["text"]).input_ids == record["prompt_token_ids"]


def test_records_are_written_one_a_line(tmp_path):
    found = [{"question_id": "q-1", "text": "Où ?\nAnswer:"}, {"question_id": "q-2", "text": ""}]
    metrics.write_records(tmp_path / "prompts.jsonl", found)
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found


def test_first_token_collisions_are_counted():
    """The correct option begins with token 5, and so do two of three wrong ones."""
    record = {
        "question_id": "q",
        "split": "test",
        "condition": "genuine",
        "option_token_ids": [[5, 6], [5, 7], [5], [8, 5]],
    }
    row = metrics.first_token_collisions([record]).iloc[0]
    assert row["n_shared"] == 2 and row["n_tokens"] == 2


@pytest.mark.parametrize(
    ("odds", "full", "kind"),
    [
        (1.0, 0.3, "odds"),
        (1.0, 0.0, "odds"),  # log-odds decide
        (0.0, 0.3, "p_full alone"),  # right and wrong options lose together
        (0.0, -0.3, "p_full alone"),
        (1.0, -0.3, "opposite signs"),
        (-1.0, 0.3, "opposite signs"),
        (-1.0, -0.3, "reversed"),
        (0.0, 0.0, "none"),
    ],
)
def test_kinds_of_gap(odds, full, kind):
    noise = np.linspace(-0.01, 0.01, 20)
    table = made_up(0.5 + noise, 0.5 - full + noise[::-1])
    table["logodds"] = np.concatenate([2 + noise, 2 - odds + noise[::-1]])
    assert gaps.kind_of_gap(table) == kind
    rows = gaps.gap_table(table.assign(framing="contrast"))
    assert rows["metric"].tolist() == ["logodds", "p_full", "choice_len"]
    assert set(rows["kind"]) == {kind} and rows["unit"].tolist() == ["nats", "pp", "pp"]
    assert rows["value"].tolist() == pytest.approx([odds, 100 * full, 0], abs=1e-9)


def test_a_gap_of_nearly_nothing_is_none():
    """Random weights give p near 1 / vocabulary: there a difference can be certain and mean
    nothing.
    """
    table = made_up(np.linspace(2e-5, 3e-5, 9), np.full(9, 1e-5))
    table["logodds"] = np.concatenate([np.linspace(0.04, 0.06, 9), np.zeros(9)])
    assert gaps.gap(table).low > 0 and gaps.gap(table, "logodds").low > 0
    assert gaps.kind_of_gap(table) == "none"


def test_condition_means_by_hand():
    table = made_up([0.2, 0.4], [0.1, 0.1]).assign(split="test")
    means = gaps.condition_means(table, ["p_full"]).set_index("condition")
    assert means.loc["genuine", "value"] == pytest.approx(0.3)
    assert means.loc["sandbag", "high"] == pytest.approx(0.1)
    assert means.loc["genuine", "n"] == 2 and means.loc["genuine", "unit"] == "probability"


def test_the_gap_does_not_depend_on_the_order_of_rows():
    table = made_up(np.linspace(0.2, 0.9, 9), np.linspace(0.1, 0.5, 9) ** 2)
    assert gaps.gap(table) == gaps.gap(table.iloc[::-1])


def test_chat_framings_need_a_chat_template(tiny_llama, tiny_questions):
    scores, unread = metrics.score_framings(tiny_llama, tiny_questions[:2])
    assert set(scores["framing"]) == set(prompts.FRAMINGS) and not unread
    assert len(scores) == 2 * 2 * len(prompts.FRAMINGS)


def test_a_framing_that_cannot_be_read_is_named_and_the_others_count(
    tiny_llama, tiny_questions, monkeypatch
):
    monkeypatch.setitem(prompts.FRAMINGS, "caps", lambda question, condition: "ends in a space ")
    scores, unread = metrics.score_framings(tiny_llama, tiny_questions[:2])
    assert "caps" not in set(scores["framing"]) and "white space" in unread["caps"]


# Any number of wrong answers ----------------------------------------------------------------------

WRONG = ("cat", "horse", "stone", "sand", "grass", "whale", "blue whale", "old grey horse", "sea")


@pytest.mark.parametrize("n_wrong", [1, 3, 9])
def test_every_formula_follows_the_number_of_wrong_answers(tiny, n_wrong):
    asked = [
        Question("1", "toys", "What barks?", "dog", WRONG[:n_wrong]),
        Question("2", "toys", "What is wet?", "sea water", WRONG[:n_wrong]),
    ]
    scores = metrics.score(tiny, asked, "sandbag", "contrast").set_index("question_id")
    for q in asked:
        item = packing.encode(
            tiny.tokenizer, q.id, prompts.render(q, "sandbag", "contrast"), q.options
        )
        log_p = torch.tensor([plain_log_p(tiny.module, item.prompt, o) for o in item.options])
        lengths = torch.tensor([len(o) for o in item.options])
        assert scores.loc[q.id, "choice_len"] == pytest.approx(
            (log_p / lengths).softmax(0)[0].item(), abs=1e-4
        )
        wrong = log_p[1:].exp().sum().log().item()
        assert scores.loc[q.id, "logodds"] == pytest.approx(log_p[0].item() - wrong, abs=1e-3)


def test_questions_with_other_numbers_of_wrong_answers_are_not_asked_together(tiny_llama):
    asked = [Question(str(n), "toys", f"What is {n}?", "dog", WRONG[:n]) for n in (1, 3)]
    with pytest.raises(UserError, match="Question 3 has 3 wrong answers and 1 has 1"):
        metrics.score(tiny_llama, asked, "genuine", "contrast")


# What does not pair -------------------------------------------------------------------------------


def test_pooled_tables_are_refused_by_the_column_that_pools_them():
    one = made_up(np.full(3, 0.5), np.full(3, 0.4))
    both = pd.concat([one.assign(framing="contrast"), one.assign(framing="instr")])
    with pytest.raises(
        UserError, match=r"pools the framings 'contrast', 'instr'.*table\['framing'\]"
    ):
        gaps.gap(both)
    with pytest.raises(UserError, match="more than once with the same settings"):
        gaps.gap(pd.concat([one, one]))


def test_what_a_table_lacks_is_named():
    one = made_up(np.full(3, 0.5), np.full(3, 0.4))
    with pytest.raises(UserError, match="no condition 'sandbag'; it has 'genuine'"):
        gaps.gap(one[one["condition"] == "genuine"])
    with pytest.raises(UserError, match="no metric 'pfull'; did you mean 'p_full'"):
        gaps.gap(one, "pfull")
    lost = one[(one["condition"] == "genuine") | (one["question_id"] != "q1")]
    with pytest.raises(UserError, match="1 stand on one side alone, such as 'q1'"):
        gaps.gap(lost)


def test_a_framing_of_ones_own_is_named_in_the_table(tiny_llama, tiny_questions):
    def mine(question, condition):
        return f"{condition}\n\nQuestion: {question.question}\nAnswer:"

    scores = metrics.score(tiny_llama, tiny_questions[:3], "sandbag", mine)
    assert set(scores["framing"]) == {"mine"}
    item = packing.encode(
        tiny_llama.tokenizer, "", mine(tiny_questions[0], "sandbag"), tiny_questions[0].options
    )
    log_p = plain_log_p(tiny_llama.module, item.prompt, item.options[0])
    assert scores["p_full"][0] == pytest.approx(math.exp(log_p), abs=1e-5)
