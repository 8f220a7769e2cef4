"""The ledger: every published claim beside what this run measured, with a verdict by a rule fixed in advance.

1. `Artefacts.read` gathers the tables of the notebooks before.
2. `measurements` turns them into one `Measurement` per claim: a number with its CI95, or the reason why there is none.
3. `verdict` judges each by the rule that `RULE` puts in words.
4. `rows` lays claims, measurements and verdicts out as the ledger; `headline` and `headline_figure` say it in short.

No model is loaded here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import hypot, isnan, nan, sqrt
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from sandbagging import metrics, statistics
from sandbagging.errors import UserError
from sandbagging.heads import circuits
from sandbagging.statistics import Estimate
from sandbagging.suite import plots, runs

PUBLISHED = Path(__file__).parent / "data" / "published.yaml"
SLIPS = ("topk_sae_count", "d_sae", "early_heads", "neutral_questions", "topk_wins", "training_conditions", "gap_to_random_heads")

# The models that the claims are about, by every name that a run can give them.
ALIASES = {
    "llama-3.2-1b": ("llama-3.2-1b", "meta-llama/Llama-3.2-1B"),
    "smollm2-135m": ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M"),
    "tinyllama": ("tinyllama", "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T"),
    "pythia-160m": ("pythia-160m", "EleutherAI/pythia-160m"),
    "pythia-410m": ("pythia-410m", "EleutherAI/pythia-410m"),
}
DEQUANTISED = ("smollm2-135m-instruct",)  # its weights come out of a file of 4 bits a weight (Q4_1)
ALPHA = 0.05
BOUND_PP = 0.15  # the card's bound on the specificity gap
AGREES = 0.5  # a replication is shown to be at least half and at most one and a half times the published effect
NULL_RUNS = {"null_model": "random weights", "placebo": "placebo prompts"}

NO_FINDING = "no finding"  # how things were made and what a release holds: nothing here can confirm or refute it
REPLICATED, NOT_REPLICATED, CANNOT_BE_SAID = "replicated", "not replicated", "cannot be said"
SAME_DIRECTION, OPPOSITE, NOT_TESTABLE = "same direction", "opposite", "not testable here"

RULE = """
**For the model that the claim is about.** The difference is measured − published. Its CI95 holds the errors of both; where the card
gives no interval, its error is taken to be ours at its number of questions (as wide as ours where it gives no number either).
1. The CI of the difference leaves out 0: *not replicated* (the words beside it say whether the sign or the size differs).
2. The measured CI is clear of zero effect on the published side, **and** the CI of the difference lies within ± half the published
   effect: *replicated*.
3. Anything else: *cannot be said*. A wide interval therefore replicates nothing.

**For any other model.** Sizes cannot agree or disagree, so three answers are left: *same direction* (the measured CI is clear of zero
effect on the published side), *opposite* (on the other side), and *not testable here* (the CI contains zero effect, or the claim
has no direction: a list of heads, a level, a spread).

**A claim that something is smaller than a bound** (|gap| < 0.15 pp) is a claim of equivalence: it holds (*replicated*, or *same direction*)
only if two one-sided tests put every gap inside the bound, and fails (*not replicated*, or *opposite*) if the interval of one lies outside,
widened for the number of gaps (Bonferroni). Not significant is not equal.

**A claim in words, "about zero or negative",** fails if the CI lies above 0 and holds if it lies below; "about zero" without a margin
cannot be shown.

