"""What a result was made with: the commit, the versions of packages, the device, the code."""

import ast
import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[1]
RECORDED_VERSIONS = (
    "torch",
    "nnsight",
    "transformers",
    "sae-lens",
    "numpy",
    "scipy",
    "pandas",
    "papermill",
)


def commit() -> str:
    """Return the repository's commit, with + when tracked files other than runs differ from it, or
    'unknown' outside git.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(REPOSITORY), *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "-uno", "--", ".", ":!papermill_runs") else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def version() -> str:
    """Return the version of this library, installed or used from its folder."""
    return sys.modules[__package__].__version__


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in RECORDED_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def device() -> str:
    """Return what computed the numbers, such as 'cpu (2 threads)'; a notebook that never imported
    torch used the CPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads() if torch is not None else os.cpu_count()} threads)"


def file_hash(path: Path) -> str:
    """Return a hash of what a file's code does."""
    return source_hash(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1024)
def source_hash(source: str) -> str:
    """Return a hash of what code does: comments, layout, docstrings and the text of errors do not
    count.
    """
    tree = _Mute().visit(ast.parse(source))
    return hashlib.sha256(_dump(tree).encode()).hexdigest()[:16]


class _Mute(ast.NodeTransformer):
    """Drop docstrings, and the words of what is raised."""

    def _without_docstring(self, node: Any) -> Any:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        return self.generic_visit(node)

    visit_Module = visit_ClassDef = _without_docstring
    visit_FunctionDef = visit_AsyncFunctionDef = _without_docstring

    def visit_Raise(self, node: ast.Raise) -> Any:
        """Keep that and what is raised, not with which words."""
        if isinstance(node.exc, ast.Call):
            node.exc.args, node.exc.keywords = [], []
        return node


def _dump(node: Any) -> str:
    """Write a syntax tree as text; empty fields are left out, as some Python versions do and others
    not.
    """
    if isinstance(node, list):
        return "[" + ",".join(_dump(item) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [f"{n}={_dump(v)}" for n, v in ast.iter_fields(node) if v is not None and v != []]
    return f"{type(node).__name__}({','.join(fields)})"
