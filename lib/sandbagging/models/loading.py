"""Loading models for interventions: those of the registry, of the hub and of local folders."""

import contextlib
import dataclasses
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sandbagging.errors import UserError
from sandbagging.models import adapters, checks, hook_points, origins, taught, tree_attention
from sandbagging.models.adapters import Adapter
from sandbagging.models.model import Model
from sandbagging.models.origins import Origin
from sandbagging.models.registry import EMBEDDED, REGISTRY, SUBJECT, Entry


def load(
    name: str | Path = SUBJECT,
    *,
    adapter: str | Path | None = None,
    random_weights: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    remote: bool | str = False,
) -> Model:
    """Load a model of the registry, a taught one, a hub id or a local folder for interventions.

    `adapter`, a local folder or hub id of a LoRA adapter, is merged into the weights; FOLDER@0.5
    and, of a taught model, NAME@0.5 merge it at half its strength, from 0 (not at all) to 1.
    `random_weights` drops adapters, keeps the architecture and draws the weights anew from `seed`;
    a model of the hub then takes its configuration from the registry and the embedded model's
    tokenizer, and needs no network. device "auto" is a CUDA GPU if there is one, else the CPU.
    `remote` True runs every trace on nnsight's service (its key in NDIF_API_KEY), where no weights
    are needed here; "local" hands traces over in the same way and runs them here, which shows that
    they would be taken. Raises UserError for an unknown name, an adapter of another base or kind,
    weights that cannot be had or do not match the model's configuration, too little memory, damaged
    files and unsupported architectures.
    """
    checks.check_settings(name, dtype, device, remote, adapter)
    name, adapter = str(name), str(adapter or "") or None
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    base = origins.beneath(name)
    try:
        with _quiet():
            parts = [] if random_weights else _adapters(name, adapter)
            config, tokenizer, origin = _parts(base, random_weights)
            checks.check_architecture(name, config.model_type)
            for part, _ in parts:
                adapters.check_base(part, base, origins.names(base, origin))
            if remote is True:
                checks.check_remote(name, origin, bool(parts))
                lm = hook_points.remote_envoy(origin.source, origin.revision, tokenizer)
                return wrap_remote(lm, tokenizer, name, origins.identity(name, origin, config))
            checks.check_memory(name, config, dtype, device)
            if random_weights:
                module = _random(config, dtype, seed)
            else:
                module = _pretrained(base, origin, dtype)
                adapters.merge(module, parts, base)
    except UserError:
        raise
    except Exception as error:  # transformers, safetensors and the hub each have their own kinds
        if "config.json" in str(error) and adapters.is_on_hub(name):
            raise UserError(origins.adapter_as_model(name)) from error
        raise UserError(_not_loaded(name, error)) from error
    if random_weights:
        weights, identity = "random", origins.random_identity(config, tokenizer, seed)
    else:
        planted = base in REGISTRY and REGISTRY[base].planted
        merged = [part.identity(scale) for part, scale in parts if scale]
        weights = "taught" if merged else "planted" if planted else "real"
        identity = "+".join([origins.identity(base, origin, config), *merged])
    model = wrap(
        module.to(device), tokenizer, name, weights=weights, identity=identity, remote=remote
    )
    return model if random_weights else dataclasses.replace(model, adapter=adapter)


def _adapters(name: str, adapter: str | None) -> list[tuple[Adapter, float]]:
    """Return the adapters of a model in the order of merging, each with its scale."""
    found = taught.find(name)
    parts = [(str(folder), scale) for folder, scale in (found.parts if found else ())]
    if adapter:
        checks.check_adapter(adapter)
        parts.append(adapters.split_scale(adapter))
    return [(adapters.read(source), scale) for source, scale in parts]


def wrap(
    module: torch.nn.Module,
    tokenizer: Any,
    name: str,
    weights: str = "real",
    identity: str | None = None,
    remote: bool | str = False,
) -> Model:
    """Return a transformers causal language model, which is changed in place, as a `Model`.

    identity: None names the weights by their bytes. Raises UserError for unsupported architectures.
    """
    checks.check_architecture(name, module.config.model_type)
    identity = identity or origins.module_identity(module)
    module.eval().requires_grad_(False)
    tree_attention.use(module)
    lm = hook_points.envoy(module, tokenizer)
    return _described(lm, tokenizer, name, weights, identity, remote)


