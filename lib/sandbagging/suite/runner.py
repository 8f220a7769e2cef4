"""The strict runner: it checks every parameter before anything starts, executes notebooks through papermill, and resumes.

1. `plan` reads the parameter set, compares each name and type with what the notebooks declare, and says what each will get.
2. `execute` walks through the plan. A notebook whose artefact still holds is skipped; any other is executed by a kernel of this
   very interpreter, under a temporary name that becomes the real one only when the notebook reached its end.
"""

import ast
import base64
import contextlib
import difflib
import errno
import fcntl
import json
import logging
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sandbagging import files, provenance
from sandbagging.errors import UserError
from sandbagging.suite import runs
from sandbagging.suite.runs import Notebook

MINIMUM_FREE_BYTES = 500_000_000
SECONDS_BETWEEN_LINES = 30.0
# A parameter is stored in the executed notebook for all to read, so nothing secret may be one.
SECRET_PARTS = ("secret", "password", "passwd", "passphrase", "credential", "apikey", "token", "key")
HARMLESS_PARTS = ("tokens", "keys")


class NotebookFailed(Exception):
    """A notebook stopped with an error that is not the user's: which one, in which cell, and the last line of the error."""


@dataclass(frozen=True)
class Parameter:
    """One parameter as a notebook declares it."""

    name: str
    annotation: str
    default: Any


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


# ---------------------------------------------------------------- parameters


def nearest(name: str, known: Sequence[str], what: str) -> str:
    """Return the end of a sentence that proposes the nearest known name, or lists them all."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"{what}: {', '.join(known) or 'none'}."


def declared_parameters(path: Path) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, by name; UserError for a parameters cell that papermill cannot read."""
    import papermill

    names = runs.declared_names(path)
    try:
        seen = papermill.inspect_notebook(str(path))
    except ValueError as error:
        raise UserError(f"papermill cannot read {path.name}: {error}") from None
    found = {}
    for name, entry in seen.items():
        try:
            default = ast.literal_eval(entry["default"])
        except (ValueError, SyntaxError):
            raise UserError(f"The parameter {name} of {path.name} must be one literal on one line, not {entry['default']}.") from None
        annotation = entry["inferred_type_name"]
        found[name] = Parameter(name, _type_of(default) if annotation == "None" else annotation, default)
    unread = set(names) ^ (found.keys() - {"run"})
    if unread:
        raise UserError(f"The parameters cell of {path.name} must hold one literal per line; see the line of {sorted(unread)[0]}.")
    if "run" not in found:
        raise UserError(f"The parameters cell of {path.name} must declare run, the name of the run.")
    del found["run"]
    return found


def _type_of(value: Any) -> str:
    """Return a type's name as it stands in an annotation, with the type of its elements for a list."""
    if isinstance(value, list | tuple) and value:
        return f"list[{type(value[0]).__name__}]"
    return "list" if isinstance(value, tuple) else type(value).__name__


def _fits(value: Any, annotation: ast.expr) -> bool:
    """Return whether a value has an annotated type: an int passes for a float, a bool passes for nothing but a bool."""
    if isinstance(annotation, ast.Subscript):
        outer = ast.unparse(annotation.value)
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        if outer == "Optional":
            return value is None or _fits(value, inner[0])
        if outer in ("list", "tuple"):
            return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value)
        return outer == "dict" and isinstance(value, dict) and all(_fits(item, inner[-1]) for item in value.values())
    name = ast.unparse(annotation)
    if name in ("int", "float"):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (isinstance(value, int) if name == "int" else abs(value) < 1e300)
    known = {"str": str, "bool": bool, "list": list | tuple, "tuple": list | tuple, "dict": dict}
    return value is None if name in ("None", "NoneType") else isinstance(value, known.get(name, object))


