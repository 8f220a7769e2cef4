"""A taught model on disk: a folder that peft can read, with what made it and what is true of it."""

import json
from pathlib import Path
from typing import Any

import torch

from sandbagging import files
from sandbagging.models import adapters
from sandbagging.teaching import training
from sandbagging.teaching.training import Course, Taught


def write_adapter(folder: Path, taught: Taught, plan: Course, base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors (bf16) into a folder."""
    from safetensors.torch import save_file

    config = training.config_of(plan)
    config.base_model_name_or_path = base
    config.inference_mode = True
    config.save_pretrained(folder)
    # peft holds the modules as a set, whose order is another in every process.
    told = json.loads((folder / adapters.CONFIG).read_text(encoding="utf-8"))
    files.write_json(folder / adapters.CONFIG, told | {"target_modules": sorted(plan.modules)})
    weights = {name: w.to(torch.bfloat16).contiguous() for name, w in taught.weights.items()}
    save_file(weights, folder / adapters.WEIGHTS, {"format": "pt"})


def write_told(folder: Path, manifest: dict[str, Any], truth: dict[str, Any]) -> None:
    """Write truth.json, and manifest.json with the hashes of the files beside it."""
    files.write_json(folder / "truth.json", truth)
    named = (adapters.CONFIG, adapters.WEIGHTS, "truth.json")
    hashes = {name: files.sha256(folder / name) for name in named}
    files.write_json(folder / "manifest.json", manifest | {"sha256": hashes})
