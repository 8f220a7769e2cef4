"""What can be read without an SAE, and how it is told: raw probes, the logit lens, detectors at one
L0. Fakes to flag and truths to spare are set by hand.
"""

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch

from sandbagging import metrics, prompts
from sandbagging.errors import UserError
from sandbagging.saes import added, detection, lens, matched, probing, raw_probes, streams, turning

FRAMING = "instr_pref"


# --- probes ---------------------------------------------------------------------------------------


def clouds(n=40, d=6, shift=1.0, seed=0):
    x = np.random.default_rng(seed).normal(size=(2, n, d))
    x[0, :, 0] += shift
    return x


def test_the_logistic_probe_minimises_its_penalised_loss():
    """Against scipy on the loss written out: mean log loss + |w|^2 / (2 n), inputs standardised."""
    positive, negative = clouds()
    probe = raw_probes.logistic(positive, negative)
    x = np.concatenate([positive, negative])
    z = (x - x.mean(0)) / x.std(0)
    label = np.repeat([1.0, -1.0], 40)

    def loss(w):
        return np.logaddexp(0, -label * (z @ w[1:] + w[0])).sum() + w[1:] @ w[1:] / 2

    by_hand = scipy.optimize.minimize(loss, np.zeros(7)).x[1:]
    assert probe.weights == pytest.approx(by_hand, abs=2e-3)
    assert (probe.score(positive).mean() > probe.score(negative).mean()) and probe.weights[0] > 0
    still = raw_probes.logistic(positive * [1, 1, 1, 1, 1, 0], negative * [1, 1, 1, 1, 1, 0])
    assert np.isfinite(still.score(positive)).all()


def test_scores_are_those_of_each_prompt_and_wording(tiny_llama, tiny_questions):
    asked = {"train": tiny_questions[:6], "test": tiny_questions[6:]}
    table = raw_probes.probe_scores(tiny_llama, asked, FRAMING, ["mistake"], layers=[1, 3])
    assert set(table["wording"]) == {"same", "mistake"} and set(table["target"]) == {"condition"}
    assert len(table) == 2 * 2 * 2 * 2 * 6  # layers, probes, wordings, conditions, questions

    def at_last(split, condition, framing):
        read = streams.last_streams(tiny_llama, asked[split], condition, framing, [3])
        return read.resid[3].double().numpy()

    means = [at_last("train", c, FRAMING).mean(0) for c in ("sandbag", "genuine")]
    worded = prompts.wording(FRAMING, "mistake")
    expected = at_last("test", "sandbag", worded) @ (means[0] - means[1])
    rows = table.query("layer == 3 and probe == 'diff_means' and wording == 'mistake' and positive")
    assert rows["question_id"].to_list() == [q.id for q in asked["test"]]
    assert rows["score"].to_numpy() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match="in train and in test"):
        raw_probes.probe_scores(tiny_llama, {**asked, "test": tiny_questions}, FRAMING)


