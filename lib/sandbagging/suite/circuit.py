"""What notebook 08 asks beside its verdict: where the heads act, by what path, what may stand in
for them, and what they bring when they are patched.

Each function measures through the step and returns tables with the wider intervals.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from sandbagging import metrics
from sandbagging.heads import (
    circuits,
    estimates,
    exchange,
    parts,
    paths,
    positions,
    reading,
    rivals,
    shares,
    specificity,
    sweep,
)
from sandbagging.heads.head import Head, Heads, as_set
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.questions import Question
from sandbagging.statistics import Estimate, Wide
from sandbagging.suite import answers, runs

WITHIN, BEHIND, LAST = "within it", "behind it", "at the last token"  # where words are hidden
LAST_TOKEN = "last token"  # a place where heads are zeroed


def named_sets(
    joint: Heads, rival: Sequence[rivals.Rival], patched: Heads, drawn: Heads, lead: Heads = ()
) -> dict[str, Heads]:
    """Return the sets of heads that the page compares, by the names that its tables give them."""
    named = {"joint": joint, "leading": lead, **{f"rival:{r.chosen_on}": r.heads for r in rival}}
    named |= {"patching": patched, "random": drawn}
    return {name: heads for name, heads in named.items() if heads}


def leading(lm: Model, found: Mapping[str, Any], joint: Heads) -> Heads:
    """Return the heads that lead one by one in notebook 07's heads.json; none where they are the
    chosen ones.
    """
    heads = as_set(lm, found.get("leading", []))
    return () if set(heads) == set(joint) else heads


def with_leading(
    step: runs.Step,
    lm: Model,
    test: Sequence[Question],
    framing: str,
    on: Mapping[str, Effects],
    lead: Heads,
) -> dict[str, Effects]:
    """Return effects {condition: effects} with those of the heads that lead one by one, zeroed
    together, on sandbag and genuine prompts; as they were where there are none.
    """
    found = dict(on)
    for c in answers.CONDITIONS if lead else ():
        more = step.measure(sweep.sweep_conditions, lm, test, [c], framing, [lead], label="leading")
        found[c] = estimates.with_sets(found[c], more[c])
    return found


def of_leading(
    closes: pd.DataFrame, answered: Mapping[str, Any], lead: Heads
) -> dict[str, Any] | None:
    """Return what the heads that lead one by one do together, as summary.json has it, from a table
    of `parts.of_each` and the answers of `answers.without_heads`; None where there are none.
    """
    if not lead:
        return None
    told: dict[str, Any] = {"heads": lead, "answers": answered["leading"]}
    rows = closes[closes["set"] == "leading"]
    for quantity in parts.SHARES:
        of = rows[rows["quantity"] == quantity].set_index("metric")
        told[quantity] = {
            m: Estimate(*of.loc[m, ["value", "low", "high", "n"]]) for m in shares.WORDS
        }
    return told


def by_place(
    step: runs.Step,
    lm: Model,
    test: Sequence[Question],
    framing: str,
    joint: Heads,
    patched: Heads,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables of `parts.of_each` with the chosen heads and patching's zeroed at one place
    of the prompts at a time, and with the words that say how to answer hidden from them at one
    place at a time.
    """
    told, areas = circuits.told_in(framing), shares.categories_of(test)
    named = {"joint": joint, **({"patching": patched} if patched else {})}
    cut = circuits.distinct(named.values())
    at = [lm, test, list(answers.CONDITIONS), framing, cut]
    places = step.measure(positions.ablate_at, *at)
    last = step.measure(paths.without_reading, *at, of=told)
    after = [place for place in positions.PLACES if place not in (told, "demonstrations")]
    behind = step.measure(paths.without_reading, *at, of=told, at=after)
    within = step.measure(paths.without_reading, *at, of=told, at=[told])
    hidden = {WITHIN: within, BEHIND: behind, LAST: last}
    return tuple(parts.of_each(found, named, areas, seed) for found in (places, hidden))


def restored(table: pd.DataFrame) -> dict[str, Estimate]:
    """Return {way: share of the log-odds gap that the chosen heads restore, with its CI95}, from a
    table of `parts.of_each`.
    """
    wanted = (table["metric"] == metrics.DECIDES) & (table["quantity"] == "share_restored")
    rows = table[wanted & (table["set"] == "joint")].set_index("way")
    return {way: Estimate(*rows.loc[way, ["value", "low", "high", "n"]]) for way in rows.index}


def acts_later(where: pd.DataFrame, told: str) -> bool | None:
    """Return whether zeroing the chosen heads restores more at the last token alone than at the
    place `told` alone, from `by_place`'s first table; None where the CI95s overlap.
    """
    at = restored(where)
    last, first = at[LAST_TOKEN], at[told]
    if last.low > first.high:
        return True
    return False if first.low > last.high else None