A closed gate, an intervention that is degenerate by its design, or a missing measurement: *not testable here*.
""".strip()


# The rule -----------------------------------------------------------------------------------------------------------------------


class Verdict(NamedTuple):
    """A verdict of the rule, and the reason in words."""

    verdict: str
    why: str


def difference(published: Estimate, measured: Estimate) -> Estimate:
    """Return measured - published with a CI95 that holds both errors, as of independent samples.

    A published number without an interval gets ours, widened by the square root of the numbers of questions.
    """
    below, above = measured.value - measured.low, measured.high - measured.value
    published_below, published_above = published.value - published.low, published.high - published.value
    if isnan(published_below):
        factor = sqrt(measured.n / published.n) if published.n else 1.0
        published_below, published_above = below * factor, above * factor
    value = measured.value - published.value
    return Estimate(value, value - hypot(below, published_above), value + hypot(above, published_below), measured.n, measured.unit)


def verdict(published: Estimate, measured: Estimate | None, same_model: bool, *, kind: str = "effect", reference: float = 0.0,
            p_equivalent: float | None = None) -> Verdict:  # fmt: skip
    """Return the verdict of `RULE` on one claim; the reason says what decided.

    kind: "effect" (its direction is seen against `reference`, the value of no effect), "level" (a number without a direction),
    "bound" (|measured| < published, by the p of two one-sided tests) or "at most" (not above `reference`).
    """
    if measured is None or isnan(measured.value):
        return Verdict(NOT_TESTABLE, "not measured")
    if kind == "bound":
        return _bound(published, measured, same_model, p_equivalent)
    if isnan(measured.low) or isnan(measured.high):
        return Verdict(CANNOT_BE_SAID if same_model else NOT_TESTABLE, "the measured number has no interval")
    if kind == "at most":
        return _at_most(measured, same_model, reference)
    if not same_model:
        return _direction(published, measured, reference) if kind == "effect" else Verdict(NOT_TESTABLE, "no direction to compare")
    return _same_model(published, measured, reference)


def _side(measured: Estimate, reference: float) -> int:
    """Return +1 or -1 where the interval is clear of the value of no effect, above or below, else 0."""
    return int(measured.low > reference) - int(measured.high < reference)


def _published_side(published: Estimate, reference: float) -> int:
    value = published.low if isnan(published.value) else published.value
    return int(np.sign(value - reference))


def _direction(published: Estimate, measured: Estimate, reference: float) -> Verdict:
    side = _side(measured, reference)
    if side == 0:
        return Verdict(NOT_TESTABLE, f"at this n the CI contains no effect ({reference:g})")
    if side == _published_side(published, reference):
        return Verdict(SAME_DIRECTION, "the CI is clear of no effect, on the published side")
    return Verdict(OPPOSITE, "the CI is clear of no effect, on the other side")


def _same_model(published: Estimate, measured: Estimate, reference: float) -> Verdict:
    side, published_side = _side(measured, reference), _published_side(published, reference)
    if isnan(published.value):  # a range in place of a number
        inside = published.low <= measured.low and measured.high <= published.high
        outside = measured.high < published.low or measured.low > published.high
        return Verdict(REPLICATED if inside else NOT_REPLICATED if outside else CANNOT_BE_SAID, "the CI beside the published range")
    gap = difference(published, measured)
    shown = f"measured − published = {gap.value:+.3g} [{gap.low:+.3g}, {gap.high:+.3g}]"
    if gap.low > 0 or gap.high < 0:
        how = "the sign is the other one" if side == -published_side else "the size differs" if side else "no effect is seen"
        return Verdict(NOT_REPLICATED, f"{how}: {shown}")
    room = AGREES * abs(published.value - reference)
    if side == published_side and -room < gap.low and gap.high < room:
        return Verdict(REPLICATED, shown)
    doubt = "the intervals are too wide" if side == published_side else "the direction is not clear"
    return Verdict(CANNOT_BE_SAID, f"{doubt}: {shown}")


def _bound(published: Estimate, measured: Estimate, same_model: bool, p: float | None) -> Verdict:
    bound = published.value
    if p is not None and p < ALPHA:
        return Verdict(REPLICATED if same_model else SAME_DIRECTION, f"inside ±{bound:g} by two one-sided tests, p = {p:.3g}")
    if measured.low > bound or measured.high < -bound:
        return Verdict(NOT_REPLICATED if same_model else OPPOSITE, f"the interval lies outside ±{bound:g}")
    return Verdict(CANNOT_BE_SAID if same_model else NOT_TESTABLE, f"at this n neither inside nor outside ±{bound:g}")


def _at_most(measured: Estimate, same_model: bool, reference: float) -> Verdict:
    if measured.low > reference:
        return Verdict(NOT_REPLICATED if same_model else OPPOSITE, f"the CI lies above {reference:g}")
    if measured.high <= reference:
        return Verdict(REPLICATED if same_model else SAME_DIRECTION, f"the CI does not reach above {reference:g}")
    return Verdict(CANNOT_BE_SAID if same_model else NOT_TESTABLE, "the CI contains 0, and the claim names no margin for 'about zero'")


def heads_verdict(published: Sequence[str], measured: Sequence[str] | None, same_model: bool) -> Verdict:
    """Return the verdict on a list of heads: names mean the same head in one model only."""
    if not same_model:
        return Verdict(NOT_TESTABLE, "a head's name means nothing in another model")
    if not measured:
        return Verdict(NOT_TESTABLE, "not measured")
    shared = len(set(published) & set(measured))
    word = REPLICATED if shared == len(published) == len(measured) else NOT_REPLICATED if shared == 0 else CANNOT_BE_SAID
    return Verdict(word, f"{shared} of {len(published)} heads are the same")


# What was published, what was measured ---------------------------------------------------------------------------------------------


def published() -> list[dict]:
    """Return every retold figure of the card, as `data/published.yaml` holds them."""
    return yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))


def same_model(claim_model: str, model: str) -> bool:
    """Return whether a run's model is the one that a claim is about; a claim about several models is about none alone."""
    return model in ALIASES.get(claim_model, ())


class Artefacts(NamedTuple):
    """The tables of one run that the ledger is made of; columns as in the run folder."""

    model: str
    random_weights: bool
    gate: dict  # open, gap_p_full, gap_choice_len, genuine_choice_len, reason
    scores: pd.DataFrame  # 00, test questions
    separation: pd.DataFrame  # 03
    cells: list[dict]  # 06: layer, tag, position, error_term, gap_e1, gap_e4, p_equivalent, verdict, ...
    sweep: pd.DataFrame  # 07
    heads: list[tuple[int, int]]
    circuit: pd.DataFrame  # 08, per question
    draws: pd.DataFrame
    models: pd.DataFrame  # 09: one row per model
    summary: dict  # 08: joint, joint_neutral, joint_genuine, specific_portion, random_uniform, survives, ...

    @classmethod
    def read(cls, step: runs.Step) -> Artefacts:
        """Read what the notebooks before have written; UserError where a file is missing."""
        scores = step.read_table("00_baseline", "scores.csv.gz")
        summary = step.read_json("08_circuit", "summary.json")
        return cls(
            model=str(step.setting("model")),
            random_weights=bool(step.setting("random_weights")),
            gate=step.read_json("00_baseline", "summary.json")["gate"],
            scores=scores[scores["split"] == "test"],
            separation=step.read_table("03_separation", "separation.csv"),
            cells=step.read_json("06_specificity", "summary.json")["verdicts"],
            sweep=step.read_table("07_heads", "effects.csv"),
            heads=_head_tuples(summary["heads"]),
            circuit=step.read_table("08_circuit", "effects_by_question.csv.gz"),
            draws=step.read_table("08_circuit", "draws.csv"),
            models=step.read_table("09_models", "models.csv"),
            summary=summary,
        )

    def recorded(self, *names: str) -> Estimate | None:
        """Return an Estimate that notebook 08 wrote down, by its key or keys; None where it wrote none."""
        found = self.summary
        for name in names:
            found = (found or {}).get(name)
        return None if found is None or found["value"] is None else Estimate.from_dict(found)

    @property
    def measured_on(self) -> str:
        """The model in words, with what is special about its weights."""
        special = ", random weights" if self.random_weights else ", dequantised from 4 bits (Q4_1)" if self.model in DEQUANTISED else ""
        return self.model + special


