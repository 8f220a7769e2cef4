"""LoRA adapters as peft writes them: read without peft, whose import takes seconds, and merged into
a model's weights.

1. `read` takes a folder or hub id apart into pairs of matrices, or says what it cannot take.
2. `check_base` and `merge` hold every pair against the model before the first weight changes.
"""

import contextlib
import json
import math
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sandbagging import files
from sandbagging.errors import UserError

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."  # peft's wrapper around the model
MATRIX = re.compile(rf"{re.escape(PREFIX)}(?P<module>.+)\.lora_(?P<which>[AB])\.weight")
# What a configuration may ask for beyond plain LoRA, by the key that asks for it.
REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "aLoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "megatron_config": "Megatron layers",
    "rank_pattern": "other ranks for some modules (rank_pattern)",
    "alpha_pattern": "another alpha for some modules (alpha_pattern)",
    "modules_to_save": "whole modules beside the LoRA matrices (modules_to_save)",
    "lora_bias": "biases (lora_bias)",
    "trainable_token_indices": "embeddings of tokens (trainable_token_indices)",
    "target_parameters": "parameters outside of linear layers (target_parameters)",
    "layer_replication": "repeated layers (layer_replication)",
}
# Ways to draw the first A and B that leave the model's own weights alone.
HARMLESS_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
SHOWN = 3  # names that a sentence lists


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory: what it adds to which weights."""

    source: str  # the folder or hub id that it was asked for by
    base: str | None  # the model that it was taught on, as its configuration says
    factor: float  # alpha / r, or alpha / sqrt(r) for rsLoRA
    pairs: Mapping[str, tuple[Tensor, Tensor]]  # module -> A [rank d_in], B [d_out rank]
    sha256: str  # of the file of weights

    def identity(self, scale: float) -> str:
        """Return what names the change that it makes to a model at a scale."""
        return f"lora:{self.sha256}*{scale * self.factor!r}"


def split_scale(text: str) -> tuple[str, float]:
    """Return what stands before the @ of NAME@0.5, and the scale behind it (1 without one).

    Raises UserError for a scale that is not a number from 0 to 1.
    """
    name, at, tail = text.rpartition("@")
    if not at or "/" in tail or Path(text).expanduser().is_dir():
        return text, 1.0
    try:
        scale = float(tail)
    except ValueError:
        scale = math.nan
    if not 0 <= scale <= 1:
        raise UserError(
            f"The scale {tail!r} of {name!r} must be a number from 0 (as if it were not there) to "
            f"1 (as it was taught); write it as {name}@0.5."
        )
    return name, scale


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter, and thus no model of its own."""
    return (folder / CONFIG).is_file()


def is_on_hub(name: str) -> bool:
    """Return whether a hub repository holds an adapter; False where the hub cannot be asked."""
    from huggingface_hub import hf_hub_download

    with contextlib.suppress(Exception):
        return bool(hf_hub_download(name, CONFIG))
    return False


# Reading ------------------------------------------------------------------------------------------


def read(source: str | Path) -> Adapter:
    """Return the LoRA adapter in a local folder or under a hub id.

    Raises UserError for what is no adapter, one that is more than plain LoRA or rsLoRA (by name),
    and files that are missing, damaged or do not fit one another.
    """
    source = str(source)
    folder = _folder(source)
    config = _config(source, folder)
    _refuse_more_than_lora(source, config)
    rank, alpha = (_positive(source, config, key) for key in ("r", "lora_alpha"))
    path = _weights_file(source, folder)
    pairs = _pairs(source, _tensors(path), int(rank))
    _check_targets(source, config.get("target_modules"), pairs)
    factor = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return Adapter(
        source, config.get("base_model_name_or_path") or None, factor, pairs, files.sha256(path)
    )