def replaced(
    step: runs.Step,
    lm: Model,
    test: Sequence[Question],
    train: Sequence[Question],
    framing: str,
    sets: Sequence[Heads],
    named: Mapping[str, Heads],
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of `parts.of_each` with sets replaced by zero, a mean or another question's
    value: of those of the `sets` that are `named`.
    """
    named = _among(sets, named)
    at = [lm, test, list(answers.CONDITIONS), framing, sets]
    ways = step.measure(positions.compare, *at, train)
    return parts.of_each(ways, named, shares.categories_of(test), seed)


def exchanged(
    step: runs.Step,
    lm: Model,
    test: Sequence[Question],
    patch_framing: str,
    sets: Sequence[Heads],
    named: Mapping[str, Heads],
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of `parts.exchange_table` of those of the `sets` that are `named`."""
    named = _among(sets, named)
    both = step.measure(exchange.both_ways, lm, test, patch_framing, sets)
    return parts.exchange_table(both, named, shares.categories_of(test), seed)


def _among(sets: Sequence[Heads], named: Mapping[str, Heads]) -> dict[str, Heads]:
    return {name: heads for name, heads in named.items() if tuple(sorted(heads)) in sets}


def looks_and_pushes(
    step: runs.Step,
    lm: Model,
    test: Sequence[Question],
    framing: str,
    heads: Iterable[Head],
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return where heads look from the last token, and what they add to the logits of answers."""
    at = [lm, test, list(answers.CONDITIONS), framing, tuple(sorted(set(heads)))]
    shared = step.measure(reading.attention_shares, *at)
    pushes = step.measure(reading.logit_pushes, *at)
    return estimates.attention_by_region(shared, seed), estimates.logit_table(pushes, seed)


def by_question(on: Mapping[str, Effects], joint: Heads) -> pd.DataFrame:
    """Return the rows of `estimates.all_by_question`: of every set on log-odds and p_full, of the
    chosen heads together on choice_len too.
    """
    whole = {condition: estimates.only(of, [joint]) for condition, of in on.items()}
    judged = estimates.all_by_question(on, joint, (shares.DECIDES, shares.BESIDE))
    return pd.concat([judged, estimates.all_by_question(whole, joint, (metrics.CHOICE,))])


def verdicts(
    found: rivals.Survival, specific: specificity.Specific, wide: Mapping[str, Wide]
) -> dict[str, Any]:
    """Return what the two rules say beside the numbers of `shares.headline`, as summary.json has
    it.
    """
    closed = {m: wide[f"share closed, {words}"].estimate for m, words in shares.WORDS.items()}
    return {
        "survives": {"value": found.grade, "reason": found.reason},
        "share_restored": {"logodds": found.share, "p_full": found.share_p_full},
        "share_closed": closed,
        "margins": found.margins,
        "smallest_share": found.smallest_share,
        "specific": {"verdict": specific.says, "differences": specific.differences},
    }


def on_p_full(on: Mapping[str, Effects], joint: Heads, seed: int = 0) -> dict[str, Any]:
    """Return the card's own numbers, on p_full, as summary.json has them."""
    sandbag = on["sandbag"]
    effect = estimates.by_condition(on, joint, seed=seed)
    portion = estimates.specific_portions(on, joint, seed)
    choice = estimates.estimate(sandbag.of(joint, "choice_len"), "choice_len", seed)
    return {
        "joint": effect["sandbag"],
        "joint_genuine": effect["genuine"],
        "joint_neutral": effect["neutral"],
        "joint_choice_len": choice,
        "conditions": estimates.condition_rows(on, joint, seed),
        "specific_portion": portion["neutral"],
        "specific_portion_vs_genuine": portion["genuine"],
        "singles": estimates.singles(sandbag, joint, seed),
        "mean_single_held_out": estimates.mean_single(sandbag, joint, seed),
        "redundancy": estimates.redundancy(sandbag, joint, seed),
    }


def outcomes(
    found: rivals.Survival,
    specific: specificity.Specific,
    answered: Mapping[str, Mapping[str, Any]],
    minimal: pd.DataFrame,
    left: parts.Remains,
    beside: Mapping[str, pd.DataFrame],
) -> dict[str, tuple[bool | None, str]]:
    """Return what came of the page's expectations {name: (held, in a few words)}, as
    `predictions.record` takes them; None for those whose tables are not `beside`.
    """
    matter = int(minimal["matters"].sum())
    held = {
        "beats": (found.survives, found.grade),
        "specific": (specific.specific, specific.says),
        "answers": answers.as_expected(answered),
        "each": (matter == len(minimal), f"{matter} of {len(minimal)}"),
        "nothing": (
            None if left.says == parts.UNSAID else left.says == parts.COMPLETE,
            left.says,
        ),
        "last": (None, ""),
        "means": (None, ""),
        "routes": (None, ""),
    }
    if "positions.csv" in beside:
        where = beside["positions.csv"]
        at = restored(where)
        told = "instruction" if "instruction" in at else "cue"
        held["last"] = (acts_later(where, told), f"{at[LAST_TOKEN].value:.0%} restored there")
    if "replacements.csv" in beside:
        by = parts.shares_by_way(beside["replacements.csv"])
        mean, zero = by["mean genuine"], by["zero"]
        held["means"] = (mean >= 0.9 * zero, f"{mean:.0%} beside {zero:.0%}")
    return held


def same_heads(joint: Heads, patched: Heads) -> tuple[bool, str]:
    """Return whether patching names the heads that zeroing names, and how many it does."""
    shared = len(set(joint) & set(patched))
    return shared == len(joint), f"{shared} of {len(joint)} shared"
