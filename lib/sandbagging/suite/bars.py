"""A progress bar for the command line: how far, and how long it will take."""

import contextlib
from collections.abc import Iterator

from sandbagging.progress import Progress


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Yield a function that draws a bar on stderr for each thing that it is told of."""
    from tqdm import tqdm

    bar, drawn = None, ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal bar, drawn
        if bar is None or what != drawn or done <= bar.n:
            close()
            # What an earlier call has done does not count for the speed.
            bar, drawn = tqdm(total=total, desc=what, initial=done - 1), what
        bar.update(done - bar.n)

    def close() -> None:
        if bar is not None:
            bar.close()

    try:
        yield tell
    finally:
        close()
