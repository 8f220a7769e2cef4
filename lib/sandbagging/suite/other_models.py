"""The same experiment on several models, side by side.

Which models hold a gap, heads that matter, and a portion that is sandbagging's own? Each model is a
run of its own, nested in the run that compares them (RUN/pythia-160m and so on), made by notebooks
00, 07 and 08.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sandbagging import models
from sandbagging.errors import UserError
from sandbagging.gate import ANSWERS_WRONGLY, NO
from sandbagging.models.registry import REGISTRY
from sandbagging.statistics import Estimate
from sandbagging.suite import nested, runs

# Each with _low, _high and _n, in pp.
EFFECTS = ("gap", "joint_effect", "neutral_effect", "specific_portion")
# Where notebook 08's summary has them.
KEYS = {"joint_effect": "joint", "neutral_effect": "joint_neutral",
        "specific_portion": "specific_portion"}  # fmt: skip
NUMBERS = [effect + end for effect in EFFECTS for end in ("", "_low", "_high", "_n")]
COLUMNS = ["model", "revision", "weights", "framing", "run", "grade", "n_found", "heads", *NUMBERS,
           "rank_p", "survives", "missing"]  # fmt: skip


def row(run: str) -> dict:
    """Return one run's line: model, gap, joint effect and specific portion on p_full in pp, rank p.

    Raises UserError where a file was changed after it was written.
    """
    settings = runs.read_manifest(run, "00_baseline")["parameters"]
    gate = nested.read_json(run, "00_baseline")["gate"]
    circuit = nested.read_json(run, "08_circuit")
    entry = models.entry(settings["model"])
    estimates = {"gap": Estimate.from_dict(gate["gap_p_full"])}
    estimates |= {name: Estimate.from_dict(circuit[key]) for name, key in KEYS.items()}
    return {
        "model": _named(settings),
        "revision": entry and entry.revision,
        "weights": _weights(settings),
        "framing": settings["framing"],
        "run": run,
        "grade": gate["grade"],
        "n_found": len(nested.read_json(run, "07_heads", "heads.json")["found"]),
        "heads": " ".join(f"L{layer}H{head}" for layer, head in circuit["heads"]),
        **_numbers(estimates),
        "rank_p": circuit["random_uniform"]["rank_p"],
        "survives": bool(circuit["survives"]["value"]),
        "missing": None,
    }


def _named(settings: Mapping[str, Any]) -> str:
    """Return a run's model by name, and with the adapter that was merged into it."""
    adapter = "" if settings["random_weights"] else settings.get("adapter", "")
    return settings["model"] + (f" + {Path(adapter).name}" if adapter else "")


def _weights(settings: Mapping[str, Any]) -> str:
    """Return what a run's weights are: random, taught, planted or real."""
    if settings["random_weights"]:
        return "random"
    return "taught" if settings.get("adapter") else _weights_of(models.entry(settings["model"]))


def _weights_of(entry: models.Entry | None) -> str:
    if entry is None:
        return "real"
    return "taught" if entry.base else "planted" if entry.planted else "real"


def _numbers(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return the columns `NUMBERS` of some estimates."""
    flat = {}
    for name, e in estimates.items():
        ends = {"": e.value, "_low": e.low, "_high": e.high, "_n": e.n}
        flat |= {name + end: value for end, value in ends.items()}
    return flat


def table(run: str, only: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row per run that is there, then one per missing model, which says why it is.

    The run itself comes first, then those nested in it, or of these `only` the named ones. Missing
    is a model of the registry without a run on its real weights. Columns `COLUMNS`; effects in pp
    with CI95 over questions. Raises UserError for a nested run that is not there.
    """
    inside = runs.nested_runs(run)
    for name in only:
        if f"{run}/{name}" not in inside:
            there = ", ".join(inside) or "none"
            raise UserError(f"The run {run} holds no finished run {name}; inside it are {there}.")
    chosen = [f"{run}/{name}" for name in only] or inside
    lines = [row(name) for name in (run, *(name for name in inside if name in chosen))]
    measured = {line["model"] for line in lines if line["weights"] != "random"}
    lines += [
        {"model": name, "revision": entry.revision, "missing": missing(name, run),
         "weights": _weights_of(entry)}
        for name, entry in REGISTRY.items() if name not in measured
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=COLUMNS)


def missing(name: str, run: str) -> str:
    """Return why a model of the registry is missing from a run, with the command that adds it."""
    page = f"https://huggingface.co/{REGISTRY[name].hub_id}"
    first = f"accept its licence at {page}, then " if REGISTRY[name].gated else ""
    command = f"run all --set other_model --run {run}/{name} -p model={name}"
    return f"not run: {first}python -m sandbagging {command}"


def beside_card(found: pd.DataFrame, published: Mapping[str, dict]) -> pd.DataFrame:
    """Return the card's §28 to §30 for each model beside what was measured, as text.

    Columns model, weights, framing, the card, gap, joint_effect, specific_portion, grade, survives.
    """
    joint, specific = (published[name]["value"] for name in ("joint_effect", "specific_portion"))
    card = dict.fromkeys(
        ("tinyllama", "pythia-160m", "pythia-410m"), "specific portion about zero or negative"
    )
    card["llama-3.2-1b"] = f"joint {joint:+} pp, specific {specific:+} pp"
    lines = []
    for line in found.to_dict("records"):
        said = card.get(line["model"], "") if line["weights"] != "random" else ""
        measured = ("gap", "joint_effect", "specific_portion")
        texts = {name: _text(line, name) for name in measured}
        same = {name: line[name] for name in ("grade", "survives")}
        who = {name: line[name] for name in ("model", "weights", "framing")}
        lines.append({**who, "the card": said, **texts, **same})
    return pd.DataFrame(lines).fillna("–")


def _text(line: dict, name: str) -> str:
    value, low, high = (line[name + end] for end in ("", "_low", "_high"))
    return "missing" if pd.isna(value) else f"{Estimate(value, low, high, 0, 'pp'):short}"


# How the planted models were built: the grade, and how many heads matter alone. In `direction`
# eight heads write the same switch, with dose to spare, so that none matters alone; several of them
# together may.
BUILT = {"organism-heads": (ANSWERS_WRONGLY, 3), "organism-direction": (ANSWERS_WRONGLY, 0),
         "organism-null": (NO, 0)}  # fmt: skip
WORDS = (
    "no sandbagging to explain",
    "no circuit",
    "a circuit, not shown to be specific",
    "a circuit, specific to sandbagging",
)


def says(there: pd.DataFrame) -> pd.Series:
    """Return one of `WORDS` per run, by notebook 08's rules: grade, survival, portion."""
    specific = there["specific_portion_low"] > 0
    index = (there["survives"].astype(bool) * (1 + specific)).astype(int) + 1
    index = index.where(there["grade"] != NO, 0)
    return pd.Series([WORDS[i] for i in index], index=there.index, dtype=object)


def as_built(there: pd.DataFrame) -> dict[str, bool]:
    """Return, per run of a planted model, whether grade and heads found alone are as in `BUILT`."""
    planted = there[there["weights"] == "planted"]
    return {r.run: (r.grade, r.n_found) == BUILT[r.model] for r in planted.itertuples()}


def is_null(there: pd.DataFrame) -> pd.Series:
    """Return which runs are nulls: random weights, or prompts that ask for nothing wrong."""
    return (there["weights"] == "random") | there["framing"].str.startswith("placebo")
