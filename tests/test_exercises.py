"""Each solution passes its check, and each listed mistake is caught with its message."""

import ast
import json
import math

import nbformat
import numpy as np
import pytest
import torch

from sandbagging import metrics, provenance
from sandbagging.errors import UserError
from sandbagging.suite import exercises
from sandbagging.suite.cli import main
from sandbagging.suite.exercises import on_a_model

NAMES = [
    "1_score_an_answer",
    "2_find_the_residual_stream",
    "3_ablate_a_head",
    "4_shuffle_the_labels",
    "5_catch_a_fake",
    "6_bootstrap",
    "7_see_it_memorise",
    "8_teach_to_sandbag",  # its checks are tested in test_exercise_teaching.py
]


def solution(name: str) -> dict:
    """What the solution cells of an exercise define."""
    notebook = json.loads(exercises.find(name).read_text())
    defined: dict = {"np": np, "torch": torch}
    for cell in notebook["cells"]:
        if "solution" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), defined)
    return defined


def said(capsys) -> str:
    return capsys.readouterr().out


@pytest.fixture
def ids(tiny_llama, tiny_questions):
    return metrics.encode(tiny_llama, tiny_questions[0], "sandbag", "instr_pref")[1].prompt


# 1 ------------------------------------------------------------------------------------------------


def logits_of(module, ids):
    with torch.no_grad():
        return module(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def make_score(space=True, shift=1, reduce="sum"):
    def score(module, tokenizer, prompt, answer):
        before = tokenizer(prompt).input_ids
        option = tokenizer((" " if space else "") + answer, add_special_tokens=False).input_ids
        log_p = logits_of(module, before + option)
        each = torch.stack(
            [log_p[len(before) + t - shift, token] for t, token in enumerate(option)]
        )
        return {"sum": each.sum(), "mean": each.mean(), "first": each[0], "p": each.sum().exp()}[
            reduce
        ]

    return score


SCORE_MISTAKES = [
    (dict(shift=0), "one place too late"),
    (dict(reduce="mean"), "mean over the answer's tokens"),
    (dict(reduce="first"), "first token alone"),
    (dict(reduce="p"), "return its logarithm"),
]


@pytest.mark.parametrize(("made", "words"), SCORE_MISTAKES)
def test_score_mistakes(tiny_llama, tiny_questions, capsys, made, words):
    assert not exercises.check_score(
        make_score(**made), tiny_llama, tiny_questions
    ) and words in said(capsys)


def test_score_without_the_space(tiny_llama, tiny_questions, capsys):
    """In the tiny tokenizer a word is one token with or without its space.

    So a tokenizer that tells them apart is put in its place.
    """
    from tiny_models import word_tokenizer

    class Spaces:
        """A leading space is a token of its own."""

        def __init__(self):
            self.real, self.bos_token_id = word_tokenizer(), None

        def __call__(self, text, add_special_tokens=True):
            found = []
            for i, part in enumerate(text.split(" ")):
                found += ([2] if i else []) + (
                    self.real(part, add_special_tokens=False).input_ids if part else []
                )
            return type("Ids", (), {"input_ids": found})()

    import dataclasses

    model = dataclasses.replace(tiny_llama, tokenizer=Spaces())
    assert not exercises.check_score(
        make_score(space=False), model, tiny_questions
    ) and "without its space" in said(capsys)
    assert exercises.check_score(make_score(), model, tiny_questions)


def test_score_solution(tiny_llama, tiny_questions, capsys):
    assert exercises.check_score(solution(NAMES[0])["score"], tiny_llama, tiny_questions)
    assert not exercises.check_score(
        lambda *a: -1.5, tiny_llama, tiny_questions
    ) and "should be" in said(capsys)


# 2 ------------------------------------------------------------------------------------------------


def test_residual_solution_and_mistakes(tiny_llama, ids, capsys):
    def states(module, tokens):
        with torch.no_grad():
            return module(tokens, output_hidden_states=True).hidden_states

    assert exercises.check_residual(solution(NAMES[1])["read"], tiny_llama, ids)
    said(capsys)
    assert not exercises.check_residual(lambda m, t, layer: states(m, t)[layer][0], tiny_llama, ids)
    assert "is the *input* of block 0" in said(capsys)
    assert not exercises.check_residual(
        lambda m, t, layer: states(m, t)[layer + 1][0], tiny_llama, ids
    )
    assert "gone through the final norm" in said(capsys)
    assert not exercises.check_residual(
        lambda m, t, layer: states(m, t)[layer + 1][0, -1], tiny_llama, ids
    )
    assert "the shape should be [token d_model]" in said(capsys)


# 3 ------------------------------------------------------------------------------------------------


def make_ablation(columns, at_output=False, keep_hook=False, weights=False):
    def ablate(module, tokens, layer, head):
        projection = module.model.layers[layer].self_attn.o_proj
        where = columns(module.config, head)
        if weights:
            projection.weight.data[:, where] = 0
            return module(tokens).logits[0].detach()

        def zero(m, inputs, output=None):
            value = (output if at_output else inputs[0]).clone()
            value[..., where] = 0
            return value if at_output else (value,)

        handle = (
            projection.register_forward_hook if at_output else projection.register_forward_pre_hook
        )(zero)
        with torch.no_grad():
            logits = module(tokens).logits[0]
        if not keep_hook:
            handle.remove()
        return logits

    return ablate


def right(config, head):
    return slice(head * config.head_dim, (head + 1) * config.head_dim)


def key_head(config, head):
    group = config.num_attention_heads // config.num_key_value_heads
    return slice(head // group * config.head_dim, (head // group + 1) * config.head_dim)


def guessed(config, head):
    d = config.hidden_size // config.num_attention_heads
    return slice(head * d, (head + 1) * d)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (dict(columns=key_head), "key-value head's index"),
        (dict(columns=guessed), "d_head is not d_model / n_heads"),
        (dict(columns=guessed, at_output=True), "slice its input, z"),
        (dict(columns=right, keep_hook=True), "hook is still there"),
        (dict(columns=right, weights=True), "were left changed"),
        (dict(columns=lambda c, h: slice(0, 0)), "nothing was ablated"),
    ],
)
def test_ablation_mistakes(tiny_llama, ids, capsys, made, words):
    before = on_a_model._logits(tiny_llama, torch.tensor([ids]))
    assert not exercises.check_ablation(make_ablation(**made), tiny_llama, ids) and words in said(
        capsys
    )
    assert torch.equal(
        before, on_a_model._logits(tiny_llama, torch.tensor([ids]))
    )  # the check cleans up behind the learner