def check_value(parameter: Parameter, value: Any, where: str) -> Any:
    """Return the value in the parameter's type; UserError that names the expected and the given type."""
    # YAML reads 1e-3 as text, which nobody means.
    if parameter.annotation == "float" and isinstance(value, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", value):
        with contextlib.suppress(ValueError):
            value = float(value)
    fits = _fits(value, ast.parse(parameter.annotation, mode="eval").body) or (value is None and parameter.default is None)
    if not fits or not _storable(value):
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
        raise UserError(f"The parameter {parameter.name} ({where}) must be {parameter.annotation}, but {shown} is {_type_of(value)}.")
    if parameter.annotation == "float" and isinstance(value, int):
        value = float(value)
    return value


def _storable(value: Any) -> bool:
    """Return whether a value survives being written as JSON: no dates, no infinities, no broken characters."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
    return True


def looks_secret(name: str) -> bool:
    """Return whether a parameter's name sounds like a credential; n_tokens does not, hf_token does."""
    parts = [part for part in re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) if part not in HARMLESS_PARTS]
    return any(part.endswith(SECRET_PARTS) or part.startswith(SECRET_PARTS[:6]) for part in parts)


def parse_overrides(texts: Sequence[str]) -> dict[str, str]:
    """Split `key=value` words into a mapping of texts; UserError for a word without '=' and for a key given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise UserError(f"-p takes name=value, such as -p n_test=80; {text.split('=')[0]!r} is not of that form.")
        if name in found:
            raise UserError(f"-p {name} is given twice; keep one.")
        found[name] = value
    return found


def _literal(name: str, text: str, parameter: Parameter | None) -> Any:
    """Read the text after -p name= as a YAML literal; where the notebook wants a string, a plain word or number stays text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"The value of -p {name} cannot be read; write it as in YAML, such as 5, 0.1, text, true or [1, 2].") from None
    if parameter is not None and parameter.annotation == "str" and not isinstance(value, list | dict):
        return value if isinstance(value, str) else text
    return value


def _sets_folder() -> Path:
    """Return the folder of the parameter sets, which stays the repository's where a runs folder elsewhere has none."""
    own = runs.runs_folder() / "parameters"
    return own if own.is_dir() else provenance.REPOSITORY / "papermill_runs" / "parameters"


def set_names() -> list[str]:
    """Return the names of the parameter sets."""
    return sorted(path.stem for path in _sets_folder().glob("*.yaml"))


def load_set(name: str) -> tuple[dict[str, Any], list[str] | None]:
    """Return a parameter set's differences and the notebooks it names (None: all); UserError for an unknown or unreadable set."""
    if name not in set_names():
        raise UserError(f"There is no parameter set {name}; {nearest(name, set_names(), 'the sets are')}")
    path = _sets_folder() / f"{name}.yaml"
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = f" (line {error.problem_mark.line + 1})" if getattr(error, "problem_mark", None) else ""
        raise UserError(f"The parameter set {path.name} is not readable as YAML{line}.") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"The parameter set {path.name} must hold lines of the form name: value.")
    chosen = values.pop("notebooks", None)
    if chosen is not None and not (isinstance(chosen, list) and all(isinstance(item, str | int) for item in chosen)):
        raise UserError(f"notebooks in {path.name} must be a list of notebook names.")
    return values, None if chosen is None else [f"{item:02d}" if isinstance(item, int) else item for item in chosen]


def find_notebook(name: str) -> Notebook:
    """Return a notebook by its name, the beginning of its name ('08'), or its artefact; UserError otherwise."""
    name = name.removesuffix(".ipynb").rsplit("/", 1)[-1]
    exact = [notebook for notebook in runs.NOTEBOOKS if name in (notebook.name, notebook.artefact)]
    begins = exact or [notebook for notebook in runs.NOTEBOOKS if name and notebook.name.startswith(name)]
    if len(begins) == 1:
        return begins[0]
    names = [notebook.name for notebook in begins or runs.NOTEBOOKS]
    if begins or not name:
        raise UserError(f"Several notebooks begin with {name!r}: {', '.join(names)}.")
    raise UserError(f"There is no notebook {name}; {nearest(name, names, 'the notebooks are')}")


def _check_name(name: str, known: Sequence[str], where: str) -> None:
    if looks_secret(name):
        raise UserError(
            f"The parameter {name} ({where}) sounds like a credential, and parameters are stored in the notebook: "
            "put it into an environment variable instead."
        )
    if name == "run":
        raise UserError("The run's name is no parameter; give it with --run NAME.")
    if name not in known:
        raise UserError(f"No notebook declares the parameter {name} ({where}); {nearest(name, known, 'the parameters are')}")


