"""The one exception that a user is meant to read."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend: one sentence that says what is wrong and what to do."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is spelled most like `name`; "" where none is known."""
    known = list(known)
    if not known:
        return ""
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.0)
    return next(k for k in known if k.lower() == close[0])