def test_ablation_solution(tiny_llama, ids):
    assert exercises.check_ablation(solution(NAMES[2])["ablate"], tiny_llama, ids)
    assert exercises.check_ablation(make_ablation(right), tiny_llama, ids)


# 4 ------------------------------------------------------------------------------------------------


def plain_shuffle(n, seed):
    labels = np.arange(2 * n) < n
    np.random.default_rng(seed).shuffle(labels)
    return labels


ALWAYS = np.random.default_rng(5)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (plain_shuffle, "plain shuffle"),
        (lambda n, seed: np.arange(2 * n) < n, "true labels"),
        (lambda n, seed: np.arange(2 * n) % 2 == 0, "every seed gives the same"),
        (lambda n, seed: np.ones(n, bool), "one boolean for each"),
        (lambda n, seed: ALWAYS.random(2 * n) < 0.5, "the same seed gives other labels"),
        (
            lambda n, seed: np.random.default_rng(seed).random(2 * n) < 0.5,
            "prompts have to be called genuine",
        ),
    ],
)
def test_label_mistakes(capsys, labels, words):
    assert not exercises.check_labels(labels) and words in said(capsys)


def test_label_solution():
    assert exercises.check_labels(solution(NAMES[3])["labels"])


# 5 ------------------------------------------------------------------------------------------------


def in_sample(effects, n_top, seed):
    return np.sort(effects.mean(1))[-n_top:].mean()


def wrong_end(effects, n_top, seed):
    half = effects.shape[1] // 2
    return effects[np.argsort(effects[:, :half].mean(1))[:n_top]][:, half:].mean()


def test_fake_solution_and_mistakes(capsys):
    assert exercises.check_honest(solution(NAMES[4])["judge"])
    said(capsys)
    assert not exercises.check_honest(in_sample) and "the winner's curse" in said(capsys)
    assert not exercises.check_honest(wrong_end) and "choose the largest mean effects" in said(
        capsys
    )
    assert not exercises.check_honest(
        lambda effects, n, seed: 0.1 + 0.01 * effects[0, 0]
    ) and "where there is nothing" in said(capsys)


# 6 ------------------------------------------------------------------------------------------------


