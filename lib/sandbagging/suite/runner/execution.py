"""Plans come true: pages whose inputs are done run side by side, what still holds is skipped.

1. Every notebook of every plan is a node; it waits for the notebooks whose artefacts it reads.
2. A node that still holds is skipped. Any other is executed under a temporary name, which becomes
   the real one only when the notebook reached its end.
3. After a failure nothing new begins; after Ctrl-C every kernel is ended.
"""

import contextlib
import errno
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from sandbagging.errors import UserError
from sandbagging.suite import runs
from sandbagging.suite.runner import executed, history, live, locks
from sandbagging.suite.runner.kernels import Kernels, kernels
from sandbagging.suite.runner.nodes import Node, cores, default_jobs, nodes_of, waits_for
from sandbagging.suite.runner.planning import Plan

MINIMUM_FREE_BYTES = 500_000_000


class NotebookFailed(Exception):
    """A notebook stopped with an error that is not the user's: which, where, and its last line."""


# A whole command --------------------------------------------------------------------------------


def execute(
    *plans: Plan, refresh: bool = False, wait_for_lock: bool = False, jobs: int | None = None
) -> None:
    """Execute plans: skip what still holds, run the rest, begin nothing new after a failure.

    `jobs` notebooks run at a time (None: see `default_jobs`), each on its share of the cores. How
    many threads add numbers up changes a result by rounding alone, about 1e-7 of its size.
    `wait_for_lock`: where another process writes the same run, begin when it has ended.
    Raises UserError for the user's mistakes, NotebookFailed for an error inside a notebook,
    KeyboardInterrupt on Ctrl-C.
    """
    for plan in plans:
        if not refresh:
            runs.refuse_reference(plan.run)
        _make_folder(runs.run_folder(plan.run))
    nodes = nodes_of(plans)
    with contextlib.ExitStack() as stack:
        for plan in plans:
            folder = runs.run_folder(plan.run)
            stack.enter_context(locks.held(folder, plan.run, wait_for_lock))
            _check_disk(folder)
            for rest in folder.glob(".partial-*"):
                rest.unlink()
        stack.enter_context(_terminable())
        place = stack.enter_context(kernels())
        jobs = jobs or default_jobs(nodes)
        expected = history.expectations(nodes)
        if jobs > 1:
            nodes = history.longest_way_first(nodes, expected)
        display = stack.enter_context(live.Display(nodes, expected, jobs))
        _execute_nodes(nodes, _Work(place, display, refresh), jobs)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be made: {error.strerror}.") from None