def _from_here(value: Any) -> Any:
    """Turn a file or folder named from where the user stands into the name that the notebook, which runs elsewhere, has to use."""
    if isinstance(value, str) and ("/" in value or Path(value).suffix) and not os.path.isabs(value):
        with contextlib.suppress(OSError, ValueError):
            if Path(value).exists():
                return os.path.relpath(Path(value).resolve(), runs.notebooks_folder().resolve())
    return value


def plan(set_name: str, run: str, overrides: Mapping[str, str] | None = None, notebooks: Sequence[str] | None = None) -> Plan:
    """Return what a command will run: each notebook with its checked parameters.

    `overrides` maps names to the texts given after `-p name=`; `notebooks` are names or beginnings of names (None: those of
    the set, or all). Raises UserError for unknown, mistyped or secret-looking parameters, before anything is started.
    """
    runs.run_folder(run)
    overrides = dict(overrides or {})
    values, of_set = load_set(set_name)
    names = notebooks if notebooks is not None else of_set
    chosen = list(runs.NOTEBOOKS) if names is None else sorted({find_notebook(name) for name in names})
    declared = {n.name: declared_parameters(runs.notebook_path(n)) for n in runs.NOTEBOOKS if runs.notebook_path(n).exists() or n in chosen}
    for notebook, parameters in declared.items():
        for name in parameters:
            if looks_secret(name):
                raise UserError(f"{notebook} declares {name}, which sounds like a credential; rename it.")
    known = sorted({name for parameters in declared.values() for name in parameters})
    for name in values:
        _check_name(name, known, f"{set_name}.yaml")
    for name in overrides:
        _check_name(name, known, "-p")
        if not any(name in declared[notebook.name] for notebook in chosen):
            owners = [notebook for notebook, parameters in declared.items() if name in parameters]
            raise UserError(f"{name} is a parameter of {', '.join(owners)}, which this command does not run; run that one, or all.")
    values = {**_model_defaults(values, overrides), **values}
    # Every value of the set is checked, even where its notebook is not run now: a set is either right or wrong.
    steps = []
    for notebook in runs.NOTEBOOKS:
        given = {}
        for name, parameter in declared.get(notebook.name, {}).items():
            if name in values:
                given[name] = check_value(parameter, values[name], f"{set_name}.yaml")
            if name in overrides:
                given[name] = check_value(parameter, _from_here(_literal(name, overrides[name], parameter)), "-p")
        if notebook in chosen:
            defaults = {name: parameter.default for name, parameter in declared[notebook.name].items()}
            steps.append(PlannedStep(notebook, given, {**defaults, **given}))
    return Plan(set_name, run, tuple(steps))


def _model_defaults(values: Mapping[str, Any], overrides: Mapping[str, str]) -> dict[str, Any]:
    """Return what the chosen model's registry entry brings along (its framing, numbers of questions), if a model is chosen at all."""
    name = _literal("model", overrides["model"], None) if "model" in overrides else values.get("model")
    if not isinstance(name, str):
        return {}
    from sandbagging import models

    return dict(models.REGISTRY[name].defaults) if name in models.REGISTRY else {}


# ---------------------------------------------------------------- execution


def executed_path(run: str, notebook: Notebook) -> Path:
    """Return the path of a notebook's executed copy in a run."""
    return runs.run_folder(run) / f"{notebook.name}.ipynb"


def failed_path(run: str, notebook: Notebook) -> Path:
    return runs.run_folder(run) / f"{notebook.name}.failed.ipynb"


