"""The same experiment on several models, side by side.

Which models answer wrongly when told to, what share of the gap do their own heads restore, and is
it so where the truth is known? Each model is a run of its own, nested in the run that compares them
(RUN/timid and so on), made by notebooks 00, 07 and 08.
"""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path

import pandas as pd

from sandbagging import statistics
from sandbagging.errors import UserError
from sandbagging.gate import ANSWERS_WRONGLY, NO
from sandbagging.grading import RIGHT
from sandbagging.heads import rivals
from sandbagging.models import adapters, taught
from sandbagging.models.registry import REGISTRY
from sandbagging.statistics import Estimate
from sandbagging.suite import nested, runs

# Estimates of a row, each with _low, _high and _n. Gaps are genuine - sandbag; of an effect, the
# heads are zeroed on sandbag prompts unless it says otherwise.
OF_GATE = {
    "gap": "gap_p_full",  # pp, as is the next
    "drop": "drop",  # of right free answers
    "gap_logodds": "gap_logodds",  # nats
}
OF_CIRCUIT = {
    "joint_effect": "joint",  # on p_full in pp, as are the next two
    "neutral_effect": "joint_neutral",
    "specific_portion": "specific_portion",
}
NOT_MEASURED = {"value": None, "low": None, "high": None, "n": 0}
SHARES = ("share_restored", "share_closed")  # of the gap, on log-odds
ESTIMATES = (*OF_GATE, *OF_CIRCUIT, "joint_logodds", *SHARES)
ENDS = ("", "_low", "_high", "_n")
ANSWERS = ("right_genuine", "right_sandbag", "right_zeroed")  # shares of free answers, 0 to 1
COLUMNS = [
    *("name", "group", "dose", "model", "revision", "weights", "framing", "run"),
    *("truth", "sandbags", "true_heads", "grade", *ANSWERS, "n_found", "heads"),
    *(name + end for name in ESTIMATES for end in ENDS),
    *("rank_p", "survives", "specific", "missing"),
]
# How the rows are ordered, and what they are there for.
GROUPS = ("this run", "untouched", "dose", "taught", "other model", "planted", "null")


# One row ------------------------------------------------------------------------------------------


def row(run: str) -> dict:
    """Return one run's line: what its model is and is known to be, and what was found.

    Raises UserError where a file was changed after it was written, KeyError for the files of
    earlier code.
    """
    settings = runs.read_manifest(run, "00_baseline")["parameters"]
    gate = nested.read_json(run, "00_baseline")["gate"]
    circuit = nested.read_json(run, "08_circuit")
    entry = taught.entry(settings["model"])
    known = circuit["truth"] or {}
    return {
        "name": run.rpartition("/")[2],
        "model": _named(settings),
        "revision": entry and entry.revision,
        "weights": _weights(settings),
        "framing": settings["framing"],
        "run": run,
        "truth": known.get("what"),
        "sandbags": known.get("sandbags"),
        "true_heads": " ".join(known.get("heads", ())),
        "grade": gate["grade"],
        "right_genuine": gate["shares"]["genuine"][RIGHT],
        "right_sandbag": gate["shares"]["sandbag"][RIGHT],
        "right_zeroed": circuit["answers_zeroed"]["sandbag"][RIGHT],
        "n_found": len(nested.read_json(run, "07_heads", "heads.json")["found"]),
        "heads": " ".join(f"L{layer}H{head}" for layer, head in circuit["heads"]),
        **_numbers(_estimates(gate, circuit)),
        "rank_p": circuit["random_uniform"]["rank_p"],
        "survives": circuit["survives"]["value"],
        # where there is no sandbagging to explain, nothing belongs to it
        "specific": rivals.NOTHING if gate["grade"] == NO else circuit["specific"]["verdict"],
    }


def _named(settings: Mapping) -> str:
    """Return a run's model by name, and with the adapter that was merged into it."""
    adapter = "" if settings["random_weights"] else settings.get("adapter", "")
    return settings["model"] + (f" + {Path(adapter).name}" if adapter else "")