def _folder(source: str) -> Path:
    """Return the folder of an adapter; of a hub repository only its own files are fetched."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if source.count("/") != 1 or source.startswith((".", "/", "~")) or path.exists():
        raise UserError(
            f"There is no adapter {source!r}; name a folder that holds {CONFIG}, or a hub id "
            "(owner/name)."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG, WEIGHTS, PICKLED]))
    except Exception as error:  # the hub has many kinds of errors of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"The adapter {source!r} could not be fetched ({reason}); check the name and the "
            "network, or name a local folder."
        ) from error


def _config(source: str, folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        if (folder / "config.json").is_file():
            raise UserError(
                f"{source} holds a whole model and no adapter ({CONFIG} is missing); load it as "
                f"the model: -p model={source}."
            )
        raise UserError(f"{source} holds no adapter: {CONFIG} is missing.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged: it cannot be read as JSON; fetch the adapter again.")
    return config


def _refuse_more_than_lora(source: str, config: Mapping[str, Any]) -> None:
    """Raise UserError, by name, for whatever a merge of plain LoRA would get wrong."""
    kind, start = config.get("peft_type"), config.get("init_lora_weights")
    used = [name for key, name in REFUSED.items() if config.get(key)]
    if kind != "LORA":
        used.insert(0, f"the method {kind}")
    if config.get("bias", "none") != "none":
        used.append(f"biases (bias: {config['bias']})")
    if start not in HARMLESS_STARTS:
        used.append(f"a changed base model (init_lora_weights: {start})")
    if used:
        raise UserError(
            f"The adapter {source!r} uses {' and '.join(used)}, and only plain LoRA and rsLoRA can "
            "be read here; merge it with peft (merge_and_unload), save the model, and load that "
            "folder as the model."
        )


def _positive(source: str, config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    whole = isinstance(value, int) or (key != "r" and isinstance(value, float))
    if isinstance(value, bool) or not whole or not 0 < value < math.inf:
        raise UserError(
            f"{CONFIG} of the adapter {source!r} says {key} = {value!r}, which is no positive "
            "number; fetch the adapter again."
        )
    return value


def _weights_file(source: str, folder: Path) -> Path:
    for path in (folder / WEIGHTS, folder / PICKLED):
        if path.is_file():
            return path
    raise UserError(f"The adapter {source!r} has no weights: {WEIGHTS} is missing; fetch it again.")


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; pickled ones are read without running any code."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with open(path, "rb") as file:
        if file.read(30).startswith(b"version https://git-lfs"):
            raise UserError(
                f"{path} is a Git LFS pointer, not the weights; fetch them with: git lfs pull."
            )
    try:
        if path.name == PICKLED:
            return torch.load(path, map_location="cpu", weights_only=True)
        return load_file(path)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path} is damaged or cut short; fetch or teach it again.") from error


def _pairs(
    source: str, tensors: Mapping[str, Tensor], rank: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of every module, each tensor of the file used once."""
    if not tensors:
        raise UserError(
            f"The weights of the adapter {source!r} are empty; fetch or teach it again."
        )
    matches = {name: MATRIX.fullmatch(name) for name in tensors}
    other = [name for name, match in matches.items() if match is None]
    if other:
        raise UserError(
            f"The weights of the adapter {source!r} hold {_some(other)}, which is no LoRA matrix "
            "of a linear layer as peft names them; save it again with peft."
        )
    found: dict[str, dict[str, Tensor]] = {}
    for name, match in matches.items():
        found.setdefault(match["module"], {})[match["which"]] = tensors[name]
    for module, both in found.items():
        _check_pair(source, module, both, rank)
    return {module: (both["A"], both["B"]) for module, both in sorted(found.items())}


def _check_pair(source: str, module: str, both: Mapping[str, Tensor], rank: int) -> None:
    """Raise UserError unless A and B are there, are finite and meet in the rank."""
    lacking = {"A", "B"} - both.keys()
    problem = None
    if lacking:
        problem = f"lora_{lacking.pop()} is missing"
    elif both["A"].ndim != 2 or both["B"].ndim != 2:
        problem = "they are no matrices"
    elif not (both["A"].shape[0] == both["B"].shape[1] == rank):
        ranks = sorted({both["A"].shape[0], both["B"].shape[1]})
        problem = f"they have rank {' and '.join(map(str, ranks))} where {CONFIG} says {rank}"
    elif not all(m.is_floating_point() and m.isfinite().all() for m in both.values()):
        problem = "they hold numbers that are not finite"
    if problem:
        raise UserError(
            f"The adapter {source!r} has matrices for {module} that cannot be used: {problem}; "
            "fetch or teach it again."
        )


