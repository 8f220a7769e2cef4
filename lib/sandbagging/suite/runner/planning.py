"""What one command will run: a parameter set, what the user changed, and each notebook's values."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sandbagging import provenance
from sandbagging.errors import UserError
from sandbagging.suite import parameters, runs
from sandbagging.suite.parameters import Parameter, proposal
from sandbagging.suite.runs import Notebook


@dataclass(frozen=True)
class PlannedStep:
    """One notebook, the values that differ from its defaults, and all the values it will see."""

    notebook: Notebook
    overrides: dict[str, Any]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What one command will run, in order."""

    set_name: str
    run: str
    steps: tuple[PlannedStep, ...]


# Sets and notebooks by name ---------------------------------------------------------------------


def _sets_folder() -> Path:
    """Return the folder of the sets: the repository's where a runs folder elsewhere has none."""
    own = runs.runs_folder() / "parameters"
    return own if own.is_dir() else provenance.REPOSITORY / "papermill_runs" / "parameters"


def set_names() -> list[str]:
    """Return the names of the parameter sets."""
    return sorted(path.stem for path in _sets_folder().glob("*.yaml"))


def load_set(name: str) -> tuple[dict[str, Any], list[str] | None]:
    """Return a set's differences and the notebooks that it names (None: all).

    Raises UserError for an unknown or unreadable set.
    """
    if name not in set_names():
        raise UserError(
            f"There is no parameter set {name}; {proposal(name, set_names(), 'the sets are')}"
        )
    path = _sets_folder() / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"The parameter set {path.name} is not readable as YAML{line}.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"The parameter set {path.name} must hold lines of the form name: value.")
    chosen = values.pop("notebooks", None)
    if chosen is None:
        return values, None
    if not (isinstance(chosen, list) and all(isinstance(item, str | int) for item in chosen)):
        raise UserError(f"notebooks in {path.name} must be a list of notebook names.")
    return values, [f"{item:02d}" if isinstance(item, int) else item for item in chosen]


