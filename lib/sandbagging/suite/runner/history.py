"""What runs before have taken: seconds of measuring and of telling, page by page."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sandbagging import provenance
from sandbagging.suite import runs
from sandbagging.suite.runner import work
from sandbagging.suite.runner.nodes import Node, waits_for
from sandbagging.suite.runner.reference import NESTED

# Where an old manifest does not say how long a page took to tell.
TELLING = 8.0


class Expected(NamedTuple):
    """What one page is expected to take, in seconds as the run before took them."""

    telling: float
    measuring: float | None  # None: nothing is known
    kind: str  # of the measuring; "" where nothing is measured


def expectations(
    nodes: Sequence[Node], from_nothing: bool = False
) -> dict[tuple[str, str], Expected]:
    """Return what every node is expected to take, by key; with `from_nothing` as if nothing were
    stored.
    """
    stored: set[tuple[str, str]] = set()
    found = {}
    for node in nodes:
        held = not from_nothing and _holds(node)
        if held and all(n.key in stored for n in waits_for(node, nodes)):
            stored.add(node.key)
        found[node.key] = _expected(node, _settings(node.run, nodes), node.key in stored)
    return found


def longest_way_first(
    nodes: Sequence[Node], expected: Mapping[tuple[str, str], Expected]
) -> list[Node]:
    """Return nodes in the order in which to begin them side by side.

    First comes what most seconds wait for: with itself, the longest chain of nodes that read it.
    """
    readers: dict[tuple[str, str], list[Node]] = {node.key: [] for node in nodes}
    for node in nodes:
        for before in waits_for(node, nodes):
            readers[before.key].append(node)
    way: dict[tuple[str, str], float] = {}

    def seconds(node: Node) -> float:
        if node.key not in way:
            own = expected[node.key]
            behind = max((seconds(reader) for reader in readers[node.key]), default=0.0)
            way[node.key] = own.telling + (own.measuring or 0.0) + behind
        return way[node.key]

    return sorted(nodes, key=seconds, reverse=True)


def _expected(node: Node, settings: Mapping[str, Any], stored: bool) -> Expected:
    artefact = node.step.notebook.artefact
    kind = work.KINDS.get(artefact, "")
    for folder in _runs_before(node.run, settings.get("model", "")):
        manifest = _manifest(folder / artefact)
        if manifest is None:
            continue
        measuring = _measuring_seconds(folder / artefact, manifest)
        telling = max(1.0, manifest["seconds"] - manifest.get("seconds_measuring", measuring))
        if stored or not kind:
            return Expected(telling, 0.0, kind)
        now = work.amount(artefact, settings)
        then = work.amount(artefact, _parameters(folder))
        return Expected(telling, measuring * now / then if now and then else None, kind)
    return Expected(TELLING, None if kind else 0.0, kind)


def _runs_before(run: str, model: str) -> list[Path]:
    """Return runs to learn from, the nearest first: this one, one of this model, the committed."""
    committed = runs.run_folder("reference")
    if not committed.is_dir():
        committed = provenance.REPOSITORY / "papermill_runs" / "reference"
    names = [name for name, (_, given) in NESTED.items() if given.get("model") == model]
    nested = [committed / name for name in names]
    return [runs.run_folder(run), *nested, committed]


def _settings(run: str, nodes: Sequence[Node]) -> dict[str, Any]:
    """Return all settings of a run: those of its manifests, and over them the planned ones."""
    found = _parameters(runs.run_folder(run))
    for node in nodes:
        if node.run == run:
            found |= node.step.parameters
    return found


def _parameters(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for notebook in runs.NOTEBOOKS:
        found |= (_manifest(folder / notebook.artefact) or {}).get("parameters", {})
    return found


def _manifest(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / runs.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _measuring_seconds(folder: Path, manifest: Mapping[str, Any]) -> float:
    """Return the seconds of measuring, as far as is known without those of other work beside it."""
    records = _records(folder)
    if records:
        return sum(r.get("quiet_seconds", r.get("seconds", 0.0)) for r in records)
    return max(0.0, manifest["seconds"] - TELLING)


def _holds(node: Node) -> bool:
    """Return whether all that a page measures is stored, as far as its files can say."""
    folder = runs.run_folder(node.run) / node.step.notebook.artefact
    manifest, records = _manifest(folder), _records(folder)
    if manifest is None or manifest["parameters"] != json.loads(json.dumps(node.step.parameters)):
        return False
    return bool(records) and all(
        _hash(name) == known for record in records for name, known in record["sources"].items()
    )


def _hash(name: str) -> str | None:
    path = provenance.PACKAGE / name
    return provenance.file_hash(path) if path.is_file() else None


def _records(folder: Path) -> list[dict[str, Any]]:
    paths = sorted((folder / runs.STORED).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]
