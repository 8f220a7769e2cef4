"""How long a run will still take: an estimate to believe, or none.

1. `history` says what each page took before, scaled by what there is to measure now.
2. Every page that ends here says how fast this machine is at its kind of work, and at telling.
3. Pages that wait are laid out on the jobs in the order of what they read.
No estimate is shown before a page has ended, nor while most of what is left is of a kind that this
run has not seen yet or is unsure of, nor once a page takes far longer than expected.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sandbagging.suite.runner.history import Expected

Key = tuple[str, str]
TELLING = "telling"
SEEN_SHARE = 2 / 3  # of the seconds that are left, those of kinds that this run has seen
OVER = 1.15  # a page that takes longer than this many times what was expected is not understood
PRIOR = 20.0  # seconds of work that speak for a machine as fast as the one of the run before
APART = 1.4  # of what was seen and what is thought: further apart, there is no estimate yet
SLACK = 15.0  # seconds within which nobody minds


class _Loop(NamedTuple):
    """Where a page's loop stood when it was first heard of, and where it stands."""

    label: str
    began: float
    first: int
    now: float
    done: int
    total: int


class Estimator:
    """Follows the pages of a run through time and says how many seconds are left."""

    def __init__(
        self, expected: Mapping[Key, Expected], waits: Mapping[Key, Sequence[Key]], jobs: int
    ):
        self.expected, self.waits, self.jobs = dict(expected), waits, max(1, jobs)
        self.left: list[Key] = list(expected)
        self.began: dict[Key, float] = {}
        self.loops: dict[Key, _Loop] = {}
        self._seconds: dict[str, list[float]] = {}  # kind -> [seconds here, seconds expected]
        self.ended = 0

    # What happens

    def skip(self, key: Key) -> None:
        """A page still holds."""
        self.left.remove(key)

    def start(self, key: Key, now: float) -> None:
        """A page begins."""
        self.began[key] = now

    def report(self, key: Key, label: str, done: int, total: int, now: float) -> None:
        """A page's loop has come so far."""
        loop = self.loops.get(key)
        if loop is None or loop.label != label or done < loop.done:
            self.loops[key] = _Loop(label, now, done, now, done, total)
        elif done > loop.done:
            self.loops[key] = loop._replace(now=now, done=done, total=total)

    def finish(self, key: Key, now: float, measuring: float | None) -> None:
        """A page has ended, after so many seconds of measuring (None: it does not say)."""
        seconds = now - self.began.pop(key)
        self.left.remove(key)
        self.loops.pop(key, None)
        self.ended += 1
        expected = self.expected[key]
        if measuring is None:
            measuring = max(0.0, seconds - expected.telling * self.speed(TELLING))
        self._learn(TELLING, max(0.0, seconds - measuring), expected.telling)
        if expected.measuring:
            self._learn(expected.kind, measuring, expected.measuring)

    def _learn(self, kind: str, here: float, expected: float) -> None:
        sums = self._seconds.setdefault(kind, [0.0, 0.0])
        sums[0] += here
        sums[1] += expected

    # What is left

    def speed(self, kind: str, prior: float | None = None) -> float:
        """Return seconds here over seconds expected, of a kind or, where none ended, of all.

        A short page says little, so it moves the speed little: `prior` seconds (PRIOR) speak for 1.
        """
        prior = PRIOR if prior is None else prior
        own = self._seconds.get(kind)
        if own is None or own[1] <= 0:
            own = [sum(sums) for sums in zip(*self._seconds.values(), strict=True)] or [0.0, 0.0]
        return (own[0] + prior) / (own[1] + prior) if own[1] + prior > 0 else 1.0

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until everything has ended, or None where that is not known."""
        if not self.ended or not self.left:
            return None
        seconds = {}
        for key in self.left:
            whole = self._whole(key)
            left = None if whole is None else self._page_left(key, whole, now)
            if left is None:
                return None
            seconds[key] = left
        known = self._familiar(seconds) and self._settled()
        return self.laid_out(seconds) if known else None

    def _whole(self, key: Key, prior: float | None = None) -> float | None:
        """Return the seconds that a page takes here from its beginning to its end."""
        expected = self.expected[key]
        if expected.measuring is None:
            return None
        telling = expected.telling * self.speed(TELLING, prior)
        return telling + expected.measuring * self.speed(expected.kind, prior)

    def _settled(self) -> bool:
        """Return whether what was seen outweighs what was thought before, for what is left."""
        seen = math.fsum(self._whole(key, 0.0) for key in self.left)
        thought = math.fsum(self._whole(key) for key in self.left)
        return 1 / APART < seen / thought < APART

    def _page_left(self, key: Key, whole: float, now: float) -> float | None:
        if key not in self.began:
            return whole
        here = now - self.began[key]
        of_loop = self._loop_left(key, now)
        if here > OVER * whole + SLACK / 2 and (of_loop or 0.0) < SLACK:
            return None
        return max(whole - here, of_loop or 0.0, 0.0)

    def _loop_left(self, key: Key, now: float) -> float | None:
        """Return the seconds that the current loop still needs, as fast as it has gone so far."""
        loop = self.loops.get(key)
        if loop is None or loop.done == loop.first:
            return None
        pace = (loop.now - loop.began) / (loop.done - loop.first)
        return max(0.0, pace * (loop.total - loop.done) - (now - loop.now))

    def _familiar(self, seconds: Mapping[Key, float]) -> bool:
        """Return whether most of what is left is of kinds that have been seen here."""
        strange = sum(
            left
            for key, left in seconds.items()
            if self.expected[key].measuring and self.expected[key].kind not in self._seconds
        )
        total = math.fsum(seconds.values())
        return strange <= (1 - SEEN_SHARE) * total or total < SLACK

    def laid_out(self, seconds: Mapping[Key, float]) -> float:
        """Return when the last page ends if `jobs` run at a time, each after what it reads."""
        free = [0.0] * self.jobs
        ends: dict[Key, float] = {}
        running = sorted((key for key in seconds if key in self.began), key=self.began.get)
        waiting = [*running, *(key for key in seconds if key not in self.began)]
        while waiting:
            ready = [k for k in waiting if not any(w in waiting for w in self.waits[k])]
            at = {k: max([0.0, *(ends[w] for w in self.waits[k] if w in ends)]) for k in ready}
            slot = min(range(self.jobs), key=free.__getitem__)
            key = min(ready, key=lambda k: (max(at[k], free[slot]), waiting.index(k)))
            waiting.remove(key)
            free[slot] = ends[key] = max(at[key], free[slot]) + seconds[key]
        return max(ends.values(), default=0.0)
