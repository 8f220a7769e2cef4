"""Models: loading them, checks at the door, and reading and writing inside them."""

from sandbagging.models.checks import check_framing, weight_bytes
from sandbagging.models.loading import default_layers, load, wrap
from sandbagging.models.model import Model, check_layers
from sandbagging.models.origins import ensure_available, questions_of
from sandbagging.models.registry import EMBEDDED, REGISTRY, SUBJECT, Entry
from sandbagging.models.taught import entry

__all__ = [
    "EMBEDDED",
    "SUBJECT",
    "REGISTRY",
    "Entry",
    "Model",
    "check_framing",
    "check_layers",
    "default_layers",
    "ensure_available",
    "entry",
    "load",
    "questions_of",
    "weight_bytes",
    "wrap",
]
