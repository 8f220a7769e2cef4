"""Which model a run used, and which heads it found."""

import json
from typing import NamedTuple

from sandbagging.errors import UserError
from sandbagging.heads.interventions import head_name
from sandbagging.suite import runs


class OfRun(NamedTuple):
    """Which model a run used, and the heads that it found or was given."""

    model: str
    heads: str
    random_weights: bool
    seed: int


def of_run(run: str) -> OfRun:
    """Return a run's model and the heads of its notebook 08, or of 07 where that is all there is; UserError where neither is done."""
    for artefact, name in (("08_circuit", "summary.json"), ("07_heads", "heads.json")):
        if runs.read_manifest(run, artefact) and runs.read_manifest(run, "00_baseline"):
            heads = json.loads((runs.run_folder(run) / artefact / name).read_text())["heads"]
            settings = runs.read_manifest(run, "00_baseline")["parameters"]
            words = " ".join(head if isinstance(head, str) else head_name(tuple(head)) for head in heads)
            return OfRun(settings["model"], words, settings["random_weights"], settings["seed"])
    raise UserError(f"The run {run} has found no heads yet: run notebook 07_find_the_heads first, or name heads with --heads.")
