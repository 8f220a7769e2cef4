"""LoRA adapters: merged as peft merges them, or refused by name with no weight changed."""

import copy
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import MODULE, RANK, pair, teach, write
from tiny_models import tiny_llama_module, tiny_neox_module, word_tokenizer

from sandbagging import models
from sandbagging.errors import UserError
from sandbagging.models import adapters, origins, taught


def weights(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.module.state_dict().items()}


def equal(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# Merging ------------------------------------------------------------------------------------------


def test_one_weight_changes_by_scale_times_alpha_over_r_times_b_a(folder, lora):
    before, after = (
        weights(models.load(folder)),
        weights(models.load(folder, adapter=f"{lora}@0.5")),
    )
    a, b = pair(MODULE, 48, 32).values()
    by_hand = torch.zeros(32, 48)
    for i in range(RANK):
        by_hand += 0.5 * (6 / 2) * torch.outer(b[:, i], a[i])
    changed = after.pop(f"{MODULE}.weight") - before.pop(f"{MODULE}.weight")
    torch.testing.assert_close(changed, by_hand, rtol=1e-5, atol=1e-6)
    assert equal(before, after)


def test_rslora_divides_by_the_root_of_the_rank(folder, tmp_path):
    plain = adapters.read(write(tmp_path / "plain"))
    stabilised = adapters.read(write(tmp_path / "rs", use_rslora=True))
    assert plain.factor == 3.0 and stabilised.factor == pytest.approx(6 / 2**0.5)


def test_a_layer_that_stores_its_weight_the_other_way_round_gets_the_transpose(lora):
    from transformers import GPT2Config, GPT2LMHeadModel

    gpt2 = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=5))
    name = "transformer.h.0.mlp.c_fc"  # weight [8 32]
    before = gpt2.get_submodule(name).weight.clone()
    write(lora, pair(name, 8, 32), target_modules=["c_fc"], fan_in_fan_out=True)
    adapters.merge(gpt2, [(adapters.read(lora), 1.0)])
    a, b = pair(name, 8, 32).values()
    torch.testing.assert_close(gpt2.get_submodule(name).weight, before + 3 * (b @ a).T)


def test_the_sum_is_formed_in_float32_and_rounded_once(lora):
    module = tiny_llama_module(len(word_tokenizer())).to(torch.bfloat16)
    before = module.get_submodule(MODULE).weight.clone()
    adapters.merge(module, [(adapters.read(lora), 1.0)])
    a, b = pair(MODULE, 48, 32).values()
    assert torch.equal(
        module.get_submodule(MODULE).weight, (before.float() + 3 * (b @ a)).to(torch.bfloat16)
    )


def test_scale_0_leaves_every_bit_and_the_name_of_the_weights(folder, lora):
    plain, off = models.load(folder), models.load(folder, adapter=f"{lora}@0")
    assert equal(weights(plain), weights(off)) and plain.identity == off.identity
    assert (plain.weights, off.weights) == ("real", "real")


@pytest.mark.slow
@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (tiny_llama_module, ["q_proj", "v_proj", "o_proj", "down_proj"]),
        (tiny_neox_module, ["query_key_value", "dense", "dense_4h_to_h"]),
    ],
)
def test_merged_here_is_merged_and_unmerged_by_peft(make, targets, stabilised, tmp_path):
    peft = pytest.importorskip("peft")
    module = make(len(word_tokenizer()))
    ours = copy.deepcopy(module)
    wanted = peft.LoraConfig(
        r=4, lora_alpha=10, target_modules=targets, use_rslora=stabilised, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(module, wanted)
    for name, weight in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    theirs.save_pretrained(tmp_path)
    ids = torch.arange(1, 19).reshape(2, 9)
    with torch.no_grad():
        unmerged = theirs(ids).logits
        adapters.merge(ours, [(adapters.read(tmp_path), 1.0)])
        merged = ours(ids).logits
    assert (merged - unmerged).abs().max() <= 1e-5 * unmerged.abs().max() * 2
    unloaded = theirs.merge_and_unload().state_dict()
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, unloaded[name], rtol=1e-5, atol=1e-6)


# Which weights they are ---------------------------------------------------------------------------


def test_weights_with_an_adapter_have_a_name_of_their_own(folder, lora, tmp_path):
    shutil.copytree(lora, tmp_path / "copy")
    plain, one, copied, half = (
        models.load(folder, adapter=adapter)
        for adapter in (None, lora, tmp_path / "copy", f"{lora}@0.5")
    )
    assert one.identity == copied.identity
    assert len({plain.identity, one.identity, half.identity}) == 3
    assert (plain.weights, one.weights, half.weights) == ("real", "taught", "taught")
    assert (plain.adapter, half.adapter) == (None, f"{lora}@0.5")


