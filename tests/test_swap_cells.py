"""What verdicts on swaps rest on, measured on a tiny model: scores by a second route, directions of
one length, untrained SAEs, doses, and answers written under an edit.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import activations, files, generation, metrics, saes
from sandbagging.errors import UserError
from sandbagging.models import hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.questions import Question
from sandbagging.swaps import (
    ceiling,
    cells,
    decision,
    deltas,
    dose_rules,
    doses,
    edits,
    estimates,
    guards,
    interventions,
    medians,
    outcomes,
    sites,
    writing,
)
from sandbagging.swaps.medians import TrainCodes

FRAMING = "instr_contrast"


# --- scores under an edit -------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["sandbag", "genuine"])
def test_an_edit_at_the_last_token_equals_a_whole_edited_pass(tiny, tiny_questions, condition):
    place = outcomes.find_places(tiny, tiny_questions, condition, FRAMING, [2])[0]
    x = place.x + torch.randn(place.x.shape, generator=torch.Generator().manual_seed(0))
    new = {("push", "", 0): x, ("nothing", "", 0): place.x, ("push", "", 1): x.clone()}
    found = outcomes.effects_at(tiny, place, condition, new).set_index(["intervention", "seed"])
    whole = {HookPoint("resid_post", 2): lambda h: edits.replace_rows(h, place.rows, x[None])}
    final, _ = hook_points.forward(tiny, place.pack, edits=whole, dense=True)
    answers = metrics.answer_logprobs(tiny, place.pack, final)
    clean = metrics.score(tiny, tiny_questions, condition, FRAMING)
    for name in outcomes.NAMES:
        rows = found[found["metric"] == name]
        expected = metrics.METRICS[name](answers)[0].double().numpy()
        np.testing.assert_allclose(rows.loc[("push", 0), "value"], expected, atol=1e-4)
        np.testing.assert_allclose(rows.loc[("push", 0), "baseline"], clean[name], atol=1e-4)
        assert (rows.loc[("push", 1), "value"] == rows.loc[("push", 0), "value"].values).all()
        assert (rows.loc[("nothing", 0), "value"] == rows.loc[("nothing", 0), "baseline"]).all()
    assert set(found["condition"]) == {condition}


def test_too_few_questions_are_refused(tiny_llama, tiny_questions):
    with pytest.raises(UserError, match="at least 10"):
        outcomes.find_places(tiny_llama, tiny_questions[:9], "genuine", FRAMING, [1])


# --- directions of one length ---------------------------------------------------------------------


class Relu:
    """An SAE of 24 latents in 12 dimensions; the last 8 never fire."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.W = torch.nn.functional.normalize(torch.randn(24, 12, generator=generator), dim=1)
        self.W[16:] = 0  # rows of silent latents are put back below
        self.silent = torch.nn.functional.normalize(torch.randn(8, 12, generator=generator), dim=1)

    def encode(self, x):
        return (x @ self.W.T).relu()

    def decode(self, codes):
        return codes @ torch.cat([self.W[:16], self.silent]) + 3.0


def train_codes(n=8, shift=2.0):
    genuine, sandbag = torch.randn(2, n, 12, generator=torch.Generator().manual_seed(1))
    names = np.array([f"q{i}" for i in range(n)])
    return TrainCodes(genuine + shift, sandbag, names, names)


def test_shuffled_and_random_directions_are_as_long_as_delta():
    sae, train = Relu(), train_codes()
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    up = interventions.e6_and_e4(x, sae, train)["delta+", "kept", 0] - x
    np.testing.assert_allclose(up[0], deltas.delta(sae, train), atol=1e-5)
    new = deltas.of_equal_norm(x, sae, train, range(3))
    moved = torch.stack([value - x for value in new.values()])
    np.testing.assert_allclose(moved.norm(dim=-1), up.norm(dim=-1)[0].expand(6, 5), rtol=1e-4)
    unscaled = interventions.e1_variants(x, sae, train, [1])["delta_E1", "kept", 1] - x
    ours = new["delta_E1", "kept", 1] - x
    cosine = torch.cosine_similarity(ours, unscaled)
    assert torch.allclose(cosine, torch.ones(5), atol=1e-4)
    with pytest.raises(UserError, match="seed"):
        deltas.of_equal_norm(x, sae, train, [])


