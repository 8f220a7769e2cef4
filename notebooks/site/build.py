"""Build the site from the committed reference run, executing nothing: python notebooks/site/build.py [TARGET]

1. Pages, notebooks of the reference run and the ledger are laid out in a source folder.
2. Every figure gets a text for those who cannot see it: the section's heading and the reading that follows the figure.
3. Sphinx turns them into TARGET (default: build/site), which opens from the disk, offline.
"""

import contextlib
import html
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sandbagging import files

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
REFERENCE = REPOSITORY / "papermill_runs" / "reference"
PAGES = ("index.md", "methods.md", "glossary.md", "teaching.md")
LEDGER = ("claim", "model", "published", "measured", "unit", "n", "verdict", "section", "why")


def lay_out(source: Path) -> None:
    """Write everything that Sphinx reads."""
    for name in ("conf.py", *PAGES):
        shutil.copy(HERE / name, source / name)
    shutil.copytree(HERE / "_static", source / "_static")
    shutil.copytree(mathjax(), source / "_static" / "mathjax", ignore=shutil.ignore_patterns("a11y", "SVG"))
    shutil.copy(REFERENCE / "10_ledger" / "fig_headline.png", source / "story_headline.png")
    (source / "story").mkdir()
    for path in story():
        (source / "story" / path.name).write_text(json.dumps(page(json.loads(path.read_text()))))
    (source / "ledger.md").write_text(ledger())
    (source / "glossary.md").write_text(glossary())


def story() -> list[Path]:
    """Return the executed notebooks of the reference run, in order."""
    return sorted(REFERENCE.glob("[0-9][0-9]_*.ipynb"))


def mathjax() -> Path:
    """Return the folder of MathJax within its wheel."""
    import jupyter_server_mathjax

    return Path(jupyter_server_mathjax.__file__).parent / "static"


def page(notebook: dict) -> dict:
    """Return a notebook as a page: long code folded, wide tables in a box that scrolls, a text for every figure."""
    heading, texts, notebook["cells"] = "", Counter(), list(one_figure_a_cell(notebook["cells"]))
    for cell, reading in followed(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next(iter(re.findall(r"^#+ (.*)$", source, re.M)), heading)
            cell["source"] = links(source)
            continue
        if "injected-parameters" in cell["metadata"].get("tags", []) or source.count("\n") > 25:
            cell["metadata"].setdefault("tags", []).append("hide-input")
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                text = alt(heading, reading)
                texts[text] += 1  # several figures may share one reading
                cell["metadata"]["mystnb"] = {"image": {"alt": text + (f" (Figure {texts[text]}.)" if texts[text] > 1 else "")}}
    return notebook


def one_figure_a_cell(cells: list[dict]) -> Iterator[dict]:
    """Yield the cells, those with several figures as one cell a figure: a cell has one text for whatever it shows."""
    for cell in cells:
        figures = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        if len(figures) < 2:
            yield cell
            continue
        others = [output for output in cell["outputs"] if output not in figures]
        for i, figure in enumerate(figures, 1):
            metadata = cell["metadata"] | ({"tags": ["remove-input"]} if i > 1 else {})
            yield cell | {"outputs": [figure] if i > 1 else [*others, figure], "metadata": metadata, "id": f"{cell['id']}-{i}"}


def followed(cells: list[dict]) -> Iterator[tuple[dict, str]]:
    """Yield each cell with its section's next printed text, or else with the section's own: a figure's reading."""
    own = ""
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            own = re.sub(r"^#+ .*$", "", "".join(cell["source"]), flags=re.M)
        section = itertools.takewhile(lambda later: not "".join(later["source"]).startswith("#"), cells[i + 1 :])
        texts = (
            "".join(output["data"]["text/markdown"])
            for later in section
            for output in later.get("outputs", [])
            if "text/markdown" in output.get("data", {})
        )
        yield cell, next(texts, own)


def alt(heading: str, reading: str) -> str:
    """Return a figure's text: the heading, and the reading without its marks, cut at a sentence or else at a word."""
    text = f"{re.sub(r'^[0-9]+[ .·]+', '', heading)}. {reading}".replace("?.", "?")
    words = re.sub(r"\s+", " ", re.sub(r"[*`_#\n\"<>\[\]|]+|^- ", " ", text, flags=re.M)).strip()
    if len(words) <= 400:
        return words
    sentences = words[:400].rpartition(". ")[0]
    return f"{sentences}." if len(sentences) > 150 else words[:400].rpartition(" ")[0] + " …"


def links(source: str) -> str:
    """Point links between notebooks at their pages."""
    return re.sub(r"\]\((?:\.\./)?(?:notebooks/)?(\d\d_\w+\.ipynb)\)", r"](\1)", source)


def ledger() -> str:
    """Return the page of the ledger: one table, sortable by a click on its head."""
    table = files.read_csv(REFERENCE / "10_ledger" / "ledger.csv")
    rows = []
    for line in table.to_dict("records"):
        cells = {name: shown(line, name) for name in LEDGER}
        rows.append("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in cells.values()) + "</tr>")
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in LEDGER)
    return (
        "# The ledger\n\nEvery published figure beside what this suite measured. Click a column's head to sort by it; "
        "[notebook 10](story/10_what_survived.ipynb) has the rule that decides.\n\n"
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{"".join(rows)}\n</tbody></table></div>\n\n'
        '<script src="_static/sort.js"></script>\n'
    )


def shown(line: dict, name: str) -> str:
    """Return a cell's text; published and measured numbers with their interval."""
    value = line[name]
    if value == "" or pd.isna(value):
        return "–"
    if name not in ("published", "measured"):
        return f"{value:g}" if isinstance(value, float) else str(value)
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    with contextlib.suppress(ValueError):  # a list of heads is no number
        value = f"{float(value):.4g}"
    return str(value) + ("" if pd.isna(low) else f" [{low:.4g}, {high:.4g}]")


def glossary() -> str:
    """Return the glossary's page with its table as a list of terms, which a phone can show; a code host shows the table."""
    intro, table = re.split(r"^(?=\| term)", (HERE / "glossary.md").read_text(), maxsplit=1, flags=re.M)
    rows = [line.strip().strip("|").split("|", 1) for line in table.splitlines()[2:]]
    return intro + "\n".join(f"{term.strip()}\n: {meaning.strip()}\n" for term, meaning in rows)


def build(target: Path) -> None:
    """Lay the sources out and run Sphinx; a warning is an error."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        lay_out(source)
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(source), str(target)], check=True)
    print(f"The site is built: open {target / 'index.html'}")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "build" / "site")