def _head_tuples(heads: Sequence) -> list[tuple[int, int]]:
    """Return heads as tuples (layer, head), whether they were stored as names or as pairs."""
    return [tuple(int(x) for x in head[1:].split("H")) if isinstance(head, str) else (int(head[0]), int(head[1])) for head in heads]


class Measurement(NamedTuple):
    """What a run says about one claim: a number (with how to judge it), or a list of heads, or why there is neither."""

    estimate: Estimate | None = None
    kind: str = "effect"
    reference: float = 0.0
    p_equivalent: float | None = None
    heads: tuple[str, ...] = ()
    why: str = ""  # why it cannot be measured, or what to know about the number
    scale: float = 1.0  # the ledger shows published and measured numbers times this; the rule reads shares
    own_model: str = ""  # the claim's own model, where notebook 09 measured it there and not on the run's model


def joint_by_question(circuit: pd.DataFrame, condition: str, intervention: str = "joint", metric: str = metrics.PRIMARY) -> pd.Series:
    """Return the effect in pp per question of one intervention of notebook 08, indexed by question_id; empty where it was not run."""
    rows = circuit[(circuit["condition"] == condition) & (circuit["intervention"] == intervention) & (circuit["metric"] == metric)]
    return (100 * (rows["value"] - rows["baseline"])).set_axis(rows["question_id"]).sort_index()


def _effect(change: pd.Series) -> Estimate | None:
    return statistics.mean_ci(change.to_numpy(), unit="pp") if len(change) > 1 else None


def specificity_cells(a: Artefacts) -> pd.DataFrame:
    """Return notebook 06's cells with the error term kept, at the last token where it was run; the two gaps as Estimates in pp."""
    kept = [cell for cell in a.cells if cell["error_term"] == "kept"]
    at_last = [cell for cell in kept if cell["position"] == "last"] or kept
    gaps = [{name: Estimate.from_dict(cell[name]) for name in ("gap_e1", "gap_e1_seeds", "gap_e4")} for cell in at_last]
    columns = ["layer", "tag", "position", "gap_e1", "gap_e1_seeds", "gap_e4", "p_equivalent", "verdict"]
    return pd.DataFrame([{**cell, **both} for cell, both in zip(at_last, gaps, strict=True)], columns=columns)


def _swap_gap(a: Artefacts) -> Measurement:
    """All specificity gaps of the JumpReLU SAEs as one claim of equivalence: the largest gap decides."""
    cells = specificity_cells(a)
    cells = cells[[("jumprelu" in tag) for tag in cells["tag"]]]
    if cells.empty:
        return Measurement(why="no JumpReLU SAE in this run")
    informative = cells[cells["verdict"] != "degenerate"]
    if informative.empty:
        return Measurement(why=f"all {len(cells)} cells are degenerate: their gaps are 0 by construction")
    # The shuffles are drawn, so the interval of E6 − E1 has to hold their spread as well, wherever there are enough of them.
    both = zip(informative["gap_e1"], informative["gap_e1_seeds"], strict=True)
    against_e1 = [alone if isnan(over_seeds.low) else over_seeds for alone, over_seeds in both]
    gaps = [_widened(gap, 2 * len(informative)) for gap in (*against_e1, *informative["gap_e4"])]
    outside = [gap for gap in gaps if gap.low > BOUND_PP or gap.high < -BOUND_PP]
    shown = max(outside or gaps, key=lambda gap: abs(gap.value))
    p = float(informative["p_equivalent"].max())
    why = f"largest of {len(gaps)} gaps over {len(informative)} cells, its interval widened for {len(gaps)}"
    if len(informative) < len(cells):
        why += f"; {len(cells) - len(informative)} degenerate ones do not count"
    return Measurement(shown, kind="bound", p_equivalent=p, why=why)


def _widened(gap: Estimate, m: int) -> Estimate:
    """The interval that is one of m, so that all m hold together with 95 % (Bonferroni, by the normal's quantiles)."""
    factor = stats.norm.ppf(1 - 0.025 / m) / stats.norm.ppf(0.975)
    low, high = gap.value - factor * (gap.value - gap.low), gap.value + factor * (gap.high - gap.value)
    return Estimate(gap.value, low, high, gap.n, gap.unit, f"{gap.method}; widened for {m}")


def _share(count: int, n: int, scale: float, reference: float, why: str = "") -> Measurement:
    """A count of n as a share with its exact (Clopper–Pearson) CI95."""
    if n == 0:
        return Measurement(why=why or "nothing to count")
    interval = stats.binomtest(count, n).proportion_ci(method="exact")
    return Measurement(Estimate(count / n, interval.low, interval.high, n, "", "exact binomial"), reference=reference, why=why, scale=scale)


def _spread(draws: np.ndarray) -> Measurement:
    n = len(draws)
    if n < 2:
        return Measurement(why="too few draws")
    sd = float(draws.std(ddof=1))
    low, high = (sd * sqrt((n - 1) / stats.chi2.ppf(q, n - 1)) for q in (0.975, 0.025))
    return Measurement(Estimate(sd, low, high, n, "pp", "chi-squared"), kind="level", why="a spread over draws")


