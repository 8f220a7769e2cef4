"""Sparse autoencoders: recipes by tag, training, saving and guarded loading in SAELens format, quality figures.

The usual walk, from raw activations to an SAE that reads raw activations:

    recipe = parse_tag("v4_smollm_topk_L15_mixed").recipe(d_in=576)
    tokens, scale = training_data(activations[select_tokens(table, "mixed")])
    trained, history = train(recipe, tokens)
    sae = fold_scaling(trained, scale)
    save(sae, folder, describe(recipe, model_name="SmolLM2-135M-Instruct", dataset="questions_train.jsonl"))
    sae = load(folder, d_in=576)

Losses, initialisation and file format are those of sae-lens; the loop, the unit-norm decoder and the guards are ours.
sae-lens takes ten seconds to import, so it is imported inside the functions that need it.
"""

import dataclasses
import difflib
import functools
import json
import math
import os
import re
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import __version__, statistics
from sandbagging.errors import UserError
from sandbagging.files import write_json
from sandbagging.statistics import Estimate

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE

CONDITIONS = ("genuine_only", "sandbagging_only", "mixed")
ARCHITECTURES = ("jumprelu", "topk")
DEFAULT_K = 64
NORM_TOLERANCE = 1e-3  # how far a decoder row's norm may lie from 1 before load() says so
CHUNK = 4096  # tokens encoded at once by quality()


