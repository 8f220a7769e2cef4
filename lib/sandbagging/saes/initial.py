"""An SAE before any training, of the right shape: what holds for it holds for any SAE."""

from typing import TYPE_CHECKING

from torch import Tensor

from sandbagging.saes.recipes import parse_tag
from sandbagging.saes.saving import fold_scaling
from sandbagging.saes.tokens import training_data
from sandbagging.saes.training import new_sae

if TYPE_CHECKING:
    from sae_lens import SAE


def untrained(tag: str, tokens: Tensor) -> "SAE":
    """Return the SAE of a tag as training finds it, its decoder bias at the mean of the tokens.

    tokens [token d_model] also give the factor between raw and scaled activations.
    """
    recipe = parse_tag(tag).recipe(tokens.shape[1])
    scaled, scale = training_data(tokens)
    return fold_scaling(new_sae(recipe, 1, scaled.mean(dim=0)), scale)
