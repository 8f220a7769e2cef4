"""Record how a run goes, for the tests of the ETA.

    python tests/timings/record.py SET [NAME=VALUE ...]

Writes tests/timings/SET.json: what was expected of each page, and every event with its second.
"""

import json
import sys
import time
from pathlib import Path

from sandbagging.suite import parameters, runner
from sandbagging.suite.runner import eta


class Recorder(eta.Estimator):
    """An estimator that keeps what it is told."""

    def __init__(self, expected, waits, jobs):
        super().__init__(expected, waits, jobs)
        self.zero = time.time()
        self.events: list[list] = []
        Recorder.last = self

    def _keep(self, what: str, key, *more) -> None:
        event = [round(time.time() - self.zero, 1), what, key[1], *more]
        if event[1:] != (self.events or [[None]])[-1][1:]:
            self.events.append(event)

    def skip(self, key):
        super().skip(key)
        self._keep("skip", key)

    def start(self, key, now):
        super().start(key, now)
        self._keep("start", key)

    def report(self, key, label, done, total, now):
        super().report(key, label, done, total, now)
        self._keep("report", key, label, done, total)

    def finish(self, key, now, measuring):
        super().finish(key, now, measuring)
        self._keep("finish", key, measuring)


def record(set_name: str, *overrides: str) -> None:
    """Run a set under the name timing-SET and write what happened."""
    plan = runner.plan(set_name, f"timing-{set_name}", parameters.parse_overrides(overrides))
    eta.Estimator = Recorder
    runner.execute(plan)
    last = Recorder.last
    expected = {key[1]: list(value) for key, value in last.expected.items()}
    content = {"jobs": last.jobs, "expected": expected, "events": last.events}
    lines = ",\n".join("  " + json.dumps(event) for event in content.pop("events"))
    text = json.dumps(content)[:-1] + f', "events": [\n{lines}\n]}}\n'
    (Path(__file__).parent / f"{set_name}.json").write_text(text)


if __name__ == "__main__":
    record(*sys.argv[1:])
