"""Traces handed over as to nnsight's remote service, and run here: the numbers are those of plain
traces.
"""

import ast
import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sandbagging import metrics, models, nodes
from sandbagging.errors import UserError
from sandbagging.heads import patching, sweep
from sandbagging.models import checks, hook_points, loading
from sandbagging.models.origins import Origin
from sandbagging.swaps import sites

FRAMING = "contrast"


@pytest.fixture
def local(tiny):
    """The same model, its traces serialized, read back with this suite's modules hidden, and run
    here.
    """
    return dataclasses.replace(tiny, remote="local")


def close(plain: dict, remote: dict) -> None:
    for name in plain:
        np.testing.assert_allclose(plain[name], remote[name], rtol=2e-4, atol=2e-6)


def test_scores(tiny, local, tiny_questions):
    pack = metrics.prepare(tiny, tiny_questions, "sandbag", FRAMING)
    close(metrics.measure(tiny, pack), metrics.measure(local, pack))


@pytest.mark.parametrize("replacement", ["zero", "mean", "resample"])
def test_sweep(tiny, local, tiny_questions, replacement):
    pack, sets = (
        metrics.prepare(tiny, tiny_questions, "sandbag", FRAMING),
        [((1, 2),), ((0, 0), (3, 1))],
    )
    from sandbagging.heads import interventions

    bank = (
        None if replacement == "zero" else interventions.z_bank(tiny, [pack], range(tiny.n_layers))
    )
    plain, remote = (
        sweep.ablate_sets(m, pack, sets, replacement=replacement, bank=bank) for m in (tiny, local)
    )
    close(plain.value, remote.value)
    assert np.abs(plain.effect()).max() > 1e-6


def test_patching_of_a_part(tiny, local, tiny_questions):
    packs = [metrics.prepare(tiny, tiny_questions, c, FRAMING) for c in ("genuine", "sandbag")]
    plain, remote = (patching.patch_sets(m, *packs, [((2, 1),), ((3, 0),)]) for m in (tiny, local))
    close(plain.value, remote.value)


def test_nodes(tiny, local, tiny_questions):
    sets = [nodes.parse("L1MLP"), nodes.parse("L0H2 L2MLP")]
    plain, remote = (nodes.patch_sets(m, tiny_questions, FRAMING, sets) for m in (tiny, local))
    close(plain.value, remote.value)
    plain, remote = (nodes.attribution(m, tiny_questions, FRAMING) for m in (tiny, local))
    np.testing.assert_allclose(list(plain.values()), list(remote.values()), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("position", ["last", "all"])
def test_edits_of_the_residual_stream(tiny, local, tiny_questions, position):
    """Behind the first block, where a part of the tokens is run, and behind the last, where only
    the norm is left.
    """
    for layer in (1, tiny.n_layers - 1):
        found = []
        for model in (tiny, local):
            (site,) = sites.find_sites(model, tiny_questions, FRAMING, [layer], [position])
            new = {("E6", "kept", 0): site.x * 0.5}
            found.append(sites.effects_at(model, site, new)["value"].to_numpy())
        np.testing.assert_allclose(*found, rtol=2e-4, atol=1e-7)


def test_gradients(tiny, local, tiny_questions):
    pack = metrics.prepare(tiny, tiny_questions, "sandbag", FRAMING)
    plain, remote = (patching.attribution(m, [pack]) for m in (tiny, local))
    np.testing.assert_allclose(plain, remote, rtol=1e-3, atol=1e-8)


def test_loss_recovered(tiny, local, tiny_questions):
    pack = metrics.prepare(tiny, tiny_questions, "sandbag", FRAMING)
    plain, remote = (metrics.loss_recovered(m, pack, 1, lambda x: 0.9 * x) for m in (tiny, local))
    assert plain == pytest.approx(remote, rel=1e-3)


# The real service ---------------------------------------------------------------------------------


def test_modules_inside_traces_import_nothing_that_the_service_lacks():
    """At their head these modules import torch, the standard library, and of this suite only what
    is light itself.
    """
    light = {"sandbagging", "torch", *sys.stdlib_module_names}
    heavy = {"pandas", "scipy", "sae_lens", "matplotlib", "seaborn", "papermill"}
    for name in (
        "sandbagging.models.hook_points",
        "sandbagging.heads.interventions",
        "sandbagging.nodes.interventions",
    ):
        tree = ast.parse(Path(sys.modules[name].__file__).read_text())
        roots = {
            alias.name.split(".")[0]
            for node in tree.body
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        roots |= {
            node.module.split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)
        }
        assert roots <= light and not roots & heavy, name


@pytest.fixture
def service(folder, monkeypatch):
    """A model of which only the shapes are here; nobody answers at the service's address."""
    from nnsight import CONFIG
    from nnsight.modeling import huggingface
    from transformers import AutoTokenizer

    monkeypatch.setenv("NDIF_API_KEY", "a-key-of-the-test")
    monkeypatch.setattr(CONFIG.API, "HOST", "http://127.0.0.1:9")
    monkeypatch.setitem(huggingface._ID_CACHE, str(folder), "owner/name")  # as the hub would answer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm = hook_points.remote_envoy(str(folder), None, tokenizer)
    return loading.wrap_remote(lm, tokenizer, str(folder), "a test")


def test_an_unreachable_service_is_one_sentence(service, tiny_questions):
    assert (
        service.remote is True
        and service.d_head == 12
        and next(service.module.parameters()).is_meta
    )
    pack = metrics.prepare(service, tiny_questions[:2], "sandbag", FRAMING)
    with pytest.raises(UserError, match="remote service could not be used") as error:
        metrics.measure(service, pack)
    assert "\n" not in str(error.value) and "a-key-of-the-test" not in str(error.value)
    with pytest.raises(UserError, match="Gradients need the model's weights"):
        patching.attribution(service, [pack])


def test_a_key_is_needed_and_a_model_of_the_hub(folder, monkeypatch):
    monkeypatch.delenv("NDIF_API_KEY", raising=False)
    with pytest.raises(UserError, match="is not on the hub"):
        models.load(str(folder), remote=True)
    monkeypatch.setattr(
        loading, "_parts", lambda name, random: (torch.nn.Module, None, Origin("owner/name"))
    )
    monkeypatch.setattr(checks, "check_architecture", lambda *a: None)
    monkeypatch.setattr(torch.nn.Module, "model_type", "llama", raising=False)
    with pytest.raises(UserError, match="NDIF_API_KEY"):
        models.load("owner/name", remote=True)
