"""What a loaded model is to the rest of the library."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sandbagging.errors import UserError


@dataclass(frozen=True)
class Model:
    """A language model ready for interventions; shapes by name, and the nnsight model as `lm`."""

    name: str
    lm: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_model: int
    layers_of_interest: tuple[int, ...]
    weights: str  # "real", "taught" (an adapter is merged into them), "planted" or "random"
    identity: str = field(repr=False)  # two models of one identity have the same weights
    framings: tuple[str, ...] | None = None  # None: all
    conditions: tuple[str, ...] | None = None  # None: all
    # Where traces run: False here, True on nnsight's service, "local" here but handed over as if
    # to it.
    remote: bool | str = False
    adapter: str | None = None  # what was merged beside what the name says, as it was asked for

    @property
    def module(self) -> torch.nn.Module:
        """The transformers model underneath."""
        return self.lm._module

    @property
    def device(self) -> torch.device:
        """Where the weights lie; a remote model's tensors are handed over from the CPU."""
        if self.remote is True:
            return torch.device("cpu")
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return next(self.module.parameters()).dtype

    @property
    def n_params(self) -> int:
        """How many weights there are."""
        return sum(p.numel() for p in self.module.parameters())


def check_layers(model: Model, layers: Sequence[int]) -> None:
    """Raise UserError if a layer does not exist in the model."""
    for layer in layers:
        if not 0 <= layer < model.n_layers:
            raise UserError(
                f"Layer {layer} does not exist: {model.name} has layers 0 to {model.n_layers - 1}."
            )