@contextlib.contextmanager
def _locked(run: str, wait: bool = False) -> Iterator[None]:
    """Hold a run's lock: a second command in the same folder is refused, or waits; the system frees it however this process ends."""
    path = runs.run_folder(run) / runs.LOCK
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"The run {run} is being written by another process ({holder}); wait for it to end, or choose another name with --run."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for the kernels that start inside the block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def _kernel_home() -> Iterator[Path]:
    """Yield a short folder with a kernel named python3 that is this very interpreter, whatever kernels the user has installed.

    Its name must be short, since kernels talk through sockets in it and a socket's path may have about 100 characters.
    """
    short = "/tmp" if os.access("/tmp", os.W_OK) else None
    home = Path(tempfile.mkdtemp(prefix="sb-", dir=short))
    # What the kernel says outside the notebook goes to a file: on Ctrl-C it would bury our own last line.
    launch = 'exec "$0" -m ipykernel_launcher -f "$1" 2>>"$2"'
    command = ["/bin/sh", "-c", launch, sys.executable, "{connection_file}", str(home / "kernel.log")]
    spec = {"argv": command, "display_name": "Python 3", "language": "python"}
    try:
        files.write_json(home / "kernels" / "python3" / "kernel.json", spec)
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MINIMUM_FREE_BYTES:
        raise UserError(f"Only {free // 10**6} MB are free in {folder}, and a run needs {MINIMUM_FREE_BYTES // 10**6} MB; free some space.")


def _ensure_models(steps: Sequence[PlannedStep]) -> None:
    """Fetch what the notebooks will load, before the first one starts."""
    names = {step.parameters["model"] for step in steps if isinstance(step.parameters.get("model"), str)}
    if names:
        from sandbagging import models

        for name in sorted(names):
            models.ensure_available(name)


def _why(plan: Plan, step: PlannedStep) -> str | None:
    """Return why a step has to be executed, or None if it still holds."""
    reason = runs.why_stale(plan.run, step.notebook, step.parameters)
    if reason is None and not executed_path(plan.run, step.notebook).is_file():
        reason = "its executed notebook is missing"
    return reason


def execute(plan: Plan, *, refresh: bool = False, wait: bool = False) -> None:
    """Execute a plan: skip what still holds, run the rest in order, stop at the first failure.

    `wait`: where another process writes the same run, begin when it has ended instead of refusing.
    Raises UserError for the user's mistakes, NotebookFailed for an error inside a notebook, KeyboardInterrupt on Ctrl-C.
    """
    home = {"SANDBAGGING_RUNS": str(runs.runs_folder().resolve()), "SANDBAGGING_NOTEBOOKS": str(runs.notebooks_folder().resolve())}
    with _environment(SANDBAGGING_REFRESH="1" if refresh else "0", **home):
        runs.refuse_reference(plan.run)
        folder = runs.run_folder(plan.run)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"The folder {folder} cannot be made: {error.strerror}.") from None
        with _locked(plan.run, wait), _terminable():
            _check_disk(folder)
            _execute_steps(plan)


def _execute_steps(plan: Plan) -> None:
    folder = runs.run_folder(plan.run)
    for rest in folder.glob(".partial-*"):
        rest.unlink()
    expected = _expected_seconds(plan)
    models_ready = False
    with _kernel_home() as kernel_home, _Progress(plan, expected) as progress:
        for index, step in enumerate(plan.steps):
            reason = _why(plan, step)
            if reason is None:
                progress.say(index, "still holds, nothing to do")
                continue
            if not models_ready:
                _ensure_models(plan.steps[index:])
                models_ready = True
            _remove(plan.run, step.notebook)
            _check_inputs(plan.run, step.notebook)
            progress.start(index, "" if reason == "not done yet" else reason)
            with _room_to_write(folder):
                _execute_one(plan.run, step, kernel_home)
            progress.finish()


@contextlib.contextmanager
def _room_to_write(folder: Path) -> Iterator[None]:
    """Raise UserError in place of the system's error where the disk fills up while papermill writes."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise UserError(
            f"Nothing more can be written to {folder} ({error.strerror}): make room, then run the same command to go on."
        ) from None


def _check_inputs(run: str, notebook: Notebook) -> None:
    """Fail before a kernel starts where an input is missing; the notebook itself checks the input's contents."""
    for artefact in notebook.reads:
        if runs.read_manifest(run, artefact) is None:
            source = runs.notebook_of(artefact).name
            raise UserError(
                f"{notebook.name} reads {artefact}, which the run {run} does not hold: run notebook {source} first "
                f"(python -m sandbagging run {source[:2]} --run {run})."
            )


