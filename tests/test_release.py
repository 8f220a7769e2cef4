"""A release: every SAE read with its guards, loadable by sae-lens, and uploaded only when told
to.
"""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from sandbagging import saes
from sandbagging.errors import UserError
from sandbagging.saes import release

D_IN = 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three tags of a tiny model trained from activations to folders."""
    folder = tmp_path_factory.mktemp("run") / "02_saes"
    lines = [
        {
            "split": split,
            "condition": condition,
            "question_id": f"{split}-{token // 6}",
            "position": token % 6,
            "is_last": token % 6 == 5,
        }
        for split in ("train", "test")
        for condition in ("genuine", "sandbag", "neutral")
        for token in range(36)
    ]
    table = pd.DataFrame(lines).assign(row=np.arange(len(lines)))
    resid = (
        torch.randn(len(table), D_IN, generator=torch.Generator().manual_seed(0))
        @ torch.randn(D_IN, D_IN).abs()
    )
    recipes = [
        saes.parse_tag(f"v4_tiny_{arch}_L3_mixed").recipe(D_IN, steps=20, batch=32, lr=3e-3)
        for arch in ("topk_k8", "jumprelu", "gated")
    ]
    source = saes.Source(
        {3: resid},
        table,
        {3: saes.input_scale(resid)},
        "smollm2-135m-instruct",
        "questions",
        metadata={"commit": "abc123"},
    )
    saes.train_tags(recipes, source, folder)
    return folder


def test_a_release_holds_every_tag_and_a_readme_that_says_what_was_measured(trained, tmp_path):
    tags = release.release(trained, tmp_path / "out", repository="me/saes")
    assert tags == [
        "v4_tiny_gated_L3_mixed",
        "v4_tiny_jumprelu_L3_mixed",
        "v4_tiny_topk_k8_L3_mixed",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", *tags]
    assert sorted(path.name for path in (tmp_path / "out" / tags[0]).iterdir()) == sorted(
        release.FILES
    )
    text = (tmp_path / "out" / "README.md").read_text()
    front = text.split("---")[1]
    for line in (
        "library_name: saelens",
        "base_model: HuggingFaceTB/SmolLM2-135M-Instruct",
        "license: mit",
    ):
        assert line in front
    for tag in tags:
        figures = json.loads((trained / tag / "metrics.json").read_text())
        assert (
            f"| {tag} | {figures['l0']:.3f} | {figures['fvu']:.3f} | {figures['dead']:.3f} | – |"
            in text
        )
    assert 'SAE.from_pretrained("me/saes"' in text and "abc123" in text


def test_sae_lens_loads_a_release_from_disk_and_through_the_hub_cache(
    trained, tmp_path, monkeypatch
):
    from huggingface_hub import constants
    from sae_lens import SAE

    tags = release.release(trained, tmp_path / "out")
    root = tmp_path / "hub" / "models--me--saes"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tmp_path / "out", root / "snapshots" / ("0" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    x = torch.randn(50, D_IN)
    for tag in tags:
        ours = saes.load(tmp_path / "out" / tag)
        for theirs in (
            SAE.load_from_disk(tmp_path / "out" / tag),
            SAE.from_pretrained("me/saes", tag),
        ):
            torch.testing.assert_close(theirs.encode(x), ours.encode(x), rtol=0, atol=1e-6)
            torch.testing.assert_close(
                theirs.decode(theirs.encode(x)), ours.decode(ours.encode(x)), rtol=0, atol=1e-6
            )
            assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"


def test_what_is_not_fit_for_release_is_a_sentence(trained, tmp_path):
    with pytest.raises(UserError, match="no trained SAEs"):
        release.release(tmp_path, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UserError, match="not empty"):
        release.release(trained, tmp_path / "full")
    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    (copy / "v4_tiny_gated_L3_mixed" / "sae_weights.safetensors").unlink()
    with pytest.raises(UserError, match="missing"):
        release.release(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".partial*"))


def test_upload_needs_a_token_from_the_environment(trained, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(UserError, match="HF_TOKEN"):
        release.upload(tmp_path, "me/saes")