def test_random_directions_lie_in_the_span_of_the_rows_that_fire():
    """Codes in which three latents fire: what is drawn is a sum of their three rows."""
    sae, codes = Relu(), torch.zeros(4, 24)
    codes[0, [2, 5]], codes[3, 11] = 1.0, 2.0
    rows, drawn = sae.W[[2, 5, 11]].T, deltas.in_span(sae, codes, 0)
    rest = drawn - rows @ torch.linalg.lstsq(rows, drawn[:, None]).solution[:, 0]
    assert rest.norm() < 1e-5 < drawn.norm()
    assert not torch.allclose(drawn, deltas.in_span(sae, codes, 1))


def test_no_direction_is_made_out_of_nothing():
    """Where both conditions are one, delta+ has length 0, and so have the others."""
    train = train_codes(shift=0.0)
    train = train._replace(sandbag=train.genuine)
    x = torch.zeros(2, 12)
    new = deltas.of_equal_norm(x, Relu(), train, [0])
    assert all(torch.equal(value, x) for value in new.values())


# --- a whole cell ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(trained_run):
    model, asked, stored, tags = trained_run
    return cells.measure_cells(
        model, asked, FRAMING, stored, stored, tags, e1_seeds=2, noise_seeds=2
    )


def test_cells_hold_what_their_parts_give_one_by_one(trained_run, measured):
    """Another route: p_full by `sites`, each new x built from the stored activations anew."""
    model, asked, stored, tags = trained_run
    layer, tag = 1, next(t for t in tags if "_L1_" in t)
    (site,) = sites.find_sites(model, asked, FRAMING, [layer])
    rows = files.read_csv(stored / "tokens.csv.gz")
    train = medians.train_codes(activations.load(stored, layer), rows)
    sae = saes.load_tags(stored, [tag], model)[layer][tag]
    new = interventions.e6_and_e4(site.x, sae, train)
    new |= interventions.e1(site.x, sae, train, range(2))
    new |= interventions.noise(site.x, new["E6", "kept", 0], range(2))
    parts = sites.effects_at(model, site, new, tag=tag)
    keys = ["intervention", "error_term", "seed", "question_id"]
    own = measured.effects[measured.effects["tag"] == tag]
    full = [t[t["metric"] == "p_full"].set_index(keys)["value"] for t in (own, parts)]
    np.testing.assert_allclose(full[0][full[1].index], full[1], atol=1e-5)
    assert set(measured.effects["metric"]) == {"logodds", "p_full"}
    shared = measured.effects[measured.effects["tag"] == ""]
    assert {"oracle", "diff_means", "mean_ablation"} <= set(shared["intervention"])
    assert (measured.drift["share"] < 1e-4).all()
    assert set(measured.fits["condition"]) == {"genuine", "sandbag"}
    with pytest.raises(UserError, match="2 or more"):
        cells.measure_cells(model, asked, FRAMING, stored, stored, tags, noise_seeds=1)


def test_the_ceiling_at_a_layer_is_the_oracle_of_its_cells(trained_run, measured):
    model, asked = trained_run[:2]
    by_layer = ceiling.oracle_by_layer(model, asked, FRAMING)
    assert sorted(by_layer["layer"].unique()) == [*range(model.n_layers)]
    keys = ["layer", "metric", "question_id"]
    ours, theirs = (
        t[t["intervention"] == "oracle"].set_index(keys)["value"]
        for t in (by_layer, measured.effects)
    )
    np.testing.assert_allclose(ours[theirs.index], theirs, atol=1e-5)
    assert (by_layer["value"] != by_layer["baseline"]).any()


def test_untrained_saes_stand_beside_every_cell_and_all_is_judged(trained_run, measured):
    model, asked, stored, tags = trained_run
    found = cells.measure_untrained(model, asked, FRAMING, stored, stored, tags)
    assert found.quality.groupby("tag").size().to_list() == [3, 3]
    by_kind = found.quality.set_index("kind")
    assert (by_kind.loc["frozen_decoder", "cosine_low"] > 1 - 1e-5).all()
    assert (by_kind.loc["near_decoder", "cosine_low"] > 0.8 - 1e-5).all()
    assert (by_kind["l0"] - 8).abs().max() < 1  # that of the trained SAE, which keeps 8
    table = pd.concat([measured.effects, found.effects], ignore_index=True)
    judged = decision.judge_cells(table, guards.read_guards(measured.guards), "less sure")
    assert judged["tag"].to_list() == tags
    assert {f"over_E6_{kind}" for kind in by_kind.index} <= set(judged)
    assert set(judged["verdict"]) <= {name for name, _ in decision.VERDICTS}