def wrap_remote(lm: Any, tokenizer: Any, name: str, identity: str) -> Model:
    """Return a model under nnsight, of which only the shapes are here, as a `Model`."""
    lm._module.eval().requires_grad_(False)
    return _described(lm, tokenizer, name, "real", identity, remote=True)


def _described(
    lm: Any, tokenizer: Any, name: str, weights: str, identity: str, remote: bool | str
) -> Model:
    """Return a model under nnsight with its shapes by name."""
    module = lm._module
    config = module.config
    n_heads = config.num_attention_heads
    entry = taught.entry(name) or Entry(name)
    return Model(
        name=name,
        lm=lm,
        tokenizer=tokenizer,
        architecture=config.model_type,
        n_layers=config.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
        # Not d_model / n_heads, which is wrong wherever the heads are wider or narrower than that.
        d_head=hook_points.output_projection(module, 0).in_features // n_heads,
        d_model=config.hidden_size,
        layers_of_interest=entry.layers_of_interest or default_layers(config.num_hidden_layers),
        weights=weights,
        identity=identity,
        framings=entry.framings,
        conditions=entry.conditions,
        remote=remote,
    )


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Return the layers at 25, 50 and 75 % of depth."""
    return tuple(
        sorted({max(0, round(n_layers * share) - (share == 0.25)) for share in (0.25, 0.5, 0.75)})
    )


def _parts(name: str, random_weights: bool) -> tuple[Any, Any, Origin | None]:
    """Return a model's configuration and tokenizer, and where its weights lie."""
    from transformers import AutoConfig, AutoTokenizer

    entry = REGISTRY.get(name)
    if random_weights and entry and entry.hub_id:
        tokenizer = _stand_in_tokenizer(entry.config["vocab_size"])
        return AutoConfig.for_model(**entry.config), tokenizer, None
    origin = origins.find(name)
    config, tokenizer = (
        auto.from_pretrained(origin.source, revision=origin.revision)
        for auto in (AutoConfig, AutoTokenizer)
    )
    return config, tokenizer, origin


def _stand_in_tokenizer(n_tokens: int) -> Any:
    """Return the embedded model's tokenizer, cut down to a vocabulary of n_tokens where that is the
    smaller one.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(origins.find(EMBEDDED).source)
    if len(tokenizer) <= n_tokens:
        return tokenizer
    # Byte pairs are numbered in the order of their merges, so the first n_tokens and their merges
    # are a tokenizer of their own.
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {token: i for token, i in parts["model"]["vocab"].items() if i < n_tokens}
    parts["model"] |= {
        "vocab": kept,
        "merges": [pair for pair in parts["model"]["merges"] if "".join(pair) in kept],
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(parts)), eos_token=tokenizer.eos_token
    )


def _random(config: Any, dtype: str, seed: int) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def _pretrained(name: str, origin: Origin, dtype: str) -> torch.nn.Module:
    """Return a model with its own weights, all of them."""
    from transformers import AutoModelForCausalLM

    # Tensors of another shape would be an error of transformers' own; in the report they are named
    # with all the others.
    module, report = AutoModelForCausalLM.from_pretrained(
        origin.source,
        revision=origin.revision,
        dtype=getattr(torch, dtype),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    if hasattr(module, "peft_config"):  # transformers has found an adapter there and put it on
        raise UserError(origins.adapter_as_model(name))
    checks.check_report(name, report)
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' loading bars and advice out of the notebooks."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _not_loaded(name: str, error: Exception) -> str:
    """Return why a model could not be loaded and what to do, in one sentence."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    entry = REGISTRY.get(name, Entry(name))
    hub_id = entry.hub_id or (name if name.count("/") == 1 else None)
    licence, log_in = (
        f"its licence at https://huggingface.co/{hub_id}",
        "log in with `hf auth login`",
    )
    if entry.gated:
        ways = f"accept {licence}, {log_in}, and check the network"
    elif hub_id and not entry.hub_id:
        ways = f"check the name and the network; if it is gated, accept {licence} and {log_in}"
    else:
        ways = "check the name and the network"
    shape = "; or the same shape without its weights: -p random_weights=true"
    return (
        f"Model {name!r} could not be loaded ({reason}); {ways}; or use the embedded model "
        f"{EMBEDDED!r}{shape if entry.hub_id else ''}."
    )
