"""Which models each rule is tried on, in which order: what is cheap comes first."""

from collections.abc import Sequence
from typing import NamedTuple

from sandbagging.errors import UserError, nearest
from sandbagging.heads.head import Head, parse
from sandbagging.models import taught
from sandbagging.planted import planting
from sandbagging.recovery import examination
from sandbagging.recovery.league import MODELS
from sandbagging.recovery.subjects import PLANTED, RANDOM, dose_of
from sandbagging.recovery.tries import DOSE, NULL, RULES, Told

# What is measured together, and the rules that rest on it.
GROUPS = {
    "gate": ("answers wrongly", "less sure"),
    "heads": ("found heads", "max-T", "max-T alone"),
    "probe": ("probe",),
    "swaps": ("carries the difference", "needs the SAE"),
    "circuit": ("specific", "survives"),
    "league": ("rankings",),  # no rule, but measured on the same models
}
# Planted models, a base each: nulls, those that are asked at every dose too, and those on whose
# doses swaps are tried, which are dearer.
N_NULLS, N_DOSED, N_FEW = 36, 12, 6
DOSES = (0.1, 0.2, 0.35, 0.5, 0.75)  # of a switch, besides the whole of it
AT = ("", *(f"@{dose:g}" for dose in DOSES))
N_RANDOM, N_TAUGHT = 3, 2
DECOYS = ("decoy", *(f"decoy-{seed}" for seed in range(5)))
COINS = 10  # label vectors a model that a probe is tried on
REAL_LAYERS = (7, 15, 22)
ACTS, BEFORE = examination.LAYERS[1], examination.LAYERS[0]  # of planted models


class Work(NamedTuple):
    """One thing to measure: a group of rules on one model."""

    group: str
    model: str


def check_rule(rule: str) -> None:
    """Raise UserError for a name that is no rule."""
    known = [*RULES, *GROUPS["league"]]
    if rule not in known:
        raise UserError(
            f"There is no rule {rule!r} to calibrate; did you mean {nearest(rule, known)!r}? "
            f"Known: {', '.join(known)}."
        )


def works(only: Sequence[str] = ()) -> list[Work]:
    """Return all that is to be measured, or what some rules need, in order."""
    for rule in only:
        check_rule(rule)
    wanted = [g for g, rules in GROUPS.items() if not only or set(only) & set(rules)]
    return [work for work in _all() if work.group in wanted]


def _all() -> list[Work]:
    """Planted models seed by seed, since a seed's base is trained once; nulls alone and what is
    dear come last.
    """
    dosed, nulls = range(N_DOSED), range(N_DOSED, N_NULLS)
    return [
        *(work for seed in dosed for work in _planted(seed)),
        *(Work("league", name) for name in MODELS if PLANTED.match(name)),
        *_real(),
        *(work for seed in nulls for work in _planted(seed)),
        *_dear(),
    ]


def _planted(seed: int) -> list[Work]:
    few, whole = seed < N_FEW, f"organism-heads-{seed}"
    found = _each(f"organism-null-{seed}", "gate", "heads", "circuit", "swaps")
    if seed < N_DOSED:
        found += _each(f"organism-null-{seed}", "probe")
        for name in (whole, *(f"{whole}@{dose:g}" for dose in DOSES)):
            found += _each(name, "gate", "heads", "circuit", *(["swaps"] if few else []))
    if few:
        found += _each(f"organism-direction-{seed}", "gate", "heads", "circuit", "swaps")
    return found


def _real() -> list[Work]:
    taught_here = [f"sandbagger-{seed}{at}" for at in AT for seed in range(N_TAUGHT)]
    return [
        *(work for name in DECOYS for work in _each(name, "gate", "probe", "swaps")),
        *(Work("gate", f"random-{seed}") for seed in range(N_RANDOM)),
        *(work for name in taught_here for work in _each(name, "gate", "swaps")),
    ]


def _dear() -> list[Work]:
    """Sweeps over all heads of real weights take minutes each."""
    return [
        *(work for name in (*DECOYS, "random-0") for work in _each(name, "heads", "circuit")),
        *(Work("heads", f"heads-0{at}") for at in AT),
        *(Work("league", name) for name in MODELS if not PLANTED.match(name)),
    ]


def _each(name: str, *groups: str) -> list[Work]:
    return [Work(group, name) for group in groups]


def on_this_machine(planned: Sequence[Work]) -> tuple[list[Work], list[str]]:
    """Return what can be measured here, and a sentence for each taught model that is not here."""
    stems = list(dict.fromkeys(dose_of(work.model)[0] for work in planned))
    absent = [stem for stem in stems if not _is_here(stem)]
    there = [work for work in planned if dose_of(work.model)[0] not in absent]
    return there, [_not_taught(stem) for stem in absent]


def _is_here(stem: str) -> bool:
    if PLANTED.fullmatch(stem) or RANDOM.fullmatch(stem):
        return True
    return taught.is_committed(stem) or (taught.folder_of(stem) / taught.MANIFEST).is_file()


def _not_taught(stem: str) -> str:
    kind, _, seed = stem.rpartition("-")
    return f"{stem} is left out: teach it with `sandbagging teach {kind} --seed {seed}`."


def told(name: str) -> Told:
    """Return what is known of a model; raises UserError where that is nothing."""
    stem, _ = dose_of(name)
    if planted := PLANTED.fullmatch(stem):
        variant, seed = planted["variant"], int(planted["seed"])
        writers = tuple(Head(*head) for head in planting.roles(variant, seed).writers)
        return Told(name, variant != "null", writers if variant == "heads" else (), writers)
    if RANDOM.fullmatch(stem):
        return Told(name, False)
    truth = taught.truth(stem)
    if truth is None:
        raise UserError(
            f"Nothing is known beforehand of {name}, so no rule can be calibrated on it."
        )
    named = tuple(parse(truth["heads"])) if truth.get("heads") else None
    return Told(name, bool(truth["sandbags"]), named)


def layers(name: str) -> dict[int, str]:
    """Return {layer: kind} at which swaps are tried in a model: DOSE where its switch acts, NULL
    where nothing can be carried. Of real weights only the last of three layers is known to act.
    """
    known, planted = told(name), PLANTED.match(name)
    if planted:
        both = {BEFORE: NULL, ACTS: DOSE}
        return both if known.sandbags else dict.fromkeys(examination.LAYERS, NULL)
    return {REAL_LAYERS[-1]: DOSE} if known.sandbags else dict.fromkeys(REAL_LAYERS, NULL)