# Recipes and tags ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides one SAE: the fields of its tag, its size, and its training settings.

    The card fixes expansion, epochs, batch, learning rate and k. The rest it leaves open; our choices stand beside the fields.
    The card's L1 coefficient belongs to a loss that sae-lens does not have, so it is no field here.
    """

    model: str
    architecture: str  # "jumprelu" or "topk"
    layer: int  # the SAE reads the output of this block
    condition: str  # one of CONDITIONS
    d_in: int
    expansion: int = 4  # d_sae / d_in
    k: int | None = None  # active latents per token; TopK only
    epochs: int = 300
    steps: int | None = None  # optimiser steps; given, it takes the place of epochs
    batch: int = 128  # tokens per step
    lr: float = 3e-4
    seed: int = 0
    unit_norm_decoder: bool = True  # False: the decoder rows move freely, as in sae-lens
    # The two below are sae-lens's own defaults.
    clip: float = 1.0  # largest norm of the whole gradient
    dead_after: int = 1000  # steps without firing after which a latent counts as dead; TopK's auxiliary loss then revives it
    # JumpReLU: sae-lens's loss in DeepMind's form (arXiv 2407.14435): squared error + l0_coefficient * l0, thresholds learn
    # through a kernel of width `bandwidth`, all in units of scaled activations, where a fresh pre-activation has an SD of
    # about 0.6. Chosen by trial on SmolLM2 layer 15 (4200 tokens, 800 steps): L0 67, held-out FVU 0.010, 18 % dead. Thresholds
    # move by at most lr per step, so from sae-lens's 0.01 they stay near 0 for thousands of steps (L0 960 after 200);
    # from 1.0 the L0 is 23 to 38, but about half of the latents are dead. A bandwidth of 1 did no better than 0.5.
    l0_coefficient: float = 1.0
    l0_warm_up: float = 0.1  # share of the steps over which the penalty rises from 0; 0.5 made no difference
    bandwidth: float = 0.5
    init_threshold: float = 0.5
    kernel: str = "rectangle"

    def __post_init__(self) -> None:
        _check_recipe(self)

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.expansion * self.d_in


@dataclasses.dataclass(frozen=True)
class TagFields:
    """The parts of a tag."""

    model: str
    architecture: str
    layer: int
    condition: str
    k: int | None

    def recipe(self, d_in: int, **settings: Any) -> Recipe:
        """Return the recipe of this tag for activations of width `d_in`; `settings` override its defaults."""
        return Recipe(**dataclasses.asdict(self), d_in=d_in, **settings)


def tag(recipe: Recipe | TagFields) -> str:
    """Return the name `v4_{model}_{arch}_L{layer}_{condition}`; TopK carries its k unless it is 64."""
    arch = recipe.architecture
    if arch == "topk" and recipe.k != DEFAULT_K:
        arch = f"topk_k{recipe.k}"
    return f"v4_{recipe.model}_{arch}_L{recipe.layer}_{recipe.condition}"


def parse_tag(name: str, known: Sequence[str] = ()) -> TagFields:
    """Return the fields of a tag; raises UserError naming the nearest tag (among `known`, if given) for any other name."""
    fields = _parsed(name)
    if fields is not None and tag(fields) == name and (not known or name in known):
        return fields
    # "topk_k64" and "L07" are read but are no tags: every SAE has one name, "topk" and "L7".
    nearest = tag(fields) if fields is not None and not known else _nearest_tag(name, known)
    raise UserError(f"There is no SAE tag {name!r}; the nearest is {nearest!r}.")


def _parsed(name: str) -> TagFields | None:
    """Return the fields that `name` spells out, or None."""
    pattern = r"v4_(?P<model>[A-Za-z0-9.\-]+)_(?P<arch>jumprelu|topk)(_k(?P<k>[1-9]\d{0,5}))?_L(?P<layer>\d{1,4})_(?P<condition>[a-z_]+)"
    match = re.fullmatch(pattern, name)
    if match is None or match["condition"] not in CONDITIONS or (match["arch"] == "jumprelu" and match["k"]):
        return None
    k = int(match["k"] or DEFAULT_K) if match["arch"] == "topk" else None
    return TagFields(match["model"], match["arch"], int(match["layer"]), match["condition"], k)


def _nearest_tag(name: str, known: Sequence[str]) -> str:
    """Return the tag most like `name`, among `known` or else among all tags of the model and layer that it seems to mean."""
    parts = name.split("_")
    model = next((part for part in parts[1:] if re.fullmatch(r"[A-Za-z0-9.\-]+", part)), "llama")
    layer = next((part[1:] for part in parts if re.fullmatch(r"[Ll]\d+", part)), "8")
    architectures = ("jumprelu", "topk", "topk_k16", "topk_k32", "topk_k128", "topk_k256")
    built = [f"v4_{model}_{arch}_L{int(layer)}_{condition}" for arch in architectures for condition in CONDITIONS]
    return difflib.get_close_matches(name, list(known) or built, n=1, cutoff=0.0)[0]


def _check_recipe(recipe: Recipe) -> None:
    """Raise UserError with one sentence for a recipe that contradicts itself."""
    if recipe.architecture not in ARCHITECTURES:
        raise UserError(f"No recipe for architecture {recipe.architecture!r}; choose one of {', '.join(ARCHITECTURES)}.")
    if recipe.condition not in CONDITIONS:
        raise UserError(f"No training condition {recipe.condition!r}; choose one of {', '.join(CONDITIONS)}.")
    if (recipe.architecture == "topk") != (recipe.k is not None):
        raise UserError("A TopK recipe needs k, the number of active latents per token, and no other recipe takes one.")
    if recipe.k is not None and not 1 <= recipe.k <= recipe.d_sae:
        raise UserError(f"k = {recipe.k} does not lie between 1 and the number of latents, d_sae = {recipe.d_sae}.")
    for name in ("d_in", "expansion", "epochs", "batch", "lr", "bandwidth"):
        if not getattr(recipe, name) > 0:
            raise UserError(f"{name} = {getattr(recipe, name)} must be above 0.")
    if recipe.steps is not None and recipe.steps < 1:
        raise UserError(f"steps = {recipe.steps} must be 1 or more.")
    if recipe.kernel != "rectangle":
        raise UserError(f"kernel = {recipe.kernel!r} is unknown; the only kernel is 'rectangle', that of sae-lens.")


# Data ------------------------------------------------------------------------------------------------------------


def select_tokens(
    table: pd.DataFrame, condition: str, *, split: str = "train", genuine: str = "genuine", sandbag: str = "sandbag"
) -> np.ndarray:
    """Return the rows of the activation tensor that belong to a training condition, in order.

    `table` is tokens.csv.gz. genuine_only takes the prompts of condition `genuine`, sandbagging_only those of `sandbag`,
    mixed these and the neutral ones. The prefix that all prompts share (question_id "") belongs to the train split alone:
    held-out figures that counted it would be judged on tokens seen in training. Raises UserError if nothing is left.
    """
    wanted = {"genuine_only": {genuine}, "sandbagging_only": {sandbag}, "mixed": {genuine, sandbag, "neutral"}}
    if condition not in wanted:
        raise UserError(f"No training condition {condition!r}; choose one of {', '.join(CONDITIONS)}.")
    chosen = table["condition"].isin(wanted[condition]) & (table["split"] == split)
    if split != "train":
        chosen &= table["question_id"].fillna("") != ""
    if not chosen.any():
        raise UserError(f"No tokens of condition {condition!r} in split {split!r}; collect activations for it first.")
    return np.sort(table.loc[chosen, "row"].to_numpy())


def input_scale(activations: Tensor) -> float:
    """Return the one factor that brings the mean norm of `activations` [token d_model] to sqrt(d_model)."""
    tokens = _checked(activations)
    mean_norm = float(tokens.norm(dim=1).double().mean())
    if mean_norm == 0:
        raise UserError("All activations are zero, so they cannot be scaled; collect them again.")
    return math.sqrt(tokens.shape[1]) / mean_norm


def training_data(activations: Tensor, scale: float | None = None) -> tuple[Tensor, float]:
    """Return a scaled float32 copy of `activations` [token d_model], and the factor.

    Without `scale` the factor is measured on these activations. SAEs of one layer are compared with each other, so give
    all of them the factor of that layer's whole training set. Raises UserError for fewer than two tokens, NaN or infinity.
    """
    if scale is None:
        scale = input_scale(activations)
    return _checked(activations) * scale, scale


def _checked(activations: Tensor) -> Tensor:
    """Return `activations` as float32, or raise UserError where no SAE can be trained on them."""
    if activations.ndim != 2:
        raise UserError(f"Activations must be [token d_model]; these have the shape {list(activations.shape)}.")
    if len(activations) < 2:
        raise UserError(f"{len(activations)} activation(s) are too few to train on; collect at least two tokens.")
    tokens = activations.float()
    if not torch.isfinite(tokens).all():
        bad = int((~torch.isfinite(tokens)).any(dim=1).sum())
        raise UserError(f"{bad} of {len(tokens)} activations hold NaN or infinity; collect them again before training.")
    return tokens


# Training --------------------------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    tokens: Tensor,
    *,
    progress: Callable[[int, int], None] | None = None,
    history_every: int = 50,
) -> tuple["TrainingSAE", pd.DataFrame]:
    """Train one SAE on scaled tokens [token d_in]; return it, and its history (step, loss, fvu, l0).

    loss is sae-lens's, l0 the active latents per token, fvu the squared error over the squared distance from the training
    mean, all three on the batch of that step, before its update. `progress(done, total)` is called as often. The result
    reads scaled tokens: see fold_scaling. Raises UserError for unusable tokens, or if the loss stops being finite.
    """
    tokens = _checked(tokens)
    if tokens.shape[1] != recipe.d_in:
        raise UserError(f"The recipe is for activations of width {recipe.d_in}, and these have width {tokens.shape[1]}.")
    total = total_steps(recipe, len(tokens))
    mean = tokens.mean(dim=0)
    sae = new_sae(recipe, total, mean)
    step = Stepper(recipe, sae)
    history = []
    for done, rows in enumerate(_batches(recipe, len(tokens), total)):
        batch = tokens[rows.to(tokens.device)]
        output = step(batch)
        if done % history_every == 0 or done == total - 1:
            history.append({"step": done, **_batch_figures(output, batch, mean)})
            if not math.isfinite(history[-1]["loss"]):
                raise UserError(f"Training of {tag(recipe)} diverged at step {done}; lower the learning rate (lr = {recipe.lr}).")
            if progress is not None:
                progress(done + 1, total)
    return sae, pd.DataFrame(history)


def total_steps(recipe: Recipe, n_tokens: int) -> int:
    """Return the number of optimiser steps that `recipe` takes on `n_tokens`."""
    return recipe.steps if recipe.steps is not None else recipe.epochs * max(1, n_tokens // recipe.batch)


def new_sae(recipe: Recipe, total: int, mean: Tensor) -> "TrainingSAE":
    """Return sae-lens's training SAE for `recipe`, seeded, its decoder bias at `mean` [d_in]; `total` steps set the warm-up."""
    with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it was
        torch.manual_seed(recipe.seed)
        sae = _topk(recipe) if recipe.architecture == "topk" else _jumprelu(recipe, total)
    sae.b_dec.data.copy_(mean)
    return sae.to(mean.device)


