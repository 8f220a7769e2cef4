"""What the parts of a circuit do: its members, the places and ways it is cut at, what is left
without it.

All shares are of the gap between genuine and sandbag prompts, the intervention in both (`shares`).
Members and completeness are judged by what is *restored*: a set that ruins genuine answers closes
the gap, too, and leaves all of it to be restored.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from sandbagging.gate import Gate
from sandbagging.heads import selection, shares
from sandbagging.heads.head import Head, Heads, join
from sandbagging.heads.shares import BESIDE, DECIDES
from sandbagging.heads.sweep import Effects
from sandbagging.statistics import Estimate

Categories = Mapping[str, str] | None  # question id -> category


# Minimality ---------------------------------------------------------------------------------------


def without_one(heads: Sequence[Head]) -> list[Heads]:
    """Return the set without each of its heads in turn; none for a single head."""
    whole = tuple(sorted(heads))
    return [tuple(h for h in whole if h != out) for out in whole if len(whole) > 1]


def minimality(
    on: Mapping[str, Effects],
    heads: Sequence[Head],
    metric: str = DECIDES,
    categories: Categories = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what each member adds to the rest: rows head, share_lost, low, high, n, matters.

    share_lost is the share of the gap that all heads restore minus the share that the others
    restore without this one; a member *matters* if its CI95 lies above 0 (Wang et al. 2022,
    arXiv:2211.00593, section 4). `on` {genuine, sandbag: effects} holds the set and `without_one`.
    """
    whole = tuple(sorted(heads))
    gap, ids = shares.gap(on, metric), on["sandbag"].question_ids
    together, rows = shares.restored(on, whole, metric), []
    for out in whole:
        rest = tuple(h for h in whole if h != out)
        others = shares.restored(on, rest, metric) if rest else 0.0
        lost = shares.part_of_gap(together - others, gap, ids, seed, categories)
        rows.append(
            {"head": str(Head(*out)), "share_lost": lost.value, "low": lost.low, "high": lost.high,
             "n": lost.n, "matters": lost.low > 0}
        )  # fmt: skip
    return pd.DataFrame(rows)


