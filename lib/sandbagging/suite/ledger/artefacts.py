"""What the ledger is made of: the tables of the notebooks before, as one run wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import metrics, models
from sandbagging.gate import Gate
from sandbagging.heads.head import Head, parse
from sandbagging.statistics import Estimate
from sandbagging.suite import runs

DEQUANTISED = ("smollm2-135m-instruct",)  # its weights come out of a file of 4 bits a weight (Q4_1)


class Artefacts(NamedTuple):
    """The tables of one run that the ledger is made of; columns as in the run folder."""

    model: str
    random_weights: bool
    gate: Gate
    scores: pd.DataFrame  # 00, test questions
    separation: pd.DataFrame  # 03
    cells: list[dict]  # 06: layer, tag, position, error_term, gap_e1, gap_e4, verdict, ...
    sweep: pd.DataFrame  # 07
    heads: list[Head]
    circuit: pd.DataFrame  # 08, per question
    draws: pd.DataFrame
    models: pd.DataFrame  # 09: one row per model
    summary: dict  # 08: joint, joint_neutral, specific_portion, random_uniform, survives, ...
    adapter: str = ""  # what was merged into the model beside what its name says

    @classmethod
    def read(cls, step: runs.Step) -> Artefacts:
        """Read what the notebooks before have written; UserError where a file is missing."""
        scores = step.read_table("00_baseline", "scores.csv.gz")
        summary = step.read_json("08_circuit", "summary.json")
        return cls(
            model=str(step.setting("model")),
            random_weights=bool(step.setting("random_weights")),
            gate=step.gate(),
            scores=scores[scores["split"] == "test"],
            separation=step.read_table("03_separation", "separation.csv"),
            cells=step.read_json("06_specificity", "summary.json")["verdicts"],
            sweep=step.read_table("07_heads", "effects.csv"),
            heads=parse(summary["heads"]),
            circuit=step.read_table("08_circuit", "effects_by_question.csv.gz"),
            draws=step.read_table("08_circuit", "draws.csv"),
            models=step.read_table("09_models", "models.csv"),
            summary=summary,
            adapter=str(step.setting("adapter")),
        )

    def recorded(self, *names: str) -> Estimate | None:
        """Return an Estimate of notebook 08's summary by its keys; None where there is none."""
        found = self.summary
        for name in names:
            found = (found or {}).get(name)
        return None if found is None or found["value"] is None else Estimate.from_dict(found)

    @property
    def measured_on(self) -> str:
        """The model in words, with what is special about its weights."""
        if self.random_weights:
            return f"{self.model}, random weights"
        entry = models.entry(self.model)
        base = entry.base if entry and entry.base else self.model
        special = [
            f" + {Path(self.adapter).name}" if self.adapter else "",
            f", taught on {base}" if base != self.model else "",
            ", dequantised from 4 bits (Q4_1)" if base in DEQUANTISED else "",
        ]
        return self.model + "".join(special)

    @property
    def untouched(self) -> bool:
        """Whether the weights are those that the model's name stands for."""
        return not self.random_weights and not self.adapter


def joint_by_question(
    circuit: pd.DataFrame,
    condition: str,
    intervention: str = "joint",
    metric: str = metrics.CARD,
) -> pd.Series:
    """Return the effect in pp per question of one intervention of notebook 08, by question_id.

    The series is empty where the intervention was not run.
    """
    rows = circuit[(circuit["condition"] == condition) & (circuit["metric"] == metric)]
    rows = rows[rows["intervention"] == intervention]
    return (100 * (rows["value"] - rows["baseline"])).set_axis(rows["question_id"]).sort_index()


def specificity_cells(a: Artefacts) -> pd.DataFrame:
    """Return notebook 06's cells with the error term kept, at the last token where it was run.

    The gaps are Estimates in pp.
    """
    kept = [cell for cell in a.cells if cell["error_term"] == "kept"]
    at_last = [cell for cell in kept if cell["position"] == "last"] or kept
    gaps = ["gap_e1", "gap_e1_seeds", "gap_e4"]
    read = [cell | {name: Estimate.from_dict(cell[name]) for name in gaps} for cell in at_last]
    columns = ["layer", "tag", "position", *gaps, "p_equivalent", "verdict"]
    return pd.DataFrame(read, columns=columns)


def draw_effects(draws: pd.DataFrame, kind: str) -> np.ndarray:
    """Return the effects of one kind of random draws on p_full [draw], in pp."""
    rows = draws[draws["kind"] == kind]
    if "metric" in rows:
        rows = rows[rows["metric"] == metrics.CARD]
    return rows["effect"].to_numpy()
