"""The retold figures of the model card, and which runs' models they are about."""

from __future__ import annotations

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


# What the card states beside a claim and computes from its numbers, or from the very same runs:
# portions, shares, subsets, levels. It is no evidence of its own and stands under that claim.
UNDER = {
    "swap_gap_all": "swap_gap_llama",
    "early_heads": "five_heads",
    "single_effect_L0H3": "five_heads",
    "single_effect_L0H6": "five_heads",
    "single_effect_L1H26": "five_heads",
    "single_effect_L4H3": "five_heads",
    "single_effect_L8H14": "five_heads",
    "gap_to_random_heads": "joint_effect",
    "redundancy": "joint_effect",
    "specific_portion": "joint_effect",
    "specific_share": "joint_effect",
    "p_sandbag_after": "joint_effect",
    "joint_effect_five_questions": "joint_effect",
    "best_three_heads": "best_three_effect",
    "dispensable_heads": "best_three_effect",
    "neutral_questions": "neutral_effect",
    "p_sandbag": "p_genuine",
    "jumprelu_win_share": "jumprelu_wins",
    "topk_wins": "jumprelu_wins",
    "topk_d_max": "jumprelu_wins",
    "jumprelu_d_max": "jumprelu_wins",
    "d_mean_ratio": "jumprelu_wins",
}
# Claims about a tool, one kind of SAE against another: any model that it is used on can speak to
# their direction. All others are about what is in a model.
ABOUT_TOOLS = ("jumprelu_wins", "jumprelu_win_share", "topk_wins", "d_mean_ratio")
MODELS = {
    "llama-3.2-1b": "Llama-3.2-1B",
    "smollm2-135m": "SmolLM2-135M",
    "tinyllama": "TinyLlama",
    "pythia-160m": "Pythia-160M",
    "pythia-410m": "Pythia-410M",
    "all": "three models",
}


def published() -> list[dict]:
    """Return every retold figure of the card, as `data/published.yaml` holds them."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def by_name() -> dict[str, dict]:
    """Return the retold figures by the name of their claim."""
    return {entry["claim"]: entry for entry in published()}


def no_findings() -> pd.DataFrame:
    """Return the retold statements that are no findings: how things were made, what there is.

    Columns the card says, kind, note.
    """
    table = pd.DataFrame([entry for entry in published() if entry["kind"] != "finding"])
    table = table.assign(note=table["note"].fillna("")).rename(columns={"text": "the card says"})
    return table[["the card says", "kind", "note"]].reset_index(drop=True)


def same_model(claim_model: str, model: str) -> bool:
    """Return whether a run's model is the one that a claim is about.

    A claim about several models is about none of them alone.
    """
    return model in ALIASES.get(claim_model, ())


def slips() -> pd.DataFrame:
    """Return where the card's figures do not add up or can be read in two ways.

    Columns the card says, value, note.
    """
    entries = [by_name()[claim] for claim in SLIPS]
    return pd.DataFrame(
        {
            "the card says": [entry["text"] for entry in entries],
            "value": [f"{entry['value']:g}" for entry in entries],
            "note": [entry["note"] for entry in entries],
        }
    )