def test_all_token_medians_count_entries(trained_run):
    model, _, stored, tags = trained_run
    found = cells.all_token_medians(model, stored, stored, tags)
    table, (tag, *_) = files.read_csv(stored / "tokens.csv.gz"), tags
    train = medians.train_codes(activations.load(stored, 1), table, "all")
    codes = saes.load(stored / tag).encode(train.sandbag)
    by_hand = int((np.median(codes.numpy(), axis=0) != 0).sum())
    assert found["nnz_sandbag"].iloc[0] == by_hand and found["layer"].to_list() == [1, 2]


# --- answers written under an edit ----------------------------------------------------------------


def plain_answers(model, asked, condition, layer, x, most):
    """Greedy answers by one forward call a token, with a hook on the block."""
    blocks = hook_points.attrgetter(hook_points.NAMES[model.architecture].blocks)(model.module)
    texts = []
    for question, new in zip(asked, x, strict=True):
        ids = metrics.encode(model, question, condition, FRAMING)[1].prompt
        last, begun = len(ids) - 1, len(ids)

        def edit(module, inputs, output, last=last, new=new):
            output = output.clone()
            output[0, last] = new
            return output

        handle = blocks[layer].register_forward_hook(edit)
        try:
            for _ in range(most):
                with torch.no_grad():
                    logits = model.module(torch.tensor([ids])).logits[0, -1]
                ids = [*ids, int(logits.argmax())]
                if ids[-1] in generation.end_tokens(model):
                    ids.pop()
                    break
        finally:
            handle.remove()
        texts.append(model.tokenizer.decode(ids[begun:]).split("\n")[0].strip())
    return texts


def test_answers_under_an_edit_equal_a_plain_loop(tiny, tiny_questions):
    asked = tiny_questions[:5]
    desk = writing.prepare(tiny, asked, "sandbag", FRAMING, 1, most=4)
    generator = torch.Generator().manual_seed(0)
    pushed = desk.x + 2 * torch.randn(desk.x.shape, generator=generator)
    expected = plain_answers(tiny, asked, "sandbag", 1, pushed, 4)
    assert writing.write(desk, pushed) == expected
    clean = generation.write(tiny, asked, "sandbag", FRAMING, most=4)["text"].to_list()
    # One edit leaves nothing behind for the next.
    assert writing.write(desk, desk.x) == clean != expected
    assert writing.write(desk, pushed) == expected


def test_answers_are_written_by_condition_and_a_remote_model_is_refused(tiny_llama, tiny_questions):
    desk = writing.prepare(tiny_llama, tiny_questions[:3], "genuine", FRAMING, 2, most=2)
    new = {("E6", "kept", 0): desk.x + 1, ("none", "", 0): desk.x}
    table = writing.write_each(desk, "genuine", FRAMING, new, tag="a")
    assert list(table["intervention"]) == ["E6"] * 3 + ["none"] * 3 and set(table["layer"]) == {2}
    far = SimpleNamespace(remote=True)
    with pytest.raises(UserError, match="on this machine"):
        writing.prepare(far, tiny_questions, "genuine", FRAMING, 2)


# --- doses ----------------------------------------------------------------------------------------


def test_a_dose_of_one_is_the_intervention_and_of_zero_is_none(trained_run):
    model, asked, stored, tags = trained_run
    found = doses.dose_response(
        model, asked, FRAMING, stored, stored, tags[:1], [-1, 1], ["genuine"]
    )
    assert found.effects["strength"].unique().tolist() == [-1.0, 0.0, 1.0]
    effects = found.effects[found.effects["metric"] == "logodds"].set_index(
        ["intervention", "strength"]
    )
    (place,) = outcomes.find_places(model, asked, "genuine", FRAMING, [1])
    train = medians.train_codes(
        activations.load(stored, 1), files.read_csv(stored / "tokens.csv.gz")
    )
    sae = saes.load(stored / tags[0])
    new = interventions.without_sae(place.x, train, oracle=None, seeds=[])
    new |= interventions.e6_and_e4(place.x, sae, train)
    alone = outcomes.effects_at(model, place, "genuine", new)
    alone = alone[alone["metric"] == "logodds"].set_index("intervention")["value"]
    for name, strength, one in (
        ("diff_means", 1, "diff_means"),
        ("latents", 1, "delta+"),
        ("latents", -1, "delta-"),
    ):
        values = effects.loc[(name, strength), "value"]
        np.testing.assert_allclose(values, alone[one], atol=1e-4)
    told = estimates.by_metric(found.effects).set_index(["intervention", "strength", "metric"])
    up = effects.loc[("latents", 1)]
    mean = (up["value"] - up["baseline"]).mean()
    assert told.loc[("latents", 1, "logodds"), "value"] == pytest.approx(mean)
    nothing = effects.loc[[("latents", 0.0)]]
    assert (nothing["value"] == nothing["baseline"]).all()
    texts = found.answers.query("strength == 0 and intervention == 'latents'")
    clean = generation.write(model, asked, "genuine", FRAMING)
    assert texts["text"].to_list() == clean["text"].to_list()


