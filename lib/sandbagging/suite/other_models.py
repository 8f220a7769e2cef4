"""The same experiment on several models, side by side: which hold a gap, heads that matter, and a portion that is sandbagging's own.

Each model is a run of its own, nested in the run that compares them (RUN/pythia-160m and so on), made by notebooks 00, 07 and 08.
"""

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from sandbagging.errors import UserError
from sandbagging.models.registry import REGISTRY
from sandbagging.statistics import Estimate
from sandbagging.suite import runs

EFFECTS = ("gap", "joint_effect", "neutral_effect", "specific_portion")  # each with _low, _high and _n, in pp
KEYS = {"joint_effect": "joint", "neutral_effect": "joint_neutral", "specific_portion": "specific_portion"}  # in notebook 08's summary
NUMBERS = [effect + end for effect in EFFECTS for end in ("", "_low", "_high", "_n")]
COLUMNS = ["model", "revision", "weights", "framing", "run", "gate", "n_found", "heads", *NUMBERS, "rank_p", "survives", "missing"]


def row(run: str) -> dict:
    """Return one run's line: the model, its gap, joint effect and sandbag-specific portion on p_full in pp, and whether it survives.

    Raises UserError where a file was changed after it was written.
    """
    settings = runs.read_manifest(run, "00_baseline")["parameters"]
    gate, circuit = _json(run, "00_baseline")["gate"], _json(run, "08_circuit")
    entry = REGISTRY.get(settings["model"])
    found = {"gap": Estimate.from_dict(gate["gap_p_full"])} | {name: Estimate.from_dict(circuit[key]) for name, key in KEYS.items()}
    numbers = {f"{name}{end}": value for name, e in found.items()
               for end, value in (("", e.value), ("_low", e.low), ("_high", e.high), ("_n", e.n))}  # fmt: skip
    planted = entry is not None and entry.planted is not None
    return {
        "model": settings["model"], "revision": entry and entry.revision,
        "weights": "random" if settings["random_weights"] else "planted" if planted else "real",
        "framing": settings["framing"], "run": run, "gate": "open" if gate["open"] else "closed",
        "n_found": len(_json(run, "07_heads", "heads.json")["found"]),
        "heads": " ".join(f"L{layer}H{head}" for layer, head in circuit["heads"]), **numbers,
        "rank_p": circuit["random_uniform"]["rank_p"], "survives": bool(circuit["survives"]["value"]), "missing": None,
    }  # fmt: skip


def _json(run: str, artefact: str, name: str = "summary.json") -> dict:
    damaged = runs.damaged_file(run, artefact, runs.read_manifest(run, artefact))
    if damaged:
        raise UserError(f"{artefact}/{damaged} in the run {run} was changed after it was written; run that notebook again.")
    return json.loads((runs.run_folder(run) / artefact / name).read_text())


def table(run: str, only: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row per run that is there, then one per model of the registry without a run on its real weights, which says why.

    The run itself comes first, then those nested in it, or of these `only` the named ones. Columns `COLUMNS`; effects in pp with CI95
    over questions. Raises UserError for a nested run that is not there.
    """
    for name in only:
        if f"{run}/{name}" not in runs.nested_runs(run):
            raise UserError(f"The run {run} holds no finished run {name}; inside it are {', '.join(runs.nested_runs(run)) or 'none'}.")
    rows = [row(name) for name in (run, *runs.nested_runs(run)) if not only or name in (run, *(f"{run}/{part}" for part in only))]
    there = {r["model"] for r in rows if r["weights"] != "random"}
    rows += [{"model": name, "revision": entry.revision, "weights": "planted" if entry.planted else "real", "missing": missing(name, run)}
             for name, entry in REGISTRY.items() if name not in there]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


def missing(name: str, run: str) -> str:
    """Return why a model of the registry is missing from a run, with the command that brings it in."""
    first = f"accept its licence at https://huggingface.co/{REGISTRY[name].hub_id}, then " if REGISTRY[name].gated else ""
    return f"not run: {first}python -m sandbagging run all --set other_model --run {run}/{name} -p model={name}"


def beside_card(found: pd.DataFrame, published: Mapping[str, dict]) -> pd.DataFrame:
    """Return the card's §28 to §30 for each model beside what was measured: model, card, joint_effect, specific_portion, as text."""
    card = {"llama-3.2-1b": f"joint {published['joint_effect']['value']:+} pp, specific {published['specific_portion']['value']:+} pp"}
    card |= dict.fromkeys(("tinyllama", "pythia-160m", "pythia-410m"), "specific portion about zero or negative")
    rows = []
    for r in found.to_dict("records"):
        shown = {name: _text(r, name) for name in ("gap", "joint_effect", "specific_portion")}
        said = card.get(r["model"], "") if r["weights"] != "random" else ""
        rows.append({"model": r["model"], "weights": r["weights"], "framing": r["framing"], "the card": said, **shown,
                     "gate": r["gate"], "survives": r["survives"]})  # fmt: skip
    return pd.DataFrame(rows).fillna("–")


def _text(line: dict, name: str) -> str:
    value, low, high = (line[name + end] for end in ("", "_low", "_high"))
    return "missing" if pd.isna(value) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


# How the planted models were built: the gate, and how many heads matter alone. In `direction` eight heads write the same switch, with dose
# to spare, so that none matters alone; several of them together may.
BUILT = {"organism-heads": ("open", 3), "organism-direction": ("open", 0), "organism-null": ("closed", 0)}
WORDS = ("no sandbagging to explain", "no circuit", "a circuit, not shown to be specific", "a circuit, specific to sandbagging")


def says(there: pd.DataFrame) -> pd.Series:
    """Return one of `WORDS` per run, by the rules of notebook 08: the gate, survival, and the portion's CI95 above 0."""
    kind = (there["survives"].astype(bool) * (1 + (there["specific_portion_low"] > 0))).astype(int) + 1
    return pd.Series([WORDS[k] for k in kind.where(there["gate"] == "open", 0)], index=there.index, dtype=object)


def as_built(there: pd.DataFrame) -> dict[str, bool]:
    """Return, per run of a planted model, whether its gate and the number of heads found alone are as it was built (`BUILT`)."""
    planted = there[there["weights"] == "planted"]
    return {r.run: (r.gate, r.n_found) == BUILT[r.model] for r in planted.itertuples()}


def is_null(there: pd.DataFrame) -> pd.Series:
    """Return which runs are nulls: random weights, or prompts that ask for nothing wrong."""
    return (there["weights"] == "random") | there["framing"].str.startswith("placebo")
