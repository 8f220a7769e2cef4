"""What the battery of swaps says: effects with intervals, guards, one decision table, and tables over cells.

A cell is one SAE at one layer and position. Effects are m(edited) - m(clean) on sandbag test questions, in percentage points (pp).
1. `summarise` and `gaps` turn the per-question effects of `controls.effects` into means with a CI95 over questions.
2. `guards` say whether a swap can tell the conditions apart at all.
3. `judge` gives a cell its verdict by the first line of DECISIONS that holds, and `judge_all` every cell, with Holm over cells.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from sandbagging import metrics, statistics
from sandbagging.errors import UserError
from sandbagging.saes import short_tag
from sandbagging.statistics import Estimate

CELL = ["layer", "tag", "position"]  # what a verdict is about
MARGIN_PP = 0.15  # the card's bound on the specificity gap, fixed in advance as the margin of equivalence
OWN_MARGIN_PP = 1.0  # a second margin, the reader's
ALPHA = 0.05
DAMAGE_PP = 1.0  # what identity or noise must cost at least to count as damage: the floor that a head has to reach, too


# Effects -------------------------------------------------------------------------------------------------------------


def by_question_and_seed(table: pd.DataFrame, intervention: str, error_term: str, metric: str = metrics.PRIMARY) -> pd.DataFrame:
    """Return an intervention's effects in pp, a row per question (in order of question_id) and a column per seed."""
    rows = table[(table["intervention"] == intervention) & (table["error_term"] == error_term) & (table["metric"] == metric)]
    if rows.empty:
        raise UserError(f"No effects of {intervention} (error term {error_term!r}) in this table.")
    return rows.assign(effect=100 * (rows["value"] - rows["baseline"])).pivot(index="question_id", columns="seed", values="effect")


def by_question(table: pd.DataFrame, intervention: str, error_term: str, metric: str = metrics.PRIMARY) -> np.ndarray:
    """Return an intervention's effect per question in pp, averaged over its seeds, in order of question_id."""
    return by_question_and_seed(table, intervention, error_term, metric).mean(axis=1).to_numpy()


def by_seed(table: pd.DataFrame, intervention: str = "E1", error_term: str = "kept", metric: str = metrics.PRIMARY) -> np.ndarray:
    """Return an intervention's mean effect in pp per seed: its spread is what a CI over questions does not contain."""
    return by_question_and_seed(table, intervention, error_term, metric).mean(axis=0).to_numpy()


def _sd(seeds: np.ndarray) -> float:
    return float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan")


