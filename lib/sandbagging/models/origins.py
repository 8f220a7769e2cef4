"""Where a model comes from: the folder or hub id behind a name, its own questions, and an identity
that says which weights they are.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sandbagging import files, questions
from sandbagging.errors import UserError, nearest
from sandbagging.models import adapters, embedded, taught
from sandbagging.models.registry import EMBEDDED, REGISTRY, SUBJECT
from sandbagging.planted import planting
from sandbagging.questions import Question

# What decides the scores of a transformers folder: its shape, its weights, its tokenizer.
DECISIVE = (
    "config.json",
    "*.safetensors",
    "*.bin",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
)
# What a configuration says besides the model's shape.
BOOKKEEPING = ("transformers_version", "_name_or_path", "dtype")


class Origin(NamedTuple):
    """A folder or hub id, and the revision on the hub."""

    source: str
    revision: str | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the weights lie in a folder of this machine."""
        return Path(self.source).is_dir()


def planted_folder(name: str) -> Path | None:
    """Return the folder of a planted model, which is trained if it is not in the cache; None for
    any other name.
    """
    entry = REGISTRY.get(beneath(name))
    return planting.ensure(entry.planted) if entry and entry.planted else None


def beneath(name: str) -> str:
    """Return the model that a taught model was taught on, and any other name as it is."""
    entry = taught.entry(name)
    return entry.base if entry and entry.base else name


def ensure_available(name: str = SUBJECT, adapter: str = "") -> None:
    """Fetch and convert the embedded model, or train a planted one, if it is not in the cache, and
    fetch an adapter.

    Others are fetched when they are loaded. Raises UserError for a name that is none, a model that
    is not taught yet, and an adapter that cannot be read or was taught on another model.
    """
    found = taught.find(name)
    base = found.base if found else name
    origin = Origin(str(embedded.ensure())) if base == EMBEDDED else find(base)
    if adapter:
        read = adapters.read(adapters.split_scale(adapter)[0])
        adapters.check_base(read, base, names(base, origin))


def find(name: str) -> Origin:
    """Return where a model of that name lies; raises UserError for a name that is none."""
    if name == EMBEDDED:
        folder = embedded.ensure()
        embedded.check(folder)
        return Origin(str(folder))
    planted = planted_folder(name)
    if planted:
        return Origin(str(planted))
    if name in REGISTRY:
        return Origin(REGISTRY[name].hub_id, REGISTRY[name].revision)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if adapters.is_adapter(folder):
            raise UserError(adapter_as_model(name))
        return Origin(str(folder))
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return Origin(name)
    raise UserError(
        f"Unknown model {name!r}; did you mean "
        f"{nearest(name, [*REGISTRY, *taught.made_here()])!r}? "
        "A hub id (owner/name) or a local folder works too."
    )


def adapter_as_model(name: str) -> str:
    """Return what to do with an adapter that was given as a model."""
    return (
        f"{name} holds an adapter and no model; name the model that it was taught on, and the "
        f"folder as its adapter: -p adapter={name}."
    )


def questions_of(name: str, split: str, path: str = "default") -> list[Question]:
    """Return the questions of a split for a model: those of the file `path`, or by default its own,
    or else the packaged ones.

    split: "train", "test" or "five", on which no head is chosen; a planted model has no canonical
    five, and five of its test questions stand in.
    """
    planted = planted_folder(name) if path == "default" else None
    if planted is None:
        return questions.load(path, split)
    # Nothing is kept for teaching: "tune" is train, and the check on overlap then refuses it.
    kept = "train" if split in ("train", "tune") else "test"
    own = questions.load(planted / f"questions_{kept}.jsonl")
    return own[:5] if split == "five" else own


# Identity ----------------------------------------------------------------------------------------


def identity(name: str, origin: Origin, config: Any) -> str:
    """Return what names a model's weights: the same for the same weights, on every machine.

    The embedded model's is its file's sha256; a planted one's, how it was made; a folder's, the
    sha256 of what lies there; a hub model's, its name and commit.
    """
    entry = REGISTRY.get(name)
    if name == EMBEDDED:
        return f"gguf:{embedded.GGUF_SHA256}"
    if entry and entry.planted:
        return planting.identity(entry.planted)
    if origin.is_folder:
        return f"folder:{folder_hash(Path(origin.source))}"
    commit = getattr(config, "_commit_hash", None) or origin.revision
    return f"hub:{origin.source}@{commit}"


def names(name: str, origin: Origin) -> list[str]:
    """Return the names that an adapter may call its base by, none where a folder tells none."""
    entry = REGISTRY.get(name)
    if entry is None and origin.is_folder:
        told = _told_by(Path(origin.source))
        return [told, name] if told else []
    return [name, origin.source, *([entry.hub_id] if entry and entry.hub_id else [])]


def _told_by(folder: Path) -> str | None:
    """Return which model a folder's configuration says that it holds, if it says so."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))["_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if isinstance(told, str) and told else None


def folder_hash(folder: Path) -> str:
    """Return the sha256 over the names and bytes of the files that decide a model's scores."""
    paths = sorted({path for pattern in DECISIVE for path in folder.glob(pattern)})
    lines = [f"{path.name} {files.sha256(path)}" for path in paths if path.is_file()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def random_identity(config: Any, tokenizer: Any, seed: int) -> str:
    """Return what names weights that are drawn: the shape, the tokens and the seed."""
    shape = {k: v for k, v in config.to_diff_dict().items() if k not in BOOKKEEPING}
    drawn = [shape, sorted(tokenizer.get_vocab().items()), seed]
    text = json.dumps(drawn, sort_keys=True, default=str)
    return f"random:{hashlib.sha256(text.encode()).hexdigest()}"


def module_identity(module: torch.nn.Module) -> str:
    """Return what names the weights of a model that was made here, of which no origin is known."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"weights:{digest.hexdigest()}"
