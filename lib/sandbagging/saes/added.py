"""What latents add to a probe of the raw residual stream at the same layer, on the same prompts."""

import numpy as np
import pandas as pd

from sandbagging.saes import detection
from sandbagging.saes.raw_probes import ANSWER, SAME
from sandbagging.statistics import Estimate

RAW = "logistic"  # the probe of the raw stream that latents stand beside
PROMPT, IN_OTHER_WORDS, GIVEN = "the prompt", "the prompt, other wordings", "the answer to come"
TARGETS = (PROMPT, IN_OTHER_WORDS, GIVEN)
COLUMNS = ["target", "tag", "layer", "probe", "latents", "raw", "lead", "sign"]


def target_of(scores: pd.DataFrame) -> pd.Series:
    """Return in words what each row of probe scores is about; the wordings that were kept out are
    one target.
    """
    of_prompt = np.where(scores["wording"] == SAME, PROMPT, IN_OTHER_WORDS)
    return pd.Series(np.where(scores["target"] == ANSWER, GIVEN, of_prompt), scores.index)


def beside_raw(raw: pd.DataFrame, latents: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return how far each SAE's latents lie above the logistic probe of the raw stream at its
    layer, target by target, from `raw_probes.probe_scores` and `latent_probes.latent_scores`.

    Columns: target, tag, layer, probe; latents, raw and lead (AUROCs, Estimates; the mean over the
    wordings of a target, all resampled by the same questions); sign ("latents", "raw", or "" where
    the CI95 of the lead holds 0).
    """
    raw = raw[raw["probe"] == RAW].assign(said=target_of)
    rows = []
    for (layer, said), there in raw[raw["layer"].isin(latents["layer"])].groupby(
        ["layer", "said"], sort=False
    ):
        without = _drawn(there, seed)
        of_layer = latents[latents["layer"] == layer].assign(said=target_of)
        parts = of_layer[of_layer["said"] == said].groupby(["tag", "probe"], sort=False)
        for (tag, probe), part in parts:
            found = _drawn(part, seed)
            n = part["question_id"].nunique()
            lead = _estimate(found - without, n)
            sign = "latents" if lead.low > 0 else "raw" if lead.high < 0 else ""
            told = (_estimate(found, n), _estimate(without, n), lead, sign)
            rows.append((said, tag, layer, probe, *told))
    return pd.DataFrame(rows, columns=COLUMNS)


def signs(beside: pd.DataFrame) -> pd.DataFrame:
    """Return by target in how many comparisons of `beside_raw` the latents lead, the raw probe
    leads, or neither, with both mean AUROCs.
    """
    rows = {
        target: {
            "latents (mean AUROC)": float(np.mean([e.value for e in part["latents"]])),
            "no SAE (mean AUROC)": float(np.mean([e.value for e in part["raw"]])),
            "latents lead": int((part["sign"] == "latents").sum()),
            "no SAE leads": int((part["sign"] == "raw").sum()),
            "neither": int((part["sign"] == "").sum()),
        }
        for target in TARGETS
        if len(part := beside[beside["target"] == target])
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("what is read")


def _drawn(scores: pd.DataFrame, seed: int) -> np.ndarray:
    """Return the AUROC, and behind it that of every resample, the mean over wordings."""
    found = [
        detection.auroc_draws(detection.kinds_of(part), seed)
        for _, part in scores.groupby("wording", sort=False)
    ]
    return np.mean([[value, *draws] for value, draws in found], axis=0)


def _estimate(drawn: np.ndarray, n: int) -> Estimate:
    low, high = np.percentile(drawn[1:], [2.5, 97.5])
    method = f"percentile bootstrap over questions, {detection.N_RESAMPLES} resamples"
    return Estimate(float(drawn[0]), float(low), float(high), n, "AUROC", method)
