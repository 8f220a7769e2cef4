"""Trained SAEs by their tags: which are chosen, and all of a folder loaded, layer by layer."""

import fnmatch
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sandbagging.errors import UserError
from sandbagging.models import Model
from sandbagging.saes import folders
from sandbagging.saes.recipes import parse_tag

if TYPE_CHECKING:
    from sae_lens import SAE


def chosen(tags: Iterable[str], globs: Sequence[str] = ("*",)) -> list[str]:
    """Return the tags that match one of the globs, by layer; raises UserError where none does."""
    found = [tag for tag in tags if any(fnmatch.fnmatch(tag, glob) for glob in globs)]
    if not found:
        raise UserError(
            f"Notebook 02 trained no SAE named {', '.join(globs)}; "
            "change swap_tags, or tags of notebook 02."
        )
    return sorted(found, key=lambda tag: (parse_tag(tag).layer, tag))


def load_tags(folder: Path, tags: Sequence[str], model: Model) -> "dict[int, dict[str, SAE]]":
    """Return {layer: {tag: SAE}} of the SAELens folders below `folder`, layers ascending."""
    by_layer: dict[int, dict] = {}
    for tag in sorted(tags, key=lambda tag: (parse_tag(tag).layer, tag)):
        sae = folders.load(folder / tag, d_in=model.d_model, device=str(model.device))
        by_layer.setdefault(parse_tag(tag).layer, {})[tag] = sae
    return by_layer
