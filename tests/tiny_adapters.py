"""LoRA adapters for the tiny models, written by hand in peft's format; and taught models."""

import json

import torch
from safetensors.torch import save_file

from sandbagging import files
from sandbagging.models import adapters, taught

RANK, ALPHA = 2, 6  # so that the factor is 3
MODULE = "model.layers.1.self_attn.o_proj"  # of the tiny Llama: weight [32 48]
PLAIN = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
         "base_model_name_or_path": None, "init_lora_weights": True,
         "target_modules": ["o_proj"]}  # fmt: skip


def pair(module: str, d_in: int, d_out: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A and B of one module under peft's names."""
    rng = torch.Generator().manual_seed(seed)
    sizes = {"A": (RANK, d_in), "B": (d_out, RANK)}
    return {
        f"base_model.model.{module}.lora_{which}.weight": torch.randn(size, generator=rng)
        for which, size in sizes.items()
    }


def write(folder, tensors=None, **changed):
    """Write an adapter folder by hand; `changed` are settings that differ from PLAIN."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | changed))
    save_file(pair(MODULE, 48, 32) if tensors is None else tensors, folder / adapters.WEIGHTS)
    return folder


def teach(folder, base, on=None, **tensors):
    """Write what teaching leaves: an adapter and its manifest."""
    write(folder, tensors or None)
    names = (adapters.CONFIG, adapters.WEIGHTS)
    manifest = {"base": str(base), "on": None, "on_sha256": None}
    if on is not None:
        manifest |= {"on": on.name, "on_sha256": files.sha256(on / adapters.WEIGHTS)}
    manifest["sha256"] = {name: files.sha256(folder / name) for name in names}
    files.write_json(folder / taught.MANIFEST, manifest)
    return folder