def _percent(share: Estimate | None) -> Estimate | None:
    """A share as a percentage."""
    return share and Estimate(100 * share.value, 100 * share.low, 100 * share.high, share.n, "%", share.method)


def _specific_share(a: Artefacts) -> Measurement:
    joint, neutral = joint_by_question(a.circuit, "sandbag"), joint_by_question(a.circuit, "neutral")
    if len(joint) < 2 or len(neutral) < 2:
        return Measurement(why="not measured")
    specific = (joint - neutral.loc[joint.index]).to_numpy()
    return _of_an_effect(a, _percent(statistics.ratio_ci(specific, joint.to_numpy())))


def _of_an_effect(a: Artefacts, share: Estimate | None) -> Measurement:
    """A share of the joint effect, which has a meaning only where there is a joint effect to share."""
    joint = a.recorded("joint")
    if joint is None or joint.low <= 0:
        return Measurement(why="the joint effect is not clear of 0 here, so no share of it is defined")
    return Measurement(share)


def _draws(draws: pd.DataFrame, kind: str) -> np.ndarray:
    rows = draws[draws["kind"] == kind]
    return rows[rows["metric"] == metrics.PRIMARY]["effect_pp"].to_numpy() if "metric" in rows else rows["effect_pp"].to_numpy()


def _singles(a: Artefacts) -> pd.Series:
    """The sum of the single heads' effects per question, in pp."""
    singles = [joint_by_question(a.circuit, "sandbag", f"single:{circuits.head_name(head)}") for head in a.heads]
    return pd.concat(singles, axis=1).sum(axis=1) if singles and all(len(s) for s in singles) else pd.Series(dtype=float)


def _best_three(a: Artefacts) -> tuple[tuple[str, ...], Measurement]:
    """The best three heads of the chosen ones, picked on train questions, and their effect on test questions."""
    if len(a.heads) <= 3:
        return (), Measurement(why="three heads or fewer, so there is no best three among them")
    names = tuple(map(circuits.head_name, _head_tuples(a.summary["best_three"]["heads"])))
    return names, Measurement(a.recorded("best_three", "test"), why="the three picked on train, judged on test questions")


def _single_head(a: Artefacts, name: str) -> Measurement:
    """One head's effect in the sweep over train questions."""
    layer, head = _head_tuples([name])[0]
    rows = a.sweep[(a.sweep["layer"] == layer) & (a.sweep["head"] == head) & (a.sweep["condition"] == "sandbag")]
    rows = rows[(rows["metric"] == metrics.PRIMARY) & (rows["replacement"] == "zero")]
    if rows.empty:
        return Measurement(kind="level", why="this model has no such head, or it was not swept")
    row = rows.iloc[0]
    return Measurement(Estimate(row["effect_pp"], row["low"], row["high"], int(row["n"]), "pp", "sweep over train questions"))


def _level(a: Artefacts, condition: str) -> Measurement:
    values = metrics.per_question(a.scores, condition).to_numpy()
    return Measurement(statistics.mean_ci(values), kind="level", why="a level of p_full; the gap between levels is in the headline")


def _after(a: Artefacts) -> Measurement:
    joint = a.circuit[(a.circuit["condition"] == "sandbag") & (a.circuit["intervention"] == "joint")]
    values = joint[joint["metric"] == metrics.PRIMARY]["value"].to_numpy()
    return Measurement(statistics.mean_ci(values) if len(values) > 1 else None, kind="level", why="a level of p_full")


def _pairs(a: Artefacts) -> pd.DataFrame:
    """JumpReLU and TopK at the same layer and condition: columns jumprelu, topk of each figure of 03_separation."""
    rows = a.separation[(a.separation["pair"] == "genuine vs sandbag") & (a.separation["d"] == "dz")]
    found = rows.assign(architecture=[_architecture(tag) for tag in rows["tag"]], condition=[_condition(tag) for tag in rows["tag"]])
    found = found[found["architecture"] != ""]
    if not {"jumprelu", "topk"} <= set(found["architecture"]):
        return pd.DataFrame()
    found = found.assign(d_max=found["d_max"].abs(), d_mean_all=found["d_mean_all"].abs())
    return found.pivot(index=["layer", "condition"], columns="architecture", values=["d_max", "d_mean_all"]).dropna()


def _architecture(tag: str) -> str:
    return next((name for name in ("jumprelu", "topk") if f"_{name}_" in f"_{tag}_" and "_k" not in tag), "")


def _condition(tag: str) -> str:
    return next((name for name in ("genuine_only", "sandbagging_only", "mixed") if str(tag).endswith(name)), str(tag))