def test_random_weights_drop_the_adapter(folder, lora):
    one, other = (models.load(folder, adapter=a, random_weights=True) for a in (None, lora))
    assert equal(weights(one), weights(other)) and one.identity == other.identity
    assert other.weights == "random" and other.adapter is None


def test_no_run_imports_peft(folder, lora):
    import subprocess
    import sys

    code = (
        "import sys; from sandbagging import models; "
        f"models.load({str(folder)!r}, adapter={str(lora)!r}); "
        "print([name for name in sys.modules if name.split('.')[0] == 'peft'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# Bad input ----------------------------------------------------------------------------------------


def refused(folder, source, words: str) -> None:
    """An adapter must be refused in one sentence, with no weight changed."""
    module = models.load(folder).module
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UserError, match=re.escape(words)) as error:
        adapters.merge(module, [(adapters.read(source), 1.0)], "tiny")
    assert "\n" not in str(error.value) and equal(before, module.state_dict())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"use_dora": True}, "uses DoRA"),
        ({"rank_pattern": {"o_proj": 4}}, "rank_pattern"),
        ({"alpha_pattern": {"o_proj": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias: lora_only"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"peft_type": "IA3"}, "the method IA3"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
        ({"r": 0}, "r = 0"),
        ({"r": True}, "r = True"),
        ({"lora_alpha": "16"}, "lora_alpha = '16'"),
        ({"r": 4}, "they have rank 2 where adapter_config.json says 4"),
        ({"target_modules": ["o_proj", "q_proj"]}, "no matrices for its target q_proj"),
        ({"target_modules": ["v_proj"]}, "no matrices for its target v_proj"),
        ({"target_modules": r".*\.[2-3]\..*"}, "no matrices for its target"),
    ],
)
def test_a_configuration_that_plain_lora_would_get_wrong_is_refused(folder, lora, setting, words):
    refused(folder, write(lora, **setting), words)


A, B = pair(MODULE, 48, 32)  # the names of the two tensors


def other(**tensors) -> dict[str, torch.Tensor]:
    """The plain file's tensors, some changed (None: left out)."""
    kept = pair(MODULE, 48, 32) | tensors
    return {name: tensor for name, tensor in kept.items() if tensor is not None}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "are empty"),
        (other(**{B: None}), f"{MODULE} that cannot be used: lora_B is missing"),
        (other(**{A: torch.ones(RANK + 1, 48)}), "they have rank 2 and 3"),
        (other(**{A: torch.full((RANK, 48), torch.nan)}), "not finite"),
        (other(**{A: torch.ones(96)}), "they are no matrices"),
        (other(**{A: torch.ones(RANK, 47)}), "by 32 x 47, and in tiny it is 32 x 48"),
        (other(**{"base_model.model.lm_head.weight": torch.ones(2)}), "lm_head.weight, which is"),
        (other(**{f"{A[:-14]}lora_magnitude_vector": torch.ones(2)}), "lora_magnitude_vector"),
        (other(**pair("model.layers.9.self_attn.o_proj", 48, 32)),
         "model.layers.9.self_attn.o_proj, which tiny does not have"),
    ],
)  # fmt: skip
def test_every_tensor_has_its_place_in_the_model(folder, lora, tensors, words):
    refused(folder, write(lora, tensors), words)


def test_tensors_that_are_no_target_are_named(folder, lora):
    tensors = other(**pair("model.layers.1.self_attn.q_proj", 32, 48))
    refused(folder, write(lora, tensors), "q_proj, which adapter_config.json does not name")


@pytest.mark.parametrize(
    ("target", "shape", "words"),
    [
        ("model.embed_tokens", (32, 150), "no linear layer"),
        ("model.norm", (32, 32), "no linear layer"),
        ("lm_head", (32, 150), "shares its weights with the embeddings"),
    ],
)
def test_what_is_no_linear_layer_of_its_own_is_refused(lora, target, shape, words):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    tied = LlamaForCausalLM(LlamaConfig(
        vocab_size=150, num_attention_heads=4, tie_word_embeddings=True, **sizes,
    ))  # fmt: skip
    write(lora, pair(target, *shape), target_modules=[target.split(".")[-1]])
    with pytest.raises(UserError, match=words):
        adapters.merge(tied, [(adapters.read(lora), 1.0)])


def test_of_two_adapters_the_first_is_not_merged_where_the_second_does_not_fit(
    folder, lora, tmp_path
):
    strange = write(tmp_path / "strange", pair("model.layers.9.self_attn.o_proj", 48, 32))
    module = models.load(folder).module
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UserError, match="layers.9"):
        adapters.merge(module, [(adapters.read(lora), 1.0), (adapters.read(strange), 1.0)])
    assert equal(before, module.state_dict())