def make_interval(paired=True, ends=(2.5, 97.5), of_means=True, sign=1):
    def interval(after, before, seed):
        rng, n = np.random.default_rng(seed), len(after)
        i, j = rng.integers(0, n, (4000, n)), rng.integers(0, n, (4000, n))
        drawn = sign * (after[i] - before[i if paired else j])
        return tuple(np.percentile(drawn.mean(1) if of_means else drawn, ends))

    return interval


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (dict(paired=False), "resampled apart"),
        (dict(ends=(5, 95)), "cut 2.5 % at each end"),
        (dict(of_means=False), "percentiles of the *means*"),
        (dict(sign=-1), "is it after - before?"),
    ],
)
def test_bootstrap_mistakes(capsys, made, words):
    assert not exercises.check_bootstrap(make_interval(**made)) and words in said(capsys)


def test_bootstrap_solution():
    assert exercises.check_bootstrap(solution(NAMES[5])["interval"]) and exercises.check_bootstrap(
        make_interval()
    )


# 7 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fvu", "words"),
    [
        (lambda x, y: (y - x).pow(2).sum() / x.pow(2).sum(), "not centred"),
        (lambda x, y: (y - x).pow(2).sum(), "the squared error alone"),
        (lambda x, y: (y - x).pow(2).mean(), "the mean squared error"),
        (
            lambda x, y: ((y - x).pow(2).sum(1) / (x - x.mean(0)).pow(2).sum(1)).mean(),
            "ratios over tokens",
        ),
        (
            lambda x, y: ((y - x).pow(2).sum(0) / (x - x.mean(0)).pow(2).sum(0)).mean(),
            "ratios over coordinates",
        ),
        (lambda x, y: 1 - (y - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum(), "one minus it"),
        (lambda x, y: math.pi, "set by hand"),
    ],
)
def test_fvu_mistakes(capsys, fvu, words):
    assert not exercises.check_fvu(fvu) and words in said(capsys)


def test_fvu_solution_and_memorising(capsys):
    assert exercises.check_fvu(solution(NAMES[6])["fvu"]) and exercises.check_memorised(
        0.1, 0.6, 200, 800
    )
    assert not exercises.check_memorised(0.1, 0.1, 200, 800) and "judged twice" in said(capsys)
    assert not exercises.check_memorised(0.6, 0.1, 200, 800) and "exchanged" in said(capsys)


# The notebooks ------------------------------------------------------------------------------------


def test_all_are_there():
    assert exercises.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_its_parts_and_the_learners_copy_hides_the_solution(
    name, tmp_path, capsys
):
    source = json.loads(exercises.find(name).read_text())
    text = "\n".join(
        "".join(cell["source"]) for cell in source["cells"] if cell["cell_type"] == "markdown"
    )
    assert "minutes" in text and "<details><summary>Hint" in text
    to_solve = [c for c in source["cells"] if "solution" in c["metadata"].get("tags", [])]
    assert len(to_solve) == (5 if name.startswith("8") else 1)
    for solved in to_solve:
        ast.parse(solved["metadata"]["stub"])
    assert main(
        ["exercise", name, "--to", str(tmp_path / "mine.ipynb")]
    ) == 0 and "mine.ipynb" in said(capsys)
    mine = json.loads((tmp_path / "mine.ipynb").read_text())
    nbformat.validate(nbformat.from_dict(mine))
    code = ["".join(cell["source"]) for cell in mine["cells"] if cell["cell_type"] == "code"]
    for solved in to_solve:
        answer = "".join(solved["source"])
        assert answer not in code and solved["metadata"]["stub"] in code
        folded = [cell for cell in mine["cells"] if answer in "".join(cell["source"])]
        assert len(folded) == 1 and "<details>" in "".join(folded[0]["source"])


@pytest.mark.parametrize("name", NAMES)
def test_code_fits_a_page(name):
    cells = json.loads(exercises.find(name).read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    code += [cell["metadata"].get("stub", "") for cell in cells]
    assert not [line for text in code for line in text.splitlines() if len(line) > 88]


def test_a_copy_is_never_written_over_work(tmp_path):
    target = tmp_path / "mine.ipynb"
    exercises.learners_copy("1", target)
    with pytest.raises(UserError, match="may hold your work"):
        exercises.learners_copy("score_an_answer", target)


def test_unknown_exercise_suggests_the_nearest(capsys):
    assert main(["exercise", "bootstrapp"]) == 2 and "6_bootstrap" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_runs_with_its_solution_from_top_to_bottom(name, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(provenance.PACKAGE.parent))
    notebook = nbformat.read(exercises.find(name), as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(exercises.folder())}},
    ).execute()
    said = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    )
    assert "Right: " in said and "Not yet" not in said