def _topk(recipe: Recipe) -> "TrainingSAE":
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    # Rows of unit norm need no rescaling of the codes by the decoder's norms.
    config = TopKTrainingSAEConfig(
        d_in=recipe.d_in,
        d_sae=recipe.d_sae,
        k=recipe.k,
        decoder_init_norm=1.0,
        rescale_acts_by_decoder_norm=not recipe.unit_norm_decoder,
    )
    return TopKTrainingSAE(config)


def _jumprelu(recipe: Recipe, total: int) -> "TrainingSAE":
    from sae_lens import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig

    # Another kernel or penalty would be a subclass of JumpReLUTrainingSAE, chosen here by recipe.kernel.
    config = JumpReLUTrainingSAEConfig(
        d_in=recipe.d_in,
        d_sae=recipe.d_sae,
        decoder_init_norm=1.0,
        jumprelu_sparsity_loss_mode="step",
        jumprelu_bandwidth=recipe.bandwidth,
        jumprelu_init_threshold=recipe.init_threshold,
        l0_coefficient=recipe.l0_coefficient,
        l0_warm_up_steps=int(recipe.l0_warm_up * total),
    )
    return JumpReLUTrainingSAE(config)


class Stepper:
    """One optimiser step after another on one SAE: sae-lens's loss, clipping and Adam, then our unit-norm decoder."""

    def __init__(self, recipe: Recipe, sae: "TrainingSAE") -> None:
        self.recipe, self.sae = recipe, sae
        self.done = 0
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.lr, fused=True)
        self.schedules = _coefficient_schedules(sae)
        self.since_fired = torch.zeros(recipe.d_sae, device=sae.W_dec.device)

    def __call__(self, batch: Tensor) -> Any:
        """Take one step on scaled tokens [batch d_in]; return sae-lens's TrainStepOutput."""
        output = self._forward(batch)
        output.loss.backward()
        if self.recipe.unit_norm_decoder:
            _project_gradient(self.sae.W_dec)
        torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.recipe.unit_norm_decoder:
            _renormalise(self.sae.W_dec)
        for schedule in self.schedules.values():
            schedule.step()
        self.done += 1
        return output

    def _forward(self, batch: Tensor) -> Any:
        from sae_lens.saes.sae import TrainStepInput

        output = self.sae.training_forward_pass(
            TrainStepInput(
                sae_in=batch,
                coefficients={name: schedule.value for name, schedule in self.schedules.items()},
                dead_neuron_mask=self.since_fired > self.recipe.dead_after,
                n_training_steps=self.done,
                is_logging_step=False,
            )
        )
        fired = (output.feature_acts.detach() != 0).any(dim=0)
        self.since_fired = torch.where(fired, 0, self.since_fired + 1)
        return output


