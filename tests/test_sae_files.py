"""From prompts to files on disk: activations, SAEs trained on them, and what is read from both."""

import numpy as np
import pytest
import tiny_models
import torch

from sandbagging import activations, files, models, saes
from sandbagging.saes import estimates, evaluation, pitfalls

FRAMING = "instr_contrast"
TAGS = ("v4_tiny_jumprelu_L2_mixed", "v4_tiny_topk_k4_L1_mixed", "v4_tiny_gated_L2_mixed")


@pytest.fixture(scope="module")
def tiny_llama():
    tokenizer = tiny_models.word_tokenizer()
    module = tiny_models.tiny_llama_module(len(tokenizer))
    return models.wrap(module, tokenizer, "tiny-llama", weights="random")


@pytest.fixture(scope="module")
def asked():
    questions = list(tiny_models.TINY_QUESTIONS)
    return {"train": questions[:7], "test": questions[7:]}


@pytest.fixture(scope="module")
def collected(tiny_llama, asked, tmp_path_factory):
    """Two layers on disk beside the table of their rows."""
    folder = tmp_path_factory.mktemp("01_activations")
    conditions = ("genuine", "sandbag", "neutral", "placebo")
    found, table = activations.collect_to_files(
        tiny_llama, asked, conditions, FRAMING, [1, 2], into=folder
    )
    files.write_csv(folder / "tokens.csv.gz", table)
    return files.Folder.of(folder, *found.hashes, "tokens.csv.gz")


@pytest.fixture(scope="module")
def recipes():
    return [saes.parse_tag(tag).recipe(32, steps=30, batch=16, lr=3e-3) for tag in TAGS]


@pytest.fixture(scope="module")
def trained(tiny_llama, asked, collected, recipes, tmp_path_factory):
    into, keep = tmp_path_factory.mktemp("02_saes"), tmp_path_factory.mktemp("scratch")
    return saes.train_to_files(
        tiny_llama, recipes, collected, asked["test"][:3], FRAMING, "default", into=into, keep=keep
    )


def test_files_hold_what_collect_all_returns(tiny_llama, asked, collected):
    conditions = ("genuine", "sandbag", "neutral", "placebo")
    resid, table = activations.collect_all(tiny_llama, asked, conditions, FRAMING, [1, 2])
    assert sorted(collected.hashes) == ["L01.safetensors", "L02.safetensors", "tokens.csv.gz"]
    assert all(torch.equal(activations.load(collected, layer), resid[layer]) for layer in resid)
    compared = activations.compare_last_tokens(collected, table, "train")
    assert compared.equals(activations.last_tokens(resid, table, "train"))


def test_training_to_files_is_train_tags_and_leaves_no_scratch(
    collected, recipes, trained, tmp_path
):
    written, metrics, history = trained
    table = files.read_csv(collected / "tokens.csv.gz")
    resid = {layer: activations.load(collected, layer) for layer in (1, 2)}
    scale = saes.input_scales(collected, [1, 2])
    rows = saes.select_tokens(table, "mixed")
    assert scale == {layer: saes.input_scale(x[rows]) for layer, x in resid.items()}
    plain = saes.train_tags(recipes, saes.Source(resid, table, scale, "tiny", "default"), tmp_path)
    assert metrics["tag"].tolist() == list(TAGS)
    assert metrics["fvu"].tolist() == [one.metrics["fvu"] for one in plain]
    assert set(history["tag"]) == set(TAGS) and metrics["loss_recovered"].notna().all()
    assert len(written.hashes) == 4 * len(TAGS)
    assert all(files.sha256(written / name) == known for name, known in written.hashes.items())


def test_fvu_of_tags_is_that_of_the_metrics(collected, trained):
    written, metrics, _ = trained
    errors = evaluation.errors_of_tags(written, TAGS, collected)
    for tokens, column in (("all", "fvu"), ("last", "fvu_last")):
        found = estimates.fvu_of_tags(errors, tokens)
        values = [estimate.value for estimate in found.values()]
        assert values == pytest.approx(metrics[column].tolist(), rel=1e-3)


def test_three_readers_agree_and_a_changed_weight_is_seen(collected, trained, tmp_path):
    from safetensors.torch import load_file, save_file

    written = trained[0]
    found = evaluation.three_readers(written, TAGS, collected, n_tokens=50)
    assert (found[["row_norm", "sae_lens", "here", "no_op"]] < 1e-3).all(axis=None)
    assert found.set_index("k").loc[4, "most_active"] == 4
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / TAGS[0]).mkdir(exist_ok=True)
        (tmp_path / TAGS[0] / name).write_bytes((written / TAGS[0] / name).read_bytes())
    weights = load_file(tmp_path / TAGS[0] / "sae_weights.safetensors")
    weights["W_dec"][0] *= 1.5
    save_file(weights, tmp_path / TAGS[0] / "sae_weights.safetensors")
    with pytest.warns(UserWarning, match="unit norm|norm"):
        changed = evaluation.three_readers(files.Folder(tmp_path, {}), TAGS[:1], collected)
    assert changed["row_norm"].item() == pytest.approx(0.5, abs=1e-4)


def test_last_tokens_alone_are_learnt_by_heart(collected, trained):
    recipe = saes.parse_tag("v4_tiny_topk_k4_L1_mixed").recipe(32, steps=200, batch=16, lr=3e-3)
    found = pitfalls.last_tokens_alone(collected, trained[0], TAGS[1], recipe)
    fvu = found.set_index(["sae", "tokens", "split"])["fvu"]
    assert fvu["alone", "last", "train"] < fvu["alone", "last", "test"]
    assert fvu["usual", "all", "test"] == pytest.approx(trained[1]["fvu"][1], rel=1e-6)
    assert found["n"].tolist()[:2] == [3 * 7, 3 * 5]


def test_thresholds_that_start_at_zero_stay_there(collected, recipes):
    found = pitfalls.thresholds_from_zero(collected, recipes[0])
    stuck, free = found.to_dict("records")
    assert stuck["at_zero"] == stuck["d_sae"] == 128 and stuck["highest"] == 0 and stuck["noted"]
    assert free["at_zero"] == 0 and free["lowest"] > 0 and not free["noted"]
    assert np.isfinite(found[["l0", "fvu"]]).all(axis=None)