def alone_and_lost(
    on: Mapping[str, Effects],
    heads: Sequence[Head],
    minimal: pd.DataFrame,
    categories: Categories = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return rows head, quantity, value, low, high, n: the share of the gap that each member
    restores "alone", and that "lost without it" of `minimality`.
    """
    gap, ids = shares.gap(on), on["sandbag"].question_ids
    rows = []
    for head in sorted(heads):
        part = shares.restored(on, [head])
        e = shares.part_of_gap(part, gap, ids, seed, categories)
        where = {"head": str(Head(*head)), "quantity": "alone"}
        rows.append(where | {"value": e.value, "low": e.low, "high": e.high, "n": e.n})
    lost = minimal.rename(columns={"share_lost": "value"}).drop(columns="matters")
    return pd.concat([pd.DataFrame(rows), lost.assign(quantity="lost without it")])


# Completeness -------------------------------------------------------------------------------------

COMPLETE, INCOMPLETE, TURNED, UNSAID = (
    "nothing remains", "something remains", "the gap is turned", "what remains cannot be said",
)  # fmt: skip


class Remains(NamedTuple):
    """What of the gap is not restored with a set of heads replaced in both conditions."""

    gap: Estimate  # what is not restored of it, in nats
    share: Estimate  # the same, of the gap with all heads in place
    between: Estimate  # genuine minus sandbag prompts, with the heads replaced, in nats
    floor: float  # within it nothing remains, in nats
    says: str  # COMPLETE, INCOMPLETE, TURNED or UNSAID


def remains(
    on: Mapping[str, Effects],
    heads: Iterable[Head],
    gate: Gate,
    categories: Categories = None,
    seed: int = 0,
) -> Remains:
    """Return what remains of the log-odds gap without the heads, as far as it is not restored.

    *Something* remains where its CI95 lies above the floor that the rule for heads has (0.1 nat,
    10 % of the gap), *nothing* where it lies below it and sandbag prompts do not pass genuine ones
    by more. Genuine answers that are ruined leave something, though no gap may be left to see.
    """
    heads, ids = tuple(heads), on["sandbag"].question_ids
    gap = shares.gap(on)
    after = gap - shares.restored(on, heads)
    left, between = (
        shares.change(values, DECIDES, ids, categories, seed)
        for values in (after, gap - shares.closed(on, heads))
    )
    share = shares.part_of_gap(after, gap, ids, seed, categories)
    least = selection.floor(gate.gap_logodds)
    return Remains(left, share, between, least, _said(left, between, least))


def _said(left: Estimate, between: Estimate, least: float) -> str:
    """Return what remains; never is less left than lies between the prompts."""
    if left.low > least:
        return INCOMPLETE
    if between.high < -least:
        return TURNED
    return COMPLETE if -least <= between.low and left.high <= least else UNSAID


# Places, replacements, paths, exchange ------------------------------------------------------------

SHARES = {"share_restored": shares.restored, "share_closed": shares.closed}


def by_way(
    found: Mapping[str, Mapping[str, Effects]],
    heads: Iterable[Head],
    categories: Categories = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what a set of heads does in several ways {way: {condition: effects}}, such as places
    or replacements: rows way, metric, quantity, value, low, high, unit, n.

    quantity: "effect" on sandbag prompts, "effect on genuine" and so on (nats, pp), and
    "share_restored" and "share_closed" where genuine prompts were run too.
    """
    heads, rows = tuple(heads), []
    for way, on in found.items():
        for metric in (DECIDES, BESIDE):
            ids = on["sandbag"].question_ids
            values = {
                "effect" if condition == "sandbag" else f"effect on {condition}": shares.change(
                    of.of(heads, metric), metric, ids, categories, seed
                )
                for condition, of in on.items()
            }
            if "genuine" in on:
                gap = shares.gap(on, metric)
                for name, share in SHARES.items():
                    part = share(on, heads, metric)
                    values[name] = shares.part_of_gap(part, gap, ids, seed, categories)
            rows += [
                {"way": way, "metric": metric, "quantity": quantity, "value": e.value,
                 "low": e.low, "high": e.high, "unit": e.unit or "share", "n": e.n}
                for quantity, e in values.items()
            ]  # fmt: skip
    return pd.DataFrame(rows)


def of_each(
    found: Mapping[str, Mapping[str, Effects]],
    named: Mapping[str, Iterable[Head]],
    categories: Categories = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the rows of `by_way` of several sets {name: heads}, with the columns set and heads."""
    tables = []
    for name, heads in named.items():
        table = by_way(found, heads, categories, seed)
        table.insert(0, "set", name)
        table.insert(1, "heads", join(sorted(heads)))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def shares_by_way(
    table: pd.DataFrame, name: str = "joint", quantity: str = "share_restored"
) -> dict[str, float]:
    """Return {way: share of the log-odds gap restored} of one set in a table of `of_each`; with
    "share_closed" the share closed.
    """
    wanted = (table["metric"] == DECIDES) & (table["quantity"] == quantity)
    rows = table[wanted & (table["set"] == name)]
    return dict(zip(rows["way"], rows["value"], strict=True))


def exchanged(
    patched: Mapping[str, Effects],
    heads: Iterable[Head],
    metric: str = DECIDES,
    categories: Categories = None,
    seed: int = 0,
) -> Estimate:
    """Return the share of the gap that goes along with a set of heads when genuine and sandbag
    prompts exchange their z (`exchange.both_ways`): half of the share closed, since an exchange of
    all that differs turns the gap around. Genuine answers are meant to be lost here, so nothing is
    taken off for them.
    """
    half, gap = shares.closed(patched, heads, metric) / 2, shares.gap(patched, metric)
    return shares.part_of_gap(half, gap, patched["sandbag"].question_ids, seed, categories)


INTO = {"effect": "into sandbag", "effect on genuine": "into genuine"}


def exchange_table(
    patched: Mapping[str, Effects],
    named: Mapping[str, Iterable[Head]],
    categories: Categories = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what sets {name: heads} bring when genuine and sandbag prompts exchange their z: rows
    set, heads, metric, quantity ("into sandbag", "into genuine": nats, pp; "share_exchanged"),
    value, low, high, unit, n.
    """
    table = of_each({"exchange": patched}, named, categories, seed).drop(columns="way")
    table = table[table["quantity"].isin(INTO)].replace({"quantity": INTO})
    rows = []
    for name, heads in named.items():
        for metric in (DECIDES, BESIDE):
            e = exchanged(patched, heads, metric, categories, seed)
            rows.append(
                {"set": name, "heads": join(sorted(heads)), "metric": metric,
                 "quantity": "share_exchanged", "value": e.value, "low": e.low, "high": e.high,
                 "unit": "share", "n": e.n}
            )  # fmt: skip
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
