"""SAELens folders, read without guessing: settings and weights are checked against each other."""

import contextlib
import dataclasses
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.saes.recipes import ARCHITECTURES, parsed

if TYPE_CHECKING:
    from sae_lens import SAE

NORM_TOLERANCE = 1e-3  # how far a decoder row's norm may lie from 1 before load() says so
LARGEST_CONFIG = 1_000_000  # bytes of a cfg.json; a real one has a few thousand
# These stand at the top level of older files.
METADATA = (
    "model_name",
    "hook_name",
    "hook_layer",
    "dataset",
    "dataset_path",
    "prepend_bos",
    "context_size",
)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a SAELens folder holds, in the form of sae-lens 6, and notes on what had to be put right
    to read it.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    notes: list[str]


def load(
    folder: Path | str,
    *,
    d_in: int | None = None,
    device: str = "cpu",
    given: dict[str, Any] | None = None,
) -> "SAE":
    """Read a SAELens folder into a sae-lens SAE with encode (x [... d_in]) and decode (codes [...
    d_sae]); nothing is guessed.

    `given` states settings that cfg.json leaves out. Raises UserError, in one sentence, for a
    missing, truncated or contradictory file, for a setting that is neither said nor given, for
    weights that hold NaN, and for an SAE of another width than `d_in`. Warns of all that had to be
    put right, of decoder rows that are not of unit norm, and of thresholds that are all 0.
    """
    folder = Path(folder)
    found = read(folder, given=given)
    if d_in is not None and found.config["d_in"] != d_in:
        raise UserError(_wrong_width(folder, found.config, d_in))
    for note in found.notes + weight_notes(found.weights):
        warnings.warn(f"{folder.name}: {note}", UserWarning, stacklevel=2)
    return built(folder, found, device)


