"""Kernels of this very interpreter: any number at a time, and one way to end them all."""

import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sandbagging import files


class Kernels:
    """A short folder of our own, and the kernels that have been started there.

    Its name must be short, since kernels talk through sockets in it, and a socket's path may have
    about 100 characters.
    """

    def __init__(self, home: Path):
        self.home = home
        self._managers: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._ended = False

    def execute(
        self,
        name: str,
        source: Path,
        target: Path,
        parameters: Mapping[str, Any],
        environment: Mapping[str, str],
        folder: Path,
    ) -> None:
        """Execute a notebook through papermill, in a kernel of its own that stands in `folder`.

        Raises what papermill raises. Several threads may call this at the same time.
        """
        import papermill

        papermill.execute_notebook(
            str(source),
            str(target),
            parameters=dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            kernel_manager_class=self._manager(name, environment, folder),
        )

    def _manager(self, name: str, environment: Mapping[str, str], folder: Path) -> type:
        """Return the class of kernel manager that starts our kernel, whatever the user's are."""
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager

        own = Path(tempfile.mkdtemp(prefix="k", dir=self.home))
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {
            "argv": command,
            "display_name": "Python 3",
            "language": "python",
            "env": {"IPYTHONDIR": str(own / "ipython"), **environment},
        }
        files.write_json(own / "kernels" / "python3" / "kernel.json", spec)
        specs = KernelSpecManager(kernel_dirs=[str(own / "kernels")])
        ours = self

        class Manager(AsyncKernelManager):
            def __init__(self, **more: Any):
                # Sockets of its own: ports race under load, and a shared path mixes two runs up.
                super().__init__(kernel_spec_manager=specs, transport="ipc", ip=f"{own}/s", **more)

            async def start_kernel(self, **more: Any) -> None:
                # What the kernel says outside the notebook goes to a file: on Ctrl-C it would
                # bury our own last line.
                with open(ours.log(name), "ab") as log:
                    await super().start_kernel(cwd=str(folder), stderr=log, **more)
                ours._started(name, self)

        return Manager

    def _started(self, name: str, manager: Any) -> None:
        with self._lock:
            self._managers[name] = manager
        if self._ended:
            self.end()

    def end(self) -> None:
        """End every kernel at once, with what it has started."""
        self._ended = True
        with self._lock:
            for manager in self._managers.values():
                with contextlib.suppress(AttributeError, OSError, TypeError):
                    os.killpg(manager.provisioner.pgid, signal.SIGKILL)

    def log(self, name: str) -> Path:
        """Return the file of what a kernel says outside its notebook."""
        return self.home / f"{name}.log"

    def last_words(self, name: str) -> str:
        """Return the last line that a kernel wrote outside its notebook, or an empty text."""
        path = self.log(name)
        text = path.read_text(errors="replace") if path.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1] if lines else ""


@contextlib.contextmanager
def kernels() -> Iterator[Kernels]:
    """Yield a place for kernels, and leave none of them behind."""
    # After Ctrl-C asyncio would complain, at length, about tasks that papermill leaves behind; of a
    # dead kernel papermill tells what we say better.
    for name in ("asyncio", "papermill"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    home = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
    place = Kernels(home)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield place
    finally:
        place.end()
        shutil.rmtree(home, ignore_errors=True)