def test_streams_are_hidden_states_at_the_last_token(tiny, tiny_questions):
    read = streams.last_streams(tiny, tiny_questions[:3], "sandbag", FRAMING)
    item = metrics.encode(tiny, tiny_questions[1], "sandbag", FRAMING)[1]
    with torch.no_grad():
        hidden = tiny.module(torch.tensor([item.prompt]), output_hidden_states=True).hidden_states
    for layer in range(tiny.n_layers - 1):  # the last entry of hidden_states is normed
        torch.testing.assert_close(
            read.resid[layer][1], hidden[layer + 1][0, -1], atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(read.final[1], hidden[-1][0, -1], atol=1e-4, rtol=1e-4)
    assert read.right[1] == item.options[0][0]


def test_the_answer_is_read_only_where_both_kinds_are_there(
    tiny_llama, tiny_questions, monkeypatch
):
    """Two train questions of six are answered rightly: with at least two of a kind a probe is
    trained, with three it is not.
    """
    asked = {"train": tiny_questions[:6], "test": tiny_questions[6:]}
    right = {q.id: q.id in ("q-1", "q-3", "q-8") for q in tiny_questions}
    run = lambda: raw_probes.probe_scores(tiny_llama, asked, FRAMING, [], right, [2])  # noqa: E731
    monkeypatch.setattr(raw_probes, "MIN_EACH", 2)
    rows = run().query("target == 'answer' and probe == 'logistic'")
    assert dict(zip(rows["question_id"], rows["positive"], strict=True)) == {
        q.id: q.id != "q-8" for q in asked["test"]
    }
    monkeypatch.setattr(raw_probes, "MIN_EACH", 3)
    assert "answer" not in set(run()["target"])


# --- told -----------------------------------------------------------------------------------------


def scored(positive, negative, paired=True, **where):
    ids = [f"q{i:03d}" for i in range(len(positive) + len(negative))]
    names = ids[: len(positive)] + (ids if paired else ids[len(positive) :])[: len(negative)]
    label = [True] * len(positive) + [False] * len(negative)
    table = {"question_id": names, "positive": label, "score": [*positive, *negative]}
    return pd.DataFrame({**table, **where})


def test_auroc_and_its_interval_equal_the_slow_route():
    a, b = np.random.default_rng(0).normal(size=(2, 60))
    value, draws = detection.auroc_draws(detection.Kinds(a + 0.5, b, True))
    assert value == pytest.approx(probing.auroc(a[:, None] + 0.5, b[:, None])[0])
    rows = np.random.default_rng(1).integers(0, 60, (500, 60))  # whole questions, one by one
    slow = [probing.auroc(a[r][:, None] + 0.5, b[r][:, None])[0] for r in rows]
    ends = [2.5, 97.5]
    assert np.percentile(draws, ends) == pytest.approx(np.percentile(slow, ends), abs=0.02)


def test_recall_at_one_per_cent_false_alarms_by_hand():
    """A hundred negatives 0 to 99: one may lie above the threshold, which is therefore 98. Of the
    positives 97, 98.5, 99.5 and 100, three do. Of ten negatives none may.
    """
    kinds = detection.Kinds(np.array([97.0, 98.5, 99.5, 100.0]), np.arange(100.0), False)
    assert detection.recall_draws(kinds)[0] == 0.75
    few = detection.Kinds(np.array([8.5, 9.5]), np.arange(10.0), False)
    value, draws = detection.recall_draws(few)
    assert value == 0.5 and draws.min() >= 0 and draws.max() <= 1


def by_target(rng, same, others, answer, layers=3):
    """Scores of thirty questions at some layers, apart by so many SDs; None leaves a target out."""
    parts = []
    for layer in range(layers):
        for target, wording, apart in (
            ("condition", "same", same),
            ("condition", "lie", others),
            ("answer", "same", answer),
        ):
            if apart is not None:
                x, y = rng.normal(size=(2, 30))
                where = {"layer": layer, "probe": "logistic", "target": target, "wording": wording}
                parts.append(scored(x + apart, y, target == "condition", **where))
    return pd.concat(parts)


@pytest.mark.parametrize(
    "apart, words",
    [
        ((3, 0, 0), "the wording that it was trained on, and not all others, and not which"),
        ((3, 3, 0), "the demand in other words too, and not which answer"),
        ((3, 3, 3), "it reads which answer will be given"),
        ((3, 3, None), "could not be tried"),
        ((0, 0, 0), "does not even tell"),
    ],
)
def test_reading_the_prompt_is_not_reading_the_intent(apart, words):
    table = by_target(np.random.default_rng(1), *apart)
    assert words in detection.reading_of(detection.probes_by_layer(table))


def test_one_of_two_wordings_is_not_the_demand():
    rng = np.random.default_rng(1)
    table = pd.concat(
        [by_target(rng, 3, 3, 0), by_target(rng, None, -1, None).assign(wording="must")]
    )
    assert "not all others" in detection.reading_of(detection.probes_by_layer(table))


def test_from_where_on_a_target_is_read_and_where_it_is_read_backwards():
    """The first wording is read at every layer; the second is taken for its opposite at layer 0,
    not read at layer 1 and read from layer 2 on.
    """
    rng = np.random.default_rng(0)
    apart = {"same": (3, 3, 3, 3), "mistake": (-3, 0, 3, 3)}
    parts = []
    for wording, shifts in apart.items():
        for layer, shift in enumerate(shifts):
            x, y = rng.normal(size=(2, 30))
            where = {"layer": layer, "probe": "logistic", "target": "condition"}
            parts.append(scored(x + shift, y, wording=wording, **where))
    found = detection.probes_by_layer(pd.concat(parts))
    assert detection.reads_from(found[found["wording"] == "same"]) == 0
    assert detection.reads_from(found) == 2
    assert detection.reads_from(found[found["layer"] < 2]) is None
    wrong_way = detection.backwards(found)
    assert wrong_way[["wording", "layer"]].to_numpy().tolist() == [["mistake", 0]]
    assert detection.backwards(found[:0]).empty and detection.reads_from(found[:0]) is None


def beside(shift_of_raw, shift_of_latents, target="condition", wordings=("same",)):
    """`added.beside_raw` of one SAE's latents and a probe, apart by so many SDs."""
    x, y, wobble, other = np.random.default_rng(0).normal(size=(4, 60))
    tables = []
    for shift, own in ((shift_of_raw, 0.2 * wobble), (shift_of_latents, 0.2 * other)):
        rows = [scored(x + own + shift, y, wording=w) for w in wordings]
        tables.append(pd.concat(rows).assign(layer=7, target=target))
    raw, latents = tables
    latents = latents.assign(tag="v4_m_topk_L7_mixed", probe="all_latents")
    return added.beside_raw(raw.assign(probe="logistic"), latents)


@pytest.mark.parametrize("raw, latents, sign", [(0.3, 2, "latents"), (2, 0.3, "raw"), (1, 1, "")])
def test_latents_add_to_the_raw_probe_only_with_an_interval(raw, latents, sign):
    found = beside(raw, latents)
    assert found["sign"].to_list() == [sign] and found["target"].to_list() == ["the prompt"]
    lead = found["lead"].iloc[0]
    difference = found["latents"].iloc[0].value - found["raw"].iloc[0].value
    assert lead.value == pytest.approx(difference) and lead.low < lead.value < lead.high
    counted = added.signs(found).iloc[0, 2:].to_list()
    assert counted == [int(sign == "latents"), int(sign == "raw"), int(sign == "")]


def test_other_wordings_are_one_target_and_the_answer_is_another():
    assert beside(1, 1, wordings=("lie", "must"))["target"].to_list() == [added.IN_OTHER_WORDS]
    assert beside(1, 1, target="answer")["target"].to_list() == [added.GIVEN]


def test_the_best_of_thirty_layers_is_no_evidence():
    """Scores without any truth: uncorrected, p is below 0.05 at some layer; corrected, at none."""
    table = by_target(np.random.default_rng(2), None, None, 0, layers=30)
    found = detection.probes_by_layer(table)
    assert found["p"].min() < 0.05 and not found["reads"].any()
    assert found["auroc"].iloc[0].n == 30


def test_one_kind_alone_cannot_be_told_apart():
    with pytest.raises(UserError, match="fewer than two"):
        detection.kinds_of(scored([1.0, 2.0], []))


# --- detectors at one L0 --------------------------------------------------------------------------

TAGS = {
    f"v4_m_{arch}_L{layer}_mixed": (arch, layer)
    for layer in (7, 22)
    for arch in ("topk", "jumprelu")
}


def test_saes_are_matched_at_sixteen_or_more_or_not_at_all():
    own = dict(zip(TAGS, (64.0, 2.7, 64.0, 23.9), strict=True))
    assert matched.levels(own) == {"v4_m_topk_L22_mixed": 23, "v4_m_jumprelu_L22_mixed": 23}
    assert matched.levels({name: 64.0 for name in TAGS if "topk" in name}) == {}


def test_detectors_score_prompts_as_written_out():
    rng = np.random.default_rng(0)
    train, test = ({c: np.abs(rng.normal(size=(20, 12))) for c in "ab"} for _ in range(2))
    for codes in (train, test):
        codes["a"][:, 3] += 2
    for l0 in (None, 4):
        kept = lambda x, l0=l0: x if l0 is None else np.where(x >= np.sort(x)[:, [-l0]], x, 0)  # noqa: E731
        found = matched.scores(train, test, ("a", "b"), l0)
        assert np.array_equal(found["best_latent"]["b"], kept(test["b"])[:, 3])
        a, b = kept(train["a"]), kept(train["b"])
        spread = np.sqrt((a.var(axis=0) + b.var(axis=0)) / 2)
        along = (a.mean(axis=0) - b.mean(axis=0)) / (spread + np.median(spread))
        assert found["all_latents"]["a"] == pytest.approx(kept(test["a"]) @ along)
    turned = matched.scores(train, test, ("b", "a"))["best_latent"]
    assert turned["b"].mean() > turned["a"].mean()


def detectors(shifts):
    """Scores of forty questions by each tag's detector, the first condition apart by a shift; those
    of one layer agree but for a wobble of their own.
    """
    parts = []
    for i, (name, (_, layer)) in enumerate(TAGS.items()):
        x, y = np.random.default_rng(layer).normal(size=(2, 40))
        wobble = np.random.default_rng(i).normal(0, 0.3, (2, 40))
        where = {"tag": name, "layer": layer, "pair": "a vs b", "by": "best_latent", "at_l0": "own"}
        rows = scored(x + wobble[0] + shifts[name], y + wobble[1], **where)
        rows = rows.assign(l0=64.0 if "topk" in name else 2.7)
        parts.append(rows.rename(columns={"positive": "first"}))
    return pd.concat(parts)


def test_a_lead_has_a_sign_only_with_an_interval():
    ahead = detection.leads(detectors(dict(zip(TAGS, (0.2, 2.0, 0.2, 2.0), strict=True))))
    assert ahead["sign"].to_list() == ["JumpReLU"] and ahead["lead"].iloc[0].value > 0.2
    level = detection.leads(detectors(dict(zip(TAGS, (1.0, 1.0, 1.0, 1.0), strict=True))))
    assert level["sign"].to_list() == [""] and level["n"].to_list() == [2]
    # One with another k stands for itself, however well it does, and so does one without a twin.
    other = detectors(dict.fromkeys(TAGS, 1.0)).query("tag == 'v4_m_topk_L7_mixed'")
    other = other.assign(
        tag="v4_m_topk_k16_L7_mixed", score=other["score"].where(~other["first"], 9)
    )
    with_it = detection.leads(pd.concat([detectors(dict.fromkeys(TAGS, 1.0)), other]))
    assert with_it["lead"].iloc[0] == level["lead"].iloc[0]
    alone = detectors(dict.fromkeys(TAGS, 1.0))
    assert detection.leads(alone[alone["tag"].str.contains("topk")]).empty


def test_layers_that_cannot_be_matched_are_one_sentence():
    table = detectors(dict.fromkeys(TAGS, 1.0))
    both = pd.concat([table, table[table["layer"] == 22].assign(at_l0="matched", l0=23.0)])
    said = detection.not_matched(both)
    assert said.startswith("At layer 7 no two") and "the sparsest SAE has 2.7" in said
    assert detection.not_matched(both[both["layer"] == 22]) == ""


# --- the logit lens -------------------------------------------------------------------------------


def test_the_lens_is_the_models_own_norm_and_unembedding(tiny, tiny_questions):
    found = lens.logit_lens(tiny, tiny_questions[:4], FRAMING, ["sandbag"])
    assert found.largest_difference < 1e-4
    item = metrics.encode(tiny, tiny_questions[2], "sandbag", FRAMING)[1]
    names = {"llama": ("model", "norm"), "gpt_neox": ("gpt_neox", "final_layer_norm")}
    body, norm = names[tiny.architecture]
    norm = getattr(getattr(tiny.module, body), norm)
    with torch.no_grad():
        run = tiny.module(torch.tensor([item.prompt]), output_hidden_states=True)
        middle = tiny.module.get_output_embeddings()(norm(run.hidden_states[2][0, -1]))
    given = int(run.logits[0, -1].argmax())
    row = found.table.query("layer == 1").iloc[2]
    assert row["right"] == pytest.approx(
        middle.log_softmax(-1)[item.options[0][0]].item(), abs=1e-4
    )
    assert row["given"] == pytest.approx(middle.log_softmax(-1)[given].item(), abs=1e-4)
    assert row["word"] == tiny.tokenizer.decode([given])
    assert row["same"] == (given == item.options[0][0])


def lensed(lead, n=20, same=(), right_at=-2.0):
    """A lens table in which the given answer leads by so many nats, layer by layer, the right one
    at so many nats.
    """
    rng = np.random.default_rng(0)
    rows = []
    for layer, nats in enumerate(lead):
        right = rng.normal(right_at, 0.1, n)
        rows.append(
            pd.DataFrame(
                {
                    "condition": "sandbag",
                    "layer": layer,
                    "question_id": [f"q{i:02d}" for i in range(n)],
                    "right": right,
                    "given": right + nats + rng.normal(0, 0.1, n),
                    "same": [i in same for i in range(n)],
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def test_the_answer_turns_where_the_given_one_takes_the_lead_for_good():
    wrongly = [f"q{i:02d}" for i in range(20)]
    turned = turning.lens_by_layer(lensed([0.0, 1.0, -1.0, 1.0, 2.0]), wrongly)
    assert turned["leads"].to_list() == ["neither", "given", "right", "given", "given"]
    assert turning.turning_layer(turned) == 3
    never = turning.lens_by_layer(lensed([0.0, 1.0, 1.0]), wrongly)
    assert turning.turning_layer(never) is None  # the right answer never led: nothing turned
    assert turned["p_right"].iloc[0] == pytest.approx(np.exp(-2), rel=0.1)
    # Led by a right answer that is nowhere near being given: a lead among noise is no turn.
    unseen = lensed([0.0, 1.0, -1.0, 1.0, 2.0], right_at=-7.0)
    unseen = turning.lens_by_layer(unseen, wrongly)
    assert turning.turning_layer(unseen) is None and turning.leads_from(unseen) == 3
    assert turning.leads_from(turned.iloc[:3]) is None  # not at the last layer of these


def test_the_right_answer_is_counted_whatever_is_given():
    table = lensed([-1.0, 1.0], same=(0, 1))
    found = turning.right_by_layer(table, ["q00", "q01", "q02"], "sandbag")
    three = table.loc[table["question_id"].isin(["q00", "q01", "q02"]) & (table["layer"] == 1)]
    assert found["n"].to_list() == [3, 3]
    assert found["p_right"].iloc[1] == pytest.approx(np.exp(three["right"]).mean())


def test_only_answers_that_can_turn_are_counted():
    table = lensed([-1.0, 1.0], same=(0, 1))
    assert turning.lens_by_layer(table, [f"q{i:02d}" for i in range(5)])["n"].to_list() == [3, 3]
    with pytest.raises(UserError, match="too few"):
        turning.lens_by_layer(table, ["q00", "q01", "q02"])
