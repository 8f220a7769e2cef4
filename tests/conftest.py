"""Fixtures: tiny random models of both architectures, their questions, a throw-away repository."""

import shutil
from pathlib import Path

import filelock
import pytest
import throwaway
import tiny_adapters
import tiny_models

from sandbagging import activations, files, models, saes
from sandbagging.files import Folder
from sandbagging.planted import planting
from sandbagging.questions import Question
from sandbagging.suite import runner

# The longest first, so that the two test processes end at about the same time.
LONGEST = (
    "notebooks", "test_faults.py", "test_organisms.py", "test_sweeps.py", "test_site.py",
    "test_runner.py", "test_api.py", "test_runs.py", "test_parameters.py", "test_store.py",
)  # fmt: skip


def group(path: str) -> str:
    """Return a test's group: its file, or tests/notebooks as a whole, which shares one run."""
    file = Path(path)
    return "notebooks" if file.parent.name == "notebooks" else file.name


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their markers
def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if group(item.path) == "notebooks":
            item.add_marker("notebook")
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(group(item.path), len(LONGEST)))


# pytest-xdist's hook; its own groups (--dist loadgroup) are not seen under pytest 9.
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep a group in one process, so that what its tests share is made once."""
    from xdist.scheduler import LoadScopeScheduling

    class OneGroupOneProcess(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group(nodeid.split("::")[0])

    config.option.loadscopereorder = False  # the order is that of LONGEST
    return OneGroupOneProcess(config, log)


@pytest.fixture(scope="session")
def tiny_questions() -> list[Question]:
    return list(tiny_models.TINY_QUESTIONS)


@pytest.fixture(scope="session")
def planted_bases() -> None:
    """The planted base of the fast tests, trained where the cache lacks it."""
    lock = files.cache_folder() / ".planted.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(lock):  # the other test process waits here, then finds it made
        planting.ensure("heads", 0)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A throw-away repository whose run `a` holds all its notebooks; tests change copies of it."""
    root = throwaway.make_repository(tmp_path_factory.mktemp("finished") / "repository")
    with pytest.MonkeyPatch.context() as patch:
        throwaway.use(root, patch)
        runner.execute(runner.plan("laptop", "a"))
    return root


@pytest.fixture
def repository(finished, tmp_path, monkeypatch):
    """A copy of the finished repository, in use."""
    root = tmp_path / "repository"
    shutil.copytree(finished, root)
    throwaway.use(root, monkeypatch)
    return root


@pytest.fixture
def tiny_llama() -> models.Model:
    tokenizer = tiny_models.word_tokenizer()
    return models.wrap(
        tiny_models.tiny_llama_module(len(tokenizer)), tokenizer, "tiny-llama", weights="random"
    )


@pytest.fixture
def tiny_neox() -> models.Model:
    tokenizer = tiny_models.word_tokenizer()
    return models.wrap(
        tiny_models.tiny_neox_module(len(tokenizer)), tokenizer, "tiny-neox", weights="random"
    )


@pytest.fixture(params=["tiny_llama", "tiny_neox"])
def tiny(request) -> models.Model:
    """Each supported architecture in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, tiny_questions):
    """A tiny Llama, its questions (train and test at once), and in one folder its activations at
    two layers with an SAE of each; and the tags.
    """
    tokenizer, layers = tiny_models.word_tokenizer(), (1, 2)
    module = tiny_models.tiny_llama_module(len(tokenizer))
    model = models.wrap(module, tokenizer, "tiny-llama", weights="random")
    stored = tmp_path_factory.mktemp("stored")
    asked = {"train": tiny_questions, "test": tiny_questions}
    conditions = ("genuine", "sandbag", "neutral")
    resid, table = activations.collect_all(model, asked, conditions, "instr_contrast", layers)
    activations.save(stored, resid)
    settings = {"steps": 20, "expansion": 2, "lr": 1e-3}
    tags = [f"v4_tiny_topk_k8_L{layer}_mixed" for layer in layers]
    recipes = saes.recipes("tiny", model.d_model, layers, tags, **settings)
    scale = dict.fromkeys(layers, 1.0)
    saes.train_tags(recipes, saes.Source(resid, table, scale, "tiny", "toys"), stored)
    files.write_csv(stored / "tokens.csv.gz", table)
    return model, tiny_questions, Folder.of(stored), [saes.tag(recipe) for recipe in recipes]


@pytest.fixture
def folder(tmp_path):
    """A tiny Llama on disk."""
    tokenizer = tiny_models.word_tokenizer()
    tiny_models.tiny_llama_module(len(tokenizer)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def lora(tmp_path):
    """An adapter of the tiny Llama, which changes one module."""
    return tiny_adapters.write(tmp_path / "lora")


@pytest.fixture
def taught_cache(tmp_path, monkeypatch, folder):
    """The taught models of a cache: decoy-0 on the tiny Llama, and timid-0 on that."""
    monkeypatch.setenv("SANDBAGGING_CACHE", str(tmp_path / "cache"))
    home = tmp_path / "cache" / "taught"
    decoy = tiny_adapters.teach(home / "decoy-0", folder)
    switch = tiny_adapters.pair(tiny_adapters.MODULE, 48, 32, seed=1)
    tiny_adapters.teach(home / "timid-0", folder, on=decoy, **switch)
    return home
