"""What the pages on swaps read of a run: the gate, activations and SAEs, and the effects so far."""

from typing import NamedTuple

import pandas as pd

from sandbagging import saes
from sandbagging.files import Folder
from sandbagging.gate import Gate
from sandbagging.suite.runs import Step
from sandbagging.swaps import estimates


class Battery(NamedTuple):
    """What notebook 04 and those before and after it have left."""

    gate: Gate  # of notebook 00
    tags: list[str]  # the SAEs that are swapped, by layer
    collected: Folder  # activations, with their table of rows
    trained: Folder  # SAEs, a folder a tag
    effects: pd.DataFrame  # by question, see `swaps.sites.effects_at`
    guards: pd.DataFrame  # layer, tag, position, the fields of Guards, and `degenerate`


def read(step: Step, *artefacts: str) -> Battery:
    """Return what a page on swaps begins with; effects are those of the artefacts, in order."""
    quality = step.read_table("02_saes", "metrics.csv")
    tables = [step.read_table(name, "effects_by_question.csv.gz") for name in artefacts]
    return Battery(
        gate=step.gate(),
        tags=saes.chosen(quality["tag"], step.setting("swap_tags")),
        collected=step.files("01_activations", "L*.safetensors", "tokens.csv.gz"),
        trained=step.files("02_saes", "*/sae_weights.safetensors", "*/cfg.json"),
        effects=estimates.stored_effects(*tables),
        guards=pd.DataFrame(step.read_json("04_swap", "summary.json")["guards"]),
    )