def test_answers_under_e6_are_asked_on_both_conditions(trained_run):
    model, asked, stored, tags = trained_run
    found = doses.swap_answers(model, asked, FRAMING, stored, stored, tags[:1])
    counted = found.answers.groupby(["condition", "intervention"]).size().unstack()
    assert (counted == len(asked)).all(axis=None) and list(counted.columns) == ["E4", "E6", "none"]
    scored = cells.measure_cells(
        model, asked, FRAMING, stored, stored, tags[:1], e1_seeds=2, noise_seeds=2
    ).effects
    e6 = [
        t[(t["intervention"] == "E6") & (t["error_term"] == "kept") & (t["metric"] == "logodds")]
        for t in (found.effects[found.effects["condition"] == "sandbag"], scored)
    ]
    np.testing.assert_allclose(*(t["value"] for t in e6), atol=1e-5)


@pytest.mark.parametrize("strengths", [[3.0], [-2.1, 1.0], [float("nan")], ["1"], [True], []])
def test_doses_outside_what_is_allowed_are_one_sentence(strengths):
    with pytest.raises(UserError, match="from -2 to 2") as error:
        doses.check_strengths(strengths)
    assert str(error.value).count(". ") == 0
    assert doses.check_strengths([2, -1.0]) == [-1.0, 0.0, 2.0]


ASKED = [
    Question(f"q{i}", "made", f"What is {i}?", f"right{i}", ("x", "y", "z")) for i in range(30)
]


def answers(n_right, condition, layer=1, **how):
    texts = [q.correct if i < n_right else "x" for i, q in enumerate(ASKED)]
    where = {"layer": layer, "tag": "a", "condition": condition, **how}
    return pd.DataFrame({"question_id": [q.id for q in ASKED], "text": texts, **where})


def test_what_a_dose_does_is_read_off_both_conditions():
    """Of 30 sandbag prompts 3 are answered rightly, of genuine ones 20. Restores: 15 and 20. Breaks
    beside it: 15 and 5. A wobble of one question is neither.
    """
    after = {0.5: (4, 20), 1.0: (15, 20), 2.0: (15, 5), -1.0: (3, 4)}
    table = pd.concat(
        answers(n, condition, intervention="latents", strength=strength)
        for strength, both in {0.0: (3, 20), **after}.items()
        for condition, n in zip(("sandbag", "genuine"), both, strict=True)
    )
    changed = dose_rules.changes(table, ASKED)
    row = changed.query("strength == 1 and condition == 'sandbag'").iloc[0]
    assert row["right"].value == pytest.approx(40) and row["right_share"] == 0.5
    assert row["listed_share"] == 0.5 and row["p"] == pytest.approx(2 * 0.5**12)
    told = dose_rules.told(changed).set_index("strength")["does"].to_dict()
    assert told == {
        0.5: "neither is shown",
        1.0: "restores",
        2.0: "restores and breaks",
        -1.0: "breaks",
    }
    with pytest.raises(UserError, match="nothing done"):
        dose_rules.changes(table[table["strength"] != 0], ASKED)
    with pytest.raises(UserError, match="both"):
        dose_rules.told(changed[changed["condition"] == "sandbag"])


def test_swaps_are_told_against_nothing_done():
    parts = [("none", 3, 20), ("E6", 15, 20), ("E4", 3, 20)]
    table = pd.concat(
        answers(n, condition, intervention=name)
        for name, *both in parts
        for condition, n in zip(("sandbag", "genuine"), both, strict=True)
    )
    told = dose_rules.told(dose_rules.changes(table, ASKED)).set_index("intervention")["does"]
    assert told.to_dict() == {"E6": "restores", "E4": "neither is shown"}