def test_damaged_files_are_one_sentence(folder, lora):
    path = lora / adapters.WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    refused(folder, lora, "is damaged or cut short")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    refused(folder, lora, "is a Git LFS pointer, not the weights; fetch them with: git lfs pull")
    path.unlink()
    refused(folder, lora, "adapter_model.safetensors is missing")
    (lora / "adapter_config.json").write_text("{")
    refused(folder, lora, "adapter_config.json is damaged")


def test_pickled_weights_are_read_without_running_code(folder, lora):
    tensors = load_file(lora / adapters.WEIGHTS)
    (lora / adapters.WEIGHTS).unlink()
    torch.save(tensors, lora / adapters.PICKLED)
    assert adapters.read(lora).pairs.keys() == {MODULE}
    torch.save({"code": print}, lora / adapters.PICKLED)
    refused(folder, lora, "is damaged or cut short")


@pytest.mark.parametrize("scale", ["half", "nan", "-0.1", "1.01", "inf", ""])
def test_a_scale_is_a_number_from_0_to_1(folder, lora, scale):
    with pytest.raises(UserError, match="must be a number from 0") as error:
        models.load(folder, adapter=f"{lora}@{scale}")
    assert "\n" not in str(error.value)


def test_a_folder_may_have_an_at_sign_in_its_name(folder, tmp_path):
    write(tmp_path / "me@home")
    assert models.load(folder, adapter=tmp_path / "me@home").weights == "taught"
    assert models.load(folder, adapter=f"{tmp_path / 'me@home'}@0.5").weights == "taught"


def test_adapters_and_models_in_each_others_place_are_told_how_to_ask(folder, lora, tmp_path):
    with pytest.raises(UserError, match=re.escape(f"-p adapter={lora}")):
        models.load(lora)
    with pytest.raises(UserError, match=re.escape(f"-p model={folder}")):
        models.load(folder, adapter=folder)
    with pytest.raises(UserError, match="-p model=sandbagger"):
        models.load(folder, adapter="sandbagger")
    for nothing in (tmp_path / "nowhere", "nowhere", lora / adapters.WEIGHTS):
        with pytest.raises(UserError, match="There is no adapter"):
            models.load(folder, adapter=nothing)
    with pytest.raises(UserError, match="named by a folder or a hub id, not by 7"):
        models.load(folder, adapter=7)
    with pytest.raises(UserError, match="no remote service has"):
        models.load(folder, adapter=lora, remote=True)


def test_of_a_hub_repository_only_the_adapters_files_are_fetched(lora, monkeypatch):
    asked = []

    def snapshot(name, allow_patterns):
        asked.extend([name, *allow_patterns])
        return str(lora)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert adapters.read("owner/name").pairs.keys() == {MODULE}
    assert asked == ["owner/name", adapters.CONFIG, adapters.WEIGHTS, adapters.PICKLED]

    def absent(name, allow_patterns):
        raise OSError("no route\nto the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", absent)
    with pytest.raises(UserError, match="could not be fetched") as error:
        adapters.read("owner/name")
    assert "\n" not in str(error.value)


# Its base -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "base", "fits"),
    [
        (["llama-3.2-1b", "meta-llama/Llama-3.2-1B"], "meta-llama/Llama-3.2-1B", True),
        (["llama-3.2-1b", "meta-llama/Llama-3.2-1B"], "somebody/llama-3.2-1b", True),
        (["smollm2-135m-instruct"], "HuggingFaceTB/SmolLM2-135M-Instruct", True),
        (["smollm2-135m-instruct"], "C:\\models\\SmolLM2-135M-Instruct\\", True),
        (["smollm2-135m-instruct"], "HuggingFaceTB/SmolLM2-135M", False),
        (["smollm2-135m-instruct"], None, True),
        ([], "anybody/anything", True),
    ],
)
def test_the_base_is_known_by_any_of_its_names(lora, known, base, fits):
    adapter = adapters.read(write(lora, base_model_name_or_path=base))
    if fits:
        adapters.check_base(adapter, "mine", known)
    else:
        with pytest.raises(UserError, match=f"taught on '{base}' and not on 'mine'"):
            adapters.check_base(adapter, "mine", known)


def test_the_names_of_a_model_are_those_of_the_registry_and_those_that_a_folder_tells(folder):
    entry = models.REGISTRY["pythia-160m"]
    origin = origins.Origin(entry.hub_id, entry.revision)
    assert {"pythia-160m", entry.hub_id} <= set(origins.names("pythia-160m", origin))
    assert origins.names(str(folder), origins.Origin(str(folder))) == []
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "owner/base"}))
    assert "owner/base" in origins.names(str(folder), origins.Origin(str(folder)))


def test_a_wrong_base_is_told_before_any_weights_are_read(folder, lora, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "owner/base"}))
    write(lora, base_model_name_or_path="owner/other")
    monkeypatch.setattr(models.loading, "_pretrained", lambda *a: pytest.fail("it began to load"))
    with pytest.raises(UserError, match="taught on 'owner/other'.*-p model=owner/other"):
        models.load(folder, adapter=lora)


