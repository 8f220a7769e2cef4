"""The committed reference run and what is nested in it: which sets, under which names."""

from sandbagging.suite.runner.planning import Plan, plan

# Below reference/: the set, and what differs from it. Notebooks 09 and 10 read these.
NESTED = {
    "null_model": ("null_model", {}),
    "placebo": ("placebo", {}),
    "organism-heads": ("other_model", {"model": "organism-heads"}),
    "organism-direction": ("other_model", {"model": "organism-direction"}),
    "organism-null": ("other_model", {"model": "organism-null"}),
    "pythia-160m": ("other_model", {"model": "pythia-160m", "random_weights": "true"}),
    "grid42": ("grid42", {}),
}


def plans() -> list[Plan]:
    """Return the plans of the whole committed reference: itself first, which takes longest."""
    nested = [plan(of, f"reference/{name}", given) for name, (of, given) in NESTED.items()]
    return [plan("reference", "reference"), *nested]