def find_notebook(name: str) -> Notebook:
    """Return a notebook by its name, the beginning of its name ('08') or its artefact.

    Raises UserError where none or several fit.
    """
    name = name.removesuffix(".ipynb").rsplit("/", 1)[-1]
    exact = [n for n in runs.NOTEBOOKS if name in (n.name, n.artefact)]
    begins = exact or [n for n in runs.NOTEBOOKS if name and n.name.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    names = [notebook.name for notebook in begins or runs.NOTEBOOKS]
    if begins or not name:
        raise UserError(f"Several notebooks begin with {name!r}: {', '.join(names)}.")
    raise UserError(f"There is no notebook {name}; {proposal(name, names, 'the notebooks are')}")


def with_missing_inputs(names: Sequence[str], run: str) -> list[str]:
    """Return some notebooks by name, with all that they read and that the run does not hold, or not
    whole.
    """
    chosen = {find_notebook(name) for name in names}
    waiting = list(chosen)
    while waiting:
        for artefact in waiting.pop().reads:
            notebook = runs.notebook_of(artefact)
            if notebook not in chosen and _lacks(run, artefact):
                chosen.add(notebook)
                waiting.append(notebook)
    return [notebook.name for notebook in sorted(chosen)]


def _lacks(run: str, artefact: str) -> bool:
    return runs.read_manifest(run, artefact) is None or bool(runs.absent_files(run, artefact))


# The plan ---------------------------------------------------------------------------------------


def plan(
    set_name: str,
    run: str,
    overrides: Mapping[str, str] | None = None,
    notebooks: Sequence[str] | None = None,
) -> Plan:
    """Return what a command will run: each notebook with its checked parameters.

    `overrides` maps names to the texts given after `-p name=`; `notebooks` are names or beginnings
    of names (None: those of the set, or all). Raises UserError for unknown, mistyped or
    secret-looking parameters, before anything is started.
    """
    runs.run_folder(run)
    overrides = dict(overrides or {})
    values, of_set = load_set(set_name)
    names = notebooks if notebooks is not None else of_set
    chosen = _chosen(names)
    declared = _all_declared(chosen)
    _check_names(values, overrides, declared, chosen, f"{set_name}.yaml")
    values = {**_model_defaults(values, overrides), **values}
    steps = []
    # Every value of the set is checked, even where its notebook is not run now: a set is either
    # right or wrong.
    for notebook in runs.NOTEBOOKS:
        own = declared.get(notebook.name, {})
        given = _given(own, values, overrides, f"{set_name}.yaml")
        if notebook in chosen:
            defaults = {name: parameter.default for name, parameter in own.items()}
            steps.append(PlannedStep(notebook, given, {**defaults, **given}))
    return Plan(set_name, run, tuple(steps))


def _chosen(names: Sequence[str] | None) -> list[Notebook]:
    if names is None:
        return list(runs.NOTEBOOKS)
    return sorted({find_notebook(name) for name in names})


def _all_declared(chosen: Sequence[Notebook]) -> dict[str, dict[str, Parameter]]:
    """Return {notebook: its parameters} of all that are there; those chosen have to be."""
    found = {}
    for notebook in runs.NOTEBOOKS:
        path = runs.notebook_path(notebook)
        if path.exists() or notebook in chosen:
            found[notebook.name] = parameters.declared(path)
            for name in found[notebook.name]:
                if parameters.looks_secret(name):
                    raise UserError(
                        f"{notebook.name} declares {name}, which sounds like a credential; "
                        "rename it."
                    )
    return found


def _check_names(
    values: Mapping[str, Any],
    overrides: Mapping[str, str],
    declared: Mapping[str, Mapping[str, Parameter]],
    chosen: Sequence[Notebook],
    set_file: str,
) -> None:
    """Raise UserError for a name that no notebook declares, or none of those that are run."""
    known = sorted({name for own in declared.values() for name in own})
    for name in values:
        _check_name(name, known, set_file)
    for name in overrides:
        _check_name(name, known, "-p")
        if not any(name in declared[notebook.name] for notebook in chosen):
            owners = ", ".join(notebook for notebook, own in declared.items() if name in own)
            raise UserError(
                f"{name} is a parameter of {owners}, which this command does not run; run that "
                "one, or all."
            )


def _check_name(name: str, known: Sequence[str], where: str) -> None:
    if parameters.looks_secret(name):
        raise UserError(
            f"The parameter {name} ({where}) sounds like a credential, and parameters are stored "
            "in the notebook: put it into an environment variable instead."
        )
    if name == "run":
        raise UserError("The run's name is no parameter; give it with --run NAME.")
    if name not in known:
        raise UserError(
            f"No notebook declares the parameter {name} ({where}); "
            f"{proposal(name, known, 'the parameters are')}"
        )


def _given(
    own: Mapping[str, Parameter],
    values: Mapping[str, Any],
    overrides: Mapping[str, str],
    set_file: str,
) -> dict[str, Any]:
    """Return what set and user give one notebook, checked; files are named as it names them."""
    found = {}
    for name, parameter in own.items():
        if name in values:
            found[name] = from_here(parameters.check_value(parameter, values[name], set_file), name)
        if name in overrides:
            value = parameters.literal(name, overrides[name], parameter)
            found[name] = from_here(parameters.check_value(parameter, value, "-p"), name)
    return found


def from_here(value: Any, name: str = "") -> Any:
    """Return a file or folder that is named from where the user stands as the notebook names it.

    Notebooks run in their own folder. What is no such name comes back as it is; a scale behind it
    (FOLDER@0.5) stays there. A name without slash or ending means a folder as an `adapter` alone.
    """
    if isinstance(value, str) and ("/" in value or Path(value).suffix or name == "adapter"):
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            folder, scale = runs.name_and_scale(value)
            path = Path(folder).expanduser()
            if folder and path.exists() and not Path(folder).is_absolute():
                return os.path.relpath(path.resolve(), runs.notebooks_folder().resolve()) + scale
    return value


def _model_defaults(values: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    """Return what the chosen model's registry entry brings along, such as its framing."""
    name = values.get("model")
    if "model" in overrides:
        name = parameters.literal("model", overrides["model"], None)
    if not isinstance(name, str):
        return {}
    from sandbagging import models

    entry = models.entry(name)
    return dict(entry.defaults) if entry else {}
