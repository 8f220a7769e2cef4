"""What the user sees of a run: one line that is redrawn, or in a log file a line now and then."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sandbagging.suite import runs
from sandbagging.suite.runner import eta
from sandbagging.suite.runner.history import Expected
from sandbagging.suite.runner.nodes import Node, waits_for

SECONDS_BETWEEN_LINES = 30.0


class Display:
    """A lasting line for what begins and ends, and one that says how far everything has come."""

    def __init__(
        self, nodes: Sequence[Node], expected: Mapping[tuple[str, str], Expected], jobs: int
    ):
        self.nodes = nodes
        self.began = self.spoke = time.time()
        self.running: dict[tuple[str, str], float] = {}  # node's key -> when it began
        waits = {n.key: [w.key for w in waits_for(n, nodes)] for n in nodes}
        self.estimator = eta.Estimator({n.key: expected[n.key] for n in nodes}, waits, jobs)
        self.live = sys.stderr.isatty()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Display":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()
        self._write("")

    # What happens

    def skip(self, node: Node) -> None:
        """Note that a notebook still holds."""
        with self._lock:
            self.estimator.skip(node.key)
        self._say(node, "still holds, nothing to do")

    def start(self, node: Node, reason: str) -> None:
        """Announce a notebook and why it is run again."""
        self._say(node, "starts" if reason == "not done yet" else f"starts ({reason})")
        with self._lock:
            self.running[node.key] = time.time()
            self.estimator.start(node.key, time.time())

    def finish(self, node: Node, failed: bool = False) -> None:
        """Note that a notebook has ended."""
        with self._lock:
            seconds = time.time() - self.running.pop(node.key)
            manifest = None if failed else runs.read_manifest(*node.key)
            measuring = (manifest or {}).get("seconds_measuring")
            self.estimator.finish(node.key, time.time(), measuring)
        self._say(node, f"failed after {clock(seconds)}" if failed else f"done in {clock(seconds)}")

    # What is seen

    def line(self, now: float) -> str:
        """Return the state in words: time spent, time left, which notebooks run and how far."""
        with self._lock:
            if not self.running:
                return ""
            parts = [self._part(node, now) for node in self.nodes if node.key in self.running]
            left = self.estimator.seconds_left(now)
        times = f"elapsed {clock(now - self.began)}"
        if left is not None:
            # Of the last minute no estimate knows the seconds.
            times += f"  ETA {clock(left) if left >= 60 else 'under a minute'}"
        return "  ".join([times, *parts])

    def _part(self, node: Node, now: float) -> str:
        """Return where one running notebook stands, and tell the estimator."""
        report = _report(node, self.running[node.key])
        if report is None:
            return name_of(node)
        self.estimator.report(node.key, report["label"], report["done"], report["total"], now)
        percent = 100 * report["done"] // max(1, report["total"])
        return f'{name_of(node)} "{report["label"]}" {percent} %'

    def _say(self, node: Node, text: str) -> None:
        with self._lock:
            self._write("")
            print(f"{name_of(node)}  {text}", file=sys.stderr, flush=True)

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            now = time.time()
            text = self.line(now)
            if self.live:
                self._write(text)
            elif text and now - self.spoke >= SECONDS_BETWEEN_LINES:
                self.spoke = now
                print(text, file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        if self.live:
            with self._lock:
                width = shutil.get_terminal_size().columns - 1
                sys.stderr.write("\r\033[K" + text[:width])
                sys.stderr.flush()


def name_of(node: Node) -> str:
    """Return a notebook's place and name; in nested runs, which run side by side, the run's too."""
    nested = f"{node.run.rsplit('/', 1)[1]}: " if "/" in node.run else ""
    return f"{nested}[{node.place + 1}/{node.of}] {node.step.notebook.name}"


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, 4:05, or 1:04:05."""
    minutes, seconds = divmod(int(round(seconds)), 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}:{rest:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _report(node: Node, began: float) -> dict[str, Any] | None:
    """Return what a running notebook has last said of its loop, or None."""
    path = runs.run_folder(node.run) / runs.progress_file(node.step.notebook.artefact)
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return report if report.get("time", 0) >= began else None