def _remove(run: str, notebook: Notebook) -> None:
    """Remove a step's artefact and executed notebook; the manifest goes first, so that nothing half removed counts as done."""
    folder = runs.run_folder(run) / notebook.artefact
    (folder / runs.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    for path in (executed_path(run, notebook), failed_path(run, notebook), runs.run_folder(run) / runs.progress_file(notebook.artefact)):
        path.unlink(missing_ok=True)


def _execute_one(run: str, step: PlannedStep, kernel_home: Path) -> None:
    """Execute one notebook under a temporary name, and give it its own name once it is whole."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    notebook = step.notebook
    partial = runs.run_folder(run).resolve() / f".partial-{notebook.name}.ipynb"
    try:
        _papermill(runs.notebook_path(notebook).resolve(), partial, {"run": run, **step.overrides}, kernel_home)
    except papermill.PapermillExecutionError as error:
        failed = failed_path(run, notebook)
        _publish(partial, failed)
        if error.ename == "UserError":
            raise UserError(error.evalue) from None
        last = (error.evalue.strip().splitlines() or [""])[-1]
        raise NotebookFailed(f"{notebook.name} stopped in cell {error.exec_count}: {error.ename}: {last}\nSee {failed}") from None
    except DeadKernelError:
        partial.unlink(missing_ok=True)
        raise NotebookFailed(
            f"The kernel of {notebook.name} died; most often the machine ran out of memory.{_last_words(kernel_home)}"
        ) from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if runs.read_manifest(run, notebook.artefact) is None:
        _publish(partial, failed_path(run, notebook))
        raise NotebookFailed(f"{notebook.name} ended without step.done(), so that {notebook.artefact} does not count as done.")
    _publish(partial, executed_path(run, notebook))


def _last_words(kernel_home: Path) -> str:
    """Return the last line that a kernel wrote outside its notebook, if there is one."""
    log = kernel_home / "kernel.log"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return f" Its last words: {lines[-1]}" if lines else ""


def _papermill(source: Path, target: Path, parameters: dict[str, Any], kernel_home: Path) -> None:
    """Call papermill with a kernel of this interpreter that talks through sockets of its own."""
    import papermill
    from traitlets.config import Config

    # After Ctrl-C asyncio would complain, at length, about the tasks that papermill leaves behind.
    # Of a dead kernel papermill tells what we say better.
    for name in ("asyncio", "papermill"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A socket path of its own per kernel: ports race under load, and a shared path mixes two runs up.
    address = tempfile.mkdtemp(prefix="k", dir=kernel_home)
    config = Config({"KernelManager": {"transport": "ipc", "ip": f"{address}/k"}})
    search = os.pathsep.join([str(kernel_home), *filter(None, [os.environ.get("JUPYTER_PATH")])])
    surroundings = {
        "JUPYTER_PATH": search,
        "JUPYTER_PREFER_ENV_PATH": "1",
        "IPYTHONDIR": str(kernel_home / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # matplotlib remembers where fonts lie: the user's list may name those of an environment that is gone.
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path(sys.prefix) / "var" / "matplotlib")),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "SANDBAGGING_RUNNER": str(os.getpid()),
    }
    with _environment(**surroundings), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(runs.notebooks_folder()),
            progress_bar=False,
            log_output=False,
            config=config,
        )


def _publish(partial: Path, target: Path) -> None:
    """Give an executed notebook its final name, without the names of this machine's folders."""
    notebook = json.loads(partial.read_text())
    for entry in ("input_path", "output_path"):
        notebook["metadata"].get("papermill", {}).pop(entry, None)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            _hide_folders(output)
            _shrink_picture(output)
    files.write_bytes(target, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode())
    partial.unlink()


def _shrink_picture(output: dict[str, Any]) -> None:
    """Replace a figure that a cell shows by the same with fewer colours: an executed notebook is mostly pictures."""
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
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            output["data"][kind] = hide(value)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Treat a polite request to end (SIGTERM) as Ctrl-C, so that the kernel is shut down with us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---------------------------------------------------------------- progress


def _expected_seconds(plan: Plan) -> dict[str, float]:
    """Return how long each notebook took before: in this run if it was whole, otherwise in the reference run, otherwise nothing."""
    for run in (plan.run, "reference"):
        manifests = [runs.read_manifest(run, step.notebook.artefact) for step in plan.steps]
        if all(manifests):
            return {manifest["notebook"]: max(1.0, manifest["seconds"]) for manifest in manifests}
    return {}


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


class _Progress:
    """One line that is redrawn in a terminal, or one line now and then in a log file."""

    def __init__(self, plan: Plan, expected: dict[str, float]):
        self.plan, self.expected = plan, expected
        self.own = all(runs.read_manifest(plan.run, step.notebook.artefact) for step in plan.steps)
        self.began = time.time()
        self.index: int | None = None
        self.step_began = self.spoke = self.began
        self.spent = self.planned = 0.0  # real and expected seconds of the notebooks that this call has finished
        self.live = sys.stderr.isatty()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Progress":
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop.set()
        self.thread.join()
        self._write("")

    def _name(self, index: int) -> str:
        nested = f"{self.plan.run.rsplit('/', 1)[1]}: " if "/" in self.plan.run else ""  # cells of a sweep run side by side
        return f"{nested}[{index + 1}/{len(self.plan.steps)}] {self.plan.steps[index].notebook.name}"

    def say(self, index: int, text: str) -> None:
        """Print one lasting line about a notebook."""
        self._write("")
        print(f"{self._name(index)}  {text}", file=sys.stderr, flush=True)

    def start(self, index: int, reason: str) -> None:
        """Announce a notebook and why it is run again."""
        self.say(index, f"starts ({reason})" if reason else "starts")
        self.step_began = self.spoke = time.time()
        self.index = index

    def finish(self) -> None:
        """Note that the current notebook has ended well."""
        index, self.index = self.index, None
        seconds = time.time() - self.step_began
        self.spent += seconds
        self.planned += self.expected.get(self.plan.steps[index].notebook.name, 0.0)
        self.say(index, f"done in {_clock(seconds)}")

    def line(self, now: float) -> str:
        """Return the current state in words: which notebook, which loop and how far, time spent, time left."""
        index = self.index
        if index is None:
            return ""
        report = self._report()
        loop = f'  step "{report["label"]}" {100 * report["done"] // max(1, report["total"])} %' if report else ""
        left = self._seconds_left(index, report, now)
        return f"{self._name(index)}{loop}  elapsed {_clock(now - self.began)}" + (f"  ETA {_clock(left)}" if left is not None else "")

    def _report(self) -> dict[str, Any] | None:
        try:
            artefact = self.plan.steps[self.index].notebook.artefact
            report = json.loads((runs.run_folder(self.plan.run) / runs.progress_file(artefact)).read_text())
        except (OSError, ValueError):
            return None
        return report if report.get("time", 0) >= self.step_began else None

    def _seconds_left(self, index: int, report: dict[str, Any] | None, now: float) -> float | None:
        """Return the seconds left: earlier seconds per notebook, scaled by how this machine and these parameters compare."""
        here = now - self.step_began
        last = index == len(self.plan.steps) - 1
        if last and report and report["done"] and not self.own:
            # The loop itself foretells better than a run with other parameters: its steps are of this one.
            return here * (report["total"] - report["done"]) / report["done"]
        if self.plan.steps[index].notebook.name not in self.expected:
            return None
        if not self.planned and not self.own:
            return None  # another run's seconds mean nothing here before one notebook has shown the scale
        scale = self.spent / self.planned if self.planned else 1.0
        seconds = [self.expected.get(step.notebook.name, 0.0) * scale for step in self.plan.steps]
        return max(seconds[index] - here, 0.0) + math.fsum(seconds[index + 1 :])

    def _watch(self) -> None:
        while not self.stop.wait(0.5):
            now = time.time()
            text = self.line(now)
            if self.live:
                self._write(text)
            elif text and now - self.spoke >= SECONDS_BETWEEN_LINES:
                self.spoke = now
                print(text, file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\033[K" + text[:width])
            sys.stderr.flush()
