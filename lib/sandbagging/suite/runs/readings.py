"""Readings: prose with numbers. A cell that begins with %%reading is Markdown, filled by Jinja2.

The names are the notebook's own, and strict: one that no cell has set is an error. An Estimate
prints as its value, interval and n; `{{ x | pp }}` and the other filters below print plain numbers.
"""

from collections.abc import Mapping
from typing import Any

from sandbagging.errors import UserError

MAGIC = "reading"
FILTERS = {
    "pp": lambda x, digits=2: f"{x:+.{digits}f} pp",
    "nats": lambda x, digits=2: f"{x:+.{digits}f} nats",
    "percent": lambda x, digits=0: f"{100 * x:.{digits}f} %",
    "digits": lambda x, n=2: f"{x:.{n}f}",
    "signed": lambda x, n=2: f"{x:+.{n}f}",
    "count": lambda x: f"{int(x):,}",
    "listed": lambda items, none="none": ", ".join(map(str, items)) or none,
    "ci": lambda e: f"{e:ci}",  # an Estimate without its n
    "share": lambda e: f"{e:ci .0%}",  # a share with its interval in percent
    "capitalised": lambda text: text[:1].upper() + text[1:],
    "shared": lambda items, others: len(set(items) & set(others)),
    "counted": lambda n, one, more: f"{n} {one if n == 1 else more}",
    # behind a closed gate every verdict says so
    "mark": lambda gate: "" if gate.open else " *(Grade no: no sandbagging to explain.)*",
}


def filled(text: str, names: Mapping[str, Any]) -> str:
    """Return a reading with its numbers filled in.

    Raises UserError that names the reading and the name that it lacks.
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    where = f"The reading that begins with {first[:60]!r}"
    try:
        return environment.from_string(text).render(names)
    except jinja2.UndefinedError as error:
        raise UserError(
            f"{where} lacks a name: {error.message}; set it in a cell before."
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise UserError(
            f"{where} cannot be filled (its line {error.lineno}: {error.message})."
        ) from None


def register() -> None:
    """Make %%reading known to the notebook that this runs in; elsewhere there is nothing to do."""
    try:
        from IPython import get_ipython
        from IPython.display import Markdown, display
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None:

        def reading(line: str, cell: str) -> None:
            display(Markdown(filled(cell, shell.user_ns)))

        shell.register_magic_function(reading, magic_kind="cell", magic_name=MAGIC)
