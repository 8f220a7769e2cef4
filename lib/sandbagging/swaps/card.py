"""The card's nine cells of the swap, beside what was measured at the same share of depth."""

from collections.abc import Mapping

import pandas as pd

from sandbagging.swaps.estimates import MARGIN_PP

CARD_CELLS = {
    "Llama-3.2-1B": (4, 8, 12),
    "SmolLM2-135M": (7, 15, 22),
    "TinyLlama-1.1B": (5, 11, 16),
}


def beside_card(judged: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the card's nine cells, each with what was measured at the same share of depth
    (JumpReLU, error kept) and why they differ.
    """
    rows = judged[(judged["error_term"] == "kept") & judged["tag"].str.contains("jumprelu")]
    mixed = rows["tag"].str.endswith("mixed")
    rows = rows[mixed] if mixed.any() else rows
    ours = [part.to_dict("records") for _, part in rows.groupby("layer")]
    found = []
    for card_model, layers in CARD_CELLS.items():
        for place, layer in enumerate(layers):
            cells_here = ours[place] if place < len(ours) else []
            found.append(
                {
                    "card's cell": f"{card_model} L{layer}",
                    "card (§24, §26, §31)": f"gap < {MARGIN_PP} pp",
                    "this suite, at that depth": "; ".join(map(_measured, cells_here)) or "not run",
                    "why they differ": "; ".join(
                        [_model_differs(card_model, model), *(row["reason"] for row in cells_here)]
                    ),
                }
            )
    return pd.DataFrame(found)


def _measured(row: Mapping) -> str:
    e1, e4 = (f"{row[gap]:short}" for gap in ("gap_e1_pp", "gap_e4_pp"))
    return f"L{row['layer']}: E6 − E1 {e1}, E6 − E4 {e4} pp: {row['verdict']}"


def _model_differs(card_model: str, model: str) -> str:
    if card_model.lower() == model.lower():
        return "the same model"
    if model.lower().startswith(card_model.lower()):
        return "the card's model before it was tuned on instructions; ours is restored from 4 bits"
    return "another model at the same share of its depth, so no test of this cell"
