"""What separation says: TopK beside JumpReLU by their sharpest latents, and latents beside their
null.
"""

import pandas as pd

from sandbagging import files, statistics
from sandbagging.saes.recipes import DEFAULT_K
from sandbagging.statistics import Estimate

ARCHITECTURES = ("topk", "jumprelu")
NUMBERS = ("d_max", "d_mean_active", "d_mean_all", "l0", "n_active")
COLUMNS = ["tag", "layer", "pair", "d", *NUMBERS, "n_excluded", "null_d_max"]
CARD_SHARE = 22 / 27  # of the card's pairs, JumpReLU has the larger d_max in so many

# TopK beside JumpReLU -----------------------------------------------------------------------------


def matched(separation: pd.DataFrame, quality: pd.DataFrame) -> pd.DataFrame:
    """Return a row per formula, layer and training condition that has both architectures.

    Columns (number, architecture); d_max without its sign. A TopK SAE of another k than the default
    is another architecture, and left out. separation: the rows of one pair of conditions.
    """
    default = quality[(quality["k"] == DEFAULT_K) | quality["k"].isna()]
    rows = separation[separation["tag"].isin(default["tag"])]
    rows = files.joined(rows, default[["tag", "architecture", "condition"]], "tag", "many_to_one")
    rows = rows.assign(d_max=rows["d_max"].abs())
    keys = ["d", "layer", "condition"]
    wide = rows.pivot(index=keys, columns="architecture", values=list(NUMBERS))
    columns = pd.MultiIndex.from_product([NUMBERS, ARCHITECTURES])
    return wide.reindex(columns=columns).dropna().astype(float)


def wins(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return by formula (d) how many pairs each architecture wins by d_max.

    Equality to two decimals is a tie.
    """
    d_max = pairs["d_max"].round(2)
    better, worse = d_max["jumprelu"] > d_max["topk"], d_max["jumprelu"] < d_max["topk"]
    won = pd.DataFrame({"JumpReLU": better, "TopK": worse, "ties": ~(better | worse)})
    return won.groupby("d").sum()


def share_won(tally: pd.DataFrame) -> dict[str, Estimate]:
    """Return {formula: JumpReLU's share of the pairs} with an exact binomial CI95."""
    return {
        d: statistics.proportion(int(row["JumpReLU"]), int(row.sum()), "share of pairs")
        for d, row in tally.iterrows()
    }


def ratios(pairs: pd.DataFrame) -> dict[str, float]:
    """Return JumpReLU divided by TopK, the median over pairs, by number; {} without pairs."""
    names = ("d_mean_all", "d_mean_active", "l0") if len(pairs) else ()
    return {name: float((pairs[name]["jumprelu"] / pairs[name]["topk"]).median()) for name in names}


# Latents beside their null ------------------------------------------------------------------------


def above_null(separation: pd.DataFrame) -> dict[str, int]:
    """Return {pair: in how many SAEs the best |d_z| lies above the 95th percentile of its null}."""
    of_latents = (separation["d"] == "dz") & ~separation["tag"].str.startswith("diff_means")
    rows = separation[of_latents]
    beyond = rows["d_max"].abs() > rows["null_d_max"]
    return {pair: int(count) for pair, count in beyond.groupby(rows["pair"]).sum().items()}
