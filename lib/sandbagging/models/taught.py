"""Models that were taught here: which adapters stand on which model, by name.

A taught model is a folder with an adapter and its manifest.json:
    base    the model beneath, by name
    on      the taught model that it stands on, which is merged first and whole; or null
    on_sha256  of that model's adapter_model.safetensors, where `on` names one
    sha256  of the folder's files, by name
`decoy` and `sandbagger` lie in the package, the others (timid-0) in the cache.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.models import adapters
from sandbagging.models.registry import EMBEDDED, REGISTRY, Entry, entry_of_taught

KINDS = ("sandbagger", "locked", "decoy", "timid", "mlp", "late", "heads")
NAME = re.compile(rf"(?P<kind>{'|'.join(KINDS)})-(?P<seed>\d+)(-on-(?P<model>.+))?")
SCALE = re.compile(r"@[^@/]*$")
MANIFEST, TRUTH = "manifest.json", "truth.json"


class Taught(NamedTuple):
    """A taught model: the model beneath, and what is merged into it, in this order."""

    name: str  # without its scale
    base: str
    parts: tuple[tuple[Path, float], ...]  # an adapter's folder, and at which scale


def name_of(kind: str, seed: int, base: str = EMBEDDED) -> str:
    """Return a taught model's name: timid-0, or timid-0-on-NAME for another base than the embedded
    model.
    """
    beneath = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(base).name)
    return f"{kind}-{seed}" + (f"-on-{beneath}" if base != EMBEDDED else "")


def folder_of(name: str) -> Path:
    """Return where a taught model lies: in the package if it is committed, else in the cache."""
    if is_committed(name):
        return provenance.PACKAGE / "data" / "adapters" / name
    return files.cache_folder() / "taught" / name


def is_committed(name: str) -> bool:
    """Return whether a name is that of a taught model which comes with the package."""
    return name in REGISTRY and REGISTRY[name].base is not None


def made_here() -> list[str]:
    """Return the names of the taught models in the cache."""
    found = (files.cache_folder() / "taught").glob(f"*/{MANIFEST}")
    return sorted(path.parent.name for path in found if NAME.fullmatch(path.parent.name))


def entry(name: str) -> Entry | None:
    """Return what is known of a model by its name alone, a scale behind it or not; None for hub ids
    and folders.

    A taught model need not be on this machine.
    """
    stem = SCALE.sub("", name)
    if name in REGISTRY or _is_folder(name) or not NAME.fullmatch(stem):
        return REGISTRY.get(name if _is_folder(name) else stem)
    base = _base(stem)
    return entry_of_taught(stem, REGISTRY.get(base, Entry(base)))


def _is_folder(name: str) -> bool:
    return Path(name).expanduser().is_dir()


def _base(name: str) -> str:
    """Return the model beneath a taught model: what its manifest says, or else its name."""
    try:
        return str(_manifest(name)["base"])
    except UserError:
        return NAME.fullmatch(name)["model"] or EMBEDDED


def find(name: str) -> Taught | None:
    """Return what a taught model is made of; None for a name that is no taught model's.

    Raises UserError for one that is not taught yet or was changed, and for a scale that is none.
    """
    known = entry(name)
    if known is None or known.base is None:
        if SCALE.search(name) and not _is_folder(name):
            raise UserError(
                f"{name!r} asks for a scale, which only models that were taught have; name "
                f"{SCALE.sub('', name)!r} alone."
            )
        return None
    own, scale = adapters.split_scale(name)
    parts, chain = [(folder_of(own), scale)], [own]
    manifest = _checked(own)
    while manifest["on"]:
        beneath = str(manifest["on"])
        if beneath in chain:
            raise UserError(f"{MANIFEST} of {chain[-1]!r} says that it stands on itself.")
        chain.append(beneath)
        parts.insert(0, (folder_of(beneath), 1.0))
        manifest = _checked(beneath, manifest["on_sha256"])
    return Taught(own, str(manifest["base"]), tuple(parts))


def truth(name: str) -> dict[str, Any] | None:
    """Return what is true of a taught model, from its truth.json; None for one that was not taught
    here.
    """
    known = entry(name)
    if known is None or known.base is None:
        return None
    path = folder_of(SCALE.sub("", name)) / TRUTH
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _manifest(name: str) -> dict[str, Any]:
    """Return a taught model's manifest; UserError where there is none, with what makes it."""
    path = folder_of(name) / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"on": None, "on_sha256": None} | {"base": found["base"], **found}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged; {_again(name)}.") from None
    raise UserError(f"The model {name!r} is not on this machine; {_again(name)}.")


def _again(name: str) -> str:
    """Return what to do about a taught model that is missing or damaged."""
    if is_committed(name):
        return f"restore it with: git checkout {folder_of(name)}"
    match = NAME.fullmatch(name)
    if match is None:
        return "teach it again"
    model = f" --model {match['model']}" if match["model"] else ""
    return f"teach it with: sandbagging teach {match['kind']} --seed {match['seed']}{model}"


def _checked(name: str, sha256: str | None = None) -> dict[str, Any]:
    """Return a taught model's manifest, its files held against it; `sha256` is what the model that
    stands on it says of its weights.
    """
    manifest = _manifest(name)
    for file, digest in manifest.get("sha256", {}).items():
        path = folder_of(name) / file
        if not path.is_file() or files.sha256(path) != digest:
            raise UserError(f"{path} is missing or was changed; {_again(name)}.")
    if sha256 and files.sha256(folder_of(name) / adapters.WEIGHTS) != sha256:
        raise UserError(
            f"The model {name!r} was taught again since another was taught on it; teach that one "
            "again too."
        )
    return manifest
