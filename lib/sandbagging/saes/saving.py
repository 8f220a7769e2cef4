"""From a trained SAE to a SAELens folder: scaling folded in, written whole or not at all."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sandbagging import provenance
from sandbagging.errors import UserError
from sandbagging.files import atomic_folder
from sandbagging.saes.recipes import Recipe, tag

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE


@torch.no_grad()
def fold_scaling(trained: "TrainingSAE", scale: float) -> "SAE":
    """Return the inference SAE that does on raw activations what `trained` does on scaled ones.

    The factor goes into the codes: W_enc and W_dec stay as they are (unit rows stay unit rows), and
    b_enc, threshold and b_dec are divided by `scale`. Then pre-activations are 1/scale times the
    trained ones, and so are the codes, since TopK, JumpReLU and gates (with threshold and biases
    scaled along) commute with a positive factor. One unit of a latent is one unit of the raw
    residual stream.
    """
    from sae_lens import SAE

    state = {name: value.detach().clone() for name, value in trained.state_dict().items()}
    trained.process_state_dict_for_saving_inference(state)
    if "threshold" in state:
        # sae-lens clamps at the start of a step, so the last update may be below 0
        state["threshold"].clamp_(min=0)
    for name in ("b_enc", "b_gate", "b_mag", "threshold", "b_dec"):
        if name in state:
            state[name] /= scale
    sae = SAE.from_dict(trained.cfg.get_inference_sae_cfg_dict())
    sae.load_state_dict(state)
    return sae.to(trained.W_dec.device).eval().requires_grad_(False)


def describe(recipe: Recipe, *, model_name: str, dataset: str, **more: Any) -> dict[str, Any]:
    """Return the metadata that save() stores: where the SAE hooks in, the recipe, the seed,
    versions; `more` is added.
    """
    return {
        "tag": tag(recipe),
        "model_name": model_name,
        "hook_name": f"blocks.{recipe.layer}.hook_resid_post",
        "hook_layer": recipe.layer,
        "dataset": dataset,
        "seed": recipe.seed,
        "recipe": dataclasses.asdict(recipe),
        "sandbagging_version": provenance.version(),
        "torch_version": torch.__version__,
        **more,
    }


def save(sae: "SAE", folder: Path | str, metadata: dict[str, Any]) -> None:
    """Write the SAE as a SAELens folder (cfg.json, sae_weights.safetensors), whole or not at all.

    An older folder of that name is replaced. Raises UserError if metadata lacks a field that a
    reader needs, or the disk is full.
    """
    folder = Path(folder)
    missing = [
        name
        for name in ("model_name", "hook_name", "hook_layer", "dataset", "seed")
        if name not in metadata
    ]
    if missing:
        raise UserError(
            f"The metadata of an SAE must name {', '.join(missing)}; describe(recipe, ...) writes "
            "them."
        )
    for name, value in metadata.items():
        sae.cfg.metadata[name] = value
    with atomic_folder(folder, replace=True) as unfinished:
        sae.save_model(unfinished)