def summarise(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return mean effects in pp with CI95 over questions, a row per layer, tag, position, error_term, intervention and metric."""
    keys = [*CELL, "error_term", "intervention", "metric"]
    change = table.assign(effect_pp=100 * (table["value"] - table["baseline"]))
    wide = change.pivot_table(index=keys, columns="question_id", values="effect_pp", aggfunc="mean", sort=False).sort_index(axis=1)
    mean, low, high = statistics.column_cis(wide.to_numpy().T, seed=seed)
    return wide.index.to_frame(index=False).assign(effect_pp=mean, low=low, high=high, n=wide.shape[1])


def cells(table: pd.DataFrame) -> Iterator[tuple[tuple[int, str, str], pd.DataFrame]]:
    """Yield ((layer, tag, position), rows) for each SAE and place; the rivals that need no SAE are among every cell's rows."""
    for key, own in table[table["tag"] != ""].groupby(CELL, sort=False):
        shared = table[(table["tag"] == "") & (table["layer"] == key[0]) & (table["position"] == key[2])]
        yield key, pd.concat([own, shared])


def has(cell: pd.DataFrame, intervention: str, error_term: str) -> bool:
    """Return whether a cell holds effects of an intervention in this form."""
    return bool(((cell["intervention"] == intervention) & (cell["error_term"] == error_term)).any())


# What is compared, question by question: (first, its error term, second, its error term).
GAPS = (
    ("E6", "kept", "E1", "kept"),
    ("E6", "kept", "E4", "kept"),
    ("E6", "dropped", "E1", "dropped"),
    ("E6", "dropped", "E4", "dropped"),
    ("delta+", "kept", "delta_E1", "kept"),
    ("delta+", "kept", "delta-", "kept"),
    ("E6", "kept", "diff_means", ""),
    ("delta+", "kept", "diff_means", ""),
)


def gaps(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the paired differences of GAPS in pp with CI95 over questions, in the columns of `summarise` ("E6-E1")."""
    rows = []
    for key, cell in cells(table):
        for first, term, second, other in GAPS:
            if not (has(cell, first, term) and has(cell, second, other)):
                continue
            for metric in metrics.JUDGED:
                change = by_question(cell, first, term, metric) - by_question(cell, second, other, metric)
                found = statistics.mean_ci(change, unit="pp", seed=seed)
                rows.append([*key, term, f"{first}-{second}", metric, found.value, found.low, found.high, found.n])
    return pd.DataFrame(rows, columns=[*CELL, "error_term", "intervention", "metric", "effect_pp", "low", "high", "n"])


# Guards --------------------------------------------------------------------------------------------------------------


class Guards(NamedTuple):
    """What must be seen beside a gap before it can be believed; norms in units of the residual stream."""

    nnz_genuine: int  # non-zero entries of m_G
    nnz_sandbag: int
    norm_delta: float  # ||D(m_G) - D(m_S)||
    norm_change: float  # mean over rows of ||D(m_G) - D(f(x))||
    norm_x: float  # mean ||x||
    fvu: float  # of the SAE at these rows


def guards(x: Tensor, sae, m_g: Tensor, m_s: Tensor) -> Guards:
    """Return the guards of a swap at the rows x [row d_model]."""
    decoded_g, decoded_s, own = sae.decode(m_g[None]), sae.decode(m_s[None]), sae.decode(sae.encode(x))
    fvu = float((x - own).square().sum() / (x - x.mean(0)).square().sum())
    return Guards(int((m_g != 0).sum()), int((m_s != 0).sum()), float((decoded_g - decoded_s).norm()),
                  float((decoded_g - own).norm(dim=-1).mean()), float(x.norm(dim=-1).mean()), fvu)  # fmt: skip


DEGENERATE_SHARE = 0.01  # ||D(m_G) - D(m_S)|| below 1 % of the swap's own change: E6 and E4 are one intervention


def degenerate(g: Guards) -> str:
    """Return why a swap cannot tell the conditions apart by its design, or "" if it can."""
    if g.nnz_genuine == 0 and g.nnz_sandbag == 0:
        return "both median codes are all zero"
    if g.norm_delta <= DEGENERATE_SHARE * g.norm_change:
        return f"the median codes decode to the same point (their distance {g.norm_delta:.3g} against a change of {g.norm_change:.3g})"
    return ""


def guard_table(found: Mapping[tuple[int, str, str], Guards]) -> pd.DataFrame:
    """Return the guards as a table, a row per layer, tag and position; `degenerate` says why a swap cannot tell conditions apart."""
    return pd.DataFrame([dict(zip(CELL, key, strict=True), **g._asdict(), degenerate=degenerate(g)) for key, g in found.items()])


def read_guards(table: pd.DataFrame) -> dict[tuple[int, str, str], Guards]:
    """Return what `guard_table` wrote, as guards by layer, tag and position."""
    return {(row["layer"], row["tag"], row["position"]): Guards(**{f: row[f] for f in Guards._fields}) for row in table.to_dict("records")}


GUARD_COLUMNS = ["nnz_genuine", "nnz_sandbag", "norm_delta", "norm_change", "fvu"]


def with_guards(summary: pd.DataFrame, guarded: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a summary with each cell's guards and verdict beside every row.

    guarded: columns layer, tag, position and the guards; verdicts: the same keys, perhaps error_term, and verdict.
    """
    keys = [*CELL, "error_term"] if "error_term" in verdicts else CELL
    return summary.merge(guarded[[*CELL, *GUARD_COLUMNS]], on=CELL, how="left").merge(verdicts[[*keys, "verdict"]], on=keys, how="left")


# The verdict ---------------------------------------------------------------------------------------------------------


# The decision table, in the order in which its lines are tried.
DECISIONS = (
    ("no sandbagging to explain", "the gate of notebook 00 is closed"),
    ("degenerate", "both median codes are all zero, or decode to the same point, or E1's seeds fall in two clusters"),
    (
        "destructive",
        f"identity or noise costs at least {DAMAGE_PP:g} pp and as much as E6 changes; "
        f"or E6, E1 and E4 all do harm (CI95 below -{MARGIN_PP} pp)",
    ),
    (
        "equivalent",
        "E6 - E1 and E6 - E4 both lie within the margin by two one-sided tests: so small a gap is none, whatever its sign",
    ),
    ("specific", "E6, E6 - E1 and E6 - E4 all have their CI95 above 0, and noise does less than E6"),
    ("reversed", "E6 - E1 and E6 - E4 both have their CI95 below 0"),
    ("cannot be said", "none of these: the gap is neither seen nor excluded at this number of questions"),
)


class Verdict(NamedTuple):
    """A verdict in one word or two, and the reason in words."""

    verdict: str
    reason: str


def verdict(found: Mapping[str, Estimate], *, gate_open: bool, degenerate_why: str, equivalent: bool, detectable: float,
            margin: float = MARGIN_PP) -> Verdict:  # fmt: skip
    """Return the first line of DECISIONS that holds, for one cell.

    found: the effects e6, e4, e1, identity, noise and the gaps gap_e1, gap_e4, in pp on the sandbag prompts; equivalent: whether
    both gaps lie within the margin by test.
    """
    e6, e4, e1, gap_e1, gap_e4 = (found[name] for name in ("e6", "e4", "e1", "gap_e1", "gap_e4"))
    if not gate_open:
        return Verdict("no sandbagging to explain", "the gate is closed")
    if degenerate_why:
        return Verdict("degenerate", degenerate_why)
    damage = max(-found["identity"].value, -found["noise"].value)
    if damage >= DAMAGE_PP and damage >= abs(e6.value):
        return Verdict("destructive", f"identity or noise costs {damage:.2f} pp, E6 changes {e6.value:+.2f} pp")
    if max(e6.high, e4.high, e1.high) < -margin:
        return Verdict("destructive", f"the swap does harm under any labels: E6 {e6.value:+.2f}, E1 {e1.value:+.2f}, E4 {e4.value:+.2f} pp")
    if equivalent:
        return Verdict("equivalent", f"E6 - E1 and E6 - E4 lie within {margin} pp by two one-sided tests")
    if e6.low > 0 and gap_e1.low > 0 and gap_e4.low > 0 and found["noise"].value < e6.value:
        return Verdict("specific", f"E6 restores {e6}, more than E1 by {gap_e1} and than E4 by {gap_e4}")
    if gap_e1.high < 0 and gap_e4.high < 0:
        return Verdict("reversed", f"E6 does worse than E1 by {gap_e1} and than E4 by {gap_e4}")
    return Verdict("cannot be said", f"at this n a gap below {detectable:.2f} pp is not seen, and the margin is {margin} pp")


def first_verdicts(guarded: pd.DataFrame, gate_open: bool) -> pd.DataFrame:
    """Return the verdicts that need no rival: gate closed or degenerate; all others wait for E1 and E4."""
    words = np.where(guarded["degenerate"] != "", "degenerate", "not judged before notebook 06")
    return guarded[CELL].assign(verdict=words if gate_open else DECISIONS[0][0])


def judge(cell: pd.DataFrame, g: Guards, gate_open: bool, own_margin: float = OWN_MARGIN_PP, error_term: str = "kept",
          seed: int = 0) -> dict:  # fmt: skip
    """Return the verdict on one cell (one tag, layer and position; E6, E4, E1, identity and noise together) with its numbers in pp.

    gap_e1 and gap_e4 are paired by question, E1 averaged over its seeds, with a CI over questions; gap_e1_seeds has a CI over
    questions and seeds, and seed_sd is the spread of E1's mean effect. p_equivalent is the larger p of the two one-sided tests
    over both gaps for the card's margin, p_equivalent_own for the reader's. p_specific: the largest one-sided sign-flip p of E6
    and both gaps, so that all three must be above 0. detectable: the smallest gap seen with 80 % power. share: of what the oracle
    restores, how much E6 does (NaN without an oracle).
    """
    by_seeds = by_question_and_seed(cell, "E1", error_term)
    changes = {"e6": by_question(cell, "E6", error_term), "e4": by_question(cell, "E4", error_term), "e1": by_seeds.mean(axis=1).to_numpy(),
               "identity": by_question(cell, "identity", "dropped"), "noise": by_question(cell, "noise", "")}  # fmt: skip
    changes |= {"gap_e1": changes["e6"] - changes["e1"], "gap_e4": changes["e6"] - changes["e4"]}
    found = {name: statistics.mean_ci(change, unit="pp", seed=seed) for name, change in changes.items()}
    p = {margin: max(statistics.equivalence(changes[gap], margin).p for gap in ("gap_e1", "gap_e4")) for margin in (MARGIN_PP, own_margin)}
    detectable = max(statistics.smallest_detectable(changes[gap]) for gap in ("gap_e1", "gap_e4"))
    seeds = by_seeds.mean(axis=0).to_numpy()
    oracle = by_question(cell, "oracle", "").mean() if has(cell, "oracle", "") else float("nan")
    why = degenerate(g) or ("E1's seeds fall in two clusters" if statistics.two_clusters(seeds, negligible=MARGIN_PP) else "")
    judged = verdict(found, gate_open=gate_open, degenerate_why=why, equivalent=p[MARGIN_PP] < ALPHA, detectable=detectable)
    return {**found, "gap_e1_seeds": _over_seeds(changes["e6"][:, None] - by_seeds.to_numpy(), seed), "seed_sd": _sd(seeds),
            "n_seeds": len(seeds), "share": found["e6"].value / oracle, "detectable": detectable,
            "p_equivalent": p[MARGIN_PP], "p_equivalent_own": p[own_margin],
            "p_specific": max(float(statistics.max_t(changes[n][:, None], seed=seed)[0]) for n in ("e6", "gap_e1", "gap_e4")),
            **judged._asdict()}  # fmt: skip


def _over_seeds(change: np.ndarray, seed: int) -> Estimate:
    """Return the mean of change [question seed] with a CI over both; without a second seed there is none."""
    if change.shape[1] < 2:
        return Estimate(float(change.mean()), float("nan"), float("nan"), len(change), "pp", "one seed: no interval")
    return statistics.bootstrap_questions_and_draws(change, unit="pp", seed=seed)


def judge_all(table: pd.DataFrame, guarded: Mapping[tuple[int, str, str], Guards], gate_open: bool,
              own_margin: float = OWN_MARGIN_PP, seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Return `judge` of every cell and error term that holds both E6 and E1, a row each: layer, tag, position, error_term, ...

    p_holm is p_specific corrected by Holm over the cells of its error term; degenerate cells make no claim and are not counted.
    """
    rows = []
    for key, cell in cells(table):
        for term in ("kept", "dropped"):
            if has(cell, "E1", term) and has(cell, "E6", term):
                found = judge(cell, guarded[key], gate_open, own_margin, term, seed)
                rows.append({**dict(zip(CELL, key, strict=True)), "error_term": term, **found})
    judged = pd.DataFrame(rows)
    claims = judged[judged["verdict"] != "degenerate"]
    judged["p_holm"] = claims.groupby("error_term")["p_specific"].transform(statistics.holm).reindex(judged.index)
    return judged


# Tables and sentences ------------------------------------------------------------------------------------------------


def gate_sentence(gate: Mapping) -> str:
    """Return, as Markdown, what notebook 00 says about sandbagging; `gate` is the entry of its summary.json."""
    sentence = f"Gate of notebook 00, {gate['reason']}."
    return sentence if gate["open"] else f"{sentence}\n\n**No sandbagging to explain: the verdicts below are marked so.**"


def stored_effects(*tables: pd.DataFrame) -> pd.DataFrame:
    """Return tables of effects as one; in a CSV file an empty tag or error term reads as NaN, and is made empty again."""
    return pd.concat(tables, ignore_index=True).fillna({"tag": "", "error_term": ""})


def estimates(rows: pd.DataFrame) -> list[Estimate]:
    """Return the effects of a summary's rows, in pp with their CI95."""
    method = f"percentile bootstrap over questions, {statistics.N_RESAMPLES} resamples"
    return [Estimate(r["effect_pp"], r["low"], r["high"], int(r["n"]), "pp", method) for r in rows.to_dict("records")]


def shown(summary: pd.DataFrame, error_term: str = "kept") -> pd.DataFrame:
    """Return the rows to draw beside each other: one error term, and what has none (identity, noise, rivals without an SAE)."""
    no_term = summary["intervention"].isin(["identity", "noise"]) | (summary["error_term"] == "")
    return summary[no_term | (summary["error_term"] == error_term)].drop(columns="error_term")


def rows_of(
    summary: pd.DataFrame, tag: str, interventions: Sequence[str], metric: str = metrics.PRIMARY, position: str = "last"
) -> pd.DataFrame:
    """Return one SAE's rows of a summary, one per intervention and in their order; the error term is kept where there is one."""
    rows = shown(summary)
    rows = rows[(rows["tag"] == tag) & (rows["metric"] == metric) & (rows["position"] == position)]
    return rows.set_index("intervention").loc[list(interventions)].reset_index()


def effect_table(summary: pd.DataFrame, interventions: Sequence[str], *, metric: str = metrics.PRIMARY, position: str = "last",
                 error_term: str = "kept") -> pd.DataFrame:  # fmt: skip
    """Return effects in pp with CI95 as text, a row per SAE, a column per intervention; "" where there is none.

    Rivals that need no SAE stand in every row of their layer.
    """
    rows = shown(summary, error_term)
    rows = rows[(rows["metric"] == metric) & (rows["position"] == position) & rows["intervention"].isin(interventions)]
    rows = rows.assign(text=[f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]" for e in estimates(rows)])
    cells = summary.loc[(summary["tag"] != "") & (summary["position"] == position), CELL].drop_duplicates()
    shared = rows[rows["tag"] == ""].drop(columns="tag").merge(cells, on=["layer", "position"])
    rows = pd.concat([rows[rows["tag"] != ""], shared])
    wide = rows.assign(SAE=rows["tag"].map(short_tag)).pivot(index="SAE", columns="intervention", values="text")
    return wide.reindex(index=cells["tag"].map(short_tag), columns=[name for name in interventions if name in wide]).fillna("")


def signs(rows: pd.DataFrame) -> str:
    """Return in words on which side of 0 the CI95 of a summary's rows lie."""
    above, below = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    return f"above 0 in {above}, below 0 in {below} and around 0 in {len(rows) - above - below} of {len(rows)} cells"


def findings(summary: pd.DataFrame, interventions: Sequence[str], metric: str = metrics.PRIMARY) -> dict[str, dict[str, Estimate]]:
    """Return {"tag, position": {intervention: effect}} for a summary file; the error term is kept where there is one."""
    rows = shown(summary)
    rows = rows[(rows["metric"] == metric) & rows["intervention"].isin(interventions)]
    found: dict[str, dict[str, Estimate]] = {}
    for row, effect in zip(rows.to_dict("records"), estimates(rows), strict=True):
        found.setdefault(f"{row['tag'] or 'no SAE, L' + str(row['layer'])}, {row['position']}", {})[row["intervention"]] = effect
    return found


def between(cell: pd.DataFrame, error_term: str = "kept", metric: str = metrics.PRIMARY) -> dict:
    """Return where E1's effect lies between E4's and E6's in one cell (pp): the three effects, E1's spread, and the share of the way.

    share = (E1 - E4) / (E6 - E4): 0 at E4, 1 at E6; E6 - E1 is then 1 - share of E6 - E4. above: E1 seeds that reach E6's effect.
    """
    e6, e4 = (float(by_question(cell, name, error_term, metric).mean()) for name in ("E6", "E4"))
    seeds = by_seed(cell, "E1", error_term, metric)
    share = (seeds.mean() - e4) / (e6 - e4) if e6 != e4 else float("nan")
    return {"E4": e4, "E1": float(seeds.mean()), "E6": e6, "share": share, "seed_sd": _sd(seeds), "seeds": len(seeds),
            "above": int((seeds >= e6).sum()), "two_clusters": statistics.two_clusters(seeds, MARGIN_PP)}  # fmt: skip


def between_all(table: pd.DataFrame, position: str = "last") -> pd.DataFrame:
    """Return `between` of every cell at a position, a row per SAE."""
    rows = {short_tag(tag): between(cell) for (_, tag, where), cell in cells(table) if where == position}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("SAE")


def seed_spread(table: pd.DataFrame, names: Sequence[str], position: str = "last") -> pd.DataFrame:
    """Return the SD over seeds of some interventions' mean effect (error kept, in pp), a row per SAE."""
    rows = {}
    for (_, tag, where), cell in cells(table):
        if where == position:
            rows[short_tag(tag)] = {n: _sd(by_seed(cell, n)) for n in names if has(cell, n, "kept")}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(names)).rename_axis("SAE")


def as_text(judged: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of `judge_all` for reading, a row per SAE and error term, estimates as "+1.20 [+0.30, +2.10]"."""

    def text(value: object) -> object:
        return str(value).split(", n =")[0].replace(" pp", "") if isinstance(value, Estimate) else value

    table = judged[list(columns)].map(text)
    names = {"SAE": judged["tag"].map(short_tag), "at": judged["position"], "error": judged["error_term"]}
    table.index = pd.MultiIndex.from_arrays(list(names.values()), names=list(names))
    return table


def grid(judged: pd.DataFrame, position: str = "last", error_term: str = "kept") -> pd.DataFrame:
    """Return the one table over layers, conditions of training and architectures: verdict (E6 - E1, E6 - E4 in pp; E6 / oracle)."""
    rows = judged[(judged["position"] == position) & (judged["error_term"] == error_term)]
    parts = rows["tag"].map(short_tag).str.split(" ", expand=True)  # "L15 topk mixed"
    shares = [f"; {share:.0%}" if share == share else "" for share in rows["share"]]
    gaps_ = [f"{a.value:+.2f}, {b.value:+.2f}" for a, b in zip(rows["gap_e1"], rows["gap_e4"], strict=True)]
    text = [f"{verdict} ({gap}{share})" for verdict, gap, share in zip(rows["verdict"], gaps_, shares, strict=True)]
    table = pd.DataFrame({"layer": rows["layer"], "trained on": parts[2], "architecture": parts[1], "text": text})
    return table.pivot(index=["layer", "trained on"], columns="architecture", values="text").fillna("")


# The nine cells of the card's null (JumpReLU SAEs; sections 24, 26 and 31), in each model at 25, 50 and 75 % of depth.
CARD_CELLS = {"Llama-3.2-1B": (4, 8, 12), "SmolLM2-135M": (7, 15, 22), "TinyLlama-1.1B": (5, 11, 16)}


def beside_card(judged: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the card's nine cells, each with what was measured at the same share of depth (JumpReLU, error kept) and why they differ."""
    rows = judged[(judged["error_term"] == "kept") & judged["tag"].str.contains("jumprelu")]
    mixed = rows["tag"].str.endswith("mixed")
    rows = rows[mixed] if mixed.any() else rows
    ours = [part.to_dict("records") for _, part in rows.groupby("layer")]
    found = []
    for card_model, layers in CARD_CELLS.items():
        for place, layer in enumerate(layers):
            cells_here = ours[place] if place < len(ours) else []
            found.append({"card's cell": f"{card_model} L{layer}", "card (§24, §26, §31)": f"gap < {MARGIN_PP} pp",
                          "this suite, at that depth": "; ".join(map(_measured, cells_here)) or "not run",
                          "why they differ": "; ".join([_model_differs(card_model, model), *map(_why_other, cells_here)])})  # fmt: skip
    return pd.DataFrame(found)


def _measured(row: Mapping) -> str:
    e1, e4 = (f"{row[gap].value:+.2f} [{row[gap].low:+.2f}, {row[gap].high:+.2f}]" for gap in ("gap_e1", "gap_e4"))
    return f"L{row['layer']} at {row['position']}: E6 − E1 {e1}, E6 − E4 {e4}: {row['verdict']}"


def _model_differs(card_model: str, model: str) -> str:
    if card_model.lower() == model.lower():
        return "the same model"
    if model.lower().startswith(card_model.lower()):
        return "the card's model before it was tuned on instructions; ours is restored from 4 bits"
    return "another model at the same share of its depth, so no test of this cell"


def _why_other(row: Mapping) -> str:
    """Return how a cell can look as the card says, or else, in words."""
    where = f"at {row['position']}"
    if row["verdict"] == "degenerate":
        return f"{where} {row['reason']}: a gap near 0 by construction, whatever the model does"
    if row["verdict"] == "specific":
        return f"{where} the median codes differ between conditions, so E6, E1 and E4 are three interventions"
    return f"{where} {row['reason']}"


def shuffle_effects(table: pd.DataFrame, position: str = "last") -> pd.DataFrame:
    """Return each shuffle's mean effect in pp (error kept): layer, SAE, kind (balanced, plain), seed, effect_pp, and E6, E4 beside it."""
    rows = []
    for (layer, tag, where), cell in cells(table):
        if where == position and has(cell, "E1", "kept"):
            ends = {name: float(by_question(cell, name, "kept").mean()) for name in ("E6", "E4")}
            for kind, name in (("balanced", "E1"), ("plain", "E1_plain")):
                found = by_seed(cell, name) if has(cell, name, "kept") else []
                rows += [
                    {"layer": layer, "SAE": short_tag(tag), "kind": kind, "seed": i, "effect_pp": e, **ends} for i, e in enumerate(found)
                ]
    return pd.DataFrame(rows, columns=["layer", "SAE", "kind", "seed", "effect_pp", "E6", "E4"])


def near_ends(table: pd.DataFrame, margin: float = MARGIN_PP) -> pd.DataFrame:
    """Return how many shuffles land within `margin` pp of E6's and of E4's effect, a row per SAE and kind of shuffle."""
    rows = []
    for (sae, kind), part in shuffle_effects(table).groupby(["SAE", "kind"], sort=False):
        to_e6, to_e4 = (part["effect_pp"] - part[end] for end in ("E6", "E4"))
        gap = float((part["E6"] - part["E4"]).iloc[0])
        rows.append({"SAE": sae, "shuffle": kind, "E6 - E4": gap, "sd": _sd(part["effect_pp"].to_numpy()), "seeds": len(part),
                     "near E6": int((to_e6.abs() < margin).sum()), "near E4": int((to_e4.abs() < margin).sum()),
                     "clusters": statistics.two_clusters(part["effect_pp"], margin)})  # fmt: skip
    columns = ["SAE", "shuffle", "E6 - E4", "sd", "seeds", "near E6", "near E4", "clusters"]
    return pd.DataFrame(rows, columns=columns).set_index(["SAE", "shuffle"])