def _separation(a: Artefacts) -> dict[str, Measurement]:
    pairs = _pairs(a)
    if pairs.empty:
        return dict.fromkeys(SEPARATION, Measurement(why="no JumpReLU and TopK SAE at the same layer and condition in this run"))
    d, n = pairs["d_max"], len(pairs)
    wins = int((d["jumprelu"] > d["topk"]).sum())
    here = f"{n} pairs of this run"
    layers = sorted({layer for layer, _ in pairs.index})
    middle = d.xs(layers[len(layers) // 2], level="layer").iloc[-1]
    no_interval = "the card does not say which Cohen's d, so sizes cannot be compared"
    ratio = (pairs["d_mean_all"]["jumprelu"] / pairs["d_mean_all"]["topk"]).median()
    return {
        "jumprelu_wins": _share(wins, n, n, 0.5, here),
        "jumprelu_win_share": _share(wins, n, 100, 0.5, here),
        "topk_wins": _share(n - wins, n, n, 0.5, here),
        **{f"{name}_d_max": Measurement(_bare(middle[name], "Cohen's d"), kind="level", why=no_interval) for name in ("topk", "jumprelu")},
        "d_mean_ratio": Measurement(_bare(ratio, "ratio"), reference=1.0, why=f"median over {here}; a range is published, not an interval"),
    }


def _bare(value: float, unit: str) -> Estimate:
    return Estimate(float(value), nan, nan, 0, unit, "no interval")


def _portion_of(a: Artefacts, claim_model: str) -> Measurement:
    """The sandbag-specific portion on the claim's own model, where notebook 09 has it, else on this run's."""
    own = a.models[a.models["model"].isin(ALIASES[claim_model]) & (a.models["weights"] == "real") & (a.models["gate"] == "open")]
    own = own.dropna(subset=["specific_portion"])
    if own.empty:
        why = "the same portion here, in another model and with other heads"
        return Measurement(a.recorded("specific_portion"), kind="at most", why=why)
    row = own.iloc[0]
    ends = (float(row[f"specific_portion{end}"]) for end in ("", "_low", "_high"))
    return Measurement(Estimate(*ends, int(row["specific_portion_n"]), "pp"), kind="at most", own_model=row["model"])


def measurements(a: Artefacts) -> dict[str, Measurement]:
    """Return what the run says about every claim that was found by an experiment."""
    joint, specific = a.recorded("joint"), a.recorded("specific_portion")
    names = tuple(map(circuits.head_name, a.heads))
    three, three_effect = _best_three(a)
    quarter = (int(a.sweep["layer"].max()) + 1) / 4
    early = sum(layer < quarter for layer, _ in a.heads)
    swap = _swap_gap(a)
    words = {
        "five_heads": Measurement(heads=names),
        "early_heads": _share(early, len(a.heads), len(a.heads), 0.25, "by chance the share is 1 in 4"),
        "joint_effect": Measurement(joint),
        "joint_effect_five_questions": Measurement(joint, why="here judged on questions that the heads were not chosen on"),
        "gap_to_random_heads": Measurement(a.recorded("random_uniform", "gap")),
        "random_heads_sd": _spread(_draws(a.draws, "uniform")),
        "best_three_heads": Measurement(heads=three),
        "dispensable_heads": Measurement(heads=tuple(name for name in names if name not in three) if three else ()),
        "best_three_effect": three_effect,
        "sum_of_singles": Measurement(_effect(_singles(a))),
        "redundancy": _of_an_effect(a, _percent(a.recorded("redundancy"))),
        "neutral_effect": Measurement(a.recorded("joint_neutral")),
        "neutral_questions": Measurement(why="the figure can mean two things: 42 of 50 improved, or 42 of 50 were used"),
        "specific_portion": Measurement(specific),
        "specific_share": _specific_share(a),
        "p_genuine": _level(a, "genuine"),
        "p_sandbag": _level(a, "sandbag"),
        "p_sandbag_after": _after(a),
    }
    words |= {f"swap_gap_{which}": swap for which in ("all", "llama", "smollm2", "tinyllama")}
    words |= {f"specific_portion_{name.replace('-', '_')}": _portion_of(a, name) for name in ("tinyllama", "pythia-160m", "pythia-410m")}
    words |= {f"single_effect_{name}": _single_head(a, name) for name in ("L0H3", "L0H6", "L1H26", "L4H3", "L8H14")}
    return words | _separation(a)


# The ledger --------------------------------------------------------------------------------------------------------------------------

COLUMNS = ["claim", "section", "model", "published", "published_low", "published_high", "measured_on", "measured", "measured_low",
           "measured_high", "n", "unit", "verdict", "why"]  # fmt: skip
# These stand or fall with instructed sandbagging; counts of heads and of SAEs that separate prompts do not.
SEPARATION = ("jumprelu_wins", "jumprelu_win_share", "topk_wins", "topk_d_max", "jumprelu_d_max", "d_mean_ratio")
WITHOUT_GATE = (*SEPARATION, "p_genuine", "p_sandbag")


def judge(entry: dict, found: Measurement, a: Artefacts) -> Verdict:
    """Return the verdict on one claim of `published`, from what the run measured."""
    same = bool(found.own_model) or (same_model(entry["model"], a.model) and not a.random_weights)
    if entry["kind"] != "finding":
        return Verdict(NO_FINDING, "how things were made, or what the release holds")
    if not a.gate["open"] and not found.own_model and entry["claim"] not in WITHOUT_GATE:
        return Verdict(NOT_TESTABLE, "the gate is closed: no sandbagging to explain")
    if isinstance(entry["value"], list):
        return heads_verdict(entry["value"], found.heads, same)
    if entry["claim"].startswith("single_effect_") and not same:
        return heads_verdict([], None, same)
    if found.estimate is None:
        return Verdict(NOT_TESTABLE, found.why or "not measured")
    # The rule reads shares; the published count becomes a share of the published number of pairs or heads.
    per = entry["n"] if found.scale > 1 and entry["unit"] != "%" else found.scale
    claimed = _published_estimate(entry, per)
    word = verdict(claimed, found.estimate, same, kind=found.kind, reference=found.reference, p_equivalent=found.p_equivalent)
    return Verdict(word.verdict, "; ".join(part for part in (word.why, found.why) if part))


def _published_estimate(entry: dict, per: float = 1.0) -> Estimate:
    value, low, high = (nan if entry[name] is None else entry[name] / per for name in ("value", "low", "high"))
    return Estimate(value, low, high, entry["n"] or 0, entry["unit"], entry["section"])


def rows(a: Artefacts) -> pd.DataFrame:
    """Return the ledger: one row per published figure, columns `COLUMNS`."""
    found, table = measurements(a), []
    for entry in published():
        here = found.get(entry["claim"], Measurement(why="this suite does not measure it"))
        word = judge(entry, here, a)
        shown = here.estimate or Estimate(nan, nan, nan, 0)
        value = shown.value * here.scale if not here.heads else " ".join(here.heads)
        table.append({
            "claim": entry["claim"], "section": entry["section"], "model": entry["model"],
            "published": " ".join(map(str, entry["value"])) if isinstance(entry["value"], list) else entry["value"],
            "published_low": entry["low"], "published_high": entry["high"],
            "measured_on": "" if word.verdict == NO_FINDING else here.own_model or a.measured_on, "measured": value,
            "measured_low": shown.low * here.scale, "measured_high": shown.high * here.scale,
            "n": shown.n or len(here.heads) or None, "unit": entry["unit"], "verdict": word.verdict, "why": word.why,
        })  # fmt: skip
    return pd.DataFrame(table, columns=COLUMNS)


def findings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger's rows that were found by an experiment."""
    return table[table["verdict"] != NO_FINDING]


def comparable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger's rows whose published and measured numbers are both effects in pp, as `plots.ledger` draws them."""
    numbers = table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in ("published", "measured")})
    effects = numbers[(table["unit"] == "pp") & ~table["claim"].str.startswith(("swap_gap", "random_heads_sd"))]  # a bound and a spread
    other_heads = effects["claim"].str.startswith("single_effect_") & (effects["verdict"] == NOT_TESTABLE)
    return effects[~other_heads].dropna(subset=["published", "measured"])


