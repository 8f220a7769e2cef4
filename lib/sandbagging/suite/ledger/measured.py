"""What a run measured for each claim of the card: a number with its CI95, or why there is none."""

from __future__ import annotations

from math import nan, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sandbagging import gate, metrics, statistics
from sandbagging.heads.head import parse
from sandbagging.statistics import Estimate
from sandbagging.suite.ledger.artefacts import (
    Artefacts,
    draw_effects,
    joint_by_question,
    swap_cells,
)
from sandbagging.suite.ledger.card import ALIASES, same_model
from sandbagging.swaps import decision

NO_RUN = "this model was not run"
NATS = "told on log-odds here, which the card's pp cannot be set beside"
NO_GAP = "run beside this one, and its grade is *no*: no sandbagging to explain"
BOUND_PP = 0.15  # the card's bound on the specificity gap


class Measurement(NamedTuple):
    """What a run says about one claim: a number, or a list of heads, or why there is neither."""

    estimate: Estimate | None = None
    kind: str = "effect"
    reference: float = 0.0
    p_equivalent: float | None = None
    heads: tuple[str, ...] = ()
    why: str = ""  # why it cannot be measured, or what to know about the number
    scale: float = 1.0  # the ledger shows both numbers times this; the rule reads shares
    own_model: str = ""  # the claim's own model, where notebook 09 measured it on that model


def _effect(change: pd.Series) -> Estimate | None:
    return statistics.mean_ci(change.to_numpy(), unit="pp") if len(change) > 1 else None


def _in_pp(effect: Estimate | None, why: str = "") -> Measurement:
    """An effect on p_full, the card's unit; one in nats cannot stand beside it."""
    if effect is None:
        return Measurement(why="not measured")
    return Measurement(effect, why=why) if effect.unit == "pp" else Measurement(why=NATS)


def _swap_gap(a: Artefacts) -> Measurement:
    """All gaps of the JumpReLU SAEs as one claim of equivalence: the largest one decides."""
    cells = swap_cells(a)
    cells = cells[[("jumprelu" in tag) for tag in cells["tag"]]]
    if cells.empty:
        return Measurement(why="no JumpReLU SAE in this run")
    informative = cells[~cells["verdict"].isin((decision.VOID, decision.NOTHING))]
    if informative.empty:
        why = f"of {len(cells)} cells none can show a gap: degenerate, or nothing to restore there"
        return Measurement(why=why)
    m = 2 * len(informative)
    gaps = [_widened(gap, m) for gap in (*_gaps(informative, "e1"), *_gaps(informative, "e4"))]
    outside = [gap for gap in gaps if gap.low > BOUND_PP or gap.high < -BOUND_PP]
    shown = max(outside or gaps, key=lambda gap: abs(gap.value))
    p = float(informative["p_equivalent"].max())
    why = f"largest of {len(gaps)} gaps over {len(informative)} cells"
    why += f", its interval widened for {len(gaps)}"
    if len(informative) < len(cells):
        why += f"; {len(cells) - len(informative)} that can show none do not count"
    return Measurement(shown, kind="bound", p_equivalent=p, why=why)


def _gaps(cells: pd.DataFrame, control: str) -> list[Estimate]:
    """E6 minus E1 or E4 on p_full, the card's unit."""
    name = f"gap_{control}_pp"
    columns = [name, f"{name}_low", f"{name}_high", "n"]
    rows = cells[columns].itertuples(index=False)
    return [Estimate(value, low, high, int(n), "pp") for value, low, high, n in rows]


def _widened(gap: Estimate, m: int) -> Estimate:
    """The interval that is one of m, so that all m hold together with 95 %.

    By Bonferroni, with the quantiles of the normal.
    """
    factor = stats.norm.ppf(1 - 0.025 / m) / stats.norm.ppf(0.975)
    low = gap.value - factor * (gap.value - gap.low)
    high = gap.value + factor * (gap.high - gap.value)
    return Estimate(gap.value, low, high, gap.n, gap.unit, f"{gap.method}; widened for {m}")


def _share(count: int, n: int, scale: float, reference: float, why: str = "") -> Measurement:
    """A count of n as a share with its exact (Clopper–Pearson) CI95."""
    if n == 0:
        return Measurement(why=why or "nothing to count")
    share = statistics.proportion(count, n, unit="")
    return Measurement(share, reference=reference, why=why, scale=scale)


