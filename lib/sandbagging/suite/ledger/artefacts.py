"""What the ledger is made of: the tables of the notebooks before, as one run wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import files, metrics, models, statistics
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
    cells: pd.DataFrame  # 06: verdicts.csv, a row per SAE
    sweep: pd.DataFrame  # 07
    heads: list[Head]  # those that 08 zeroed
    found: list[Head]  # 07: those that its rule finds, the strongest on train questions first
    circuit: pd.DataFrame  # 08, per question
    draws: pd.DataFrame
    rivals: pd.DataFrame  # 08: sets that were searched for as hard, on other prompts
    parts: pd.DataFrame  # 08: what each chosen head restores alone, and what is lost without it
    replacements: pd.DataFrame | None  # 08, a side view: what stands in place of the heads' z
    models: pd.DataFrame  # 09: one row per model
    summary: dict  # 08: joint, share_restored, specific, survives, wide, ...
    beside: list[dict]  # 00 and 08: `statistics.beside` of the headline numbers
    predictions: dict[str, list[dict]]  # by artefact: said, held, told
    adapter: str = ""  # what was merged into the model beside what its name says

    @classmethod
    def read(cls, step: runs.Step) -> Artefacts:
        """Read what the notebooks before have written; UserError where a file is missing."""
        scores = step.read_table("00_baseline", "scores.csv.gz")
        in_place = step.input("08_circuit") / "replacements.csv"
        summary = step.read_json("08_circuit", "summary.json")
        return cls(
            model=str(step.setting("model")),
            random_weights=bool(step.setting("random_weights")),
            gate=step.gate(),
            scores=scores[scores["split"] == "test"],
            separation=step.read_table("03_separation", "separation.csv"),
            cells=step.read_table("06_specificity", "verdicts.csv").fillna({"basis": ""}),
            sweep=step.read_table("07_heads", "effects.csv"),
            heads=parse(summary["heads"]),
            found=parse(step.read_json("07_heads", "heads.json")["found"]),
            circuit=step.read_table("08_circuit", "effects_by_question.csv.gz"),
            draws=step.read_table("08_circuit", "draws.csv"),
            rivals=step.read_table("08_circuit", "rivals.csv"),
            parts=step.read_table("08_circuit", "parts.csv"),
            replacements=files.read_csv(in_place) if in_place.is_file() else None,
            models=step.read_table("09_models", "models.csv"),
            summary=summary,
            beside=[
                *step.read_json("00_baseline", "summary.json")["wide"],
                *summary["wide"],
            ],
            predictions={
                artefact: step.read_json(artefact, "summary.json").get("predictions", [])
                for artefact in step.inputs
            },
            adapter=str(step.setting("adapter")),
        )

    def recorded(self, *names: str) -> Estimate | None:
        """Return an Estimate of notebook 08's summary by its keys; None where there is none."""
        found = self.summary
        for name in names:
            found = (found or {}).get(name)
        return None if found is None or found["value"] is None else Estimate.from_dict(found)

    def share(self, of: str, metric: str = metrics.DECIDES, leading: bool = False) -> Estimate:
        """Return the share of the gap that the heads have "restored" or "closed", or those that
        lead one by one, with the wider interval.
        """
        found = self.summary["leading"] if leading else self.summary
        return Estimate.from_dict(found[f"share_{of}"][metric])

    def restored_by_mean(self) -> Estimate | None:
        """Return the share of the gap restored on log-odds where the heads get their mean over
        genuine prompts in place of zero; None without side views.
        """
        if self.replacements is None:
            return None
        wanted = {"set": "joint", "way": "mean genuine", "metric": metrics.DECIDES,
                  "quantity": "share_restored"}  # fmt: skip
        rows = self.replacements
        (row,) = rows[(rows[list(wanted)] == pd.Series(wanted)).all(axis=1)].itertuples()
        return Estimate(row.value, row.low, row.high, int(row.n))

    def net_effect(self) -> Estimate:
        """Return what comes back on sandbag prompts beyond what changes on genuine ones, in nats of
        log-odds, with the wider interval.
        """
        return Estimate.from_dict(self.summary["specific"]["differences"]["genuine"]["logodds"])

    def wide_row(self, name: str) -> dict | None:
        """Return a headline number with all that is said beside it; None where there is none."""
        return next((row for row in self.beside if row["name"] == name), None)

    def wide(self, name: str) -> Estimate | None:
        """Return a headline number with the wider interval of those over questions and over
        categories; None where there is none.
        """
        row = self.wide_row(name)
        return None if row is None else Estimate.from_dict(row)

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
    """Return the effect per question of one intervention of notebook 08, in pp (log-odds: nats), by
    question_id.

    The series is empty where the intervention was not run.
    """
    rows = circuit[(circuit["condition"] == condition) & (circuit["metric"] == metric)]
    rows = rows[rows["intervention"] == intervention]
    _, factor = metrics.unit_of_change(metric)
    return (factor * (rows["value"] - rows["baseline"])).set_axis(rows["question_id"]).sort_index()


def effect_on(a: Artefacts, condition: str) -> Estimate | None:
    """Return the effect of zeroing the heads on log-odds in one condition, in nats, over questions;
    None where that was not run.
    """
    changes = joint_by_question(a.circuit, condition, metric=metrics.DECIDES).to_numpy()
    return statistics.mean_ci(changes, unit="nats") if len(changes) > 1 else None


def swap_cells(a: Artefacts) -> pd.DataFrame:
    """Return notebook 06's cells at the last token, with the error term kept: one per SAE, by layer
    and the SAEs trained on all conditions first, JumpReLU before TopK.
    """
    cells = a.cells[(a.cells["error_term"] == "kept") & (a.cells["position"] == "last")]
    order = [(layer, not tag.endswith("_mixed"), tag)
             for layer, tag in zip(cells["layer"], cells["tag"], strict=True)]  # fmt: skip
    return cells.iloc[sorted(range(len(cells)), key=lambda i: order[i])].reset_index(drop=True)


def draw_effects(draws: pd.DataFrame, kind: str) -> np.ndarray:
    """Return the effects of one kind of random draws on p_full [draw], in pp."""
    rows = draws[draws["kind"] == kind]
    if "metric" in rows:
        rows = rows[rows["metric"] == metrics.CARD]
    return rows["effect"].to_numpy()
