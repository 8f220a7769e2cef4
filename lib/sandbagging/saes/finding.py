"""Published SAEs by name: of a folder, of a release on the hub, or of one that sae-lens knows.

No code is loaded: settings come from cfg.json, weights from safetensors.
"""

import fnmatch
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandbagging.errors import UserError
from sandbagging.saes import folders

if TYPE_CHECKING:
    from sae_lens import SAE

FILES = ("cfg.json", "sae_weights.safetensors")

Reader = Callable[[], folders.Contents]


def readers(
    source: str | Path, given: dict[str, Any] | None = None, only: str = "*"
) -> list[tuple[str, Reader]]:
    """Return the name of each SAE of a folder or release and a function that reads it.

    `given` states settings that files leave out; `only` is a glob over names. Raises UserError
    where there is no SAE at all.
    """
    if not Path(source).exists() and re.fullmatch(r"[\w.\-]+", str(source)):
        names = _registered_names(str(source), only)
        return [(name, _registered(str(source), name)) for name in names]
    folder = Path(source) if Path(source).is_dir() else fetch(str(source), only)
    places = _subfolders(folder, only)
    return [(name, lambda path=path: folders.read(path, given=given)) for name, path in places]


def load(
    release: str, sae_id: str, *, d_in: int | None = None, given: dict[str, Any] | None = None
) -> "SAE":
    """Return one SAE of a hub release (owner/name) or local folder, read with every guard of
    saes.load; raises UserError.
    """
    check_name(sae_id)
    folder = Path(release) if Path(release).is_dir() else fetch(release, sae_id)
    return folders.load(folder / sae_id, d_in=d_in, given=given)


def fetch(release: str, only: str = "*") -> Path:
    """Return the local copy of a hub release (owner/name): settings and safetensors alone, from the
    cache where it is there.
    """
    if not re.fullmatch(r"[\w\-][\w.\-]*/[\w\-][\w.\-]*", release) or ".." in release:
        raise UserError(
            f"There is no folder {release!r}, and it is no hub release either; name a folder or "
            "owner/name."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(release, allow_patterns=[f"{only}/{file}" for file in FILES]))
    except Exception as error:  # the hub and its transports each have their own kinds
        reason = type(error).__name__
        raise UserError(
            f"The release {release} could not be fetched ({reason}); connect to the network once, "
            "or name a folder."
        ) from error


def check_name(name: str) -> None:
    """Raise UserError for a name that would lead out of its folder."""
    if not re.fullmatch(r"[\w\-][\w.\-]*(/[\w\-][\w.\-]*)*", name) or ".." in name.split("/"):
        raise UserError(
            f"{name!r} is no name of an SAE: letters, digits, '_', '-', '.' and '/' make one, and "
            "it stays within its release."
        )


def _subfolders(folder: Path, only: str) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of each SAE of a folder, which may be one SAE itself."""
    if any((folder / file).exists() for file in FILES):
        yield folder.name, folder
        return
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and any(path.iterdir())
    )
    chosen = [path for path in found if fnmatch.fnmatch(path.name, only)]
    if not chosen:
        raise UserError(
            f"{folder} holds no SAE{'' if only == '*' else f' named {only}'}; each is a folder of "
            f"{' and '.join(FILES)}."
        )
    for path in chosen:
        yield path.name, path


def _registered_names(release: str, only: str) -> list[str]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    if release not in known:
        raise UserError(
            f"There is no folder {release!r}, and sae-lens knows no release of that name; name a "
            "folder or owner/name."
        )
    return [name for name in known[release].saes_map if fnmatch.fnmatch(name, only)]


def _registered(release: str, sae_id: str) -> Reader:
    """Return a reader of an SAE that sae-lens itself knows how to load: its own loader fixes what
    its files leave out.
    """

    def read() -> folders.Contents:
        from sae_lens import SAE

        try:
            sae = SAE.from_pretrained(release, sae_id)
        except Exception as error:
            raise UserError(
                f"sae-lens could not load {sae_id} of {release} ({type(error).__name__}: {error})."
            ) from error
        config = {**sae.cfg.to_dict(), "architecture": sae.cfg.architecture()}
        return folders.Contents(
            config, {name: value.float() for name, value in sae.state_dict().items()}, []
        )

    return read
