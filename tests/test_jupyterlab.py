"""A notebook opened in JupyterLab, in a real browser, and run from top to bottom by the menu."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from test_site import browser, browser_needed  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[1]
NOTEBOOK = "00_can_it_sandbag"
ERROR = '[data-mime-type="application/vnd.jupyter.error"]'
BEGUN = r"e => /[[](\*|\d+)[\]]/.test(e.innerText)"  # a cell's number, or its star
SMALLER = {"model": '"organism-heads"', "framing": '"instr_pref"', "n_train": "20", "n_test": "40"}


def all_of(selector: str) -> str:
    """Every element of the page that a selector names, as JavaScript."""
    return f"[...document.querySelectorAll('{selector}')]"


def smaller(path: Path) -> None:
    """Write a planted model and few questions into a notebook's parameters, as a reader would."""
    notebook = nbformat.read(path, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    for name, value in SMALLER.items():
        cell.source, changed = re.subn(
            rf"^({name}: \w+ =) [^ \n]+", rf"\1 {value}", cell.source, flags=re.M
        )
        assert changed == 1
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab over a copy of the notebooks, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    smaller(folder / "notebooks" / f"{NOTEBOOK}.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    own = {
        name: str(folder / name)
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "SANDBAGGING_RUNS",
        )
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        f"--port={port}",
        "--IdentityProvider.token=",
        "--allow-root",
        f"--ServerApp.root_dir={folder / 'notebooks'}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    process = subprocess.Popen(
        command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(60):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=1)
                break
            except OSError:
                time.sleep(1)
        yield address, folder / "SANDBAGGING_RUNS"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
@browser_needed
def test_runs_top_to_bottom(planted_bases, lab, browser):  # noqa: F811
    from playwright.sync_api import TimeoutError as TooLate

    address, folder = lab
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.goto(f"{address}/lab/tree/{NOTEBOOK}.ipynb?reset")
    tab.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    tab.wait_for_selector("[data-status=idle]", timeout=60_000)
    # The menu is there before it does anything, and a question about the kernel may stand before
    # it.
    for _ in range(10):
        if tab.query_selector(".jp-Dialog .jp-mod-accept"):
            tab.click(".jp-Dialog .jp-mod-accept")
        tab.click(".lm-MenuBar-item:has-text('Run')")
        tab.click(".lm-Menu-item[data-command='runmenu:run-all']")
        with contextlib.suppress(TooLate):
            tab.wait_for_function(f"{all_of('.jp-InputPrompt')}.some({BEGUN})", timeout=5000)
            break
    manifest = folder / "mine-by-hand" / "00_baseline" / "manifest.json"
    end = time.time() + 600
    failed = f"{all_of(ERROR)}.map(e => e.innerText)"
    while not manifest.exists() and not tab.evaluate(failed) and time.time() < end:
        tab.wait_for_timeout(500)
    tab.wait_for_selector("[data-status=idle]", timeout=60_000)
    errors = tab.evaluate(failed)
    tab.close()
    assert errors == [] and manifest.exists()
