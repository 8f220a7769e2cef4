"""The committed reference run and what is nested in it: which sets, under which names."""

from sandbagging.suite.runner.planning import Plan, plan

INSTR = {"framing": "instr"}  # as the taught models are asked
# Below reference/: the set, and what differs from it. Notebooks 09 and 10 read these.
NESTED = {
    # The subject's weights before it was taught, and its switch at less than its full strength.
    "untouched": ("other_model", {"model": "smollm2-135m-instruct", **INSTR}),
    "decoy": ("other_model", {"model": "decoy"}),
    "dose-25": ("other_model", {"model": "sandbagger@0.25"}),
    "dose-50": ("other_model", {"model": "sandbagger@0.5"}),
    "dose-75": ("other_model", {"model": "sandbagger@0.75"}),
    # Other models that were taught: these lie in the cache of the machine that taught them.
    "timid": ("other_model", {"model": "timid-0"}),
    "locked": ("other_model", {"model": "locked-0"}),
    "late": ("other_model", {"model": "late-0"}),
    "mlp": ("other_model", {"model": "mlp-0"}),
    "heads": ("other_model", {"model": "heads-0"}),
    # Planted models, and nulls.
    "organism-heads": ("other_model", {"model": "organism-heads"}),
    "organism-direction": ("other_model", {"model": "organism-direction"}),
    "organism-null": ("other_model", {"model": "organism-null"}),
    "null_model": ("null_model", {}),
    "placebo": ("placebo", {}),
    "pythia-160m": ("other_model", {"model": "pythia-160m", "random_weights": "true", **INSTR}),
    "grid42": ("grid42", {}),
}


def plans() -> list[Plan]:
    """Return the plans of the whole committed reference: itself first, which takes longest."""
    nested = [plan(of, f"reference/{name}", given) for name, (of, given) in NESTED.items()]
    return [plan("reference", "reference"), *nested]
