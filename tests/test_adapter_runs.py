"""Adapters and taught models in runs: planned, loaded, found stale, listed, exported."""

import json

import pytest
import torch
from tiny_adapters import MODULE, pair, write

from sandbagging import metrics, models
from sandbagging.errors import UserError
from sandbagging.heads import export
from sandbagging.models.registry import SMOLLM2
from sandbagging.suite import cli, heads_of_run, ledger, other_models, parameters, runner, runs
from sandbagging.suite.runner import execution, nodes, work
from sandbagging.suite.runner.nodes import nodes_of


@pytest.fixture
def below(tmp_path, monkeypatch):
    """Runs go below a folder of this test."""
    monkeypatch.setenv("SANDBAGGING_RUNS", str(tmp_path / "runs"))


def begun(artefact: str, **given) -> runs.Step:
    """Begin a page with its own parameters, some of them given."""
    declared = parameters.declared(runs.notebook_path(runs.notebook_of(artefact)))
    names = {name: parameter.default for name, parameter in declared.items()}
    return runs.begin(artefact, {**names, "run": "mine", **given})


def finish_00(**given) -> runs.Step:
    """Leave behind what notebook 00 does, with nothing measured."""
    step = begun("00_baseline", n_train=2, n_test=2, **given)
    step.json("summary.json", {})
    step.done()
    return step


def planned(**given) -> dict:
    """What notebook 00 will see of some words after -p."""
    return runner.plan("laptop", "mine", given, ["00"]).steps[0].parameters


@pytest.mark.parametrize("name", ["sandbagger", "sandbagger@0.25", "decoy", "timid-0", "late-1@0"])
def test_taught_models_are_asked_as_they_were_taught(name):
    assert planned(model=name)["framing"] == "instr"
    assert planned(model=name, framing="caps")["framing"] == "caps"
    assert planned(model=name)["model"] == name


@pytest.mark.parametrize("scale", ["", "@0.5"])
def test_an_adapter_is_named_from_where_the_user_stands(lora, monkeypatch, scale, below):
    monkeypatch.chdir(lora.parent)
    for given in (f"lora{scale}", f"./lora{scale}"):
        value = planned(adapter=given)["adapter"]
        assert value.endswith(f"/lora{scale}") and value.startswith("..")
        assert runs.from_notebooks(value) == str(runs.notebooks_folder() / value)
        assert models.adapters.split_scale(runs.from_notebooks(value))[0].endswith("lora")
    assert planned(adapter=f"owner/name{scale}")["adapter"] == f"owner/name{scale}"


def test_what_a_run_will_load_is_looked_at_before_it_starts(lora, folder, below):
    def ensure(**given):
        plan = runner.plan("laptop", "mine", {"model": str(folder), **given}, ["00"])
        execution._ensure_models(nodes_of([plan]))

    ensure(adapter=str(lora))
    for changed, words in (
        ({"use_dora": True}, "DoRA"),
        ({"base_model_name_or_path": "owner/other"}, "taught on 'owner/other'"),
    ):
        write(lora, **changed)
        with pytest.raises(UserError, match=words):
            ensure(adapter=str(lora), model="pythia-160m")
    with pytest.raises(UserError, match="-p adapter="):
        ensure(model=str(lora))
    ensure(adapter=str(lora), random_weights="true")  # which drops the adapter
    with pytest.raises(UserError, match="sandbagging teach timid --seed 7"):
        ensure(model="timid-7")


def test_every_page_asks_the_model_with_its_adapter(lora, folder, below):
    asked = finish_00(model=str(folder), adapter=str(lora)).subject()
    later = begun("07_heads").subject(train=3)
    plain = models.load(folder)
    assert asked.lm.identity == later.lm.identity != plain.identity
    weight = [m.module.get_submodule(MODULE).weight for m in (asked.lm, later.lm, plain)]
    assert torch.equal(weight[0], weight[1]) and not torch.equal(weight[0], weight[2])


def why_stale() -> str | None:
    return runs.why_stale("mine", runs.notebook_of("00_baseline"))


@pytest.mark.parametrize("given", ["adapter", "taught model"])
def test_a_changed_adapter_makes_a_run_stale(given, lora, folder, below, taught_cache):
    of = {
        "adapter": ({"model": str(folder), "adapter": f"{lora}@0.5"}, lora),
        "taught model": ({"model": "timid-0@0.5"}, taught_cache / "timid-0"),
    }
    settings, place = of[given]
    finish_00(**settings)
    assert why_stale() is None
    write(place, pair(MODULE, 48, 32, seed=5))
    assert why_stale() == "a file named by a parameter changed"


