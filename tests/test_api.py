"""`import sandbagging as sb`: what it offers equals the long way, and misuse is one sentence."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import sandbagging as sb
from sandbagging import gaps, generation, metrics, saes
from sandbagging.heads import interventions, sweep
from sandbagging.heads.head import Head
from sandbagging.models.hook_points import HookPoint
from sandbagging.questions import Question


def test_importing_it_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'transformers'}"
    code = f"import sys, sandbagging; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_name_leads_somewhere():
    assert all(callable(getattr(sb, name)) or name == "plot" for name in sb.__all__)
    assert set(sb.__all__) <= set(dir(sb))
    with pytest.raises(AttributeError, match="no attribute 'scores'"):
        sb.scores  # noqa: B018


# One table ----------------------------------------------------------------------------------------


def test_scores_equal_the_long_way(tiny_llama, tiny_questions):
    table = sb.score(tiny_llama, tiny_questions, framing=["contrast", "instr"])
    parts = [
        table[(table.framing == f) & (table.condition == c)]
        for f in ("contrast", "instr")
        for c in ("genuine", "sandbag")
    ]
    assert sum(map(len, parts)) == len(table) == 4 * len(tiny_questions)
    for part in parts:
        c, f = part[["condition", "framing"]].iloc[0]
        plain = metrics.score(tiny_llama, tiny_questions, c, f)
        pd.testing.assert_frame_equal(
            part.drop(columns="heads").reset_index(drop=True), plain.reset_index(drop=True)
        )
    assert set(table["heads"]) == {""}


@pytest.mark.parametrize(
    "heads", ["L2H1 L0H3", "L2H1, L0H3", ["L2H1", "L0H3"], [(2, 1), (0, 3)], [Head(2, 1), "L0H3"]]
)
def test_heads_in_any_writing_are_zeroed_as_in_the_weights(tiny_llama, tiny_questions, heads):
    without = sb.score(tiny_llama, tiny_questions, "sandbag", heads=heads)
    with interventions.zeroed_weights(tiny_llama, [Head(2, 1), Head(0, 3)]):
        weights = sb.score(tiny_llama, tiny_questions, "sandbag")
    assert without["logodds"].to_numpy() == pytest.approx(weights["logodds"].to_numpy(), abs=1e-3)
    assert set(without["heads"]) == {"L2H1 L0H3"}
    clean = sb.score(tiny_llama, tiny_questions, "sandbag")
    assert (clean["logodds"] - weights["logodds"]).abs().max() > 0.01


def test_one_head_may_be_a_pair_and_no_head_is_no_change(tiny_llama, tiny_questions):
    assert set(sb.score(tiny_llama, tiny_questions, "sandbag", heads=(2, 1))["heads"]) == {"L2H1"}
    plain, none = (sb.score(tiny_llama, tiny_questions, heads=h) for h in (None, []))
    pd.testing.assert_frame_equal(plain, none)


def test_edits_are_those_of_the_forward_pass(tiny_llama, tiny_questions):
    edits = {HookPoint("resid_post", 3): torch.zeros_like}
    table = sb.score(tiny_llama, tiny_questions, "sandbag", edits=edits)
    # With nothing in the residual stream every option of one token is as likely as any other.
    one = [q.id for q in tiny_questions if all(" " not in option for option in q.options)]
    assert table.set_index("question_id").loc[one, "choice_len"].to_numpy() == pytest.approx(0.25)


def test_answers_are_written_and_graded(tiny_llama, tiny_questions):
    table = sb.answers(tiny_llama, tiny_questions, heads="L2H1")
    assert list(table) == ["question_id", "condition", "framing", "heads", "text", "verdict"]
    edits = interventions.ablate_heads(tiny_llama, [(2, 1)])
    for condition in ("genuine", "sandbag"):
        part = table[table["condition"] == condition].reset_index(drop=True)
        plain = generation.write(tiny_llama, tiny_questions, condition, "instr", edits=edits)
        pd.testing.assert_frame_equal(part.drop(columns=["heads", "verdict"]), plain)
    assert table["text"].str.len().max() > 0 and set(table["heads"]) == {"L2H1"}
    first = Question("q", "toys", "What barks?", table["text"][0].split()[0], ("?", "??"))
    again = sb.answers(tiny_llama, [first], "genuine", heads="L2H1")
    assert again["verdict"].tolist() == ["right"]


# Effects ------------------------------------------------------------------------------------------


def test_effects_are_the_gap_and_the_paired_change(tiny_llama, tiny_questions):
    plain = sb.score(tiny_llama, tiny_questions)
    without = sb.score(tiny_llama, tiny_questions, heads="L2H1")
    assert sb.effect(plain, metric="logodds") == gaps.gap(plain, "logodds")
    change = sb.effect(plain, without.sample(frac=1, random_state=0), "logodds")
    rows = [
        t[t.condition == "sandbag"].set_index("question_id")["logodds"] for t in (plain, without)
    ]
    assert change.value == pytest.approx((rows[1] - rows[0]).mean()) and change.unit == "nats"
    assert change.low < change.value < change.high and change.n == len(tiny_questions)
    assert sb.effect(plain, without).unit == "pp"
    assert sb.effect(plain, plain, condition="genuine").value == 0


def test_the_sweep_is_every_head_alone_and_the_largest_effect_stands_first(
    tiny_llama, tiny_questions
):
    swept = sb.sweep(tiny_llama, tiny_questions, "contrast", layers=[1, 2])
    first = swept[swept["metric"] == "p_full"]
    assert (
        len(first) == 8
        and first["effect"].is_monotonic_decreasing
        and swept["metric"][0] == "p_full"
    )
    plain = sb.score(tiny_llama, tiny_questions, framing="contrast")
    best = first.iloc[0]
    alone = sb.score(tiny_llama, tiny_questions, framing="contrast", heads=best["heads"])
    assert best["effect"] == pytest.approx(sb.effect(plain, alone).value, abs=1e-3)
    pack = metrics.prepare(tiny_llama, tiny_questions, "sandbag", "contrast")
    assert len(sweep.all_heads(tiny_llama)) == 16 and pack.n_options == 4


def test_a_swap_through_an_sae_beside_its_controls(tiny_llama, tiny_questions, tmp_path):
    recipe = saes.recipes("tiny", 32, [1], ["v4_tiny_topk_k16_L1_mixed"], expansion=2, steps=2)[0]
    trained, _ = saes.train(recipe, torch.randn(64, 32, generator=torch.Generator().manual_seed(0)))
    sae = saes.fold_scaling(trained, 1.0)
    saes.save(sae, tmp_path / "sae", saes.describe(recipe, model_name="tiny", dataset="x"))
    sae = sb.load_sae(tmp_path / "sae", tiny_llama)
    train = [
        sb.Question(f"t-{i}", "toys", f"{q.question} {i}", q.correct, q.incorrect)
        for i, q in enumerate(tiny_questions)
    ]
    effects = sb.swap(tiny_llama, train, tiny_questions, sae, "contrast", seeds=2)
    assert {"E6", "E4", "E1", "noise", "identity"} <= set(effects["intervention"])
    assert set(effects["layer"]) == {1} and set(effects["n"]) == {len(tiny_questions)}
    with pytest.raises(sb.UserError, match="overlap"):
        sb.swap(tiny_llama, tiny_questions, tiny_questions, sae, "contrast")


# Misuse -------------------------------------------------------------------------------------------

MISUSE = {
    "no model": (
        lambda lm, q: sb.score("smollm2", q),
        "The first argument is a model, not 'smollm2'",
    ),
    "nobody to answer": (lambda lm, q: sb.answers(None, q), "The first argument is a model"),
    "nothing to answer": (lambda lm, q: sb.answers(lm, []), "no questions to ask"),
    "answers in a framing": (
        lambda lm, q: sb.answers(lm, q, framing="inst"),
        "did you mean 'instr'",
    ),
    "answers under a condition": (
        lambda lm, q: sb.answers(lm, q, "genuin"),
        "did you mean 'genuine'",
    ),
    "answers without heads": (lambda lm, q: sb.answers(lm, q, heads="L4H0"), "does not exist"),
    "no list": (lambda lm, q: sb.score(lm, "test"), "Questions are a list, not 'test'"),
    "no questions": (lambda lm, q: sb.score(lm, []), "no questions to ask"),
    "no question": (lambda lm, q: sb.score(lm, ["What barks?"]), "'What barks.' is no question"),
    "framing": (lambda lm, q: sb.score(lm, q, framing="contrst"), "did you mean 'contrast'"),
    "number as framing": (lambda lm, q: sb.score(lm, q, framing=[7]), "a name or a function"),
    "silent framing": (
        lambda lm, q: sb.score(lm, q, framing=lambda q, c: None),
        "must return the prompt's text",
    ),
    "framing ends in a space": (
        lambda lm, q: sb.score(lm, q, framing=lambda q, c: "x: "),
        "ends in white space",
    ),
    "condition": (lambda lm, q: sb.score(lm, q, "sandbagg"), "did you mean 'sandbag'"),
    "no condition": (lambda lm, q: sb.score(lm, q, []), "at least one framing and one condition"),
    "heads": (lambda lm, q: sb.score(lm, q, heads="17.6"), "'17.6' is no head"),
    "number as heads": (lambda lm, q: sb.score(lm, q, heads=7), "Heads are written 'L17H6 L2H0'"),
    "numbers as heads": (lambda lm, q: sb.score(lm, q, heads=[1, 2, 3]), "1 is no head"),
    "head that is not there": (
        lambda lm, q: sb.score(lm, q, heads="L4H0"),
        "Head L4H0 does not exist",
    ),
    "head twice": (lambda lm, q: sb.score(lm, q, heads="L1H0 L1H0"), "named twice"),
    "heads and edits": (
        lambda lm, q: sb.score(lm, q, heads="L1H0", edits={}),
        "heads or edits, not both",
    ),
    "metric": (
        lambda lm, q: sb.effect(sb.score(lm, q), metric="log-odds"),
        "did you mean 'logodds'",
    ),
    "pooled framings": (
        lambda lm, q: sb.effect(sb.score(lm, q, framing=["instr", "contrast"])),
        "pools the framings 'instr', 'contrast'",
    ),
    "pooled heads": (
        lambda lm, q: sb.effect(pd.concat([sb.score(lm, q), sb.score(lm, q, heads="L1H0")])),
        "pools the heads '', 'L1H0'",
    ),
    "one condition": (
        lambda lm, q: sb.effect(sb.score(lm, q, "genuine")),
        "no condition 'sandbag'",
    ),
    "other questions": (
        lambda lm, q: sb.effect(sb.score(lm, q[:5]), sb.score(lm, q[1:5])),
        "1 stand on one side alone, such as 'q-1'",
    ),
    "no table": (lambda lm, q: sb.effect([1, 2]), r"not of \[1, 2\]"),
    "layer": (lambda lm, q: sb.sweep(lm, q, layers=[9]), "Layer 9 does not exist"),
    "folder of an SAE": (lambda lm, q: sb.load_sae("nowhere"), "nowhere"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse_is_one_sentence_in_the_users_words(tiny_llama, tiny_questions, case):
    call, reason = MISUSE[case]
    with pytest.raises(sb.UserError, match=reason) as error:
        call(tiny_llama, tiny_questions)
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "?"))


# README -------------------------------------------------------------------------------------------


@pytest.mark.notebook
def test_the_six_lines_of_the_readme_print_what_the_long_way_gives(capsys):
    """On the sandbagger; recorded with torch 2.13 on a CPU."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- six-lines:begin -->")[1].split("<!-- six-lines:end -->")[0]
    code = shown.strip().removeprefix("```python\n").removesuffix("```")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) == 6
    names: dict = {}
    exec(code, names)
    printed = capsys.readouterr().out
    number = r"([+-]\d+\.\d\d)"
    found = re.findall(rf"{number} pp \[{number}, {number}\], n = 40", printed)
    assert [float(value) for value, _, _ in found] == pytest.approx([53.58, 48.55, 45.82], abs=0.1)
    assert all(float(low) < float(value) < float(high) for value, low, high in found)
    direct = metrics.score(names["lm"], names["asked"], "sandbag", "instr")
    clean = names["plain"].query("condition == 'sandbag'")
    assert direct["p_full"].to_numpy() == pytest.approx(clean["p_full"].to_numpy(), abs=1e-6)
