"""Fixtures: tiny random models of both supported architectures, and questions in their vocabulary."""

import fcntl
import subprocess
import sys

import pytest
import tiny_models

from sandbagging import models
from sandbagging.questions import Question


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items) -> None:
    """Keep a file's tests in one process, and all of tests/notebooks, which share one run of every notebook."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("notebooks" if item.path.parent.name == "notebooks" else item.path.name))


@pytest.fixture(scope="session")
def tiny_questions() -> list[Question]:
    return list(tiny_models.TINY_QUESTIONS)


@pytest.fixture(scope="session")
def planted_bases() -> None:
    """The planted models of the fast tests, trained side by side, a core each, where the cache does not hold them yet."""
    code = "import sys; from sandbagging import organisms; organisms.ensure('heads', int(sys.argv[1]))"
    lock = models.cache_folder() / ".planted.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the other test process waits here, then finds them made
        running = [subprocess.Popen([sys.executable, "-c", code, seed]) for seed in "01"]
        assert [process.wait() for process in running] == [0, 0]


@pytest.fixture
def tiny_llama() -> models.Model:
    tokenizer = tiny_models.word_tokenizer()
    return models.wrap(tiny_models.tiny_llama_module(len(tokenizer)), tokenizer, "tiny-llama", weights="random")


@pytest.fixture
def tiny_neox() -> models.Model:
    tokenizer = tiny_models.word_tokenizer()
    return models.wrap(tiny_models.tiny_neox_module(len(tokenizer)), tokenizer, "tiny-neox", weights="random")


@pytest.fixture(params=["tiny_llama", "tiny_neox"])
def tiny(request) -> models.Model:
    """Each supported architecture in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def folder(tmp_path):
    """A tiny Llama on disk."""
    tokenizer = tiny_models.word_tokenizer()
    tiny_models.tiny_llama_module(len(tokenizer)).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"