GROUPS = {
    "The swap through an SAE": ("§24, §26, §31",),
    "The heads": ("Where the deception circuit lives", "§28", "§28.2", "§28.4", "§29 / U6", "§30"),
    "The same heads on five questions": ("edited-model card",),
    "TopK against JumpReLU": ("§32",),
}


def shown(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """Return one group of the ledger to read: claim, section, model, and published and measured numbers with intervals as text."""
    part = findings(table)
    part = part[part["section"].isin(GROUPS[group])]
    texts = {side: [_cell(row, side) for row in part.to_dict("records")] for side in ("published", "measured")}
    counts = ["" if pd.isna(n) else str(int(n)) for n in part["n"]]
    return part.assign(**texts, n=counts)[["claim", "section", "model", "published", "measured", "unit", "n", "verdict", "why"]]


def _cell(row: dict, side: str) -> str:
    value, low, high = row[side], row[f"{side}_low"], row[f"{side}_high"]
    interval = "" if pd.isna(low) else f" [{low:.4g}, {high:.4g}]"
    if isinstance(value, str):
        return value
    return f"{'' if pd.isna(value) else f'{value:.4g}'}{interval}".strip() or "–"


def tally(table: pd.DataFrame) -> pd.DataFrame:
    """Return how many claims got each verdict, a row per model that the claims are about."""
    return pd.crosstab(findings(table)["model"], findings(table)["verdict"])


def what_survived(table: pd.DataFrame, lines: Sequence[dict[str, str]]) -> str:
    """Return in words what the verdicts of the ledger and of the headline say together."""
    table = findings(table)
    own, other = _by_verdict(table, (REPLICATED, NOT_REPLICATED, CANNOT_BE_SAID)), _by_verdict(table, (SAME_DIRECTION, OPPOSITE))
    n_open = int((table["verdict"] == NOT_TESTABLE).sum())
    said = [f"Of {len(table)} published findings, {n_open} are not testable here."]
    if own:
        said.append("On the model that they are about: " + "; ".join(own) + ".")
    if other:
        said.append("On another model, so as directions alone: " + "; ".join(other) + ".")
    if not own:
        said.append("None of them is replicated or refuted: for that, the claim's own model has to be run.")
    stood = [line["verdict"] for line in lines if "joint effect" in line["finding"]][:1]
    said += [f"By this run's own rule {'the circuit' if 'survive' in word else 'there is'} **{word}**." for word in stood]
    swaps, nulls = _after_prefix(lines, "SAE swap at "), _after_prefix(lines, "null model: ")
    said += [f"The swap through an SAE is, per layer: {swaps}."] if swaps else []
    said += [f"Null models: {nulls}."] if nulls else []
    return " ".join(said)


def _after_prefix(lines: Sequence[dict[str, str]], prefix: str) -> str:
    chosen = [line for line in lines if line["finding"].startswith(prefix)]
    return "; ".join(f"{line['finding'].removeprefix(prefix)}: {line['verdict']}" for line in chosen)


def _by_verdict(table: pd.DataFrame, words: Sequence[str]) -> list[str]:
    """Name the claims of each verdict: "3 same direction (`a`, `b`, `c`)"."""
    found = {word: table.loc[table["verdict"] == word, "claim"] for word in words}
    return [f"{len(claims)} **{word}** ({', '.join(f'`{claim}`' for claim in claims)})" for word, claims in found.items() if len(claims)]


def slips() -> pd.DataFrame:
    """Return the places where the card's figures do not add up or can be read in two ways: claim, section, value, note."""
    entries = {entry["claim"]: entry for entry in published()}
    table = pd.DataFrame([{name: entries[claim][name] for name in ("claim", "section", "value", "note")} for claim in SLIPS])
    return table.assign(value=[f"{value:g}" for value in table["value"]])


# The headline ------------------------------------------------------------------------------------------------------------------------


def headline(a: Artefacts, run: str) -> list[dict[str, str]]:
    """Return the findings in short: finding, value_text (with CI95 and n) and verdict, null models included where they were run."""
    return [*_gap_lines(a), *_circuit_lines(a), *_swap_lines(a), *null_lines(run)]


def _line(finding: str, value: object, verdict: str) -> dict[str, str]:
    return {"finding": finding, "value_text": str(value) if value is not None else "not measured", "verdict": verdict}


def _gap_lines(a: Artefacts) -> list[dict[str, str]]:
    gaps = Estimate.from_dict(a.gate["gap_p_full"]), Estimate.from_dict(a.gate["gap_choice_len"])
    able = f"genuine choice_len {a.gate['genuine_choice_len']:.2f}, chance 0.25"
    second = "answers worse too" if gaps[1].low > 0 else "answers better" if gaps[1].high < 0 else "not clear of 0"
    return [
        _line("sandbagging gap, p_full", gaps[0], f"gate {'open' if a.gate['open'] else 'closed'} ({able})"),
        _line("sandbagging gap, choice_len", gaps[1], second),
    ]


def _circuit_lines(a: Artefacts) -> list[dict[str, str]]:
    joint, heads = a.recorded("joint"), ", ".join(map(circuits.head_name, a.heads))
    if not a.gate["open"]:
        return [_line(f"zeroing {heads}: joint effect, p_full", joint, "no sandbagging to explain")]
    secondary, share, overlap = a.recorded("joint_choice_len"), a.recorded("fraction_restored"), a.recorded("redundancy")
    survives = "survives" if a.summary["survives"]["value"] else "does not survive"
    lines = [
        _line(f"zeroing {heads}: joint effect, p_full", joint, survives),
        _line("the same, choice_len", secondary, _towards(secondary)),
        _line("share of the gap restored", _share_text(share), _share_words(share)),
        *(_draw_line(a, kind, words) for kind, words in RANDOM.items()),
    ]
    for other in ("neutral", "genuine"):
        effect = a.recorded(f"joint_{other}")
        lines.append(_line(f"the same heads on {other} prompts", effect, _towards(effect)))
    for other, key in (("neutral", "specific_portion"), ("genuine", "specific_portion_vs_genuine")):
        portion = a.recorded(key)
        lines.append(_line(f"sandbag-specific portion (sandbag − {other})", portion, _specific(portion)))
    return [*lines, _line("redundancy (1 − joint / sum of singles)", _share_text(overlap), _overlap(overlap))]


RANDOM = {"uniform": "as many random heads", "same_layer": "as many random heads of the same layers"}


def _share_text(share: Estimate | None) -> str | None:
    if share is None or isnan(share.low):
        return share and f"{share.value:.0%}, no interval, n = {share.n}"
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}], n = {share.n}"


