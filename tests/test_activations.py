"""Activations: what is collected equals plain transformers, row by row, and every row is what its
line says.
"""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import activations, distances, files, metrics
from sandbagging.errors import UserError

FRAMING = "instr_contrast"


def plain_hidden_states(model, question, condition: str) -> tuple[torch.Tensor, ...]:
    """Return transformers' own hidden_states of one prompt, each [position d_model]."""
    ids = torch.tensor([metrics.encode(model, question, condition, FRAMING)[1].prompt])
    with torch.no_grad():
        return tuple(h[0] for h in model.module(ids, output_hidden_states=True).hidden_states)


@pytest.fixture
def collected(tiny, tiny_questions):
    """Two layers of two splits and three conditions."""
    asked = {"train": tiny_questions[:4], "test": tiny_questions[4:7]}
    return (
        tiny,
        asked,
        *activations.collect_all(tiny, asked, ["genuine", "sandbag", "neutral"], FRAMING, [0, 2]),
    )


def test_layer_L_is_hidden_states_L_plus_1_at_every_collected_token(collected):
    model, asked, resid, table = collected
    for condition in ("genuine", "sandbag", "neutral"):
        for question in asked["test"]:
            hidden = plain_hidden_states(model, question, condition)
            rows = activations.select(table, "test", condition).query("question_id == @question.id")
            for layer in (0, 2):
                found, at = resid[layer][rows["row"].tolist()], rows["position"].tolist()
                torch.testing.assert_close(found, hidden[layer + 1][at], atol=1e-4, rtol=1e-4)
                assert not torch.allclose(found, hidden[layer][at], atol=1e-2), (
                    "hidden_states[L] is the input of block L"
                )


def test_the_prefix_is_kept_once_and_without_position_0(collected):
    model, asked, resid, table = collected
    for (split, condition), part in table.groupby(["split", "condition"]):
        prefix = part[part["question_id"] == ""]
        own = part[part["question_id"] != ""]
        assert prefix["position"].tolist() == list(range(1, own["position"].min()))
        hidden = plain_hidden_states(model, asked[split][0], condition)
        torch.testing.assert_close(
            resid[2][prefix["row"].tolist()],
            hidden[3][prefix["position"].tolist()],
            atol=1e-4,
            rtol=1e-4,
        )


def test_each_question_ends_in_its_one_last_token(collected):
    model, asked, _, table = collected
    for split, questions in asked.items():
        for question in questions:
            rows = activations.select(table, split, "sandbag").query("question_id == @question.id")
            length = len(metrics.encode(model, question, "sandbag", FRAMING)[1].prompt)
            assert rows["is_last"].tolist() == [False] * (len(rows) - 1) + [True]
            assert rows["position"].max() == length - 1 == rows[rows["is_last"]]["position"].item()


def test_rows_are_numbered_through_and_match_the_tensors(collected):
    *_, resid, table = collected
    assert table["row"].tolist() == list(range(len(table)))
    columns = "row question_id split condition framing position is_last"
    assert list(table.columns) == columns.split()
    assert all(len(value) == len(table) for value in resid.values())


def test_the_other_questions_of_a_pack_change_nothing(tiny, tiny_questions):
    """One question alone and among others: the tree mask must not leak."""
    alone, table_alone = activations.collect(
        tiny, tiny_questions[:1], "sandbag", FRAMING, [3], "train"
    )
    among, table_among = activations.collect(tiny, tiny_questions, "sandbag", FRAMING, [3], "train")
    last = lambda t: t[(t["question_id"] == "q-1") & t["is_last"]]["row"].tolist()  # noqa: E731
    torch.testing.assert_close(
        alone[3][last(table_alone)], among[3][last(table_among)], atol=1e-4, rtol=1e-4
    )


def test_saved_files_load_as_they_were(collected, tmp_path):
    *_, resid, table = collected
    activations.save(tmp_path, resid)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["L00.safetensors", "L02.safetensors"]
    assert torch.equal(activations.load(tmp_path, 2), resid[2])
    table.to_csv(tmp_path / "tokens.csv.gz", index=False)
    read = files.read_csv(tmp_path / "tokens.csv.gz")
    # The prefix has no question: its name is empty, in memory and once read back.
    assert (
        activations.select(read, "train", "genuine")["row"].tolist()
        == activations.select(table, "train", "genuine")["row"].tolist()
    )


def test_a_layer_that_was_not_collected_names_those_that_were(collected, tmp_path):
    activations.save(tmp_path, collected[2])
    with pytest.raises(UserError, match=r"Layer 1 was not collected \(there: L00, L02\); add it"):
        activations.load(tmp_path, 1)


def test_a_layer_that_does_not_exist_is_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="Layer 4 does not exist: tiny-llama has layers 0 to 3"):
        activations.collect(tiny_llama, tiny_questions[:2], "genuine", FRAMING, [4], "train")


