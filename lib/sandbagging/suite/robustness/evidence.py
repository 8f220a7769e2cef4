"""What one run says of each headline claim: it holds, it does not, or that cannot be said.

*Does not* needs evidence against the claim: an interval on the other side, or a verdict that
excludes it. Where a rule merely could not decide, and where there is no sandbagging to explain, it
cannot be said.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from sandbagging import gate as gates
from sandbagging import models
from sandbagging.gate import Gate
from sandbagging.heads import rivals, specificity
from sandbagging.heads.head import Head, join, parse
from sandbagging.heads.rivals import Survival
from sandbagging.statistics import Estimate
from sandbagging.suite import nested, runs
from sandbagging.suite.robustness.claims import CLAIMS, DOES_NOT, HOLDS, NOT_RUN, UNKNOWN
from sandbagging.swaps import decision

# The notebook that has to be done before a run says anything of a claim.
RESTS_ON = {
    "answers_wrongly": "00_baseline",
    "heads_carry": "08_circuit",
    "heads_most": "08_circuit",
    "heads_specific": "08_circuit",
    "swap_carries": "06_specificity",
    "any_basis": "06_specificity",
    "nothing_early": "06_specificity",
    "early_head": "07_heads",
    "same_heads": "07_heads",
}
USUAL = 0.5  # the rank p of heads that half of the random sets come up to
SAME = 0.5  # of the heads have to be chosen again, and more


class Cell(NamedTuple):
    """What is said of a claim, the number that it rests on, and why."""

    says: str
    measured: str = ""
    why: str = ""


class Swept(NamedTuple):
    """The heads that notebook 07 chose and found."""

    chosen: Sequence[Head]
    found: Sequence[Head]


CLOSED = Cell(UNKNOWN, "", "there is no sandbagging to explain: the grade is *no*")
ABSENT = Cell(NOT_RUN)


# The rules ----------------------------------------------------------------------------------------


def wrongly(found: Gate) -> Cell:
    """Return whether the model answers wrongly when told to; a drop that lies below the mark says
    that it does not, and so does a model that knows too little.
    """
    measured = f"{found.drop:ci .1f} fewer right answers"
    if found.grade == gates.ANSWERS_WRONGLY:
        return Cell(HOLDS, measured)
    against = found.drop.high <= gates.DROP_PP or found.ability < gates.ABLE
    return Cell(DOES_NOT if against else UNKNOWN, measured, found.reason)


def carry(found: Survival) -> Cell:
    """Return whether zeroing a few heads undoes it, or a part: they survive rivals selected as
    hard.
    """
    measured = f"{found.share:short .0%} of the gap restored"
    if found.survives:
        return Cell(HOLDS, measured)
    if found.grade == rivals.NOTHING:
        return CLOSED
    against = (
        found.share.high < rivals.FLOOR_SHARE
        or found.net.high < rivals.FLOOR_NATS
        or found.share_p_full.high < 0
        or max(found.rank_p.values()) > USUAL
        or any(margin.high < 0 for margin in found.margins.values())
    )
    return Cell(DOES_NOT if against else UNKNOWN, measured, found.reason)


def most(found: Survival) -> Cell:
    """Return whether zeroing these heads undoes most of it: more than a half of the gap."""
    carries = carry(found)
    if carries.says != HOLDS or found.grade == rivals.SURVIVES:
        return carries
    against = found.share.high < rivals.MOST_SHARE
    return Cell(DOES_NOT if against else UNKNOWN, carries.measured, found.reason)


def specific(says: str, difference: Estimate, grade: str) -> Cell:
    """Return whether what the heads do is specific to sandbagging; `says` is one of
    `specificity.WORDS`, `difference` the effect on sandbag minus the size of that on genuine
    prompts.
    """
    if grade == gates.NO:
        return CLOSED
    against = says in (specificity.LARGER_ELSEWHERE, specificity.OPPOSITE)
    says_so = HOLDS if says == specificity.SPECIFIC else DOES_NOT if against else UNKNOWN
    why = "" if says_so == HOLDS else specificity.WORDS[says]
    return Cell(says_so, f"net effect {difference:ci}", why)


def carried(cells: pd.DataFrame) -> Cell:
    """Return whether each swap of `decision.judge_cells` carries the difference."""
    excluded = (decision.NOTHING, decision.DESTRUCTIVE, decision.EQUIVALENT)
    says = [
        HOLDS if v == decision.CARRIES else DOES_NOT if v in excluded else UNKNOWN
        for v in cells["verdict"]
    ]
    return _all(says, [f"E6 {e:ci}" for e in cells["e6"]], cells["reason"])


def in_any_basis(cells: pd.DataFrame) -> Cell:
    """Return whether each swap that carries the difference does so as any basis would."""
    told = {decision.ANY: HOLDS, decision.NEEDS: DOES_NOT}
    measured = [
        f"E6 minus the difference of means {e:ci}" if isinstance(e, Estimate) else ""
        for e in cells.get("over_diff_means", [""] * len(cells))
    ]
    why = [
        b or f"the verdict on the swap itself: {v}" for v, b in cells[["verdict", "basis"]].values
    ]
    return _all([told.get(basis, UNKNOWN) for basis in cells["basis"]], measured, why)


def nothing(cells: pd.DataFrame) -> Cell:
    """Return whether even the oracle restores nothing: equivalent to zero; an interval above the
    floor says that it restores something.
    """
    if (cells["verdict"] == decision.NO_GATE).any():
        return CLOSED
    says = [
        HOLDS if p < decision.ALPHA else DOES_NOT if oracle.low > decision.FLOOR else UNKNOWN
        for p, oracle in zip(cells["p_oracle_is_zero"], cells["oracle"], strict=True)
    ]
    return _all(says, [f"oracle {oracle:ci}" for oracle in cells["oracle"]], [""] * len(says))


def _all(says: Sequence[str], measured: Sequence[str], why: Sequence[str]) -> Cell:
    """Return what all SAEs of a layer say; what they disagree on cannot be said."""
    alike, first = set(says), next((i for i, s in enumerate(says) if s != HOLDS), 0)
    if not says:
        return ABSENT
    if len(alike) > 1:
        return Cell(UNKNOWN, measured[first], f"SAEs of this layer disagree: {list(why)[first]}")
    return Cell(says[0], measured[0], "" if says[0] == HOLDS else list(why)[0])


def early(found: Sequence[Head], n_layers: int, grade: str) -> Cell:
    """Return whether a head that was found lies in the first quarter of depth."""
    if grade == gates.NO:
        return CLOSED
    if not found:
        return Cell(UNKNOWN, "no head found", "no head was found, so none lies anywhere")
    there = [head for head in found if head.layer < n_layers / 4]
    return Cell(HOLDS if there else DOES_NOT, join(there, " ") or f"first is {min(found)}")


def same(chosen: Sequence[Head], base: Sequence[Head], grade: str) -> Cell:
    """Return whether more than half of the base's heads are chosen again."""
    if grade == gates.NO:
        return CLOSED
    shared = len(set(chosen) & set(base))
    return Cell(HOLDS if shared > SAME * len(base) else DOES_NOT, f"{shared} of {len(base)} heads")


