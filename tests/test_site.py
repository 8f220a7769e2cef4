"""The site, built from the committed reference run and opened from the disk in a real browser."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from sandbagging import files
from sandbagging.suite import runs, stale

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "notebooks" / "site"
REFERENCE = ROOT / "papermill_runs" / "reference"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDTHS = {"phone": 390, "desktop": 1280}
COLUMNS = 88  # of a code cell

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.skipif(
        not (REFERENCE / "10_ledger").exists(), reason="the reference run is being made anew"
    ),
]
pytest.importorskip("myst_nb", reason='the site needs the extra docs: pip install -e ".[docs]"')


@pytest.fixture(scope="module")
def builder():
    """The script that builds the site, as a module."""
    sys.path.insert(0, str(SOURCES))
    import build

    yield build
    sys.path.remove(str(SOURCES))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, str(SOURCES / "build.py"), str(target)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return target


def pages(site: Path) -> list[Path]:
    found = [page for page in site.rglob("*.html") if "_static" not in page.parts]
    return sorted(page for page in found if page.name not in ("genindex.html", "search.html"))


def test_every_notebook_of_the_run_is_a_page_in_order(site):
    story = [page.stem for page in sorted((site / "story").glob("*.html"))]
    executed = [page.stem for page in sorted(REFERENCE.glob("[0-9][0-9]_*.ipynb"))]
    assert story == executed and len(story) >= 11


def test_every_figure_has_a_text_of_its_own_for_those_who_cannot_see_it(site):
    for page in pages(site):
        tags = re.findall(r"<img[^>]*>", page.read_text())
        texts = [next(iter(re.findall(r'alt="([^"]*)"', tag)), "") for tag in tags]
        # A heading alone does not say what is shown.
        bare = [text for text in texts if len(text) <= 60 or text.endswith((".png", "/"))]
        assert not bare and len(set(texts)) == len(texts), f"{page.name}: {bare or texts}"


TERMS = """residual stream, resid_post, z, head L17H6, latent, d_sae, k, l0, fvu, dead latents,
sae_error, zero-, mean-, resample-ablation, restoration, specificity gap, genuine, sandbag, neutral,
pp, p_full, choice_len, gate, TopK, JumpReLU, gated, placebo, oracle"""


def test_every_term_of_the_glossary_is_there(site):
    table = (SOURCES / "glossary.md").read_text().splitlines()
    rows = [line for line in table if line.startswith("| ")][1:]
    terms = [re.sub(r"[`*]", "", row.split("|")[1]).strip() for row in rows]
    text = re.sub(r"<[^>]+>", "", (site / "glossary.html").read_text())
    assert len(terms) > 30 and not [term for term in terms if term not in text]
    assert not set(re.split(r",\s+", TERMS)) - set(re.split(r",\s+", ", ".join(terms)))


def test_the_ledger_holds_every_row(site):
    claims = files.read_csv(REFERENCE / "10_ledger/ledger.csv")
    text = html.unescape((site / "ledger.html").read_text())
    assert not [words for words in claims["text"] if f"<td>{words}</td>" not in text]
    ids = [name for name in claims["claim"] if "_" in name]  # "epochs" is a unit as well
    assert ids and not [name for name in ids if f"<td>{name}</td>" in text]  # in words alone


# A small notebook of our own ----------------------------------------------------------------------

TEMPLATE = "%%reading\nZeroing the heads brings back **{{ closed }}** of the gap; see {{ link }}."
READING = "Zeroing the heads brings back **52 %** of the gap; see [08](08_ablate_five_heads.ipynb)."
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def small_notebook(columns: int) -> dict:
    """A section with a figure and its reading, below a line of code of some columns."""
    figure = new_output("display_data", {"image/png": PNG, "text/plain": "<Figure>"})
    reading = new_output("display_data", {"text/markdown": READING, "text/plain": "<Markdown>"})
    code = "figure = draw(" + "x" * (columns - 15) + ")"
    cells = [
        new_markdown_cell("# A page\n\n## 1 · The heads\n\nA question."),
        new_code_cell(code, outputs=[figure], metadata={"tags": []}),
        new_code_cell(TEMPLATE, outputs=[reading]),
        new_code_cell("print(1)"),
    ]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    return json.loads(nbformat.writes(new_notebook(cells=cells, metadata=language)))


def test_a_reading_stands_as_prose_and_gives_its_figure_a_text(builder):
    page = builder.page(small_notebook(COLUMNS))
    assert not [cell for cell in page["cells"] if "%%reading" in "".join(cell["source"])]
    prose = page["cells"][2]
    assert prose["cell_type"] == "markdown" and "".join(prose["source"]) == READING
    text = page["cells"][1]["metadata"]["mystnb"]["image"]["alt"]
    assert text.startswith("The heads. Zeroing the heads brings back 52 % of the gap")
    assert page["cells"][3]["cell_type"] == "code"
    nbformat.validate(nbformat.from_dict(page))


@pytest.fixture(scope="module")
def small_site(builder, tmp_path_factory) -> Path:
    """Two pages: code of 88 columns, which fits, and of 120, which does not."""
    source = tmp_path_factory.mktemp("small") / "source"
    source.mkdir()
    shutil.copy(SOURCES / "conf.py", source)
    shutil.copytree(SOURCES / "_static", source / "_static")
    (source / "index.md").write_text("# Pages\n\n```{toctree}\nfits\nwide\n```\n")
    (source / "08_ablate_five_heads.md").write_text("---\norphan: true\n---\n# Heads\n")
    for name, columns in (("fits", COLUMNS), ("wide", 120)):
        page = builder.page(small_notebook(columns))
        text = json.dumps(page).replace("08_ablate_five_heads.ipynb", "08_ablate_five_heads.md")
        (source / f"{name}.ipynb").write_text(text)
    subprocess.run([*builder.SPHINX, str(source), str(source.parent / "built")], check=True)
    return source.parent / "built"


def test_a_readings_template_is_not_on_its_page(small_site):
    text = (small_site / "fits.html").read_text()
    assert "%%reading" not in text and "{{" not in text
    assert "<p>Zeroing the heads brings back <strong>52 %</strong>" in text


# In a browser -------------------------------------------------------------------------------------

browser_needed = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: apt install chromium"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "CI installs chromium; it is not on the PATH"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


MATHS_DONE = """() => {
  if (!window.MathJax) return !document.querySelector('script[src*="MathJax.js"]');
  if (window.mathsDone === undefined) {
    window.mathsDone = false;
    MathJax.Hub.Queue(() => { window.mathsDone = true; });
  }
  return window.mathsDone;
}"""


@browser_needed
@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_opens_offline_without_an_error_and_fits_its_window(site, browser, width):
    """No error, no missing file, no request that leaves the machine, nothing wider than it."""
    context = browser.new_context(viewport={"width": WIDTHS[width], "height": 900})
    tab, errors, requests, missing = context.new_page(), [], [], []
    tab.on(
        "console", lambda message: errors.append(message.text) if message.type == "error" else None
    )
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("requestfailed", lambda request: missing.append(request.url))
    for page in pages(site):
        tab.goto(page.as_uri(), wait_until="load")
        tab.wait_for_function(
            MATHS_DONE, timeout=30000
        )  # leaving earlier would cut its fonts off, which looks like missing files
        wide = tab.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{page.name} is {wide} pixels wider than a {width}"
    context.close()
    assert errors == [] and missing == []
    assert not [url for url in requests if not url.startswith(("file://", "data:", "blob:"))]


SIDEWAYS = """[...document.querySelectorAll('div.cell_input div.highlight, div.cell_input pre')]
  .filter(block => block.scrollWidth > block.clientWidth)
  .map(block => block.textContent.split('\\n').sort((a, b) => b.length - a.length)[0])"""


def scrolling(browser, page: Path) -> list[str]:
    """The longest line of each code cell that scrolls sideways on a desktop."""
    tab = browser.new_page(viewport={"width": WIDTHS["desktop"], "height": 900})
    tab.goto(page.as_uri())
    lines = tab.evaluate(SIDEWAYS)
    tab.close()
    return lines


@browser_needed
def test_code_of_88_columns_does_not_scroll_sideways_and_longer_code_does(small_site, browser):
    assert scrolling(browser, small_site / "fits.html") == []
    assert scrolling(browser, small_site / "wide.html") != []


@browser_needed
def test_no_code_cell_scrolls_sideways(site, browser):
    """Pages that earlier code has executed may hold longer lines until they are made anew."""
    behind = {runs.notebook_of(name).name for name in stale.listed("reference") if "/" not in name}
    for page in pages(site):
        if page.stem not in behind:
            assert scrolling(browser, page) == [], page.name


@browser_needed
def test_links_and_anchors_resolve(site, browser):
    tab, broken = browser.new_page(), []
    anchors = {
        page: set(re.findall(r'id="([^"]+)"', page.read_text())) for page in site.rglob("*.html")
    }
    for page in pages(site):
        tab.goto(page.as_uri())
        for url in tab.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)"):
            if not url.startswith("file://"):
                continue
            path, _, anchor = url.removeprefix("file://").partition("#")
            target = Path(path)
            if not target.exists() or (
                anchor and target in anchors and anchor not in anchors[target]
            ):
                broken.append(f"{page.name} -> {url}")
    tab.close()
    assert broken == []


@browser_needed
def test_maths_is_rendered(site, browser):
    tab = browser.new_page()
    tab.goto((site / "methods.html").as_uri())
    drawn = "[...document.querySelectorAll('.MathJax')].filter(formula => formula.offsetWidth > 0)"
    tab.wait_for_function(
        f"{drawn}.length > 20 && {drawn}.length == document.querySelectorAll('.MathJax').length",
        timeout=20000,
    )
    assert not [
        text for text in tab.evaluate(f"{drawn}.map(formula => formula.innerText)") if "\\" in text
    ]
    assert tab.evaluate("document.querySelectorAll('.MathJax_Error, merror, .merror').length") == 0
    tab.close()


@browser_needed
def test_the_ledger_sorts_by_a_click_and_the_other_way_by_the_next(site, browser):
    tab = browser.new_page()
    tab.goto((site / "ledger.html").as_uri())
    rows = "[...document.querySelectorAll('table.sortable tbody tr')]"
    column = f"{rows}.map(r => r.cells[7].textContent.trim())"
    tab.click("table.sortable th:nth-child(8) button")
    once = tab.evaluate(column)
    tab.click("table.sortable th:nth-child(8) button")
    twice = tab.evaluate(column)
    tab.close()
    assert (
        len(set(once)) > 2 and once[0] != once[-1] and twice[0] == once[-1] and twice[-1] == once[0]
    )


@browser_needed
def test_search_finds_a_page_offline(site, browser):
    tab = browser.new_page()
    tab.goto((site / "search.html").as_uri() + "?q=redundancy")
    tab.wait_for_function(
        "document.querySelectorAll('#search-results li, .search li').length > 0", timeout=20000
    )
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