def test_norms_by_position_hold_the_sink(tiny, tiny_questions):
    norms = activations.norms_by_position(tiny, tiny_questions[:1], "genuine", FRAMING, [1])
    hidden = plain_hidden_states(tiny, tiny_questions[0], "genuine")[2]
    assert norms["position"].tolist() == list(range(len(hidden)))
    np.testing.assert_allclose(norms["norm"], hidden.norm(dim=-1).numpy(), rtol=1e-4)


def test_counts_are_those_of_the_prompts(collected):
    model, asked, _, table = collected
    counts = activations.counts(table).set_index(["split", "condition"])
    assert counts.loc[("train", "genuine"), "questions"] == 4
    assert counts.loc[("test", "neutral"), "questions"] == 3
    assert counts[["question_tokens", "prefix_tokens"]].to_numpy().sum() == len(table)
    lengths = [len(metrics.encode(model, q, "genuine", FRAMING)[1].prompt) for q in asked["train"]]
    row = counts.loc[("train", "genuine")]
    # All tokens but position 0, the prefix counted once.
    assert row["question_tokens"] == sum(lengths) - len(lengths) * (row["prefix_tokens"] + 1)
    assert row["longest_prompt"] == max(lengths)


def test_distances_of_last_tokens_by_hand():
    """Two questions, genuine (3, 4) and (0, 5), sandbag moved by (0, 1) and (0, -1): distance 1 / 5
    each, norms up and down.
    """
    resid = {6: torch.tensor([[3.0, 4.0], [0.0, 5.0], [0.0, 4.0], [3.0, 5.0]])}
    table = pd.DataFrame({
        "row": range(4), "question_id": ["a", "b", "b", "a"], "split": "train",
        "condition": ["genuine"] * 2 + ["sandbag"] * 2, "framing": FRAMING, "position": 9,
        "is_last": True,
    })  # fmt: skip
    found = activations.last_tokens(resid, table, "train").set_index(["condition", "question_id"])
    assert found.loc["sandbag", "distance"].to_dict() == pytest.approx({"a": 0.2, "b": 0.2})
    assert (found.loc["genuine", "distance"] == 0).all()
    summary = distances.summarise_last_tokens(found.reset_index()).set_index(
        ["condition", "metric"]
    )
    assert summary.loc[("sandbag", "norm_change"), "value"] == pytest.approx(
        (np.sqrt(34) - 5 + 4 - 5) / 2, abs=1e-6
    )
    assert summary.loc[("sandbag", "norm"), "n"] == 2


def test_how_much_further_one_condition_is_than_another_by_hand():
    table = pd.DataFrame(
        [
            (3, c, q, d)
            for c, ds in (("sandbag", (0.5, 0.4)), ("placebo", (0.1, 0.2)))
            for q, d in enumerate(ds)
        ],
        columns=["layer", "condition", "question_id", "distance"],
    )
    found = distances.further(table, "sandbag", than="placebo")[3]
    # differences of 40 and 20: their mean's standard error is 10, Student's t with 1 degree 12.706
    assert found.value == pytest.approx(30) and found.n == 2
    assert found.low == pytest.approx(30 - 127.06, abs=0.01)


IDS = ["1", "2", "00001", "a,b", 'q"x', "1.0", "NA", "10", "true", "-", "é", "z"]


def test_ids_that_look_like_something_else_give_the_same_numbers(
    tiny_llama, tiny_questions, tmp_path
):
    """Through the files that later notebooks read: tokens, scores and what is made of them."""
    answers = {}
    for kind, ids in (("plain", [q.id for q in tiny_questions]), ("odd", IDS)):
        asked = [dataclasses.replace(q, id=new) for q, new in zip(tiny_questions, ids, strict=True)]
        resid, tokens = activations.collect_all(
            tiny_llama, {"test": asked}, ("genuine", "sandbag"), "contrast", [1]
        )
        scores = metrics.score_all(tiny_llama, {"test": asked}, ("genuine", "sandbag"), "contrast")
        for name, table in (("tokens.csv.gz", tokens), ("scores.csv.gz", scores)):
            files.write_csv(tmp_path / name, table)
        tokens, scores = (files.read_csv(tmp_path / f"{n}.csv.gz") for n in ("tokens", "scores"))
        assert set(activations.select(tokens, "test", "sandbag")["question_id"]) == set(ids)
        last = activations.last_tokens(resid, tokens, "test").set_index("question_id").loc[ids]
        per_question = metrics.per_question(scores, "sandbag").loc[ids]
        answers[kind] = last["distance"].to_numpy(), per_question.to_numpy()
    for plain, odd in zip(*answers.values(), strict=True):
        assert np.array_equal(plain, odd)