def _coefficient_schedules(sae: "TrainingSAE") -> dict[str, Any]:
    """Return sae-lens's warm-up schedule for each coefficient of the loss."""
    from sae_lens.saes.sae import TrainCoefficientConfig
    from sae_lens.training.optim import CoefficientScheduler

    schedules = {}
    for name, config in sae.get_coefficients().items():
        if not isinstance(config, TrainCoefficientConfig):
            config = TrainCoefficientConfig(value=config, warm_up_steps=0)
        schedules[name] = CoefficientScheduler(warm_up_steps=config.warm_up_steps, final_value=config.value)
    return schedules


def _batches(recipe: Recipe, n_tokens: int, total: int) -> Iterator[Tensor]:
    """Yield `total` batches of rows: each epoch is a new seeded order, and its incomplete last batch is left out."""
    generator = torch.Generator().manual_seed(recipe.seed)
    size = min(recipe.batch, n_tokens)
    done = 0
    while done < total:
        order = torch.randperm(n_tokens, generator=generator)
        for start in range(0, n_tokens - size + 1, size):
            if done == total:
                return
            yield order[start : start + size]
            done += 1


@torch.no_grad()
def _project_gradient(W_dec: torch.nn.Parameter) -> None:
    """Take out of each decoder row's gradient the part along the row, which renormalising would undo."""
    along = torch.linalg.vecdot(W_dec.grad, W_dec).unsqueeze(1)
    W_dec.grad.addcmul_(along, W_dec, value=-1)


@torch.no_grad()
def _renormalise(W_dec: torch.nn.Parameter) -> None:
    """Give each decoder row unit norm."""
    W_dec.div_(W_dec.norm(dim=1, keepdim=True))


@torch.no_grad()
def _batch_figures(output: Any, batch: Tensor, mean: Tensor) -> dict[str, float]:
    error = (batch - output.sae_out).square().sum()
    spread = (batch - mean).square().sum()
    active = (output.feature_acts != 0).sum(dim=1).float().mean()
    return {"loss": output.loss.item(), "fvu": float(error / spread), "l0": float(active)}


@torch.no_grad()
def fold_scaling(trained: "TrainingSAE", scale: float) -> "SAE":
    """Return the inference SAE that reads raw activations and does exactly what `trained` does on scaled ones.

    The factor goes into the codes: W_enc and W_dec stay as they are (unit rows stay unit rows), and b_enc, threshold and
    b_dec are divided by `scale`. Then pre-activations are 1/scale times the trained ones, and so are the codes, since both
    TopK and JumpReLU (with its threshold scaled along) commute with a positive factor. One unit of a latent is one unit of
    the raw residual stream.
    """
    from sae_lens import SAE

    state = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    trained.process_state_dict_for_saving_inference(state)
    if "threshold" in state:
        state["threshold"].clamp_(min=0)  # sae-lens clamps at the start of a step, so the last update may be below 0
    for name in ("b_enc", "threshold", "b_dec"):
        if name in state:
            state[name] /= scale
    sae = SAE.from_dict(trained.cfg.get_inference_sae_cfg_dict())
    sae.load_state_dict(state)
    return sae.to(trained.W_dec.device).eval().requires_grad_(False)