def _check_targets(source: str, targets: Any, pairs: Iterable[str]) -> None:
    """Raise UserError unless file and configuration name the same modules, as far as it says."""
    if targets is None or targets == "all-linear":
        return
    by_name = not isinstance(targets, str)
    hits = {
        target: {m for m in pairs if _names(target, m, by_name)}
        for target in (targets if by_name else [targets])
    }
    idle = sorted(target for target, modules in hits.items() if not modules)
    strange = sorted(set(pairs).difference(*hits.values()))
    if idle or strange:
        problem = (
            f"has no matrices for its target {_some(idle)}"
            if idle
            else f"has matrices for {_some(strange)}, which {CONFIG} does not name as a target"
        )
        raise UserError(f"The adapter {source!r} {problem}; fetch or teach it again.")


def _names(target: str, module: str, by_name: bool) -> bool:
    """Return whether a target of peft's, a name or a pattern, means a module."""
    if by_name:
        return module == target or module.endswith(f".{target}")
    return re.fullmatch(target, module) is not None


# Merging ------------------------------------------------------------------------------------------


def check_base(adapter: Adapter, name: str, known: Iterable[str]) -> None:
    """Raise UserError if an adapter was taught on another model than the one of these names.

    Upper case and the folder or owner before the last name do not count. `known` empty: nothing is
    known of the model but its shapes, which `merge` checks.
    """
    names = set().union(*map(_spellings, known))
    if adapter.base and names and not names & _spellings(adapter.base):
        raise UserError(
            f"The adapter {adapter.source!r} was taught on {adapter.base!r} and not on {name!r}; "
            f"load it on its own base: -p model={adapter.base}."
        )


def _spellings(name: str) -> set[str]:
    whole = name.casefold().rstrip("/\\")
    return {whole, re.split(r"[/\\]", whole)[-1]}


def merge(
    module: nn.Module, parts: Sequence[tuple[Adapter, float]], name: str = "the model"
) -> None:
    """Add scale · factor · B @ A to the weights of a transformers model, in place, part by part.

    The sum is formed in float32 and then takes the weight's type; at scale 0 no weight is touched.
    Raises UserError, before any weight changes, for a module that the model lacks, one that is no
    linear layer or shares its weight, and for other shapes.
    """
    changes = [
        (_linear(module, adapter, target, name), a, b, scale * adapter.factor)
        for adapter, scale in parts
        for target, (a, b) in adapter.pairs.items()
    ]
    for linear, a, b, factor in changes:
        if factor:
            _add(linear, a, b, factor)


def _add(linear: nn.Module, a: Tensor, b: Tensor, factor: float) -> None:
    weight = linear.weight.data
    change = factor * (b.to(weight.device, torch.float32) @ a.to(weight.device, torch.float32))
    if not isinstance(linear, nn.Linear):
        change = change.T
    weight.copy_(weight.float() + change)


def _linear(module: nn.Module, adapter: Adapter, target: str, name: str) -> nn.Module:
    """Return the layer that a pair changes; UserError unless it is there and fits."""
    from transformers.pytorch_utils import Conv1D  # a linear layer whose weight is [d_in d_out]

    a, b = adapter.pairs[target]
    shape = (b.shape[0], a.shape[1])
    linear = dict(module.named_modules()).get(target)
    there = getattr(linear, "weight", None)
    problem = None
    if linear is None:
        problem = f"changes {target}, which {name} does not have"
    elif not isinstance(linear, nn.Linear | Conv1D):
        problem = f"changes {target}, which is no linear layer of {name}"
    elif there is module.get_input_embeddings().weight:
        problem = f"changes {target}, which shares its weights with the embeddings of {name}"
    elif shape != tuple(there.shape if isinstance(linear, nn.Linear) else there.T.shape):
        found = " x ".join(map(str, there.shape))
        problem = f"changes {target} by {shape[0]} x {shape[1]}, and in {name} it is {found}"
    if problem:
        raise UserError(
            f"The adapter {adapter.source!r} {problem}; load it on the model that it was taught on"
            f"{f' ({adapter.base})' if adapter.base else ''}."
        )
    return linear


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
