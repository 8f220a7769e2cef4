"""What the pages on swaps read of a run: the gate, activations and SAEs, and what 04 measured."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from sandbagging import grading, metrics, saes
from sandbagging.files import Folder
from sandbagging.gate import Gate
from sandbagging.questions import Question
from sandbagging.saes.recipes import parse_tag
from sandbagging.suite.runs import Step
from sandbagging.swaps import estimates, guards
from sandbagging.swaps.guards import Guards

FILE = "answers.jsonl"
NAMES = ("question_id", "split", "condition", "framing", "wording", "layer", "tag", "intervention")


class Given(NamedTuple):
    """What notebooks 00 to 02 have left for a page on swaps."""

    gate: Gate
    tags: list[str]  # the SAEs that are swapped, by layer
    mixed: list[str]  # those trained on mixed prompts; all, where there is none
    collected: Folder  # activations, with their table of rows
    trained: Folder  # SAEs, a folder a tag


class Swapped(NamedTuple):
    """What notebook 04 measured on sandbag prompts of the test questions."""

    effects: pd.DataFrame  # by question, see `swaps.outcomes.effects_at`
    guards: dict[tuple[int, str, str], Guards]  # by layer, tag and position


def read(step: Step) -> Given:
    """Return what a page on swaps begins with."""
    quality = step.read_table("02_saes", "metrics.csv")
    tags = saes.chosen(quality["tag"], step.setting("swap_tags"))
    return Given(
        gate=step.gate(),
        tags=tags,
        mixed=of_mixed(tags),
        collected=step.files("01_activations", "L*.safetensors", "tokens.csv.gz"),
        trained=step.files("02_saes", "*/sae_weights.safetensors", "*/cfg.json"),
    )


def of_mixed(tags: Sequence[str]) -> list[str]:
    """Return the SAEs trained on mixed prompts, which stand for their layer; all, where there is
    none.
    """
    return [tag for tag in tags if tag.endswith("_mixed")] or list(tags)


def one_a_layer(tags: Sequence[str]) -> dict[int, str]:
    """Return {layer: SAE} of those in figures: JumpReLU, as the card's, or else the first."""
    chosen: dict[int, str] = {}
    for tag in sorted(tags, key=lambda tag: "jumprelu" not in tag):
        chosen.setdefault(parse_tag(tag).layer, tag)
    return dict(sorted(chosen.items()))


def write_answers(step: Step, answers: pd.DataFrame, test: Sequence[Question]) -> None:
    """Write the free answers of notebook 04 under E6, under E4 and under nothing, graded."""
    graded = grading.graded(answers.assign(split="test", wording=""), test)
    names = [*NAMES, "text", "verdict"]
    metrics.write_records(step.folder / FILE, graded[names].to_dict("records"))


def swapped(step: Step) -> Swapped:
    """Return what notebook 04 measured."""
    return Swapped(
        estimates.stored_effects(step.read_table("04_swap", "effects_by_question.csv.gz")),
        guards.read_guards(step.read_table("04_swap", "guards.csv")),
    )
