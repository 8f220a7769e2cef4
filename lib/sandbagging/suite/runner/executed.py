"""Executed notebooks: where they lie in a run, and how they get their names."""

import base64
import json
from pathlib import Path
from typing import Any

from sandbagging import files, provenance
from sandbagging.suite import runs
from sandbagging.suite.runs import Notebook


def executed_path(run: str, notebook: Notebook) -> Path:
    """Return the path of a notebook's executed copy in a run."""
    return runs.run_folder(run) / f"{notebook.name}.ipynb"


def failed_path(run: str, notebook: Notebook) -> Path:
    """Return the path of the copy that stopped with an error."""
    return runs.run_folder(run) / f"{notebook.name}.failed.ipynb"


def partial_path(run: str, notebook: Notebook) -> Path:
    """Return the path of the copy that is being executed."""
    return runs.run_folder(run).resolve() / f".partial-{notebook.name}.ipynb"


def keeps_notebooks(run: str) -> bool:
    """Return whether a run keeps its executed notebooks; runs nested in reference do not."""
    return not run.startswith("reference/")


def publish(partial: Path, target: Path) -> None:
    """Give an executed notebook its final name, without the names of this machine's folders."""
    notebook = json.loads(partial.read_text())
    for entry in ("input_path", "output_path"):
        notebook["metadata"].get("papermill", {}).pop(entry, None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            _hide_folders(output)
            _shrink_picture(output)
    text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    files.write_bytes(target, text.encode())
    partial.unlink()


def _shrink_picture(output: dict[str, Any]) -> None:
    """Show a cell's figure with fewer colours: an executed notebook is mostly pictures."""
    if "image/png" in output.get("data", {}):
        png = base64.b64decode("".join(output["data"]["image/png"]))
        output["data"]["image/png"] = base64.b64encode(runs.small_png(png)).decode()


def _hide_folders(output: dict[str, Any]) -> None:
    """Replace the repository's and the user's folder in an output's texts."""
    folders = {str(provenance.REPOSITORY): "<repository>", str(Path.home()): "~"}

    def hide(text: Any) -> Any:
        if isinstance(text, list):
            return [hide(part) for part in text]
        for folder, name in folders.items():
            if isinstance(text, str) and len(folder) > 1:
                text = text.replace(folder, name)
        return text

    for field in ("text", "traceback"):
        if field in output:
            output[field] = hide(output[field])
    for mime, value in output.get("data", {}).items():
        if mime.startswith("text/"):
            output["data"][mime] = hide(value)
