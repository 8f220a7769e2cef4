"""A notebook opened in JupyterLab, in a real browser, and run from top to bottom by the menu."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from test_site import browser, browser_needed  # noqa: F401  (a fixture)

from sandbagging import models

ROOT = Path(__file__).parents[1]
NOTEBOOK = "00_can_it_sandbag"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab over a copy of the notebooks (it saves what is open), and the folder of its runs."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "SANDBAGGING_RUNS")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--IdentityProvider.token=", "--allow-root",
               f"--ServerApp.root_dir={folder / 'notebooks'}", "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
               "jupyterlab.NeverCheckForUpdate"]  # fmt: skip
    process = subprocess.Popen(command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
def test_runs_top_to_bottom(lab, browser):  # noqa: F811
    """With the notebook's own defaults, on the embedded model."""
    models.ensure_available()
    address, folder = lab
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.goto(f"{address}/lab/tree/{NOTEBOOK}.ipynb?reset")
    tab.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    tab.wait_for_selector("[data-status=idle]", timeout=60_000)
    tab.click("text=Run >> nth=0")
    tab.click(".lm-Menu-item[data-command='runmenu:run-all']")
    manifest = folder / "mine-by-hand" / "00_baseline" / "manifest.json"
    end = time.time() + 1200
    while not manifest.exists() and time.time() < end:
        tab.wait_for_timeout(1000)
    tab.wait_for_timeout(2000)
    errors = tab.evaluate("[...document.querySelectorAll('[data-mime-type=\"application/vnd.jupyter.error\"]')].map(e => e.innerText)")
    tab.close()
    assert errors == [] and manifest.exists()