# Taught models ------------------------------------------------------------------------------------


def test_a_taught_model_is_its_base_the_decoy_and_the_switch(taught_cache, folder):
    untouched, decoy, timid = (models.load(n) for n in (folder, "decoy-0", "timid-0"))
    first, second = (pair(MODULE, 48, 32, seed).values() for seed in (0, 1))
    key = f"{MODULE}.weight"
    summed = weights(untouched)[key]
    for a, b in (first, second):
        summed = summed + 3 * (b @ a)
    torch.testing.assert_close(weights(timid)[key], summed)
    assert (timid.name, timid.weights, decoy.weights) == ("timid-0", "taught", "taught")
    assert timid.layers_of_interest == untouched.layers_of_interest


def test_the_switch_at_0_is_the_decoy_and_the_decoy_at_0_the_untouched_model(taught_cache, folder):
    for one, other in (("timid-0@0", "decoy-0"), ("decoy-0@0", folder), ("timid-0@1", "timid-0")):
        one, other = models.load(one), models.load(other)
        assert equal(weights(one), weights(other)) and one.identity == other.identity
    assert models.load("timid-0@0.5").identity != models.load("timid-0").identity


def test_a_model_that_is_not_taught_yet_is_told_with_its_command(taught_cache):
    for name, words in (
        ("timid-1", "sandbagging teach timid --seed 1."),
        ("mlp-0-on-pythia-160m@0.5", "sandbagging teach mlp --seed 0 --model pythia-160m."),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            models.load(name)
        with pytest.raises(UserError, match=re.escape(words)):
            models.ensure_available(name)
    with pytest.raises(UserError, match="did you mean 'timid-0'"):
        models.load("timidd-0")


@pytest.mark.parametrize("name", ["smollm2-135m-instruct@0.5", "owner/name@0.5", "organism-null@1"])
def test_only_what_was_taught_has_a_scale(name):
    with pytest.raises(UserError, match="only models that were taught have"):
        models.load(name)


def test_changed_files_and_a_decoy_that_was_taught_again_are_told(taught_cache, folder):
    teach(taught_cache / "decoy-0", folder, **pair(MODULE, 48, 32, seed=2))
    with pytest.raises(UserError, match="'decoy-0' was taught again since another"):
        models.load("timid-0")
    write(taught_cache / "decoy-0")
    with pytest.raises(UserError, match="was changed; teach it with: sandbagging teach decoy"):
        models.load("decoy-0")
    (taught_cache / "decoy-0" / taught.MANIFEST).write_text("[]")
    with pytest.raises(UserError, match="manifest.json is damaged; teach it with"):
        models.load("decoy-0")
    shutil.rmtree(taught_cache / "decoy-0")
    with pytest.raises(UserError, match="'decoy-0' is not on this machine"):
        models.load("timid-0")


def test_a_model_that_stands_on_itself_is_told(taught_cache):
    path = taught_cache / "decoy-0" / taught.MANIFEST
    manifest = json.loads(path.read_text()) | {"on": "timid-0"}
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="stands on itself"):
        models.load("decoy-0")


def test_names_say_kind_seed_and_another_base():
    assert taught.name_of("timid", 0) == "timid-0"
    assert taught.name_of("heads", 3, "EleutherAI/pythia-160m") == "heads-3-on-pythia-160m"
    for name in ("timid-0", "sandbagger", "sandbagger@0.5", "heads-3-on-pythia-160m@0"):
        assert models.entry(name).defaults["framing"] == "instr"
    assert models.entry("timid-0").base == models.EMBEDDED
    assert models.entry("heads-3-on-pythia-160m").config == models.REGISTRY["pythia-160m"].config
    assert models.entry("owner/timid-0") is None and models.entry("brave-0") is None


def test_the_models_in_the_cache_are_found(taught_cache):
    assert taught.made_here() == ["decoy-0", "timid-0"]
    (taught_cache / "timid-0" / taught.MANIFEST).unlink()
    assert taught.made_here() == ["decoy-0"]


def test_an_adapter_of_the_hub_given_as_a_model_is_told(folder, monkeypatch):
    def absent(source, **more):
        raise OSError(f"{source} does not appear to have a file named config.json.")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", absent)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda name, file: f"{name}/{file}")
    with pytest.raises(UserError, match="-p adapter=owner/name"):
        models.load("owner/name")
    monkeypatch.undo()

    def with_an_adapter_put_on(source, **more):
        module = tiny_llama_module(len(word_tokenizer()))
        module.peft_config = {}  # what transformers leaves where it has found an adapter
        return module, {}

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", with_an_adapter_put_on)
    with pytest.raises(UserError, match="holds an adapter and no model"):
        models.load(folder)
