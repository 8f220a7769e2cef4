"""Cells set by hand that show what each verdict looks like; the real rule decides them."""

from typing import NamedTuple

from sandbagging import gate
from sandbagging.statistics import Estimate
from sandbagging.swaps.decision import CARRIES, basis_of, decide_cell
from sandbagging.swaps.evidence import FOUR, MARGINS, RIVALS, Evidence

HALF = 0.2  # nats, half of every interval; half as much where so little is to be seen


class Example(NamedTuple):
    """A made-up cell in nats: effects on sandbag prompts."""

    oracle: float
    e6: float
    e1: float
    e4: float
    rivals: float  # the difference of means, and E6 through untrained SAEs
    noise: float = 0.0
    half: float = HALF
    grade: str = gate.ANSWERS_WRONGLY
    void: str = ""
    shows: str = ""  # in a few words


EXAMPLES = (
    Example(2.4, 1.8, 0.9, 0.0, 0.9, grade=gate.NO, shows="the model's grade is no"),
    Example(2.4, 1.2, 1.2, 1.2, 0.9, void="both codes are all zero", shows="all three are one"),
    Example(0.02, 0.01, 0.0, -0.01, 0.01, half=0.05, shows="nor does the oracle"),
    Example(2.4, -1.6, -1.7, -1.8, 1.5, noise=-1.2, shows="the edit itself does harm"),
    Example(2.4, 1.8, 0.9, 0.0, 0.9),
    Example(2.4, 1.8, 0.9, 0.0, 1.8),
    Example(2.4, 0.6, 0.6, 0.6, 1.5, half=0.05, shows="the labels do not matter"),
    Example(2.4, 0.5, 0.35, 0.2, 1.5, shows="too few questions"),
)


class Decided(NamedTuple):
    """What the real rule says of an example, and the example's point in a few words."""

    effects: dict[str, float]  # nats, see `Example`
    verdict: str
    shows: str


def decided(example: Example) -> Decided:
    """Return the verdict of the real rule; where the difference is carried, what it owes to the SAE
    is the point.
    """
    evidence = evidence_of(example)
    verdict = decide_cell(evidence, evidence.four_p, example.grade).verdict
    basis = basis_of(evidence, evidence.rivals_p) if verdict == CARRIES else ""
    names = ("oracle", "e6", "e1", "e4", "noise", "rivals", "half")
    return Decided({n: getattr(example, n) for n in names}, verdict, basis or example.shows)


def evidence_of(example: Example) -> Evidence:
    """Return the evidence that a made-up cell stands for: p is small where an interval says so."""
    x = example._asdict()
    odds = {name: x[name] for name in ("oracle", "e6", "e1", "e4", "noise")}
    odds |= {"identity": example.noise, "gap_e1": x["e6"] - x["e1"], "gap_e4": x["e6"] - x["e4"]}
    odds |= {"gap_delta": 2 * odds["gap_e4"], "over_noise": x["e6"] - x["noise"]}
    odds |= {f"over_{name}": x["e6"] - example.rivals for name in RIVALS}
    found = {name: _estimate(value, example.half) for name, value in odds.items()}
    margin = MARGINS["logodds"]

    def none(*names: str) -> float:
        return 0.0 if all(-margin < found[n].low and found[n].high < margin for n in names) else 1.0

    def some(*names: str) -> float:
        return 0.0 if all(found[n].low > 0 for n in names) else 1.0

    return Evidence(
        odds=found,
        full=found,
        void=example.void,
        oracle_p=none("oracle"),
        equivalent_p=none("gap_e1", "gap_e4"),
        four_p=some(*FOUR),
        rivals_p=some(*(f"over_{name}" for name in RIVALS)),
        seed_sd=0.0,
        detectable=2 * example.half,
    )


def _estimate(value: float, half: float) -> Estimate:
    return Estimate(value, value - half, value + half, 100, "nats", "set by hand")