def _spread(draws: np.ndarray) -> Measurement:
    n = len(draws)
    if n < 2:
        return Measurement(why="too few draws")
    sd = float(draws.std(ddof=1))
    low, high = (sd * sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    estimate = Estimate(sd, low, high, n, "pp", "chi-squared")
    return Measurement(estimate, kind="level", why="a spread over draws")


def _percent(share: Estimate | None) -> Estimate | None:
    """A share as a percentage."""
    if share is None:
        return None
    value, low, high = (100 * x for x in (share.value, share.low, share.high))
    return Estimate(value, low, high, share.n, "%", share.method)


def _specific_share(a: Artefacts) -> Measurement:
    joint = joint_by_question(a.circuit, "sandbag")
    neutral = joint_by_question(a.circuit, "neutral")
    if len(joint) < 2 or len(neutral) < 2:
        return Measurement(why="not measured")
    specific = (joint - neutral.loc[joint.index]).to_numpy()
    return _of_an_effect(a, _percent(statistics.ratio_ci(specific, joint.to_numpy())))


def _of_an_effect(a: Artefacts, share: Estimate | None) -> Measurement:
    """A share of the joint effect, which means something only where there is such an effect."""
    joint = a.recorded("joint")
    if joint is None or joint.low <= 0:
        why = "the joint effect is not clear of 0 here, so no share of it is defined"
        return Measurement(why=why)
    return Measurement(share)


def _singles(a: Artefacts) -> pd.Series:
    """The sum of the single heads' effects per question, in pp."""
    names = [f"single:{head}" for head in a.heads]
    singles = [joint_by_question(a.circuit, "sandbag", name) for name in names]
    if not singles or not all(len(effects) for effects in singles):
        return pd.Series(dtype=float)
    return pd.concat(singles, axis=1).sum(axis=1)


def _best_three(a: Artefacts) -> tuple[tuple[str, ...], Measurement]:
    """The best three of the chosen heads, picked on train questions; their effect on test ones."""
    if len(a.heads) <= 3:
        return (), Measurement(why="three heads or fewer, so there is no best three among them")
    if "best_three" not in a.summary:
        return (), Measurement(why="notebook 08 was run without its side views")
    names = tuple(map(str, parse(a.summary["best_three"]["heads"])))
    why = "the three picked on train, judged on test questions"
    return names, _in_pp(a.recorded("best_three", "test"), why)


def _single_head(a: Artefacts, name: str) -> Measurement:
    """One head's effect in the sweep over train questions."""
    layer, head = parse([name])[0]
    rows = a.sweep[(a.sweep["layer"] == layer) & (a.sweep["head"] == head)]
    rows = rows[(rows["condition"] == "sandbag") & (rows["replacement"] == "zero")]
    rows = rows[rows["metric"] == metrics.CARD]
    if rows.empty:
        return Measurement(kind="level", why="this model has no such head, or it was not swept")
    row = rows.iloc[0]
    numbers = row["effect"], row["low"], row["high"], int(row["n"])
    return Measurement(Estimate(*numbers, "pp", "sweep over train questions"))


def _level(a: Artefacts, condition: str) -> Measurement:
    values = metrics.per_question(a.scores, condition).to_numpy()
    why = "a level of p_full; the gap between levels is in the headline"
    return Measurement(statistics.mean_ci(values), kind="level", why=why)


def level_after(a: Artefacts) -> Estimate | None:
    """Return p_full on sandbag prompts with the heads zeroed; None where that was not run."""
    joint = a.circuit[a.circuit["intervention"] == "joint"]
    joint = joint[(joint["condition"] == "sandbag") & (joint["metric"] == metrics.CARD)]
    values = joint["value"].to_numpy()
    return statistics.mean_ci(values) if len(values) > 1 else None


def _pairs(a: Artefacts) -> pd.DataFrame:
    """JumpReLU and TopK at the same layer and condition.

    Columns (d_max or d_mean_all, jumprelu or topk), from 03_separation.
    """
    rows = a.separation[a.separation["pair"] == "genuine vs sandbag"]
    rows = rows[rows["d"] == "dz"]
    architectures = [architecture_of(tag) for tag in rows["tag"]]
    rows = rows.assign(architecture=architectures, condition=list(map(_condition, rows["tag"])))
    rows = rows[rows["architecture"] != ""]
    if not {"jumprelu", "topk"} <= set(rows["architecture"]):
        return pd.DataFrame()
    values = ["d_max", "d_mean_all"]
    rows = rows.assign(**{name: rows[name].abs() for name in values})
    return rows.pivot(index=["layer", "condition"], columns="architecture", values=values).dropna()


def architecture_of(tag: str) -> str:
    """Return "jumprelu" or "topk" by an SAE's tag; empty for others and for another k than 64."""
    known = () if "_k" in tag else ("jumprelu", "topk")
    return next((name for name in known if f"_{name}_" in f"_{tag}_"), "")


def _condition(tag: str) -> str:
    known = ("genuine_only", "sandbagging_only", "mixed")
    return next((name for name in known if str(tag).endswith(name)), str(tag))


SEPARATION = ("jumprelu_wins", "jumprelu_win_share", "topk_wins",
              "topk_d_max", "jumprelu_d_max", "d_mean_ratio")  # fmt: skip


def _separation(a: Artefacts) -> dict[str, Measurement]:
    pairs = _pairs(a)
    if pairs.empty:
        why = "no JumpReLU and TopK SAE at the same layer and condition in this run"
        return dict.fromkeys(SEPARATION, Measurement(why=why))
    d, n = pairs["d_max"], len(pairs)
    wins = int((d["jumprelu"] > d["topk"]).sum())
    here = f"{n} pairs of this run"
    layers = sorted({layer for layer, _ in pairs.index})
    middle = d.xs(layers[len(layers) // 2], level="layer").iloc[-1]
    no_interval = "the card does not say which Cohen's d, so sizes cannot be compared"
    ratio = (pairs["d_mean_all"]["jumprelu"] / pairs["d_mean_all"]["topk"]).median()
    of_range = f"median over {here}; a range is published, not an interval"
    topk, jumprelu = (_bare(middle[name], "Cohen's d") for name in ("topk", "jumprelu"))
    return {
        "jumprelu_wins": _share(wins, n, n, 0.5, here),
        "jumprelu_win_share": _share(wins, n, 100, 0.5, here),
        "topk_wins": _share(n - wins, n, n, 0.5, here),
        "topk_d_max": Measurement(topk, kind="level", why=no_interval),
        "jumprelu_d_max": Measurement(jumprelu, kind="level", why=no_interval),
        "d_mean_ratio": Measurement(_bare(ratio, "ratio"), reference=1.0, why=of_range),
    }


def _bare(value: float, unit: str) -> Estimate:
    return Estimate(float(value), nan, nan, 0, unit, "no interval")


def _portion_of(a: Artefacts, claim_model: str) -> Measurement:
    """The specific portion on the claim's own model, where notebook 09 has it."""
    own = a.models[a.models["model"].isin(ALIASES[claim_model])]
    own = own[own["weights"] == "real"].dropna(subset=["specific_portion"])
    if own.empty:
        return Measurement(kind="at most", why=NO_RUN)
    row = own.iloc[0]
    if row["grade"] == gate.NO:
        return Measurement(kind="at most", own_model=row["model"], why=NO_GAP)
    ends = (float(row[f"specific_portion{end}"]) for end in ("", "_low", "_high"))
    portion = Estimate(*ends, int(row["specific_portion_n"]), "pp")
    return Measurement(portion, kind="at most", own_model=row["model"])


def _swap_gap_of(a: Artefacts, claim_model: str) -> Measurement:
    """The gaps of a claim on another model than the card's first, where this run is of it."""
    return _swap_gap(a) if same_model(claim_model, a.model) else Measurement(why=NO_RUN)


def measurements(a: Artefacts) -> dict[str, Measurement]:
    """Return what the run says about every claim that was found by an experiment."""
    joint, specific = a.recorded("joint"), a.recorded("specific_portion")
    names = tuple(map(str, a.heads))
    three, three_effect = _best_three(a)
    quarter = (int(a.sweep["layer"].max()) + 1) / 4
    early, n = sum(layer < quarter for layer, _ in a.heads), len(a.heads)
    on_others = "here judged on questions that the heads were not chosen on"
    two_meanings = "the figure can mean two things: 42 of 50 improved, or 42 of 50 were used"
    rest = tuple(name for name in names if name not in three) if three else ()
    by_claim = {
        "five_heads": Measurement(heads=names),
        "early_heads": _share(early, n, n, 0.25, "by chance the share is 1 in 4"),
        "joint_effect": _in_pp(joint),
        "joint_effect_five_questions": _in_pp(joint, on_others),
        "gap_to_random_heads": _in_pp(a.recorded("random_uniform", "gap")),
        "random_heads_sd": _spread(draw_effects(a.draws, "uniform")),
        "best_three_heads": Measurement(heads=three),
        "dispensable_heads": Measurement(heads=rest),
        "best_three_effect": three_effect,
        "sum_of_singles": Measurement(_effect(_singles(a))),
        "redundancy": _of_an_effect(a, _percent(a.recorded("redundancy"))),
        "neutral_effect": _in_pp(a.recorded("joint_neutral")),
        "neutral_questions": Measurement(why=two_meanings),
        "specific_portion": _in_pp(specific),
        "specific_share": _specific_share(a),
        "p_genuine": _level(a, "genuine"),
        "p_sandbag": _level(a, "sandbag"),
        "p_sandbag_after": Measurement(level_after(a), kind="level", why="a level of p_full"),
    }
    by_claim["swap_gap_llama"] = by_claim["swap_gap_all"] = _swap_gap(a)
    by_claim["swap_gap_smollm2"] = _swap_gap_of(a, "smollm2-135m")
    by_claim["swap_gap_tinyllama"] = _swap_gap_of(a, "tinyllama")
    for name in ("tinyllama", "pythia-160m", "pythia-410m"):
        by_claim[f"specific_portion_{name.replace('-', '_')}"] = _portion_of(a, name)
    for name in ("L0H3", "L0H6", "L1H26", "L4H3", "L8H14"):
        by_claim[f"single_effect_{name}"] = _single_head(a, name)
    return by_claim | _separation(a)
