"""Which model a run used, and which heads it found."""

from typing import NamedTuple

from sandbagging.errors import UserError
from sandbagging.heads.head import join, parse
from sandbagging.suite import nested, runs


class OfRun(NamedTuple):
    """Which model a run used, and the heads that it found or was given."""

    model: str
    heads: str
    random_weights: bool
    seed: int
    adapter: str = ""


def of_run(run: str) -> OfRun:
    """Return a run's model and the heads of its notebook 08, or of 07 where that is all there is.

    Raises UserError where neither is done.
    """
    for artefact, name in (("08_circuit", "summary.json"), ("07_heads", "heads.json")):
        if runs.read_manifest(run, artefact) and runs.read_manifest(run, "00_baseline"):
            heads = nested.read_json(run, artefact, name)["heads"]
            settings = runs.read_manifest(run, "00_baseline")["parameters"]
            random_weights, seed = settings["random_weights"], settings["seed"]
            model, adapter = (
                runs.from_notebooks(settings.get(name, "")) for name in ("model", "adapter")
            )
            return OfRun(model, join(parse(heads), " "), random_weights, seed, adapter)
    raise UserError(
        f"The run {run} has found no heads yet: run notebook 07_find_the_heads first, "
        "or name heads with --heads."
    )
