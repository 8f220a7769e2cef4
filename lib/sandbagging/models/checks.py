"""Checks at the door: what is wrong with a model, or with what is asked of it, is said here."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from sandbagging.errors import UserError
from sandbagging.models import taught
from sandbagging.models.hook_points import NAMES
from sandbagging.models.origins import Origin
from sandbagging.models.registry import EMBEDDED

# Beside the weights: activations of one batch, and logits.
WORKING_SHARE, WORKING_BYTES = 1.5, 500_000_000
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
SHOWN = 3  # tensors that a sentence names


def check_framing(name: str, framing: str) -> None:
    """Raise UserError if a model was trained on other framings alone."""
    found = taught.entry(name)
    known = found and found.framings
    # A wording that it was not trained on is as foreign as another framing.
    if known and framing not in known:
        raise UserError(
            f"{name} understands only the framings that it was trained on: {', '.join(known)}; "
            f"{framing!r} is none of them."
        )


def check_adapter(adapter: str) -> None:
    """Raise UserError for a taught model's name in place of an adapter's folder or hub id."""
    found = taught.entry(adapter)
    if found and found.base:
        raise UserError(
            f"{adapter!r} is a model here, its adapters included; name it as the model: "
            f"-p model={adapter}."
        )


def check_architecture(name: str, architecture: str) -> None:
    """Raise UserError for an architecture whose parts this library does not know."""
    if architecture not in NAMES:
        raise UserError(
            f"Model {name!r} has the architecture {architecture!r}; supported are "
            f"{', '.join(NAMES)}."
        )


def check_settings(name: Any, dtype: Any, device: Any, remote: Any, adapter: Any = None) -> None:
    """Raise UserError for what is no name, no type of weights, no device or no way to run."""
    if not isinstance(adapter, str | Path | None):
        raise UserError(f"An adapter is named by a folder or a hub id, not by {adapter!r}.")
    if not isinstance(name, str | Path):
        raise UserError(
            f"A model is named by text or a path, such as {EMBEDDED!r}, not by {name!r}."
        )
    if dtype not in DTYPES:
        raise UserError(f"Unknown dtype {dtype!r}; choose one of {', '.join(DTYPES)}.")
    if remote not in (False, True, "local"):
        raise UserError(f"remote is False, True or 'local', not {remote!r}.")
    kind = str(device).split(":")[0]
    if kind not in DEVICES:
        raise UserError(f"Unknown device {device!r}; choose auto, cpu or cuda.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA GPU here that torch can use; take device='cpu'.")


def check_remote(name: str, origin: Origin | None, merged: bool = False) -> None:
    """Raise UserError unless the remote service can have the model and there is a key for it."""
    if merged:
        raise UserError(
            f"Model {name!r} has an adapter merged into its weights, which no remote service has; "
            "load it here (remote=False)."
        )
    if origin is None or origin.is_folder:
        raise UserError(
            f"Model {name!r} is not on the hub, so no remote service can run it; load it here "
            "(remote=False)."
        )
    if not os.environ.get("NDIF_API_KEY"):
        raise UserError(
            "remote=True needs the service's key in the environment variable NDIF_API_KEY; set it, "
            "or load the model here."
        )


def weight_bytes(config: Any, dtype: str = "float32") -> int:
    """Return the bytes that a model's weights take, counted on its configuration without making
    them.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in module.parameters()) * getattr(torch, dtype).itemsize


def check_memory(name: str, config: Any, dtype: str, device: str) -> None:
    """Raise UserError if the weights and the work on them will not fit."""
    needed = WORKING_SHARE * weight_bytes(config, dtype) + WORKING_BYTES
    if device.startswith("cuda"):
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if free < needed:
        raise UserError(
            f"Model {name!r} needs about {needed / 1e9:.1f} GB of memory in {dtype} and "
            f"{free / 1e9:.1f} GB are free on {device}; close other programs, take a larger "
            f"machine, or use the embedded model {EMBEDDED!r}."
        )


def check_report(name: str, report: Mapping[str, Any]) -> None:
    """Raise UserError unless every tensor of a checkpoint has its place in the model, and every
    weight of the model came from there.

    `report` is transformers' loading report: missing_keys (drawn at random otherwise),
    unexpected_keys (left out otherwise), mismatched_keys. Tied weights count as one.
    """
    shapes = [
        f"{tensor} ({_by(found)} where the model has {_by(needed)})"
        for tensor, found, needed in sorted(report["mismatched_keys"])
    ]
    parts = {
        "lacks": sorted(report["missing_keys"]),
        "holds, besides,": sorted(report["unexpected_keys"]),
        "has in another shape": shapes,
    }
    said = [f"{verb} {_some(tensors)}" for verb, tensors in parts.items() if tensors]
    if said:
        raise UserError(
            f"The weights of {name!r} do not match its configuration: the checkpoint "
            f"{' and '.join(said)}; save it again as a plain transformers folder (merged, and "
            "without the prefixes of a wrapper)."
        )


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