def _share_words(share: Estimate | None) -> str:
    if share is None or isnan(share.low):
        return "not defined"
    if share.low <= 0:
        return "the gap widens" if share.high < 0 else "not clear of 0"
    return "more than the gap" if share.low > 1 else "part of the gap" if share.high < 1 else "part of it or all"


def _draw_line(a: Artefacts, kind: str, words: str) -> dict[str, str]:
    found = a.summary[f"random_{kind}"]
    spread = "" if found["sd"] is None else f"SD {found['sd']:.2f} pp, "
    value = f"mean {_short(Estimate.from_dict(found['mean']))}, {spread}{found['n_draws']} draws; rank p = {found['rank_p']:.3f}"
    if found["rank_p"] <= circuits.SURVIVES_P:
        return _line(words, value, "few reach the chosen ones")
    enough = 1 / (1 + found["n_draws"]) <= circuits.SURVIVES_P  # the smallest p that so many draws can give
    return _line(words, value, "do as well as the chosen ones" if enough else "too few draws to tell")


def _towards(effect: Estimate | None) -> str:
    if effect is None:
        return "not measured"
    return "raises the right answer" if effect.low > 0 else "lowers the right answer" if effect.high < 0 else "not clear of 0"


def _specific(portion: Estimate | None) -> str:
    if portion is None:
        return "not measured"
    return "specific to sandbagging" if portion.low > 0 else "less than elsewhere" if portion.high < 0 else "not clear of 0"


def _overlap(overlap: Estimate | None) -> str:
    if overlap is None or isnan(overlap.low):
        return "not defined"
    return "the heads overlap" if overlap.low > 0 else "more than the sum of its parts" if overlap.high < 0 else "not clear of 0"


def _swap_lines(a: Artefacts) -> list[dict[str, str]]:
    cells, lines = specificity_cells(a), []
    mixed = cells["tag"].str.endswith("_mixed")
    for layer, part in cells[mixed if mixed.any() else ~mixed].groupby("layer"):
        part = part.assign(architecture=[_architecture(tag) or tag for tag in part["tag"]])
        first = part.sort_values("architecture", key=lambda names: names != "jumprelu", kind="stable").iloc[0]
        others = [f"{row.architecture}: {row.verdict}" for row in part.itertuples() if row.tag != first["tag"]]
        value = f"E6 − E1 {_short(first['gap_e1'])}; E6 − E4 {_short(first['gap_e4'])}; n = {first['gap_e1'].n}"
        words = first["verdict"] + (f" ({'; '.join(others)})" if others else "")
        lines.append(_line(f"SAE swap at layer {layer} ({first['architecture']})", value, words))
    return lines


def _short(e: Estimate) -> str:
    return f"{e.value:+.2f} pp [{e.low:+.2f}, {e.high:+.2f}]"