# Saving ----------------------------------------------------------------------------------------------------------


def describe(recipe: Recipe, *, model_name: str, dataset: str, **more: Any) -> dict[str, Any]:
    """Return the metadata that save() stores: where the SAE hooks in, the recipe, the seed, versions; `more` is added."""
    return {
        "tag": tag(recipe),
        "model_name": model_name,
        "hook_name": f"blocks.{recipe.layer}.hook_resid_post",
        "hook_layer": recipe.layer,
        "dataset": dataset,
        "seed": recipe.seed,
        "recipe": dataclasses.asdict(recipe),
        "sandbagging_version": __version__,
        "torch_version": torch.__version__,
        **more,
    }


def save(sae: "SAE", folder: Path | str, metadata: dict[str, Any]) -> None:
    """Write the SAE as a SAELens folder (cfg.json, sae_weights.safetensors), whole or not at all.

    An older folder of that name is replaced. Raises UserError if metadata lacks a field that a reader needs, or the disk is full.
    """
    folder = Path(folder)
    missing = [name for name in ("model_name", "hook_name", "hook_layer", "dataset", "seed") if name not in metadata]
    if missing:
        raise UserError(f"The metadata of an SAE must name {', '.join(missing)}; describe(recipe, ...) writes them.")
    for name, value in metadata.items():
        sae.cfg.metadata[name] = value
    partial = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", suffix="-" + folder.name, dir=folder.parent))
        sae.save_model(partial)
        partial.chmod(0o755)
        _replace_folder(partial, folder)
    except (OSError, _safetensors_error()) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Could not write {folder}: {reason}; free some space or choose another folder.") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def _replace_folder(new: Path, folder: Path) -> None:
    """Give `new` the name `folder`; what had that name steps aside first and comes back if the rename fails."""
    if not folder.exists():
        os.replace(new, folder)
        return
    aside = new.with_name(new.name + "-old")
    os.replace(folder, aside)
    try:
        os.replace(new, folder)
    except BaseException:
        os.replace(aside, folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError


# Guarded loading -------------------------------------------------------------------------------------------------


def load(folder: Path | str, *, d_in: int | None = None, device: str = "cpu") -> "SAE":
    """Read a SAELens folder into a sae-lens SAE with encode (x [... d_in]) and decode (codes [... d_sae]); nothing is guessed.

    Raises UserError, in one sentence, for a missing, truncated or contradictory file, for weights that hold NaN, and for
    an SAE of another width than `d_in`. Warns where decoder rows are not of unit norm or all thresholds are 0.
    """
    folder = Path(folder)
    config = _read_config(folder)
    _check_config(folder, config, d_in)
    weights = _read_weights(folder, config)
    for note in weight_notes(weights):
        warnings.warn(f"{folder.name}: {note}", UserWarning, stacklevel=2)
    from sae_lens import SAE

    config["device"] = device

    def checked(*_args: Any, **_kwargs: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return config, weights

    sae = SAE.load_from_disk(folder, device=device, converter=checked)
    return sae.eval().requires_grad_(False)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "cfg.json"
    if not path.is_file():
        raise UserError(f"There is no SAE in {folder}: cfg.json is missing; name a folder that holds cfg.json and sae_weights.safetensors.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not readable JSON; fetch or train this SAE again.") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no settings; fetch or train this SAE again.")
    return _with_metadata(config)


def _with_metadata(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings in the form of sae-lens 6: what older files keep at the top level goes into `metadata`.

    Without a version there, sae-lens would take the file for an old one, and drop hook_layer or invent settings.
    """
    metadata = dict(config.get("metadata") or {})
    for name in ("model_name", "hook_name", "hook_layer", "dataset", "dataset_path", "prepend_bos", "context_size"):
        if name in config:
            metadata.setdefault(name, config[name])
    metadata["sae_lens_version"] = _at_least_six(metadata.get("sae_lens_version"))
    return {**config, "metadata": metadata, "dtype": "float32"}


def _at_least_six(version: Any) -> str:
    return str(version) if re.match(r"([6-9]|\d\d+)\.", str(version)) else "6.0.0"


def _check_config(folder: Path, config: dict[str, Any], d_in: int | None) -> None:
    """Raise UserError where cfg.json leaves something open that sae-lens would fill with a silent default."""
    path = folder / "cfg.json"
    for name in ("architecture", "d_in", "d_sae", "normalize_activations", "apply_b_dec_to_input"):
        if config.get(name) is None:
            raise UserError(f"{path} does not say {name}, and guessing it could give a wrong SAE; add it to the file.")
    if config["architecture"] not in ARCHITECTURES:
        raise UserError(f"{path} says architecture {config['architecture']!r}; only {' and '.join(ARCHITECTURES)} can be loaded.")
    for name in ("d_in", "d_sae") + (("k",) if config["architecture"] == "topk" else ()):
        _check_count(path, config, name)
    if config["architecture"] == "topk" and config["k"] > config["d_sae"]:
        raise UserError(f"{path} says k = {config['k']}, which is above d_sae = {config['d_sae']}.")
    if config["normalize_activations"] != "none" or config.get("reshape_activations", "none") != "none":
        raise UserError(f"{path} asks for activations to be normalised or reshaped first; only SAEs that read raw ones can be used.")
    if d_in is not None and config["d_in"] != d_in:
        raise UserError(_wrong_width(folder, config, d_in))


def _check_count(path: Path, config: dict[str, Any], name: str) -> None:
    value = config.get(name)
    if value is None:
        raise UserError(f"{path} does not say {name}, and guessing it could give a wrong SAE; add it to the file.")
    if type(value) is not int or value < 1:
        raise UserError(f"{path} says {name} = {value!r}, which is no positive whole number.")


def _wrong_width(folder: Path, config: dict[str, Any], d_in: int) -> str:
    trained_on = config["metadata"].get("model_name")
    fits = f" (it was trained on {trained_on})" if trained_on else ""
    return (
        f"The SAE {folder.name} fits models of width d_model = {config['d_in']}{fits}, and this model has {d_in}; "
        "choose an SAE trained on this model."
    )


def _read_weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights as float32 tensors; shapes are compared before anything is read."""
    from safetensors import safe_open

    path = folder / "sae_weights.safetensors"
    if not path.is_file():
        raise UserError(f"There is no SAE in {folder}: sae_weights.safetensors is missing; fetch or train it again.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            _check_shapes(path, {name: list(file.get_slice(name).get_shape()) for name in file.keys()}, config)
            weights = {name: file.get_tensor(name).float() for name in file.keys()}
    except (_safetensors_error(), OSError, ValueError) as error:
        raise UserError(f"{path} is truncated or damaged; fetch or train this SAE again.") from error
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{path} holds NaN or infinity in {name}; fetch or train this SAE again.")
    if "log_threshold" in weights:  # DeepMind's form of the same parameter
        weights["threshold"] = weights.pop("log_threshold").exp()
    return weights


def _check_shapes(path: Path, found: dict[str, list[int]], config: dict[str, Any]) -> None:
    d_in, d_sae = config["d_in"], config["d_sae"]
    wanted = {"W_enc": [d_in, d_sae], "b_enc": [d_sae], "W_dec": [d_sae, d_in], "b_dec": [d_in]}
    if config["architecture"] == "jumprelu":
        wanted["log_threshold" if "log_threshold" in found else "threshold"] = [d_sae]
    if set(found) != set(wanted):
        raise UserError(f"{path} holds {', '.join(sorted(found))}; a {config['architecture']} SAE has {', '.join(sorted(wanted))}.")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(f"{path} holds {name} of shape {found[name]} where cfg.json needs {shape}; they do not belong together.")


def weight_notes(weights: dict[str, Tensor]) -> list[str]:
    """Return one sentence per oddity of an SAE's weights that is no error: decoder norms, thresholds stuck at 0."""
    notes = []
    norms = weights["W_dec"].norm(dim=1)
    if (norms - 1).abs().max() > NORM_TOLERANCE:
        notes.append(
            f"decoder rows are not of unit norm ({float(norms.min()):.3g} to {float(norms.max()):.3g}); latents are not on one scale."
        )
    if "threshold" in weights and not weights["threshold"].any():
        notes.append("all thresholds are 0, so this JumpReLU SAE works as a plain ReLU one.")
    return notes


# Quality ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def quality(
    sae: "SAE", tokens: Tensor, is_last: Tensor | np.ndarray | None = None, *, loss_recovered: float | None = None
) -> dict[str, float | int | None]:
    """Return quality figures of an SAE on held-out raw activations [token d_model].

    fvu = squared error / squared distance from the mean of these tokens (1 - explained variance); l0 = active latents per
    token; dead = share of latents that never fire. The same at the tokens marked by `is_last` [token], with their own mean
    (a stricter measure: it gives no credit for what all last tokens share). None where fewer than two tokens are left.
    `loss_recovered` needs the model, so it is measured elsewhere and only passed on.
    """
    tokens = _checked(tokens)
    last = torch.zeros(len(tokens), dtype=torch.bool) if is_last is None else torch.as_tensor(np.asarray(is_last), dtype=torch.bool)
    if len(last) != len(tokens):
        raise UserError(f"is_last marks {len(last)} tokens, and there are {len(tokens)}.")
    figures = {"n_tokens": len(tokens), **_figures(sae, tokens)}
    at_last = {"n_tokens": int(last.sum()), **_figures(sae, tokens[last.to(tokens.device)])}
    return {**figures, **{name + "_last": value for name, value in at_last.items()}, "loss_recovered": loss_recovered}


def _figures(sae: "SAE", tokens: Tensor) -> dict[str, float | None]:
    """Return fvu, l0 and dead share on `tokens` [token d_model]."""
    if len(tokens) < 2:
        return {"fvu": None, "l0": None, "dead": None}
    mean = tokens.mean(dim=0)
    error = spread = active = 0.0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=tokens.device)
    for chunk in tokens.split(CHUNK):
        codes = sae.encode(chunk)
        error += float((chunk - sae.decode(codes)).double().square().sum())
        spread += float((chunk - mean).double().square().sum())
        active += float((codes != 0).sum())
        fired |= (codes != 0).any(dim=0)
    fvu = error / spread if spread > 0 else None
    return {"fvu": fvu, "l0": active / len(tokens), "dead": float((~fired).float().mean())}


# One tag from activations to folder --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `train_tag` leaves: the SAE on raw activations, its history (tag, step, loss, fvu, l0), and its row of metrics."""

    sae: "SAE"
    history: pd.DataFrame
    metrics: dict[str, Any]


def short_name(model_name: str) -> str:
    """Return what a tag calls a model: the first word of its name, so that smollm2-135m-instruct is smollm2."""
    return re.sub(r"[^A-Za-z0-9.]", "", re.split(r"[-_]", Path(model_name).name)[0]) or "model"


def recipes(model_name: str, d_in: int, layers: Sequence[int], conditions: Sequence[str], architectures: Sequence[str],
            **settings: Any) -> list[Recipe]:  # fmt: skip
    """Return one recipe for each layer, condition and architecture (as in a tag: jumprelu, topk, topk_k32); `settings` hold for all.

    Raises UserError, naming the nearest tag, for an architecture or condition that has none.
    """
    names = [f"v4_{short_name(model_name)}_{a}_L{layer}_{c}" for layer in layers for c in conditions for a in architectures]
    return [parse_tag(name).recipe(d_in, **settings) for name in names]


def question_rows(table: pd.DataFrame, condition: str, split: str) -> np.ndarray:
    """Return `select_tokens` without the shared prefixes: their tokens are the same in both splits, so they are never held out."""
    rows = select_tokens(table, condition, split=split)
    of_question = table.set_index("row")["question_id"].fillna("") != ""
    return rows[of_question.loc[rows].to_numpy()]


def train_tag(recipe: Recipe, activations: Tensor, table: pd.DataFrame, folder: Path, *, scale: float, model_name: str,
              dataset: str, loss_recovered: Callable[[Callable[[Tensor], Tensor]], float] | None = None,
              progress: Callable[[str, int, int], None] | None = None) -> Trained:  # fmt: skip
    """Train one SAE on its condition's train tokens, judge it on test questions, and write folder/TAG.

    `activations` [row d_model] and `table` are one layer's, `scale` is that layer's input scale; `loss_recovered` takes a
    reconstruction x -> D(f(x)). Held-out figures are over genuine, sandbag and neutral test prompts, the same for every tag;
    fvu_train and fvu_same (and fvu_last_train, fvu_last_same) are over train and test questions of the SAE's own condition.
    """
    name, started = tag(recipe), time.perf_counter()
    tokens, _ = training_data(activations[select_tokens(table, recipe.condition)], scale)
    trained, history = train(recipe, tokens, progress=progress and functools.partial(progress, f"train {name}"))
    sae = fold_scaling(trained, scale)
    seconds = time.perf_counter() - started
    save(sae, folder / name, describe(recipe, model_name=model_name, dataset=dataset, input_scale=scale))
    recovered = loss_recovered(lambda x: sae.decode(sae.encode(x))) if loss_recovered else None
    figures = {
        "tag": name, "layer": recipe.layer, "architecture": recipe.architecture, "condition": recipe.condition, "k": recipe.k,
        **_held_out(sae, activations, table, "mixed", "test", loss_recovered=recovered),
        **{f"{key}_train": value for key, value in _fvu_pair(sae, activations, table, recipe.condition, "train").items()},
        **{f"{key}_same": value for key, value in _fvu_pair(sae, activations, table, recipe.condition, "test").items()},
        "n_tokens_train": len(tokens), "steps": total_steps(recipe, len(tokens)), "seconds": round(seconds, 2),
        "d_in": recipe.d_in, "d_sae": recipe.d_sae, "input_scale": scale, "device": str(tokens.device),
    }  # fmt: skip
    write_json(folder / name / "metrics.json", figures)
    return Trained(sae, history.assign(tag=name), figures)


def _held_out(sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str, **more: Any) -> dict[str, Any]:
    """Return `quality` on the question tokens of one split."""
    rows = question_rows(table, condition, split)
    return quality(sae, activations[rows], table.set_index("row")["is_last"].loc[rows].to_numpy(copy=True), **more)


def _fvu_pair(sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str) -> dict[str, float | None]:
    """Return fvu at all and at last question tokens of one split."""
    figures = _held_out(sae, activations, table, condition, split)
    return {"fvu": figures["fvu"], "fvu_last": figures["fvu_last"]}


@torch.no_grad()
def fvu_ci(sae: "SAE", activations: Tensor, table: pd.DataFrame, condition: str, split: str, last: bool = False, seed: int = 0) -> Estimate:
    """Return FVU over the question tokens (or the last ones) of one split, with a CI95 over questions, whole questions resampled."""
    lines = table.set_index("row").loc[question_rows(table, condition, split)]
    lines = lines[lines["is_last"]] if last else lines
    tokens = _checked(activations[lines.index.to_numpy(copy=True)])
    error = (tokens - sae.decode(sae.encode(tokens))).square().sum(dim=1)
    spread = (tokens - tokens.mean(dim=0)).square().sum(dim=1)
    sums = pd.DataFrame({"error": error, "spread": spread}).groupby(lines["question_id"].to_numpy()).sum()
    return statistics.ratio_ci(sums["error"], sums["spread"], unit="share of variance", seed=seed)


# Separation at the last prompt token -------------------------------------------------------------------------------


def last_tokens(activations: Tensor, table: pd.DataFrame, split: str, conditions: Sequence[str]) -> dict[str, Tensor]:
    """Return {condition: resid_post [question d_model]} at the last prompt tokens of one split, questions in one order throughout.

    Raises UserError where the conditions do not hold the same questions, since nothing could be paired.
    """
    last = table[table["is_last"] & (table["split"] == split)].sort_values("question_id")
    parts = {condition: last[last["condition"] == condition] for condition in conditions}
    rows = {condition: part["row"].to_numpy(copy=True) for condition, part in parts.items()}
    asked = {tuple(part["question_id"]) for part in parts.values()}
    if len(asked) != 1 or not asked.pop():
        raise UserError(f"The conditions of split {split!r} do not hold the same questions; run notebook 01_collect_activations again.")
    return {condition: activations[index] for condition, index in rows.items()}


def along_mean_difference(train: dict[str, Tensor], test: dict[str, Tensor], pair: tuple[str, str]) -> dict[str, np.ndarray]:
    """Return {condition: test tokens [question 1] along the unit vector mean(train a) - mean(train b)}: separation without any SAE."""
    direction = train[pair[0]].mean(dim=0) - train[pair[1]].mean(dim=0)
    direction = direction / direction.norm()
    return {condition: (test[condition] @ direction)[:, None].double().numpy() for condition in pair}


def cue_rows(records: pd.DataFrame, table: pd.DataFrame, *, cue_of: str = "sandbag", seen_in: str = "genuine") -> np.ndarray:
    """Return the rows of the prefix that all `seen_in` prompts share where the last words of a `cue_of` prompt stand.

    With demonstrations that show both kinds of answer, "Incorrect answer:" stands in genuine prompts too, where nobody asks for
    a wrong one. `records` is prompts.jsonl. The cue is compared by token ids, back to the first token in which it differs
    from that of `seen_in`; the result is empty where the framing has no such place.
    """
    train = records[records["split"] == "train"].drop_duplicates("condition").set_index("condition")["prompt_token_ids"]
    cue, text = train[cue_of], train[seen_in]
    shared = next((i for i, (a, b) in enumerate(zip(reversed(cue), reversed(text), strict=False)) if a != b), len(cue) - 1)
    width = shared + 1
    found = [p for p in range(width - 1, len(text)) if text[p - width + 1 : p + 1] == cue[-width:]]
    prefix = (table["split"] == "train") & (table["condition"] == seen_in) & (table["question_id"].fillna("") == "")
    return table.loc[prefix & table["position"].isin(found), "row"].to_numpy(copy=True)
