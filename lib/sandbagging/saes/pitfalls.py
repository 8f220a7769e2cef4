"""Two ways to fail, on purpose: an SAE of last tokens alone, and thresholds that start at zero."""

import dataclasses
from typing import TYPE_CHECKING

import pandas as pd
import torch

from sandbagging import activations
from sandbagging.files import Folder, read_csv
from sandbagging.progress import Progress
from sandbagging.saes import folders, saving, tokens, training
from sandbagging.saes.evaluation import quality
from sandbagging.saes.grid import input_scales
from sandbagging.saes.recipes import Recipe

if TYPE_CHECKING:
    from sae_lens import SAE

ASKED = ("genuine", "sandbag", "neutral")


def last_tokens_alone(
    collected: Folder,
    trained: Folder,
    usual: str,
    recipe: Recipe,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the FVU of an SAE that learns from last prompt tokens alone beside that of the tag
    `usual`: columns sae (alone, usual), tokens (last, all), split, n, fvu.
    """
    table, resid = _read(collected, recipe.layer)
    last = {
        split: torch.cat(list(tokens.last_tokens(resid, table, split, ASKED).values()))
        for split in ("train", "test")
    }
    alone = _train(recipe, last["train"], input_scales(collected, [recipe.layer]), progress)
    judged_on = {("last", split): x for split, x in last.items()}
    judged_on["all", "test"] = resid[tokens.question_rows(table, "mixed", "test")]
    return pd.DataFrame(
        {"sae": name, "tokens": which, "split": split, "n": len(x), "fvu": quality(sae, x)["fvu"]}
        for name, sae in (("alone", alone), ("usual", folders.load(trained / usual)))
        for (which, split), x in judged_on.items()
    )


def thresholds_from_zero(
    collected: Folder, recipe: Recipe, progress: Progress | None = None
) -> pd.DataFrame:
    """Return JumpReLU trained with its thresholds at 0 beside `recipe` as it is: columns start,
    lowest and highest (threshold after training), at_zero (how many), d_sae, l0, fvu, noted (by
    `folders.weight_notes`).

    l0 and fvu are those at the test questions' tokens.
    """
    table, resid = _read(collected, recipe.layer)
    mixed, scale = (
        resid[tokens.select_tokens(table, "mixed")],
        input_scales(collected, [recipe.layer]),
    )
    test = resid[tokens.question_rows(table, "mixed", "test")]
    at_zero = dataclasses.replace(recipe, init_threshold=0.0, lowest_threshold=0.0)
    rows = []
    for made in (at_zero, recipe):
        sae = _train(made, mixed, scale, progress)
        threshold, figures = sae.threshold, quality(sae, test)
        rows.append(
            {
                "start": made.init_threshold,
                "lowest": float(threshold.min()),
                "highest": float(threshold.max()),
                "at_zero": int((threshold == 0).sum()),
                "d_sae": len(threshold),
                "l0": figures["l0"],
                "fvu": figures["fvu"],
                "noted": bool(folders.weight_notes(dict(sae.state_dict()))),
            }
        )
    return pd.DataFrame(rows)


def _read(collected: Folder, layer: int) -> tuple[pd.DataFrame, torch.Tensor]:
    return read_csv(collected / "tokens.csv.gz"), activations.load(collected, layer)


def _train(
    recipe: Recipe, x: torch.Tensor, scales: dict[int, float], progress: Progress | None
) -> "SAE":
    """Return an SAE of raw activations [token d_in]."""
    scale = scales[recipe.layer]
    report = (lambda done, total: progress("train", done, total)) if progress else None
    scaled, _ = tokens.training_data(x, scale)
    return saving.fold_scaling(training.train(recipe, scaled, progress=report)[0], scale)
