"""Runs: one folder a run, one artefact a notebook, a manifest that means "done", and a store."""

from sandbagging.suite.runs.cells import declared_names, notebook_code, notebook_words
from sandbagging.suite.runs.manifests import (
    absent_files,
    content_hash,
    damaged_file,
    nested_runs,
    output_hashes,
    read_manifest,
    stays_home,
)
from sandbagging.suite.runs.pictures import small_png
from sandbagging.suite.runs.places import (
    LOCK,
    MANIFEST,
    NOTEBOOKS,
    STORED,
    Notebook,
    from_notebooks,
    name_and_scale,
    notebook_of,
    notebook_path,
    notebooks_folder,
    progress_file,
    run_folder,
    runs_folder,
)
from sandbagging.suite.runs.staleness import library_hashes, user_file_hashes, why_stale
from sandbagging.suite.runs.steps import Step, begin, plain, refuse_reference

__all__ = [
    "LOCK", "MANIFEST", "NOTEBOOKS", "STORED", "Notebook", "Step", "absent_files", "begin",
    "content_hash", "damaged_file", "declared_names", "from_notebooks", "library_hashes",
    "name_and_scale", "nested_runs", "notebook_code", "notebook_of", "notebook_path",
    "notebook_words", "notebooks_folder", "output_hashes", "plain", "progress_file",
    "read_manifest", "refuse_reference", "run_folder", "runs_folder", "small_png", "stays_home",
    "user_file_hashes", "why_stale",
]  # fmt: skip
