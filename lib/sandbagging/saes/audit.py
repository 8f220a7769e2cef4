"""Audit published SAEs: what a folder or release holds, what is wrong with it, and how it does on
given activations.

Nothing is guessed and no code is loaded: settings come from cfg.json, the tag and the caller,
weights from safetensors.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.progress import Progress
from sandbagging.saes import evaluation, finding, folders
from sandbagging.saes.recipes import parsed

if TYPE_CHECKING:
    pass

# Where an SAE is no longer called sound. An FVU of 0.5 is notebook 02's bar; more than half of the
# latents silent leaves a dictionary smaller than its name; at an FVU of 1 a constant does as well,
# as with a wrong layer, model or scaling.
POOR_FVU, MANY_DEAD = 0.5, 0.5


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found of one SAE; figures that could not be had are None."""

    name: str
    architecture: str | None = None
    layer: int | None = None
    d_in: int | None = None
    d_sae: int | None = None
    k: int | None = None
    decoder_norm_low: float | None = None
    decoder_norm_high: float | None = None
    threshold_low: float | None = None
    threshold_high: float | None = None
    n_tokens: int | None = None
    l0: float | None = None
    fvu: float | None = None
    dead: float | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """sound, or the first fault."""
        return (
            self.faults[0]
            if self.faults
            else "sound"
            if self.n_tokens
            else "sound as far as weights show"
        )

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "verdict": self.verdict}


# a layer in, resid_post [token d_model] out; raises UserError where there is none
Activations = Callable[[int], Tensor]


def audit(
    source: str | Path,
    *,
    activations: Activations | None = None,
    given: dict[str, Any] | None = None,
    only: str = "*",
    progress: Progress | None = None,
) -> list[Report]:
    """Return a report for each SAE of a local folder, a hub release (owner/name), or a release that
    sae-lens knows by name.

    `activations` gives raw resid_post of a layer, on which l0, fvu and dead latents are measured;
    `given` states settings that files leave out; `only` is a glob over names. Raises UserError
    where there is no SAE at all.
    """
    jobs = finding.readers(source, given, only)
    reports = []
    for done, (name, read) in enumerate(jobs):
        reports.append(_report(name, read, activations))
        if progress is not None:
            progress(name, done + 1, len(jobs))
    return reports


def table(reports: list[Report]) -> pd.DataFrame:
    """Return the reports as a table: a row an SAE, the verdict last."""
    lines = []
    for r in reports:
        lines.append(
            {
                "SAE": r.name,
                "architecture": r.architecture,
                "d_in": r.d_in,
                "d_sae": r.d_sae,
                "k": r.k,
                "decoder norms": _range(r.decoder_norm_low, r.decoder_norm_high),
                "thresholds": _range(r.threshold_low, r.threshold_high),
                "l0": r.l0 and round(r.l0, 1),
                "fvu": r.fvu and round(r.fvu, 3),
                "dead": r.dead if r.dead is None else round(r.dead, 3),
                "verdict": "; ".join(r.faults) or r.verdict,
            }
        )
    return pd.DataFrame(lines).astype(object)


def _range(low: float | None, high: float | None) -> str | None:
    return None if low is None else f"{low:.3g} to {high:.3g}"


# One SAE ------------------------------------------------------------------------------------------


def _report(
    name: str, read: Callable[[], folders.Contents], activations: Activations | None
) -> Report:
    """Return the report of one SAE; a refusal is a fault like any other."""
    try:
        if "/" not in name:
            finding.check_name(name)
        found = read()
    except UserError as error:
        return Report(name, faults=(f"refused: {error}",))
    config, weights = found.config, found.weights
    norms, threshold = weights["W_dec"].norm(dim=1), weights.get("threshold")
    layer = _layer(name, config)
    report = Report(
        name,
        architecture=config["architecture"],
        layer=layer,
        d_in=config["d_in"],
        d_sae=config["d_sae"],
        k=config.get("k"),
        decoder_norm_low=float(norms.min()),
        decoder_norm_high=float(norms.max()),
        threshold_low=None if threshold is None else float(threshold.min()),
        threshold_high=None if threshold is None else float(threshold.max()),
        faults=tuple(_weight_faults(weights)),
        notes=tuple(found.notes),
    )
    return report if activations is None else _judged(report, found, activations)


def _layer(name: str, config: dict[str, Any]) -> int | None:
    """Return the layer that an SAE reads: from its metadata, its hook's name, or its tag."""
    metadata = config.get("metadata") or {}
    hook = re.search(r"blocks\.(\d+)\.", str(metadata.get("hook_name") or ""))
    fields = parsed(name)
    said = metadata.get("hook_layer")
    return (
        said
        if isinstance(said, int)
        else int(hook[1])
        if hook
        else fields.layer
        if fields
        else None
    )


def _weight_faults(weights: dict[str, Tensor]) -> list[str]:
    """Return what the weights alone show to be wrong."""
    faults, threshold = [], weights.get("threshold")
    if threshold is not None and not threshold.any():
        faults.append("functionally ReLU: all thresholds are 0")
    elif threshold is not None and (threshold < 0).any():
        faults.append(
            f"{int((threshold < 0).sum())} thresholds are below 0, where a latent would code "
            "negative values"
        )
    norms = weights["W_dec"].norm(dim=1)
    if (norms - 1).abs().max() > folders.NORM_TOLERANCE:
        faults.append(
            f"decoder rows are not of unit norm ({float(norms.min()):.3g} to "
            f"{float(norms.max()):.3g})"
        )
    silent = int((weights["W_enc"].norm(dim=0) == 0).sum())
    if silent:
        faults.append(f"{silent} latents have an encoder of zeros")
    return faults


def _judged(report: Report, found: folders.Contents, activations: Activations) -> Report:
    """Add l0, fvu and dead share on activations of the SAE's layer, and the faults they show."""
    if report.layer is None:
        return dataclasses.replace(
            report, faults=(*report.faults, "its layer is not said, so it cannot be judged")
        )
    try:
        x = activations(report.layer)
    except UserError as error:
        return dataclasses.replace(report, notes=(*report.notes, f"not judged: {error}"))
    if x.shape[1] != report.d_in:
        fault = f"fits models of width {report.d_in}, and these activations have {x.shape[1]}"
        return dataclasses.replace(report, faults=(*report.faults, fault))
    figures = evaluation.quality(folders.built(Path(report.name), found), x)
    faults = list(report.faults)
    if figures["fvu"] >= 1:
        faults.append(
            f"fvu {figures['fvu']:.2f}: a constant does as well, as with a wrong layer, model or "
            "scaling"
        )
    elif figures["fvu"] > POOR_FVU:
        faults.append(f"fvu {figures['fvu']:.2f}: it misses more than it explains")
    if figures["dead"] > MANY_DEAD:
        faults.append(f"{figures['dead']:.0%} of the latents never fire on these {len(x)} tokens")
    measured = {name: figures[name] for name in ("n_tokens", "l0", "fvu", "dead")}
    return dataclasses.replace(report, **measured, faults=tuple(faults))
