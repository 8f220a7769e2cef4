"""Loading models and reading and writing inside them: the registry, checks at the door, hook
points, packs of prompts.
"""

from sandbagging.models.loading import (
    GGUF,
    Model,
    check_framing,
    check_layers,
    default_layers,
    ensure_available,
    load,
    questions_of,
    weight_bytes,
    wrap,
)
from sandbagging.models.registry import EMBEDDED, REGISTRY, Entry

__all__ = [
    "EMBEDDED",
    "GGUF",
    "REGISTRY",
    "Entry",
    "Model",
    "check_framing",
    "check_layers",
    "default_layers",
    "ensure_available",
    "load",
    "questions_of",
    "weight_bytes",
    "wrap",
]
