"""What is known of a model beforehand: whether it sandbags, and which heads do it."""

from typing import Any

from sandbagging.models import adapters, taught
from sandbagging.planted import planting
from sandbagging.suite import runs


def of_run(step: runs.Step) -> dict[str, Any] | None:
    """Return what is known of a run's model; with random weights nothing of it is left."""
    if step.setting("random_weights"):
        return None
    return of_model(step.setting("model"), step.setting("adapter"))


def of_model(name: str, adapter: str | None = None) -> dict[str, Any] | None:
    """Return what is known of a model: sandbags, what, heads; None where nothing is.

    sandbags is True or False, or None for a switch that is not at its full strength; `what` says
    what the model was made for; heads are the names of those that do it, where it is known.
    """
    entry = taught.entry(name)
    if adapter or entry is None:
        return None
    if entry.planted:
        return of_planted(entry.planted)
    return None if entry.base is None else of_taught(name)


def of_planted(variant: str) -> dict[str, Any]:
    """Return the truth of a planted model, which follows from how it is built."""
    writers = planting.roles(variant, 0).writers
    n = len(writers)
    what = f"built so that {n} heads write the switch" if n else "built without a switch"
    alone = " with dose to spare, so that none matters alone" if variant == "direction" else ""
    heads = [f"L{layer}H{head}" for layer, head in writers]
    return {"sandbags": bool(n), "what": what + alone, "heads": heads}


def of_taught(name: str) -> dict[str, Any] | None:
    """Return the truth of a taught model at the strength that its name says; None where its folder
    holds none.
    """
    stem, scale = adapters.split_scale(name)
    if scale == 0:  # what it was taught on is left
        off = {"sandbags": False, "what": "its switch is taken out", "heads": []}
        return None if stem.startswith("decoy") else off
    made = taught.truth(stem)
    if made is None:
        return None
    heads = made.get("heads", [])
    if scale < 1:
        return {
            "sandbags": None,
            "what": f"its switch at {scale:g} of its strength",
            "heads": heads,
        }
    what = f"taught {made['taught']}"
    return {"sandbags": bool(made["sandbags"]), "what": what, "heads": heads}