def built(folder: Path, found: Contents, device: str = "cpu") -> "SAE":
    """Return the sae-lens SAE of what was read."""
    from sae_lens import SAE

    def checked(*_args: Any, **_kwargs: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {**found.config, "device": device}, found.weights

    return SAE.load_from_disk(folder, device=device, converter=checked).eval().requires_grad_(False)


def read(folder: Path, *, given: dict[str, Any] | None = None) -> Contents:
    """Read settings and weights of a SAELens folder, as `load` does, without building the SAE."""
    config, notes = _read_config(folder, given or {})
    shapes = _shapes(folder)
    _settle_architecture(folder, config, shapes, notes)
    _check_config(folder, config)
    weights = _read_weights(folder, config)
    if "log_threshold" in weights:  # DeepMind's form of the same parameter
        weights["threshold"] = weights.pop("log_threshold").exp()
        notes.append("thresholds are stored as logarithms; their exponential is used.")
    if config["architecture"] == "topk" and config.get("rescale_acts_by_decoder_norm") is None:
        config["rescale_acts_by_decoder_norm"] = False
        if not _unit_rows(weights["W_dec"]):
            raise UserError(
                f"{folder / 'cfg.json'} does not say rescale_acts_by_decoder_norm, and with "
                "decoder rows of other norms than 1 the choice "
                "of the k largest depends on it; add it to the file."
            )
    return Contents(config, weights, notes)


def _read_config(folder: Path, given: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    path = folder / "cfg.json"
    if not path.is_file():
        raise UserError(
            f"There is no SAE in {folder}: cfg.json is missing; name a folder that holds cfg.json "
            "and sae_weights.safetensors."
        )
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON; fetch or train this SAE again.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings; fetch or train this SAE again.")
    notes = [
        f"{name} = {value!r} was given, the file does not say it."
        for name, value in given.items()
        if config.get(name) is None
    ]
    config = {
        **config,
        **{name: value for name, value in given.items() if config.get(name) is None},
    }
    return _in_form_of_six(config, notes), notes


def _in_form_of_six(config: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the settings as sae-lens 6 has them: what older files keep at the top level goes into
    `metadata`.

    Without a version there, sae-lens would take the file for an old one, and drop hook_layer or
    invent settings; with a version of 6 or more it would lose what stands at the top level.
    """
    metadata = (
        dict(config.get("metadata") or {}) if isinstance(config.get("metadata") or {}, dict) else {}
    )
    flat = [name for name in METADATA if name in config and name not in metadata]
    if flat:
        metadata |= {name: config[name] for name in flat}
        notes.append(
            f"{', '.join(flat)} stood at the top level of cfg.json, where sae-lens loses them; "
            "they were moved to metadata."
        )
    older = config.get("activation_fn_kwargs")
    if config.get("k") is None and isinstance(older, dict) and older.get("k") is not None:
        config = {**config, "k": older["k"]}
        notes.append(f"k = {older['k']} stood in activation_fn_kwargs, as in older files.")
    if config.get("dtype") is None:
        notes.append("dtype is not said; float32 is used.")
    metadata["sae_lens_version"] = _at_least_six(
        metadata.get("sae_lens_version", config.get("sae_lens_version"))
    )
    return {**config, "metadata": metadata, "dtype": "float32"}


def _at_least_six(version: Any) -> str:
    return str(version) if re.match(r"([6-9]|\d\d+)\.", str(version)) else "6.0.0"


def _settle_architecture(
    folder: Path, config: dict[str, Any], shapes: dict[str, list[int]], notes: list[str]
) -> None:
    """Fill in architecture and k where cfg.json does not say them and the folder's name, a tag,
    does; the tensors must agree.
    """
    fields = parsed(folder.name)
    if (
        config.get("architecture") is None
        and fields is not None
        and _fits(fields.architecture, shapes)
    ):
        config["architecture"] = fields.architecture
        notes.append(
            f"architecture = {fields.architecture!r} was read from the tag; the file does not say "
            "it and the tensors agree."
        )
    if (
        config.get("architecture") == "topk"
        and config.get("k") is None
        and fields is not None
        and fields.k is not None
    ):
        config["k"] = fields.k
        notes.append(
            f"k = {fields.k} was read from the tag; the file does not say it, and sae-lens would "
            "take 100."
        )


def _fits(architecture: str, shapes: dict[str, list[int]]) -> bool:
    """Return whether tensors of these names make an SAE of this architecture."""
    return set(shapes) in [set(names) for names in _tensor_names(architecture)]


def _tensor_names(architecture: str) -> list[tuple[str, ...]]:
    shared = ("W_enc", "W_dec", "b_dec")
    if architecture == "gated":
        return [(*shared, "b_gate", "b_mag", "r_mag")]
    if architecture == "jumprelu":
        return [(*shared, "b_enc", "threshold"), (*shared, "b_enc", "log_threshold")]
    return [(*shared, "b_enc")]


def _check_config(folder: Path, config: dict[str, Any]) -> None:
    """Raise UserError where cfg.json leaves something open that sae-lens would fill with a silent
    default.
    """
    path = folder / "cfg.json"
    for name in ("architecture", "d_in", "d_sae", "normalize_activations", "apply_b_dec_to_input"):
        if config.get(name) is None:
            raise UserError(
                f"{path} does not say {name}, and guessing it could give a wrong SAE; add it to "
                "the file."
            )
    if config["architecture"] == "batchtopk":
        raise UserError(
            f"{path} says architecture 'batchtopk', a form for training only; save that SAE as "
            "the JumpReLU it is used as."
        )
    if config["architecture"] not in ARCHITECTURES:
        raise UserError(
            f"{path} says architecture {config['architecture']!r}; only "
            f"{', '.join(ARCHITECTURES)} can be loaded."
        )
    for name in ("d_in", "d_sae") + (("k",) if config["architecture"] == "topk" else ()):
        _check_count(path, config, name)
    if config["architecture"] == "topk" and config["k"] > config["d_sae"]:
        raise UserError(f"{path} says k = {config['k']}, which is above d_sae = {config['d_sae']}.")
    if (
        config["normalize_activations"] != "none"
        or (config.get("reshape_activations") or "none") != "none"
    ):
        raise UserError(
            f"{path} asks for activations to be normalised or reshaped first; only SAEs that read "
            "raw ones can be used."
        )


def _check_count(path: Path, config: dict[str, Any], name: str) -> None:
    value = config.get(name)
    if value is None:
        raise UserError(
            f"{path} does not say {name}, and guessing it could give a wrong SAE; add it to the "
            "file."
        )
    if type(value) is not int or value < 1:
        raise UserError(f"{path} says {name} = {value!r}, which is no positive whole number.")


def _wrong_width(folder: Path, config: dict[str, Any], d_in: int) -> str:
    trained_on = config["metadata"].get("model_name")
    fits = f" (it was trained on {trained_on})" if trained_on else ""
    return (
        f"The SAE {folder.name} fits models of width d_model = {config['d_in']}{fits}, and this "
        f"model has {d_in}; "
        "choose an SAE trained on this model."
    )


def _weights_file(folder: Path) -> Path:
    """Return the path of the weights; raises UserError where there are none, or only pickled ones,
    which are never opened.
    """
    path = folder / "sae_weights.safetensors"
    if path.is_file():
        return path
    pickled = sorted(
        p.name
        for p in folder.glob("*")
        if p.suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")
    )
    if pickled:
        raise UserError(
            f"{folder} holds its weights as {pickled[0]}, a pickle, which could run code when "
            "opened; ask for safetensors."
        )
    raise UserError(
        f"There is no SAE in {folder}: sae_weights.safetensors is missing; fetch or train it again."
    )


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """Yield the weights file, opened; a truncated or damaged one is a UserError."""
    from safetensors import safe_open

    path = _weights_file(folder)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is truncated or damaged; fetch or train this SAE again."
        ) from error


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shapes of the tensors, from the file's header alone."""
    with _opened(folder) as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}


def _read_weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights as float32 tensors; shapes are compared before anything is read."""
    path = folder / "sae_weights.safetensors"
    _check_shapes(path, _shapes(folder), config)
    with _opened(folder) as file:
        weights = {name: file.get_tensor(name).float() for name in file.keys()}
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{path} holds NaN or infinity in {name}; fetch or train this SAE again."
            )
    return weights


def _check_shapes(path: Path, found: dict[str, list[int]], config: dict[str, Any]) -> None:
    d_in, d_sae, architecture = config["d_in"], config["d_sae"], config["architecture"]
    if not _fits(architecture, found):
        wanted = _tensor_names(architecture)[0]
        raise UserError(
            f"{path} holds {', '.join(sorted(found))}; a {architecture} SAE has "
            f"{', '.join(sorted(wanted))}."
        )
    shapes = {"W_enc": [d_in, d_sae], "W_dec": [d_sae, d_in], "b_dec": [d_in]}
    for name, shape in found.items():
        wanted_shape = shapes.get(name, [d_sae])
        if shape != wanted_shape:
            raise UserError(
                f"{path} holds {name} of shape {shape} where cfg.json needs {wanted_shape}; they "
                "do not belong together."
            )


def weight_notes(weights: dict[str, Tensor]) -> list[str]:
    """Return one sentence per oddity of an SAE's weights that is no error: decoder norms,
    thresholds stuck at 0.
    """
    notes = []
    norms = weights["W_dec"].norm(dim=1)
    if not _unit_rows(weights["W_dec"]):
        notes.append(
            f"decoder rows are not of unit norm ({float(norms.min()):.3g} to "
            f"{float(norms.max()):.3g}); latents are not on one scale."
        )
    if "threshold" in weights and not weights["threshold"].any():
        notes.append("all thresholds are 0, so this JumpReLU SAE works as a plain ReLU one.")
    return notes


def _unit_rows(W_dec: Tensor) -> bool:
    return bool((W_dec.norm(dim=1) - 1).abs().max() <= NORM_TOLERANCE)