def test_a_taught_model_that_is_elsewhere_makes_no_run_stale(folder, below, taught_cache):
    finish_00(model="timid-0")
    for path in (taught_cache / "timid-0").iterdir():
        path.unlink()
    assert why_stale() is None


def test_the_size_of_a_taught_model_is_that_of_its_base():
    for name in (models.EMBEDDED, "sandbagger@0.5", "mlp-3"):
        assert models.entry(name).config == SMOLLM2
        assert nodes._weight_bytes(name) == nodes._weight_bytes("smollm2-135m")
        assert work.shape_of(name) == work.shape_of(models.EMBEDDED)
    assert work.shape_of("owner/name") is None


def test_the_models_are_listed_those_in_the_taught_cache_too(taught_cache, capsys, folder):
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("sandbagger ") and "an adapter on smollm2" in line for line in lines)
    assert any(line.startswith("timid-0 ") and str(folder) in line for line in lines)


def test_the_twin_of_an_ablated_model_has_its_adapter_merged(lora, folder, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--model", str(folder), "--adapter", str(lora), "--heads", "L2H0"]
    assert cli.main(["export-ablated", str(out), *words]) == 0
    log = json.loads((out / export.LOG).read_text())
    assert (log["weights"], log["adapter"]) == ("taught", str(lora))
    merged, twin = models.load(folder, adapter=lora), models.load(out)
    assert torch.equal(
        merged.module.get_submodule(MODULE).weight, twin.module.get_submodule(MODULE).weight
    )
    zeroed = twin.module.get_submodule(MODULE.replace("layers.1", "layers.2")).weight
    assert not zeroed[:, :12].any() and zeroed[:, 12:].all()


def test_the_model_of_a_run_comes_with_its_adapter(below, lora, tmp_path):
    folder = tmp_path / "runs" / "mine"
    settings = {"model": "m", "adapter": f"{lora}@0.5", "random_weights": False, "seed": 3}
    for artefact, content in (("00_baseline", settings), ("07_heads", {})):
        (folder / artefact).mkdir(parents=True)
        if artefact == "07_heads":
            (folder / artefact / "heads.json").write_text(json.dumps({"heads": [[1, 3]]}))
        manifest = {"parameters": content, "outputs": runs.output_hashes(folder / artefact)}
        (folder / artefact / "manifest.json").write_text(json.dumps(manifest))
    assert heads_of_run.of_run("mine").adapter == f"{lora}@0.5"


@pytest.mark.parametrize(
    ("settings", "name", "weights"),
    [
        ({"model": "sandbagger@0.5"}, "sandbagger@0.5", "taught"),
        ({"model": "timid-0"}, "timid-0", "taught"),
        ({"model": "tinyllama", "adapter": "a/b@0.5"}, "tinyllama + b@0.5", "taught"),
        ({"model": "tinyllama", "adapter": "a/b", "random_weights": True}, "tinyllama", "random"),
        ({"model": "sandbagger", "random_weights": True}, "sandbagger", "random"),
        ({"model": "organism-null"}, "organism-null", "planted"),
        ({"model": "owner/name"}, "owner/name", "real"),
    ],
)
def test_other_models_say_what_was_done_to_their_weights(settings, name, weights):
    settings = {"random_weights": False} | settings
    assert (other_models._named(settings), other_models._weights(settings)) == (name, weights)


def test_a_claims_model_with_an_adapter_is_another_model():
    made = dict.fromkeys(ledger.Artefacts._fields)
    plain = ledger.Artefacts(**made | {"model": "llama-3.2-1b", "adapter": ""})
    merged = plain._replace(adapter="owner/lora")
    assert (
        plain.untouched
        and not merged.untouched
        and not plain._replace(random_weights=True).untouched
    )
    assert (plain.measured_on, merged.measured_on) == ("llama-3.2-1b", "llama-3.2-1b + lora")
    taught = plain._replace(model="sandbagger").measured_on
    assert taught == "sandbagger, taught on smollm2-135m-instruct, dequantised from 4 bits (Q4_1)"


def test_scores_follow_the_adapter(lora, folder, tiny_questions):
    scores = [
        metrics.score(models.load(folder, adapter=a), tiny_questions, "genuine", "instr").p_full
        for a in (None, f"{lora}@0", lora)
    ]
    assert (scores[0] == scores[1]).all() and (scores[0] != scores[2]).all()