def _check_disk(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < MINIMUM_FREE_BYTES:
        raise UserError(
            f"Only {free // 10**6} MB are free in {folder}, and a run needs "
            f"{MINIMUM_FREE_BYTES // 10**6} MB; free some space."
        )


@dataclass
class _Work:
    """What every node needs to be executed."""

    place: Kernels
    display: live.Display
    refresh: bool
    models_ready: bool = False


def _execute_nodes(nodes: Sequence[Node], work: _Work, jobs: int) -> None:
    """Run nodes in the order of what they read, up to `jobs` at a time; raise the first failure."""
    waiting, running = list(nodes), dict[Future, Node]()
    failures: list[BaseException] = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                while len(running) < jobs and (ready := _ready(waiting, running.values())):
                    node, side_by_side = ready[0], min(jobs, len(running) + len(ready))
                    waiting.remove(node)
                    if _begins(node, waiting, work):
                        threads = max(1, cores() // side_by_side)
                        running[pool.submit(_execute_one, node, work, threads)] = node
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    work.display.finish(running.pop(future), failed=error is not None)
                    if error is not None:
                        failures.append(error)
                        waiting.clear()
        except UserError as error:  # nothing new begins; what runs may end
            failures.append(error)
        except BaseException:
            work.place.end()
            raise
    if failures:
        raise failures[0]


def _ready(waiting: Sequence[Node], running: Iterable[Node]) -> list[Node]:
    """Return the nodes that wait for nothing that is still to be done."""
    open_nodes = [*waiting, *running]
    return [node for node in waiting if not waits_for(node, open_nodes)]


def _begins(node: Node, waiting: Sequence[Node], work: _Work) -> bool:
    """Make a node ready to be executed; return False where it still holds."""
    reason = why(node) or _wanted(node, waiting)
    if reason is None:
        work.display.skip(node)
        return False
    if not work.models_ready:
        _ensure_models([node, *waiting])
        work.models_ready = True
    _prepare(node)
    work.display.start(node, reason)
    return True


def why(node: Node) -> str | None:
    """Return why a node has to be executed, or None if it still holds."""
    run, notebook = node.run, node.step.notebook
    reason = runs.why_stale(run, notebook, node.step.parameters)
    kept = executed.executed_path(run, notebook).is_file() or not executed.keeps_notebooks(run)
    return reason if reason or kept else "its executed notebook is missing"


def _wanted(node: Node, waiting: Sequence[Node]) -> str | None:
    """Return why a node that holds is told again: a page that is to be executed reads files of it
    that a clone does not have.
    """
    absent = runs.absent_files(*node.key)
    for reader in waiting if absent else ():
        if reader.run == node.run and waits_for(reader, [node]) and why(reader):
            return f"{absent[0]} is not on this machine, and {reader.step.notebook.name} reads it"
    return None


def _ensure_models(nodes: Sequence[Node]) -> None:
    """Fetch what the notebooks will load, before the first one starts."""
    wanted = set()
    for given in (node.step.parameters for node in nodes):
        if isinstance(given.get("model"), str):
            adapter = "" if given.get("random_weights") else given.get("adapter", "")
            wanted.add((runs.from_notebooks(given["model"]), runs.from_notebooks(adapter)))
    if wanted:
        from sandbagging import models

        for name, adapter in sorted(wanted):
            models.ensure_available(name, adapter)


def _prepare(node: Node) -> None:
    """Undo the node's done marker; fail where an input is missing, before a kernel starts.

    The page itself empties its folder; what it has stored there stays.
    """
    run, notebook = node.run, node.step.notebook
    (runs.run_folder(run) / notebook.artefact / runs.MANIFEST).unlink(missing_ok=True)
    for path in (executed.executed_path(run, notebook), executed.failed_path(run, notebook)):
        path.unlink(missing_ok=True)
    for artefact in node.step.notebook.reads:
        if runs.read_manifest(node.run, artefact) is None:
            source = runs.notebook_of(artefact).name
            raise UserError(
                f"{node.step.notebook.name} reads {artefact}, which the run {node.run} does not "
                f"hold: run notebook {source} first "
                f"(python -m sandbagging run {source[:2]} --run {node.run})."
            )


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Treat a polite request to end (SIGTERM) as Ctrl-C, so that kernels are ended with us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# One notebook -----------------------------------------------------------------------------------


def _execute_one(node: Node, work: _Work, threads: int) -> None:
    """Execute one notebook under a temporary name; it gets its own once it is whole."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    run, notebook = node.run, node.step.notebook
    partial, failed = executed.partial_path(run, notebook), executed.failed_path(run, notebook)
    name = "-".join(node.key).replace("/", "-")
    try:
        with _room_to_write(runs.run_folder(run)):
            work.place.execute(
                name,
                runs.notebook_path(notebook).resolve(),
                partial,
                {"run": run, **node.step.overrides},
                _environment(work.refresh, threads),
                runs.notebooks_folder(),
            )
    except papermill.PapermillExecutionError as error:
        executed.publish(partial, failed)
        if error.ename == "UserError":
            raise UserError(error.evalue) from None
        last = (error.evalue.strip().splitlines() or [""])[-1]
        raise NotebookFailed(
            f"{notebook.name} stopped in cell {error.exec_count}: {error.ename}: {last}\n"
            f"See {failed}"
        ) from None
    except DeadKernelError:
        partial.unlink(missing_ok=True)
        words = work.place.last_words(name)
        raise NotebookFailed(
            f"The kernel of {notebook.name} died; most often the machine ran out of memory."
            + (f" Its last words: {words}" if words else "")
        ) from None
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if runs.read_manifest(run, notebook.artefact) is None:
        executed.publish(partial, failed)
        raise NotebookFailed(
            f"{notebook.name} ended without step.done(), so that {notebook.artefact} does not "
            "count as done."
        )
    with _room_to_write(runs.run_folder(run)):
        executed.publish(partial, executed.executed_path(run, notebook))


def _environment(refresh: bool, threads: int) -> dict[str, str]:
    """Return what a kernel finds in its environment, beside what we have in ours."""
    fonts = str(Path(sys.prefix) / "var" / "matplotlib")
    return {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # matplotlib remembers where fonts lie: the user's list may name those of an environment
        # that is gone.
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", fonts),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        # Threads that spin while they wait take the cores from all others: measured beside other
        # work on two cores, products of matrices took seven times as long.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "SANDBAGGING_NOTEBOOKS": str(runs.notebooks_folder().resolve()),
        "SANDBAGGING_REFRESH": "1" if refresh else "0",
        "SANDBAGGING_RUNNER": str(os.getpid()),
        "SANDBAGGING_RUNS": str(runs.runs_folder().resolve()),
    }


@contextlib.contextmanager
def _room_to_write(folder: Path) -> Iterator[None]:
    """Raise UserError in place of the system's error where the disk fills up while we write."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise UserError(
            f"Nothing more can be written to {folder} ({error.strerror}): make room, then run the "
            "same command to go on."
        ) from None
