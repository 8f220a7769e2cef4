"""What latents are read for: the same targets as raw probes, from their codes."""

import pytest

from sandbagging import prompts, saes
from sandbagging.files import Folder
from sandbagging.saes import latent_probes, matched, streams

FRAMING, TAGS = "instr_pref", ["v4_tiny_topk_k4_L1_mixed", "v4_tiny_topk_k4_L2_mixed"]


@pytest.fixture
def trained(tiny_llama, tiny_questions, tmp_path):
    """SAEs of two layers before any training, as notebook 02 leaves them."""
    read = streams.last_streams(tiny_llama, tiny_questions, "sandbag", FRAMING)
    for tag in TAGS:
        fields = saes.parse_tag(tag)
        recipe = fields.recipe(tiny_llama.d_model)
        told = saes.describe(recipe, model_name="tiny", dataset="toys")
        saes.save(saes.untrained(tag, read.resid[fields.layer]), tmp_path / tag, told)
    return Folder.of(tmp_path)


def test_latents_are_weighed_on_train_and_judged_on_each_wording(
    tiny_llama, tiny_questions, trained
):
    """The rows of one wording against `matched.scores` of codes that are read one by one."""
    asked = {"train": tiny_questions[:6], "test": tiny_questions[6:]}
    table = latent_probes.latent_scores(
        tiny_llama, asked, FRAMING, trained, TAGS, ["mistake"], None
    )
    assert len(table) == 2 * 2 * 2 * 2 * len(asked["test"])  # tags, probes, wordings, conditions
    sae = saes.load(trained / TAGS[1])

    def codes(split, condition, framing):
        read = streams.last_streams(tiny_llama, asked[split], condition, framing, [2])
        return sae.encode(read.resid[2]).numpy()

    train = {c: codes("train", c, FRAMING) for c in latent_probes.PAIR}
    worded = prompts.wording(FRAMING, "mistake")
    test = {c: codes("test", c, worded) for c in latent_probes.PAIR}
    expected = matched.scores(train, test, latent_probes.PAIR)
    for by in matched.BY:
        rows = table[(table["tag"] == TAGS[1]) & (table["probe"] == by)]
        rows = rows[(rows["wording"] == "mistake") & rows["positive"]]
        assert rows["question_id"].to_list() == [q.id for q in asked["test"]]
        assert rows["score"].to_numpy() == pytest.approx(expected[by]["sandbag"], rel=1e-4)


def test_the_answer_is_read_within_sandbag_prompts_where_both_kinds_are_there(
    tiny_llama, tiny_questions, trained, monkeypatch
):
    """Two train questions of six are answered rightly: with at least two of a kind latents are
    weighed for it, with three they are not.
    """
    asked = {"train": tiny_questions[:6], "test": tiny_questions[6:]}
    right = {q.id: q.id in ("q-1", "q-3", "q-8") for q in tiny_questions}

    def run():
        given = (tiny_llama, asked, FRAMING, trained, TAGS[:1], [], right)
        table = latent_probes.latent_scores(*given)
        return table[(table["target"] == "answer") & (table["probe"] == "best_latent")]

    monkeypatch.setattr(latent_probes, "MIN_EACH", 2)
    found = dict(zip(run()["question_id"], run()["positive"], strict=True))
    assert found == {q.id: q.id != "q-8" for q in asked["test"]}
    monkeypatch.setattr(latent_probes, "MIN_EACH", 3)
    assert run().empty
