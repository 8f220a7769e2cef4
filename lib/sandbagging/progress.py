"""How a long computation tells how far it has come."""

from collections.abc import Callable

# Called with what is done now, how many units of it are done, and how many there are.
Progress = Callable[[str, int, int], None]