def _weights(settings: Mapping) -> str:
    """Return what a run's weights are: "random", "planted", "taught" or "real"."""
    entry = taught.entry(settings["model"])
    if settings["random_weights"]:
        return "random"
    if entry is not None and entry.planted is not None:
        return "planted"
    return "taught" if settings.get("adapter") or (entry is not None and entry.base) else "real"


def _estimates(gate: Mapping, circuit: Mapping) -> dict[str, Estimate]:
    on_odds = next(
        line
        for line in circuit["conditions"]
        if (line["condition"], line["metric"]) == ("sandbag", "logodds")
    )
    found = {name: gate[key] for name, key in OF_GATE.items()}
    found |= {name: circuit.get(key, NOT_MEASURED) for name, key in OF_CIRCUIT.items()}
    found["joint_logodds"] = {**on_odds, "value": on_odds["effect"]}
    found |= {name: circuit[name]["logodds"] for name in SHARES}
    return {name: Estimate.from_dict(fields) for name, fields in found.items()}


def _numbers(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return the columns of some estimates."""
    flat = {}
    for name, e in estimates.items():
        flat |= {
            name + end: value
            for end, value in zip(ENDS, (e.value, e.low, e.high, e.n), strict=True)
        }
    return flat


# The table ----------------------------------------------------------------------------------------


def table(run: str, only: Sequence[str] = ()) -> pd.DataFrame:
    """Return one row per run that is there, then one per missing model, which says why it is.

    The run itself comes first, then those nested in it by what they are there for (`GROUPS`), or of
    these `only` the named ones. Missing are models of the registry, and a taught one of each kind,
    without a run on their own weights. Columns `COLUMNS`, with CI95 over questions. Raises
    UserError for a nested run that is not there.
    """
    inside = runs.nested_runs(run)
    for name in only:
        if f"{run}/{name}" not in inside:
            there = ", ".join(inside) or "none"
            raise UserError(f"The run {run} holds no finished run {name}; inside it are {there}.")
    chosen = [f"{run}/{name}" for name in only] or inside
    own = row(run) | {"name": GROUPS[0]}
    lines = [_readable(name, run) for name in inside if name in chosen]
    there = [own, *(line for line in lines if "missing" not in line)]
    for line in there:
        line["dose"] = dose(line["model"], own["model"]) if line["weights"] == "taught" else nan
        line["group"] = "this run" if line is own else _group(line, own["model"])
    there.sort(key=_place)
    lines = [*there, *(line for line in lines if "missing" in line)]
    measured = {line["model"] for line in lines if line["weights"] != "random"}
    lines += [_missing_row(name, run) for name in _to_be_run() if name not in measured]
    return pd.DataFrame(lines, columns=COLUMNS)


def _readable(name: str, run: str) -> dict:
    """Return a nested run's row, or one that is missing where earlier code made it."""
    try:
        return row(name)
    except KeyError:
        settings = runs.read_manifest(name, "00_baseline")["parameters"]
        model = settings["model"]
        random = settings["random_weights"]
        why = f"made by earlier code: {_command(model, run, name.rpartition('/')[2], random)}"
        return {"model": model, "weights": "random" if random else "", "missing": why}


def dose(model: str, subject: str) -> float:
    """Return at which strength a model holds the switch of the subject; nan where it is another.

    The model that the subject was taught on holds it at 0.
    """
    stem, _ = adapters.split_scale(subject)
    name, scale = adapters.split_scale(model)
    if name == stem:
        return scale
    beneath = "decoy" if "-" not in stem else f"decoy-{stem.partition('-')[2]}"
    return 0.0 if (name, scale) == (beneath, 1.0) else nan


def _group(line: Mapping, subject: str) -> str:
    subject_entry = taught.entry(subject)
    if line["weights"] == "random" or line["framing"].startswith("placebo"):
        return "null"
    if line["weights"] == "planted":
        return "planted"
    if line["weights"] == "taught":
        return "taught" if pd.isna(line["dose"]) else "dose"
    before = subject_entry.base if subject_entry is not None else None
    return "untouched" if line["model"] == before else "other model"


def _place(line: Mapping) -> tuple:
    strength = line["dose"] if line["group"] == "dose" else nan
    return GROUPS.index(line["group"]), 0.0 if pd.isna(strength) else -strength, line["name"]


def _to_be_run() -> list[str]:
    """Return the models that may stand here: the registry's and a taught one of each kind."""
    kinds = [taught.name_of(kind, 0) for kind in taught.KINDS if kind not in REGISTRY]
    return [*REGISTRY, *kinds]


def _missing_row(name: str, run: str) -> dict:
    entry = taught.entry(name)
    weights = "planted" if entry.planted else "taught" if entry.base else "real"
    why = missing(name, run)
    return {"model": name, "revision": entry.revision, "missing": why, "weights": weights}


def missing(name: str, run: str) -> str:
    """Return why a model is missing from a run, with the command that adds it."""
    entry, first = taught.entry(name), ""
    if entry.gated:
        first = f"accept its licence at https://huggingface.co/{entry.hub_id}, then "
    elif entry.base and name not in (*REGISTRY, *taught.made_here()):
        kind, _, seed = name.partition("-")
        first = f"sandbagging teach {kind} --seed {seed}, then "
    return f"not run: {first}{_command(name, run, name)}"


def _command(model: str, run: str, name: str, random: bool = False) -> str:
    weights = " --random-weights" if random else ""
    command = f"run all --set other_model --run {run}/{name} -p model={model}"
    return f"python -m sandbagging {command}{weights}"


# What the rows say --------------------------------------------------------------------------------

# How the planted models were built: the grade, and how many heads matter alone. In `direction`
# eight heads write the same switch, with dose to spare, so that none matters alone; several of them
# together may.
BUILT = {"organism-heads": (ANSWERS_WRONGLY, 3), "organism-direction": (ANSWERS_WRONGLY, 0),
         "organism-null": (NO, 0)}  # fmt: skip


def as_built(there: pd.DataFrame) -> dict[str, bool]:
    """Return, per run of a planted model, whether grade and heads found alone are as in `BUILT`."""
    planted = there[there["weights"] == "planted"]
    return {r.run: (r.grade, r.n_found) == BUILT[r.model] for r in planted.itertuples()}


def is_null(there: pd.DataFrame) -> pd.Series:
    """Return which runs are nulls: random weights, or prompts that ask for nothing wrong."""
    return (there["weights"] == "random") | there["framing"].str.startswith("placebo")


def as_text(there: pd.DataFrame) -> pd.DataFrame:
    """Return the rows for reading, indexed by name: grade, gaps, right answers told to be correct
    and incorrect and with the heads zeroed, joint effect, shares restored and closed.
    """
    lines = []
    for line in there.to_dict("records"):
        right = [line[name] for name in ANSWERS]
        lines.append(
            {
                "run": shown_name(line),
                "grade": line["grade"],
                "gap, log-odds (nats)": _text(line, "gap_logodds", "+.2f"),
                "gap, p_full (pp)": _text(line, "gap", "+.1f"),
                "right: genuine → sandbag": " → ".join(f"{x:.0%}" for x in right[:2]),
                "right: sandbag, zeroed": f"{right[2]:.0%}",
                "joint effect (pp)": _text(line, "joint_effect", "+.1f"),
                **{name.replace("_", " "): _share(line, name) for name in SHARES},
            }
        )
    return pd.DataFrame(lines).set_index("run")


def _share(line: Mapping, name: str) -> str:
    """A share of the gap, where there is one."""
    return "–" if line["grade"] == NO else _text(line, name, ".2f")


def shown_name(line: Mapping) -> str:
    """Return what a row is called on the page."""
    return f"{line['model']} (this run)" if line["group"] == "this run" else line["name"]


def _text(line: Mapping, name: str, number: str) -> str:
    value, low, high = (line[name + end] for end in ENDS[:3])
    if pd.isna(value):
        return "missing"
    return f"{Estimate(value, low, high, 0):short {number}}"


def beside_truth(there: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of models that are known, what is true of them beside what was found.

    Index run; columns truth, sandbags (yes, no, in between), grade, right (whether "answers
    wrongly" was found where it is so and nowhere else; "–" in between), heads (how many of those
    that do it are among the chosen).
    """
    known = there[there["truth"].notna() & ~is_null(there)]
    lines = [
        {
            "run": shown_name(line),
            "truth": line["truth"],
            "sandbags": "in between" if pd.isna(line["sandbags"]) else _yes(line["sandbags"]),
            "grade": line["grade"],
            "right": _found_right(line),
            "heads": _heads(line),
        }
        for line in known.to_dict("records")
    ]
    columns = ["run", "truth", "sandbags", "grade", "right", "heads"]
    return pd.DataFrame(lines, columns=columns).set_index("run")


def _found_right(line: Mapping) -> str:
    if pd.isna(line["sandbags"]):
        return "–"
    return _yes(bool(line["sandbags"]) == (line["grade"] == ANSWERS_WRONGLY))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _heads(line: Mapping) -> str:
    """Return how many of the true heads are among the chosen."""
    true, chosen = set(line["true_heads"].split()), set(line["heads"].split())
    return f"{len(true & chosen)} of {len(true)}" if true else "–"


def doses(there: pd.DataFrame) -> pd.DataFrame:
    """Return the strengths of the subject's switch in ascending order as rows dose, quantity,
    value, low, high, n: gap_logodds (nats), right_genuine and right_sandbag (shares, exact CI95).
    """
    rows = []
    part = there[there["dose"].notna() & there["group"].isin(("this run", "dose"))]
    for line in part.sort_values("dose", kind="stable").to_dict("records"):
        n = int(line["drop_n"])
        found = {name: statistics.proportion(round(n * line[name]), n) for name in ANSWERS[:2]}
        gap = (line["gap_logodds" + end] for end in ENDS)
        found["gap_logodds"] = Estimate(*gap, "nats")
        rows += [
            {"dose": line["dose"], "quantity": name, "value": e.value, "low": e.low,
             "high": e.high, "n": e.n}
            for name, e in found.items()
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["dose", "quantity", "value", "low", "high", "n"])


# The card's models --------------------------------------------------------------------------------

OF_CARD = ("llama-3.2-1b", "tinyllama", "pythia-160m", "pythia-410m")


def beside_card(found: pd.DataFrame, published: Mapping[str, dict]) -> pd.DataFrame:
    """Return the card's §28 to §30 for each of its models beside what was measured on its own
    weights, as text.

    Index model; columns the card, here: gap, joint effect and specific portion on p_full in pp and
    the grade, or "not run", with the command.
    """
    joint, specific = (published[name]["value"] for name in ("joint_effect", "specific_portion"))
    card = dict.fromkeys(OF_CARD, "specific portion about zero or negative")
    card["llama-3.2-1b"] = f"joint {joint:+} pp, specific {specific:+} pp"
    own = found[found["weights"] == "real"].drop_duplicates("model").set_index("model")
    lines = []
    for name in OF_CARD:
        line = own.loc[name].to_dict()
        here = line["missing"] if isinstance(line["missing"], str) else _measured(line)
        lines.append({"model": name, "the card": card[name], "here": here})
    return pd.DataFrame(lines).set_index("model")


def _measured(line: Mapping) -> str:
    names = {"gap": "gap", "joint": "joint_effect", "specific": "specific_portion"}
    texts = [f"{words} {_text(line, name, '+.2f')} pp" for words, name in names.items()]
    return ", ".join([*texts, f"grade: {line['grade']}"])
