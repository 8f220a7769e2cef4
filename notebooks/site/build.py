"""Build the site from the committed reference run, executing nothing.

Usage: python notebooks/site/build.py [TARGET]

1. Pages, notebooks of the reference run and the ledger are laid out in a source folder.
2. Readings stand as prose, without their templates. Every figure gets a text for those who cannot
   see it: the section's heading and the reading that follows the figure.
3. Sphinx turns them into TARGET (default: build/site), which opens from the disk, offline.
"""

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
from sandbagging.suite.ledger.table import number_text

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
REFERENCE = REPOSITORY / "papermill_runs" / "reference"
PAGES = ("index.md", "methods.md", "glossary.md", "teaching.md")
LEDGER = ("text", "model", "published", "measured", "unit", "n", "verdict", "section", "why")
LONG = 25  # a code cell of more lines is folded
SPHINX = (sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html")


def lay_out(source: Path) -> None:
    """Write everything that Sphinx reads."""
    for name in ("conf.py", *PAGES):
        shutil.copy(HERE / name, source / name)
    shutil.copytree(HERE / "_static", source / "_static")
    shutil.copytree(
        mathjax(), source / "_static" / "mathjax", ignore=shutil.ignore_patterns("a11y", "SVG")
    )
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
    """Return a notebook as a page.

    Readings stand as prose, long code and parameters are folded, and every figure has a text.
    """
    heading, texts, cells = "", Counter(), list(one_figure_a_cell(notebook["cells"]))
    for cell, reading in followed(cells):
        source = "".join(cell["source"])
        tags = cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "markdown":
            heading = [heading, *re.findall(r"^#+ (.*)$", source, re.M)][-1]
            cell["source"] = links(source)
            continue
        if "injected-parameters" in tags or source.count("\n") > LONG:
            tags.append("hide-input")
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                text = alt(heading, reading)
                texts[text] += 1  # several figures may share one reading
                number = f" (Figure {texts[text]}.)" if texts[text] > 1 else ""
                cell["metadata"]["mystnb"] = {"image": {"alt": text + number}}
    return notebook | {"cells": [as_prose(cell) for cell in cells]}


def as_prose(cell: dict) -> dict:
    """Return a reading, whose source is a template, as the Markdown that came out of it."""
    if cell["cell_type"] != "code" or not "".join(cell["source"]).startswith("%%reading"):
        return cell
    metadata = {name: value for name, value in cell["metadata"].items() if name != "tags"}
    return {"cell_type": "markdown", "id": cell["id"], "metadata": metadata,
            "source": links("\n\n".join(markdown_of(cell)))}  # fmt: skip


def markdown_of(cell: dict) -> Iterator[str]:
    """Yield the Markdown that a cell has printed."""
    for output in cell.get("outputs", []):
        if "text/markdown" in output.get("data", {}):
            yield "".join(output["data"]["text/markdown"])


def one_figure_a_cell(cells: list[dict]) -> Iterator[dict]:
    """Yield the cells, those with several figures as one cell a figure.

    A cell has one text for whatever it shows.
    """
    for cell in cells:
        outputs = cell.get("outputs", [])
        figures = [output for output in outputs if "image/png" in output.get("data", {})]
        if len(figures) < 2:
            yield cell
            continue
        others = [output for output in outputs if output not in figures]
        for i, figure in enumerate(figures, 1):
            tags = cell["metadata"].get("tags", [])
            metadata = cell["metadata"] | ({"tags": [*tags, "remove-input"]} if i > 1 else {})
            shown = [figure] if i > 1 else [*others, figure]
            yield cell | {"outputs": shown, "metadata": metadata, "id": f"{cell['id']}-{i}"}


def followed(cells: list[dict]) -> Iterator[tuple[dict, str]]:
    """Yield each cell with its section's next printed text, or else with the section's own.

    For a figure that is its reading.
    """
    own = ""
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            own = re.sub(r"^#+ .*$", "", "".join(cell["source"]), flags=re.M)
        section = itertools.takewhile(lambda later: not begins_section(later), cells[i + 1 :])
        yield cell, next((text for later in section for text in markdown_of(later)), own)


def begins_section(cell: dict) -> bool:
    """Return whether a cell is prose below a heading of its own."""
    return cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("#")


def alt(heading: str, reading: str) -> str:
    """Return a figure's text: the heading, and the reading without its marks.

    It is cut at a sentence, or else at a word.
    """
    text = f"{re.sub(r'^[0-9]+[ .·]+', '', heading)}. {reading}".replace("?.", "?")
    text = re.sub(r"\]\([^)\s]*\)", "]", text)  # of a link its words
    bare = re.sub(r"[*`_#\n\"<>\[\]|]+|^- ", " ", text, flags=re.M)
    words = re.sub(r"\s+", " ", bare).strip()
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
    lines = [[ledger_cell(line, name) for name in LEDGER] for line in table.to_dict("records")]
    rows = ["".join(f"<td>{html.escape(text)}</td>" for text in line) for line in lines]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    names = ["the card says" if name == "text" else name for name in LEDGER]
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in names)
    return f"""# The ledger

Every published figure beside the same measurement here. Where a claim's own model was *not run*,
the number beside it judges nothing. Click the head of a column to sort by it; [notebook
10](story/10_what_survived.ipynb) has the rule that decides.

<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div>

<script src="_static/sort.js"></script>
"""


def ledger_cell(line: dict, name: str) -> str:
    """Return a cell's text; published and measured numbers with their interval."""
    value = line[name]
    if name in ("published", "measured"):
        return number_text(line, name)
    if pd.isna(value):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def glossary() -> str:
    """Return the glossary with its table as a list of terms, which fits a phone.

    A code host shows the table.
    """
    text = (HERE / "glossary.md").read_text()
    intro, table = re.split(r"^(?=\| term)", text, maxsplit=1, flags=re.M)
    rows = [line.strip().strip("|").split("|", 1) for line in table.splitlines()[2:]]
    return intro + "\n".join(f"{term.strip()}\n: {meaning.strip()}\n" for term, meaning in rows)


def build(target: Path) -> None:
    """Lay the sources out and run Sphinx; a warning is an error."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        lay_out(source)
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run([*SPHINX, str(source), str(target)], check=True)
    print(f"The site is built: open {target / 'index.html'}")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "build" / "site")
