"""No page claims for its rules what they were not: some thresholds were tuned on the way."""

import re
from pathlib import Path

from sandbagging.suite import runs
from sandbagging.suite.runs import cells

ROOT = Path(__file__).resolve().parents[1]

# Only what TopK's k and a test of equivalence are by
# definition may be called fixed in advance.
FIXED = re.compile(r"fixed\s+(in\s+advance|before|beforehand)|decided\s+in\s+advance")
BY_DEFINITION = ("*L0*, is therefore fixed in advance", "lies inside a margin fixed in advance")


def test_no_page_says_that_a_tuned_rule_was_fixed_in_advance():
    assert FIXED.search("by a rule fixed\nbefore it saw any number")
    texts = {n.name: "\n".join(prose_of(n)) for n in runs.NOTEBOOKS}
    papers = [ROOT / "README.md", *(ROOT / "notebooks" / "site").glob("*.md")]
    papers += (ROOT / "lib" / "sandbagging" / "suite").rglob("*.py")
    texts |= {path.name: path.read_text(encoding="utf-8") for path in papers}
    for name, text in texts.items():
        for allowed in BY_DEFINITION:
            text = text.replace(allowed, "")
        assert not FIXED.search(text), name


def prose_of(notebook: runs.Notebook) -> list[str]:
    """Return the prose and the readings of a page."""
    found = cells.notebook_cells(runs.notebook_path(notebook))
    return ["".join(c["source"]) for c in found if c["cell_type"] != "code" or cells.is_reading(c)]