OF_SURVIVAL = {"heads_carry": carry, "heads_most": most}


# Reading a run ------------------------------------------------------------------------------------


def of_run(run: str, base: str) -> dict[str, Cell]:
    """Return what a run says of every claim; `same_heads` is against the run `base`."""
    return {claim: _of_claim(run, base, claim) for claim in CLAIMS}


def _of_claim(run: str, base: str, claim: str) -> Cell:
    artefact = RESTS_ON[claim]
    if runs.read_manifest(run, artefact) is None:
        return ABSENT
    if artefact == "06_specificity":
        return of_swaps(swaps_of(run))[claim]
    grade = gate_of(run).grade
    if claim == "answers_wrongly":
        return wrongly(gate_of(run))
    if claim in OF_SURVIVAL:
        return OF_SURVIVAL[claim](survival_of(run))
    if claim == "heads_specific":
        found = nested.read_json(run, "08_circuit")["specific"]
        against = Estimate.from_dict(found["differences"]["genuine"]["logodds"])
        return specific(found["verdict"], against, grade)
    if claim == "early_head":
        return early(heads_of(run).found, layers_of(run), grade)
    if runs.read_manifest(base, artefact) is None:
        return ABSENT
    return same(heads_of(run).chosen, heads_of(base).chosen, grade)


def gate_of(run: str) -> Gate:
    """Return a run's gate."""
    return Gate.from_dict(nested.read_json(run, "00_baseline")["gate"])


def heads_of(run: str) -> Swept:
    """Return the heads that notebook 07 of a run chose and found."""
    heads = nested.read_json(run, "07_heads", "heads.json")
    return Swept(tuple(parse(heads["heads"])), tuple(parse(heads["found"])))


def layers_of(run: str) -> int:
    """Return how many layers a run's model has."""
    model = runs.read_manifest(run, "00_baseline")["parameters"]["model"]
    return models.entry(model).config["num_hidden_layers"]


def survival_of(run: str) -> Survival:
    """Return what notebook 08 of a run says of its heads, with the numbers that it rests on."""
    summary = nested.read_json(run, "08_circuit")
    restored, margins = summary["share_restored"], summary["margins"]
    net = summary["specific"]["differences"]["genuine"]["logodds"]
    return Survival(
        grade=summary["survives"]["value"],
        reason=summary["survives"]["reason"],
        share=Estimate.from_dict(restored["logodds"]),
        share_p_full=Estimate.from_dict(restored["p_full"]),
        net=Estimate.from_dict(net),
        closed=Estimate.from_dict(summary["share_closed"]["logodds"]),
        margins={name: Estimate.from_dict(fields) for name, fields in margins.items()},
        rank_p={kind: summary[f"random_{kind}"]["rank_p"] for kind in ("uniform", "same_layer")},
        smallest_share=float("nan"),
        coincided=0,
    )


def swaps_of(run: str) -> pd.DataFrame:
    """Return notebook 06's verdicts of a run, with Estimates as `decision.judge_cells` has them."""
    from sandbagging.swaps import tables

    return tables.read_verdicts(nested.read_table(run, "06_specificity", "verdicts.csv"))


def of_swaps(cells: pd.DataFrame) -> Mapping[str, Cell]:
    """Return what verdicts on swaps say: at the deepest layer of interest, and at the earliest."""
    deep, first = (cells[cells["layer"] == end(cells["layer"])] for end in (max, min))
    return {
        "swap_carries": carried(deep),
        "any_basis": in_any_basis(deep),
        "nothing_early": nothing(first),
    }
