"""The exported folder is the ablation, read back by transformers alone."""

import json

import numpy as np
import pytest
import torch
from tiny_models import tiny_neox_module, word_tokenizer

from sandbagging import metrics, models
from sandbagging.errors import UserError
from sandbagging.heads import export, interventions
from sandbagging.suite import cli as command_line
from sandbagging.suite import heads_of_run, runs

HEADS = [(1, 3), (2, 0)]


@pytest.fixture(params=["llama", "gpt_neox"])
def source(request, folder, tmp_path):
    if request.param == "gpt_neox":
        folder, tokenizer = tmp_path / "neox", word_tokenizer()
        tiny_neox_module(len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def test_exported_model_equals_the_intervention_bit_for_bit(source, tmp_path, tiny_questions):
    export.export_ablated(str(source), HEADS, tmp_path / "out")
    model, twin = models.load(str(source)), models.load(str(tmp_path / "out"))
    packs = [metrics.prepare(m, tiny_questions, "sandbag", "instr_pref") for m in (model, twin)]
    by_hook = metrics.measure(model, packs[0], edits=interventions.ablate_heads(model, HEADS))
    by_file, clean = metrics.measure(twin, packs[1]), metrics.measure(model, packs[0])
    for name in by_hook:
        assert np.array_equal(by_hook[name], by_file[name])
    assert not np.array_equal(by_file["p_full"], clean["p_full"])


def test_plain_transformers_reads_it_and_only_the_columns_differ(source, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    export.export_ablated(str(source), HEADS, tmp_path / "out")
    before, after = (AutoModelForCausalLM.from_pretrained(f) for f in (source, tmp_path / "out"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("What barks?").input_ids
    changed = {
        name: (p != after.get_parameter(name)).nonzero()[:, 1].unique().tolist()
        for name, p in before.named_parameters()
        if not torch.equal(p, after.get_parameter(name))
    }
    d_head = models.load(str(source)).d_head
    assert {int(name.split("layers.")[1][0]): columns for name, columns in changed.items()} == {
        layer: list(range(head * d_head, (head + 1) * d_head)) for layer, head in HEADS
    }


def test_the_log_counts_what_was_zeroed(folder, tmp_path):
    model = models.load(str(folder))
    # four weights of L1H3 are zero already
    model.module.model.layers[1].self_attn.o_proj.weight.data[0, 36:40] = 0
    model.module.save_pretrained(folder)
    log = export.export_ablated(str(folder), HEADS, tmp_path / "out")
    assert log == json.loads((tmp_path / "out" / "ablation_log.json").read_text())
    assert log["heads"] == ["L1H3", "L2H0"] and log["weights_zeroed"] == 2 * 12 * 32
    assert log["nonzero_before"] == {"L1H3": 12 * 32 - 4, "L2H0": 12 * 32}
    assert log["share_of_parameters"] == pytest.approx(768 / model.n_params)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([(9, 0)], "L9H0 does not exist"),
        ([], "No head is named"),
        ([(1, 1), (1, 1)], "named twice"),
    ],
)
def test_wrong_heads_leave_nothing_behind(folder, tmp_path, heads, message):
    with pytest.raises(UserError, match=message):
        export.export_ablated(str(folder), heads, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".partial-*"))


def test_a_folder_that_holds_something_is_refused(folder):
    with pytest.raises(UserError, match="name a new folder"):
        export.export_ablated(str(folder), HEADS, folder)
    assert models.load(str(folder)).n_layers == 4


def test_too_little_disk_is_told_before_writing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="name a folder elsewhere"):
        export.export_ablated(str(folder), HEADS, tmp_path / "out")


def test_command_line(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        command_line.main(
            ["export-ablated", str(out), "--model", str(folder), "--heads", "L1H3", "L2H0"]
        )
        == 0
    )
    assert "768 weights" in capsys.readouterr().out and (out / "model.safetensors").exists()
    assert (
        command_line.main(
            ["export-ablated", str(tmp_path / "b"), "--model", str(folder), "--heads", "17.6"]
        )
        == 2
    )
    assert "write heads as L17H6" in capsys.readouterr().err


def test_heads_come_from_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path))
    with pytest.raises(UserError, match="has found no heads yet"):
        heads_of_run.of_run("mine")
    settings = {"model": "m", "random_weights": True, "seed": 3}
    for artefact, content in (("00_baseline", settings), ("07_heads", {})):
        folder = tmp_path / "mine" / artefact
        folder.mkdir(parents=True)
        if artefact == "07_heads":
            (folder / "heads.json").write_text(json.dumps({"heads": [[1, 3], [2, 0]]}))
        manifest = {"parameters": content, "outputs": runs.output_hashes(folder)}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    assert heads_of_run.of_run("mine") == heads_of_run.OfRun("m", "L1H3 L2H0", True, 3)
