"""The site, built from the committed reference run and opened from the disk in a real browser."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbagging import files

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = {"phone": 390, "desktop": 1280}

pytestmark = pytest.mark.skipif(not (ROOT / "papermill_runs/reference/10_ledger").exists(), reason="the reference run is being made anew")
pytest.importorskip("myst_nb", reason='the site needs the extra docs: pip install -e ".[docs]"')


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("built") / "site"
    finished = subprocess.run([sys.executable, str(ROOT / "notebooks/site/build.py"), str(target)], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return target


def pages(site: Path) -> list[Path]:
    return sorted(p for p in site.rglob("*.html") if "_static" not in p.parts and p.name not in ("genindex.html", "search.html"))


def test_every_notebook_of_the_run_is_a_page_in_order(site):
    story = [p.stem for p in sorted((site / "story").glob("*.html"))]
    assert story == [p.stem for p in sorted((ROOT / "papermill_runs/reference").glob("[0-9][0-9]_*.ipynb"))] and len(story) >= 11


def test_every_figure_has_a_text_of_its_own_for_those_who_cannot_see_it(site):
    for page in pages(site):
        texts = [next(iter(re.findall(r'alt="([^"]*)"', tag)), "") for tag in re.findall(r"<img[^>]*>", page.read_text())]
        bare = [text for text in texts if len(text) <= 60 or text.endswith((".png", "/"))]  # a heading alone does not say what is shown
        assert not bare and len(set(texts)) == len(texts), f"{page.name}: {bare or texts}"


TERMS = """residual stream, resid_post, z, head L17H6, latent, d_sae, k, l0, fvu, dead latents, sae_error, zero-, mean-, resample-ablation,
restoration, specificity gap, genuine, sandbag, neutral, pp, p_full, choice_len, gate, TopK, JumpReLU, gated, placebo, oracle"""


def test_every_term_of_the_glossary_is_there(site):
    table = (ROOT / "notebooks/site/glossary.md").read_text().splitlines()
    terms = [re.sub(r"[`*]", "", line.split("|")[1]).strip() for line in table if line.startswith("| ")][1:]
    text = re.sub(r"<[^>]+>", "", (site / "glossary.html").read_text())
    assert len(terms) > 30 and not [t for t in terms if t not in text]
    assert not set(re.split(r",\s+", TERMS)) - set(re.split(r",\s+", ", ".join(terms)))


def test_the_ledger_holds_every_row(site):
    claims = files.read_csv(ROOT / "papermill_runs/reference/10_ledger/ledger.csv")["claim"]
    text = (site / "ledger.html").read_text()
    assert not [claim for claim in claims if f"<td>{claim}</td>" not in text]


# In a browser -------------------------------------------------------------------------------------------------------------

browser_needed = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: apt install chromium")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "CI installs chromium; it is not on the PATH"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


MATHS_DONE = """() => {
  if (!window.MathJax) return !document.querySelector('script[src*="MathJax.js"]');
  if (window.mathsDone === undefined) { window.mathsDone = false; MathJax.Hub.Queue(() => { window.mathsDone = true; }); }
  return window.mathsDone;
}"""


@browser_needed
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_opens_offline_without_an_error_and_fits_its_window(site, browser, width):
    """No console error, no missing file, no request that leaves the machine, nothing wider than the window."""
    context = browser.new_context(viewport={"width": WIDTHS[width], "height": 900})
    tab, errors, requests, missing = context.new_page(), [], [], []
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("requestfailed", lambda request: missing.append(request.url))
    for page in pages(site):
        tab.goto(page.as_uri(), wait_until="load")
        tab.wait_for_function(MATHS_DONE, timeout=30000)  # leaving earlier would cut its fonts off, which looks like missing files
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{page.name} is {wide} pixels wider than a {width}"
    context.close()
    assert errors == [] and missing == []
    assert not [url for url in requests if not url.startswith(("file://", "data:", "blob:"))]


@browser_needed
def test_links_and_anchors_resolve(site, browser):
    tab, broken = browser.new_page(), []
    anchors = {page: set(re.findall(r'id="([^"]+)"', page.read_text())) for page in site.rglob("*.html")}
    for page in pages(site):
        tab.goto(page.as_uri())
        for url in tab.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)"):
            if not url.startswith("file://"):
                continue
            path, _, anchor = url.removeprefix("file://").partition("#")
            target = Path(path)
            if not target.exists() or (anchor and target in anchors and anchor not in anchors[target]):
                broken.append(f"{page.name} -> {url}")
    tab.close()
    assert broken == []


@browser_needed
def test_maths_is_rendered(site, browser):
    tab = browser.new_page()
    tab.goto((site / "methods.html").as_uri())
    drawn = "[...document.querySelectorAll('.MathJax')].filter(formula => formula.offsetWidth > 0)"
    tab.wait_for_function(f"{drawn}.length > 20 && {drawn}.length == document.querySelectorAll('.MathJax').length", timeout=20000)
    assert not [text for text in tab.evaluate(f"{drawn}.map(formula => formula.innerText)") if "\\" in text]
    assert tab.evaluate("document.querySelectorAll('.MathJax_Error, merror, .merror').length") == 0
    tab.close()


@browser_needed
def test_the_ledger_sorts_by_a_click_and_the_other_way_by_the_next(site, browser):
    tab = browser.new_page()
    tab.goto((site / "ledger.html").as_uri())
    column = "[...document.querySelectorAll('table.sortable tbody tr')].map(r => r.cells[7].textContent.trim())"
    tab.click("table.sortable th:nth-child(8) button")
    once = tab.evaluate(column)
    tab.click("table.sortable th:nth-child(8) button")
    twice = tab.evaluate(column)
    tab.close()
    assert len(set(once)) > 2 and once[0] != once[-1] and twice[0] == once[-1] and twice[-1] == once[0]


@browser_needed
def test_search_finds_a_page_offline(site, browser):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=redundancy")
    tab.wait_for_function("document.querySelectorAll('#search-results li, .search li').length > 0", timeout=20000)
    tab.close()


@browser_needed
def test_dark_mode_and_next_page(site, browser):
    context = browser.new_context(color_scheme="dark")
    tab = context.new_page()
    tab.goto((site / "story" / "07_find_the_heads.html").as_uri())
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = map(int, re.findall(r"\d+", background)[:3])
    assert red + green + blue < 200
    tab.click("a.next-page")
    assert "08_ablate_five_heads" in tab.url
    context.close()
