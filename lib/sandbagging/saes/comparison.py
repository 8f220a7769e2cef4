"""What separation says: beside its null, TopK beside JumpReLU, and latent by latent."""

from collections.abc import Mapping

import pandas as pd

from sandbagging import files, statistics
from sandbagging.saes.recipes import DEFAULT_K
from sandbagging.saes.separation import Chosen
from sandbagging.statistics import Estimate

ARCHITECTURES = ("topk", "jumprelu")
NUMBERS = ("d_max", "d_mean_active", "d_mean_all", "l0", "n_active")
COLUMNS = ["tag", "layer", "pair", "d", *NUMBERS, "n_excluded", "null_d_max"]
CARD_SHARE = 22 / 27  # of the card's pairs, JumpReLU has the larger d_max in so many
RESPONDS = 0.1  # of its d_z on sandbag prompts that a latent must reach on placebo prompts

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


def disagreements(pairs: pd.DataFrame) -> int:
    """Return in how many pairs the two formulas name different winners."""
    if not len(pairs):
        return 0
    d_max = pairs["d_max"].round(2)
    better = (d_max["jumprelu"] > d_max["topk"]).unstack("d")
    return int((better.nunique(axis=1) > 1).sum())


def ratios(pairs: pd.DataFrame) -> dict[str, float]:
    """Return JumpReLU divided by TopK, the median over pairs, by number; {} without pairs."""
    names = ("d_mean_all", "d_mean_active", "l0") if len(pairs) else ()
    return {name: float((pairs[name]["jumprelu"] / pairs[name]["topk"]).median()) for name in names}


def leads(detectors: pd.DataFrame, quality: pd.DataFrame, pair: str) -> Mapping[tuple, float]:
    """Return {(detector, L0): mean AUROC of JumpReLU minus that of TopK} on one pair."""
    architecture = detectors["tag"].map(quality.set_index("tag")["architecture"])
    rows = detectors.assign(architecture=architecture)[detectors["pair"] == pair]
    mean = rows.groupby(["by", "at_l0", "architecture"])["value"].mean().unstack()
    if not set(ARCHITECTURES) <= set(mean):
        return {}
    return (mean["jumprelu"] - mean["topk"]).to_dict()


# Latents beside their null and beside the difference of means -------------------------------------


def above_null(separation: pd.DataFrame) -> dict[str, int]:
    """Return {pair: in how many SAEs the best |d_z| lies above the 95th percentile of its null}."""
    rows = _by_latents(separation)
    beyond = rows["d_max"].abs() > rows["null_d_max"]
    return {pair: int(count) for pair, count in beyond.groupby(rows["pair"]).sum().items()}


def along_means(separation: pd.DataFrame) -> pd.Series:
    """Return |d_z| along the difference of means, by pair and layer."""
    rows = separation[(separation["d"] == "dz") & _are_means(separation)]
    return rows.set_index(["pair", "layer"])["d_max"].abs()


def means_as_sharp(separation: pd.DataFrame, pair: str) -> int:
    """Return in how many SAEs the difference of means is as sharp as the best latent."""
    rows = _by_latents(separation)
    rows = rows[rows["pair"] == pair]
    means = along_means(separation)[pair].reindex(rows["layer"]).to_numpy()
    return int((means >= rows["d_max"].abs().to_numpy()).sum())


def _by_latents(separation: pd.DataFrame) -> pd.DataFrame:
    return separation[(separation["d"] == "dz") & ~_are_means(separation)]


def _are_means(separation: pd.DataFrame) -> pd.Series:
    return separation["tag"].str.startswith("diff_means")


# The latent chosen on train questions -------------------------------------------------------------


def chosen_rows(chosen: Mapping[str, Chosen]) -> pd.DataFrame:
    """Return d_z on test of each SAE's chosen latent: tag, pair, and the fields of an Estimate."""
    pairs = dict.fromkeys(pair for c in chosen.values() for pair in c.on_test)
    rows = [
        {"tag": tag, "pair": pair, **c.on_test[pair].as_dict()}
        for pair in pairs
        for tag, c in chosen.items()
    ]
    return pd.DataFrame(
        rows, columns=["tag", "pair", "value", "low", "high", "n", "unit", "method"]
    )


def chosen_table(chosen: Mapping[str, Chosen]) -> pd.DataFrame:
    """Return each SAE's chosen latent for reading, with its d_z on train and, by pair, on test."""
    rows = {
        tag: {"latent": c.latent, "d_z on train": f"{c.d_train:.2f}", **c.on_test}
        for tag, c in chosen.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tag")


def as_entries(chosen: Mapping[str, Chosen]) -> dict[str, dict]:
    """Return the chosen latents for a summary file, {tag: {latent, d_train, pair: Estimate}}."""
    return {t: {"latent": c.latent, "d_train": c.d_train, **c.on_test} for t, c in chosen.items()}


def clear_of_zero(chosen: Mapping[str, Chosen], pair: str) -> set[str]:
    """Return the tags whose chosen latent has the CI95 of its d_z on a pair clear of 0."""
    ends = {tag: c.on_test[pair] for tag, c in chosen.items()}
    return {tag for tag, e in ends.items() if e.low > 0 or e.high < 0}


def responding(chosen: Mapping[str, Chosen], pair: str, also: str) -> set[str]:
    """Return the tags clear of 0 on both pairs, on `also` by at least RESPONDS of the other."""
    both = clear_of_zero(chosen, pair) & clear_of_zero(chosen, also)
    d = {tag: [abs(chosen[tag].on_test[p].value) for p in (pair, also)] for tag in both}
    return {tag for tag, (first, second) in d.items() if second >= RESPONDS * first}


def candidate(chosen: Mapping[str, Chosen], quality: pd.DataFrame) -> str | None:
    """Return the tag of the middle layer's mixed TopK SAE, else the first of `chosen`, or None."""
    layers = sorted(quality["layer"].unique())
    rows = quality[quality["tag"].isin(list(chosen))]
    wanted = (rows["architecture"] == "topk") & (rows["layer"] == layers[len(layers) // 2])
    mixed = rows.loc[wanted & rows["tag"].str.contains("_mixed"), "tag"]
    return next(iter(mixed), next(iter(chosen), None))
