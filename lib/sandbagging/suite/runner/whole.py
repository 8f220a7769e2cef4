"""What a command takes that begins with nothing, by the seconds that its pages took before."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sandbagging.suite.runner import eta, history
from sandbagging.suite.runner.nodes import nodes_of, waits_for
from sandbagging.suite.runner.planning import Plan


class Whole(NamedTuple):
    """How long some plans take from nothing, in seconds."""

    jobs: int
    seconds: float  # until the last page ends
    of_runs: dict[str, float]  # of all pages of a run one after the other, the longest run first
    of_pages: dict[str, float]  # the same by page, over all runs


def from_nothing(plans: Sequence[Plan], jobs: int) -> Whole:
    """Return what plans take on `jobs` cores, a page on each: measuring as it went without other
    work beside it, and telling.
    """
    expected = history.expectations(nodes_of(plans), from_nothing=True)
    nodes = history.longest_way_first(nodes_of(plans), expected)
    seconds = {n.key: expected[n.key].telling + (expected[n.key].measuring or 0.0) for n in nodes}
    waits = {node.key: [before.key for before in waits_for(node, nodes)] for node in nodes}
    of_runs, of_pages = Counter(), Counter()
    for (run, artefact), spent in seconds.items():
        of_runs[run] += spent
        of_pages[artefact] += spent
    last = eta.Estimator({n.key: expected[n.key] for n in nodes}, waits, jobs).laid_out(seconds)
    return Whole(jobs, last, dict(of_runs.most_common()), dict(of_pages.most_common()))


def told(whole: Whole) -> str:
    """Return it in words."""
    lines = [f"From nothing on {whole.jobs} cores: {whole.seconds / 60:.0f} minutes."]
    for title, parts in (("run", whole.of_runs), ("page, over all runs", whole.of_pages)):
        lines += ["", f"minutes of one core, by {title}:"]
        lines += [f"{seconds / 60:6.1f}  {name}" for name, seconds in parts.items()]
    return "\n".join(lines)
