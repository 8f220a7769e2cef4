"""How notebook 02 tells of training: counts, sizes, and figures by architecture."""

from collections.abc import Mapping, Sequence

import pandas as pd

from sandbagging import saes
from sandbagging.statistics import Estimate


def token_counts(tokens: pd.DataFrame, recipes: Sequence[saes.Recipe]) -> pd.DataFrame:
    """Return how many tokens the recipes' conditions have: a row a split, a column a condition."""
    conditions = {recipe.condition for recipe in recipes}
    counts = {
        c: {s: len(saes.select_tokens(tokens, c, split=s)) for s in ("train", "test")}
        for c in saes.CONDITIONS
        if c in conditions
    }
    return pd.DataFrame(counts).rename_axis("tokens")


def sizes(recipes: Sequence[saes.Recipe]) -> list[str]:
    """Return the recipes' numbers of latents, such as "4 × 576 = 2304"."""
    d_in = recipes[0].d_in
    return [f"{e} × {d_in} = {e * d_in}" for e in sorted({recipe.expansion for recipe in recipes})]


def l0_by_architecture(history: pd.DataFrame) -> pd.DataFrame:
    """Return the range of L0 over the SAEs of an architecture, on the batches of the first and last
    step: columns architecture, first_low, first_high, last_low, last_high.
    """
    l0 = history.groupby("tag", sort=False)["l0"].agg(["first", "last"])
    architecture = l0.index.map(lambda tag: saes.parse_tag(tag).architecture)
    found = l0.groupby(architecture).agg(
        first_low=("first", "min"),
        first_high=("first", "max"),
        last_low=("last", "min"),
        last_high=("last", "max"),
    )
    return found.rename_axis("architecture").reset_index()


def usual_tag(quality: pd.DataFrame, layer: int) -> str:
    """Return the tag of a layer's mixed TopK SAE with k = 64, else of its first SAE."""
    of_layer = quality[quality["layer"] == layer]
    usual = of_layer[(of_layer["k"] == 64) & (of_layer["condition"] == "mixed")]
    return (usual if len(usual) else of_layer)["tag"].iloc[0]


def by_place(fvu: pd.DataFrame) -> pd.DataFrame:
    """Return `pitfalls.last_tokens_alone` with a row for each place (tokens, split) and the columns
    n, alone, usual.
    """
    wide = fvu.pivot(index=["tokens", "split", "n"], columns="sae", values="fvu")
    table = wide.rename_axis(columns=None).reset_index("n")
    return table.reindex([("last", "train"), ("last", "test"), ("all", "test")])


def fvu_columns(within: Mapping[str, Mapping[str, Estimate]]) -> dict[str, pd.Series]:
    """Return {column: FVU by tag} for a table, a column a condition, of `estimates.fvu_within`."""
    return {
        f"within {condition}": pd.Series({tag: e.value for tag, e in of.items()})
        for condition, of in within.items()
    }