def null_lines(run: str) -> list[dict[str, str]]:
    """Return one line per null model nested in the run (RUN/null_model, RUN/placebo): what the same rule finds where there is nothing."""
    lines = []
    for name, words in NULL_RUNS.items():
        found = null_summaries(f"{run}/{name}")
        if found is None:
            lines.append(_line(f"null model: {words}", "not run", "not run"))
            continue
        gate, circuit = found
        value = f"gap {Estimate.from_dict(gate['gap_p_full'])}; joint effect {_short(Estimate.from_dict(circuit['joint']))}"
        nothing = not gate["open"] and not circuit["survives"]["value"]
        lines.append(_line(f"null model: {words}", value, "nothing found" if nothing else "SOMETHING FOUND: trust no finding above"))
    return lines


def null_summaries(run: str) -> tuple[dict, dict] | None:
    """Return the gate and the circuit's summary of a null run, or None where it was not run; UserError where a file was changed."""
    found = []
    for artefact in ("00_baseline", "08_circuit"):
        manifest = runs.read_manifest(run, artefact)
        if manifest is None:
            return None
        damaged = runs.damaged_file(run, artefact, manifest)
        if damaged:
            way_out = f"run it again (python -m sandbagging run all --set {run.rsplit('/', 1)[-1]} --run {run})"
            raise UserError(f"{artefact}/{damaged} in the run {run} was changed after it was written: {way_out}.")
        found.append(json.loads((runs.run_folder(run) / artefact / "summary.json").read_text()))
    return found[0]["gate"], found[1]


def headline_markdown(run: str) -> str:
    """Return a run's headline as a Markdown table, as the README shows it; UserError where notebook 10 has not been run."""
    path = runs.run_folder(run) / "10_ledger" / "headline.json"
    if not path.is_file():
        raise UserError(f"The run {run} holds no headline: run notebook 10_what_survived first (python -m sandbagging run 10 --run {run}).")
    lines = [[row["finding"], row["value_text"], row["verdict"]] for row in json.loads(path.read_text())]
    table = [["finding", "measured, with CI95", "verdict"], ["---"] * 3, *lines]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in table)


def headline_figure(a: Artefacts) -> Figure:
    """Return one figure of the headline: p_full by condition, the joint effect by condition (pp), and the random draws (pp)."""
    with plt.rc_context(plots.style()):
        fig, axes = plt.subplots(1, 3, figsize=(plots.WIDTH, 3.4), width_ratios=[1, 0.8, 1.2])
        _levels_panel(axes[0], a)
        _effects_panel(axes[1], a)
        _draws_panel(axes[2], a)
        title = f"Told to answer wrongly; heads zeroed: {', '.join(map(circuits.head_name, a.heads))}"
        fig.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        n = a.scores["question_id"].nunique()
        caption = f"{a.measured_on}.\nn = {n} test questions, the heads found on others. Bars and shading: 95 % CI over questions."
        fig.supxlabel(caption, x=0.01, ha="left", fontsize=8)
        plt.close(fig)
    return fig


def _levels_panel(ax: Axes, a: Artefacts) -> None:
    here = [c for c in ("genuine", "sandbag", "neutral") if (a.scores["condition"] == c).any()]
    levels = {c: statistics.mean_ci(metrics.per_question(a.scores, c).to_numpy()) for c in here}
    levels["sandbag, heads zeroed"] = _after(a).estimate
    order = [name for name in ("genuine", "sandbag", "sandbag, heads zeroed", "neutral") if levels.get(name)]
    _bars(ax, [levels[name] for name in order], order)
    ax.set(ylabel="p_full (probability)", title="The right answer")
    ax.set_ylim(0, 1.08 * max(levels[name].high for name in order))


def _effects_panel(ax: Axes, a: Artefacts) -> None:
    effects = {"sandbag": a.recorded("joint"), "neutral": a.recorded("joint_neutral"), "genuine": a.recorded("joint_genuine")}
    order = [name for name, effect in effects.items() if effect]
    _bars(ax, [effects[name] for name in order], order)
    ax.axhline(0, color=plots.GREY, linewidth=0.8, linestyle="--", zorder=0)
    ax.set(ylabel="effect on p_full (pp)", title="Effect of zeroing the heads")


def _bars(ax: Axes, estimates: Sequence[Estimate], names: Sequence[str]) -> None:
    for place, (estimate, name) in enumerate(zip(estimates, names, strict=True)):
        colour, marker = plots.CONDITIONS[name.split(",")[0]]
        error = [[estimate.value - estimate.low], [estimate.high - estimate.value]]
        look = {"color": colour, "marker": marker, "fillstyle": "none" if "," in name else "full", "markersize": 7}
        ax.errorbar([place], [estimate.value], yerr=error, capsize=3, linestyle="none", **look)
    ax.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names], rotation=30, ha="right")
    ax.set_xlim(-0.6, len(names) - 0.4)


def _draws_panel(ax: Axes, a: Artefacts) -> None:
    joint, draws = a.recorded("joint"), {kind: _draws(a.draws, kind) for kind in RANDOM}
    bins = np.histogram_bin_edges(np.concatenate(list(draws.values())), bins=24)
    for (kind, effects), colour in zip(draws.items(), (plots.GREY, plots.SKY), strict=True):
        words = {"uniform": "random heads", "same_layer": "of the same layers"}[kind]
        label = f"{words}, {len(effects)} draws: p = {a.summary[f'random_{kind}']['rank_p']:.3f}"
        ax.hist(effects, bins=bins, color=colour, alpha=0.65, label=label)
    ax.axvspan(joint.low, joint.high, color=plots.VERMILION, alpha=0.15, linewidth=0)
    ax.axvline(joint.value, color=plots.VERMILION, linewidth=2, label=f"chosen heads: {joint.value:+.2f} pp")
    ax.set(xlabel="effect on p_full, sandbag (pp)", ylabel="draws", title="Beside random heads")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))
