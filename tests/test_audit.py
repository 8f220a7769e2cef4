"""The audit: every fault of a specimen is named, and a sound SAE is spared."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import sparse_tokens

from sandbagging import saes
from sandbagging.errors import UserError
from sandbagging.saes import audit, finding
from sandbagging.suite import cli as __main__

D_IN, D_SAE = 16, 64
WEIGHTS = "sae_weights.safetensors"


@pytest.fixture(scope="module")
def activations():
    return sparse_tokens(600, 64, D_IN, scale=40, offset=25)


@pytest.fixture(scope="module")
def sound(activations, tmp_path_factory):
    """One sound SAE of each architecture, trained for real, and the pre-fix JumpReLU: threshold at
    0 and stuck there.
    """
    folder = tmp_path_factory.mktemp("sound")
    tokens, scale = saes.training_data(activations)
    made = {
        "v4_tiny_topk_k8_L3_mixed": {},
        "v4_tiny_jumprelu_L3_mixed": {"init_threshold": 0.3},
        "v4_tiny_gated_L3_mixed": {},
        "prefix": {"init_threshold": 0.0, "lowest_threshold": 0.0},
    }
    for name, settings in made.items():
        fields = saes.parse_tag(name if name != "prefix" else "v4_tiny_jumprelu_L3_mixed")
        recipe = fields.recipe(D_IN, steps=150, batch=64, lr=3e-3, **settings)
        sae = saes.fold_scaling(saes.train(recipe, tokens)[0], scale)
        saes.save(sae, folder / name, saes.describe(recipe, model_name="tiny", dataset="d"))
    return folder


def verdicts(folder, activations=None, **more):
    return {
        r.name: r
        for r in audit.audit(
            folder, activations=activations and (lambda layer: activations[0]), **more
        )
    }


def test_sound_saes_are_spared_and_the_pre_fix_one_is_not(sound, activations):
    found = verdicts(sound, [activations])
    for name in ("v4_tiny_topk_k8_L3_mixed", "v4_tiny_jumprelu_L3_mixed", "v4_tiny_gated_L3_mixed"):
        assert found[name].verdict == "sound", found[name]
    assert found["prefix"].faults == ("functionally ReLU: all thresholds are 0",)
    topk = found["v4_tiny_topk_k8_L3_mixed"]
    assert (topk.architecture, topk.layer, topk.d_in, topk.d_sae, topk.k, topk.n_tokens) == (
        "topk",
        3,
        D_IN,
        D_SAE,
        8,
        600,
    )
    assert topk.l0 <= 8 and topk.fvu < 0.5 and topk.decoder_norm_high == pytest.approx(1, abs=1e-4)
    assert found["v4_tiny_jumprelu_L3_mixed"].threshold_low > 0


def specimen(
    sound, folder, name, source="v4_tiny_topk_k8_L3_mixed", config=None, weights=None, raw=None
):
    """A copy of a sound SAE with one fault."""
    path = folder / name
    path.mkdir()
    settings = json.loads((sound / source / "cfg.json").read_text())
    settings = {k: v for k, v in {**settings, **(config or {})}.items() if v is not None}
    (path / "cfg.json").write_text(json.dumps(settings))
    tensors = load_file(sound / source / WEIGHTS)
    save_file({**tensors, **(weights(tensors) if weights else {})}, path / WEIGHTS)
    if raw is not None:
        raw(path)


def pickled(path):
    (path / WEIGHTS).unlink()
    (path / "sae_weights.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'touch never_made'\ntR.")


def stretched(w):
    """The same function with decoder rows of norm 3: what a latent codes is a third."""
    return {name: value * {"W_dec": 3, "b_dec": 1}.get(name, 1 / 3) for name, value in w.items()}


JUMP = "v4_tiny_jumprelu_L3_mixed"
SPECIMENS = {
    "zero_thresholds": (
        dict(source=JUMP, weights=lambda w: {"threshold": 0 * w["threshold"]}),
        "functionally ReLU",
    ),
    "negative_threshold": (
        dict(
            source=JUMP, weights=lambda w: {"threshold": w["threshold"] - 2 * w["threshold"].min()}
        ),
        "below 0",
    ),
    "long_rows": (
        dict(source=JUMP, weights=stretched),
        "not of unit norm",
    ),
    "dead": (
        dict(weights=lambda w: {"b_enc": torch.where(torch.arange(D_SAE) < 40, -1e6, w["b_enc"])}),
        "never fire",
    ),
    "empty_encoder": (
        dict(weights=lambda w: {"W_enc": w["W_enc"] * (torch.arange(D_SAE) > 2)}),
        "3 latents have an encoder of zeros",
    ),
    "unscaled": (
        dict(weights=lambda w: {"W_enc": 3 * w["W_enc"], "b_enc": 3 * w["b_enc"]}),
        "constant does as well",
    ),
    "no_k": (dict(config={"k": None}), "does not say k"),
    "no_architecture": (dict(config={"architecture": None}), "does not say architecture"),
    "batchtopk": (dict(config={"architecture": "batchtopk"}), "for training only"),
    "normalised": (
        dict(config={"normalize_activations": "expected_average_only_in"}),
        "normalised",
    ),
    "wrong_shape": (dict(config={"d_sae": 32}), "shape"),
    "not_a_number": (dict(weights=lambda w: {"b_dec": w["b_dec"] * float("nan")}), "NaN"),
    "truncated": (
        dict(raw=lambda path: (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:500])),
        "truncated",
    ),
    "no_weights": (dict(raw=lambda path: (path / WEIGHTS).unlink()), "missing"),
    "pickled": (dict(raw=pickled), "could run code"),
    "not_json": (dict(raw=lambda path: (path / "cfg.json").write_text("{")), "not readable JSON"),
}


def test_a_folder_of_specimens_is_flagged_fault_by_fault(sound, activations, tmp_path):
    for name, (fault, _) in SPECIMENS.items():
        specimen(sound, tmp_path, name, **fault)
    specimen(sound, tmp_path, "sound")
    found = verdicts(tmp_path, [activations])
    assert found.pop("sound").verdict == "sound"
    assert set(found) == set(SPECIMENS)
    for name, (_, reason) in SPECIMENS.items():
        assert len(found[name].faults) == 1 and reason in found[name].verdict, (
            name,
            found[name].faults,
        )


def test_another_width_is_a_fault_and_a_missing_layer_a_note(sound):
    one = verdicts(sound, [torch.randn(20, 5)], only="*topk*")["v4_tiny_topk_k8_L3_mixed"]
    assert "fits models of width 16" in one.verdict and one.fvu is None

    def nothing(layer):
        raise UserError(f"Layer {layer} was not collected.")

    report = audit.audit(sound, activations=nothing, only="*topk*")[0]
    assert report.faults == () and "Layer 3 was not collected" in report.notes[0]
    assert (
        verdicts(sound, only="*topk*")["v4_tiny_topk_k8_L3_mixed"].verdict
        == "sound as far as weights show"
    )


@pytest.mark.parametrize(
    "name", ["../x", "/etc", "a/../b", "..", "a\\b", "a\0b", "", ".hidden", "a//b"]
)
def test_names_that_lead_out_of_a_release_are_refused(sound, name):
    with pytest.raises(UserError, match="no name of an SAE"):
        finding.load(str(sound), name)


@pytest.mark.parametrize("source", ["owner/../name", "nowhere/at/all", "a b/c"])
def test_what_is_no_release_is_a_sentence(source):
    with pytest.raises(UserError, match="no hub release"):
        audit.audit(source)


def test_an_empty_folder_and_an_unknown_glob_are_sentences(sound, tmp_path):
    with pytest.raises(UserError, match="holds no SAE"):
        audit.audit(tmp_path)
    with pytest.raises(UserError, match="named nothing"):
        audit.audit(sound, only="nothing")


def test_unknown_registered_release_is_a_sentence():
    with pytest.raises(UserError, match="sae-lens knows no release"):
        audit.audit("no-such-release")


def hub_cache(folder, release, content):
    """A hub cache built by hand: refs/main names the snapshot, as huggingface_hub writes it."""
    root = folder / f"models--{release.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (root / "snapshots").mkdir()
    shutil.copytree(content, root / "snapshots" / ("0" * 40))


@pytest.fixture
def offline_hub(sound, tmp_path, monkeypatch):
    from huggingface_hub import constants

    hub_cache(tmp_path, "owner/release", sound)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_release_in_the_hub_cache_is_read_without_a_network(offline_hub, sound):
    found = verdicts("owner/release")
    assert set(found) == {path.name for path in sound.iterdir()}
    sae = finding.load("owner/release", "v4_tiny_topk_k8_L3_mixed", d_in=D_IN)
    assert sae.cfg.k == 8
    with pytest.raises(UserError, match="could not be fetched"):
        audit.audit("owner/another")


def test_command_prints_the_table_and_writes_json(sound, tmp_path, capsys):
    assert __main__.main(["audit", str(sound), "--json", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr().out
    assert "functionally ReLU" in printed and "v4_tiny_gated_L3_mixed" in printed
    told = {r["name"]: r for r in json.loads((tmp_path / "a.json").read_text())}
    assert (
        told["prefix"]["verdict"].startswith("functionally ReLU")
        and told["v4_tiny_topk_k8_L3_mixed"]["k"] == 8
    )
    assert __main__.main(["audit", str(tmp_path / "nowhere" / "deeper")]) == 2
    specimen(sound, tmp_path, "open", config={"apply_b_dec_to_input": None})
    assert (
        __main__.main(["audit", str(tmp_path / "open"), "--given", "apply_b_dec_to_input=true"])
        == 0
    )
    assert "sound as far as weights show" in capsys.readouterr().out


def test_a_release_that_sae_lens_knows_is_read_by_its_own_loader(sound, monkeypatch):
    import sae_lens
    from sae_lens.loading import pretrained_saes_directory

    class Release:
        saes_map = {"blocks.3.hook_resid_post": "x", "blocks.4.hook_resid_post": "y"}

    monkeypatch.setattr(
        pretrained_saes_directory,
        "get_pretrained_saes_directory",
        lambda: {"known-release": Release},
    )
    made = sae_lens.SAE.load_from_disk(sound / "v4_tiny_topk_k8_L3_mixed")
    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", lambda release, sae_id: made)
    found = audit.audit("known-release", only="*.3.*")
    assert [(r.name, r.architecture, r.k, r.layer, r.faults) for r in found] == [
        ("blocks.3.hook_resid_post", "topk", 8, 3, ())
    ]
