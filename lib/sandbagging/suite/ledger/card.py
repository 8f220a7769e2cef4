"""The retold figures of the model card, and which runs' models they are about."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import yaml

from sandbagging.provenance import PACKAGE

PUBLISHED = PACKAGE / "data" / "published.yaml"
# Claims whose figures do not add up or can be read in two ways.
SLIPS = ("topk_sae_count", "d_sae", "early_heads", "neutral_questions", "topk_wins",
         "training_conditions", "gap_to_random_heads")  # fmt: skip
# The models that the claims are about, by every name that a run can give them.
ALIASES = {
    "llama-3.2-1b": ("llama-3.2-1b", "meta-llama/Llama-3.2-1B"),
    "smollm2-135m": ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M"),
    "tinyllama": ("tinyllama", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"),
    "pythia-160m": ("pythia-160m", "EleutherAI/pythia-160m"),
    "pythia-410m": ("pythia-410m", "EleutherAI/pythia-410m"),
}


def published() -> list[dict]:
    """Return every retold figure of the card, as `data/published.yaml` holds them."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def by_name() -> dict[str, dict]:
    """Return the retold figures by the name of their claim."""
    return {entry["claim"]: entry for entry in published()}


def no_findings() -> pd.DataFrame:
    """Return the retold statements that are no findings: how things were made, what there is.

    Columns claim, kind, value, unit, section, note.
    """
    table = pd.DataFrame([entry for entry in published() if entry["kind"] != "finding"])
    table = table.assign(value=table["value"].astype(str), note=table["note"].fillna(""))
    return table[["claim", "kind", "value", "unit", "section", "note"]].reset_index(drop=True)


def same_model(claim_model: str, model: str) -> bool:
    """Return whether a run's model is the one that a claim is about.

    A claim about several models is about none of them alone.
    """
    return model in ALIASES.get(claim_model, ())


def slips() -> pd.DataFrame:
    """Return where the card's figures do not add up or can be read in two ways.

    Columns claim, section, value, note.
    """
    entries = by_name()
    columns = ("claim", "section", "value", "note")
    table = pd.DataFrame([{name: entries[claim][name] for name in columns} for claim in SLIPS])
    return table.assign(value=[f"{value:g}" for value in table["value"]])


# Where notebook 08's summary holds what the card states too.
IN_SUMMARY = {
    "joint_effect": ("joint",),
    "redundancy": ("redundancy",),
    "gap_to_random_heads": ("random_uniform", "gap"),
    "best_three_effect": ("best_three", "test"),
    "neutral_effect": ("joint_neutral",),
    "specific_portion": ("specific_portion",),
}


def beside(summary: Mapping, name: str) -> pd.DataFrame:
    """Return the card's figures of the circuit beside those of notebook 08's summary, as text.

    A figure that the summary lacks is left out; name: the run's model. Columns claim, section,
    Llama-3.2-1B (card), here: NAME.
    """
    entries, rows = by_name(), []
    for claim, (first, *rest) in IN_SUMMARY.items():
        if first not in summary:
            continue
        ours = summary[first][rest[0]] if rest else summary[first]
        theirs = f"{entries[claim]['value']} {entries[claim]['unit']}"
        row = {"claim": claim, "section": entries[claim]["section"], "Llama-3.2-1B (card)": theirs}
        rows.append(row | {f"here: {name}": str(ours)})
    return pd.DataFrame(rows)
