"""Where things lie: the notebooks in order, run folders, and what every run's files are called."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from sandbagging import provenance
from sandbagging.errors import UserError

MANIFEST = "manifest.json"
SCRATCH = ".scratch"
STORED = "stored"
LOCK = ".lock"


def progress_file(artefact: str) -> str:
    """Return the name of the file in a run's folder that tells how far a notebook has come."""
    return f".progress-{artefact}.json"


class Notebook(NamedTuple):
    """One page of the story: its name, the artefact it writes, and the artefacts it reads."""

    name: str
    artefact: str
    reads: tuple[str, ...]
    reads_nested: bool = False  # it also reads notebooks 00 and 08 of the runs nested in this one
    # Tables that commands of their own write, below the folder of runs.
    reads_tables: tuple[str, ...] = ()


# What `make robustness` and `make calibrate` write.
_ROBUSTNESS = "robustness/robustness.csv"
_CALIBRATION = tuple(f"calibration/{name}.csv" for name in ("calibration", "power", "league"))
_SWAP_INPUTS = ("00_baseline", "01_activations", "02_saes")
NOTEBOOKS = (
    Notebook("00_can_it_sandbag", "00_baseline", ()),
    Notebook("01_collect_activations", "01_activations", ("00_baseline",)),
    Notebook("02_train_saes", "02_saes", ("00_baseline", "01_activations")),
    Notebook("03_what_separates", "03_separation", ("00_baseline", "01_activations", "02_saes")),
    Notebook("04_full_sae_swap_E6", "04_swap", _SWAP_INPUTS),
    Notebook("05_shuffled_labels_E1", "05_shuffled", (*_SWAP_INPUTS, "04_swap")),
    Notebook(
        "06_reversed_direction_E4", "06_specificity", (*_SWAP_INPUTS, "04_swap", "05_shuffled")
    ),
    Notebook("07_find_the_heads", "07_heads", ("00_baseline",)),
    Notebook("08_ablate_five_heads", "08_circuit", ("00_baseline", "07_heads")),
    Notebook("09_other_models", "09_models", ("00_baseline", "08_circuit"), reads_nested=True),
    Notebook(
        "10_what_survived",
        "10_ledger",
        (*_SWAP_INPUTS, "03_separation", "04_swap", "05_shuffled", "06_specificity", "07_heads",
         "08_circuit", "09_models"),
        reads_nested=True,
        reads_tables=(_ROBUSTNESS, _CALIBRATION[0]),
    ),
    Notebook("11_planted_truth", "11_planted", (), reads_tables=_CALIBRATION),
)  # fmt: skip


def name_and_scale(value: str) -> tuple[str, str]:
    """Return a model's or an adapter's name, and the scale behind it: FOLDER and @0.5."""
    name, at, scale = value.rpartition("@")
    if not at or "/" in scale or Path(value).expanduser().exists():
        return value, ""
    return name, at + scale


def from_notebooks(value: str) -> str:
    """Return a folder that is named as from the notebooks, where they run, as one from anywhere.

    What is no such folder comes back as it is.
    """
    name, scale = name_and_scale(value)
    folder = notebooks_folder() / Path(name).expanduser()
    return f"{folder}{scale}" if name and folder.is_dir() else value


def runs_folder() -> Path:
    """Return the folder of all runs: $SANDBAGGING_RUNS, or papermill_runs in the repository."""
    return Path(os.environ.get("SANDBAGGING_RUNS") or provenance.REPOSITORY / "papermill_runs")


def notebooks_folder() -> Path:
    """Return the notebooks' folder: $SANDBAGGING_NOTEBOOKS, or notebooks in the repository."""
    return Path(os.environ.get("SANDBAGGING_NOTEBOOKS") or provenance.REPOSITORY / "notebooks")


def run_folder(run: str) -> Path:
    """Return the folder of a run by its name, nested as in reference/null_model if need be.

    Raises UserError for what is no plain name.
    """
    parts = run.split("/") if isinstance(run, str) else [""]
    plain = all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", part) for part in parts)
    if not plain or parts[0] in ("parameters", "profiles"):
        raise UserError(
            "A run's name is made of letters, digits, '-', '_' and '.', such as mine-laptop; "
            f"{run!r} is not."
        )
    return runs_folder().joinpath(*parts)


def notebook_of(artefact: str) -> Notebook:
    """Return the notebook that writes an artefact; UserError if none does."""
    name = artefact.rsplit("/", 1)[-1]
    for notebook in NOTEBOOKS:
        if notebook.artefact == name:
            return notebook
    known = ", ".join(n.artefact for n in NOTEBOOKS)
    raise UserError(f"No notebook writes {artefact!r}; the artefacts are {known}.")


def notebook_path(notebook: Notebook) -> Path:
    """Return the path of a notebook's source, which is never the executed copy."""
    return notebooks_folder() / f"{notebook.name}.ipynb"
