"""What the base run says of each claim when the questions of one category are left out.

Nothing is measured anew: each rule is applied to the stored values by question once more. So no
heads join one at a time again; those are compared that lead one by one by their net effects.
"""

from collections.abc import Collection, Iterator, Mapping

import pandas as pd

from sandbagging import models, questions
from sandbagging.gate import Gate
from sandbagging.heads import rivals, selection, specificity
from sandbagging.heads.head import Heads, parse
from sandbagging.heads.net import net_of
from sandbagging.heads.rivals import Rival
from sandbagging.heads.shares import BESIDE, DECIDES
from sandbagging.heads.sweep import Effects
from sandbagging.suite import answers, baseline, nested, runs
from sandbagging.suite.robustness import evidence
from sandbagging.suite.robustness.evidence import RESTS_ON, Cell
from sandbagging.swaps import decision, estimates
from sandbagging.swaps.guards import read_guards


def cells(run: str) -> dict[str, dict[str, Cell]]:
    """Return {category: {claim: what a run says of it without that category}}."""
    if runs.read_manifest(run, "00_baseline") is None:
        return {}
    return {kind: without(run, kind) for kind in sorted(set(categories_of(run).values()))}


def without(run: str, category: str) -> dict[str, Cell]:
    """Return what a run says without a category, of each claim whose notebook is done."""
    done = {name for name in RESTS_ON.values() if runs.read_manifest(run, name)}
    kept = {name: kind for name, kind in categories_of(run).items() if kind != category}
    return dict(_claims(run, kept, done))


def _claims(run: str, kept: Mapping[str, str], done: Collection[str]) -> Iterator:
    """Yield (claim, cell) over the questions that are kept {question id: category}."""
    gate = _gate(run, kept)
    yield "answers_wrongly", evidence.wrongly(gate)
    if "08_circuit" in done:
        yield from _of_circuit(run, kept, gate)
    if "07_heads" in done:
        yield from _of_heads(run, kept, gate)
    if "06_specificity" in done:
        yield from evidence.of_swaps(_swaps(run, kept, gate)).items()


def categories_of(run: str) -> dict[str, str]:
    """Return {question id: category} of all that a run may ask."""
    settings = runs.read_manifest(run, "00_baseline")["parameters"]
    found = {}
    for split in ("train", "test"):
        source = runs.from_notebooks(settings[f"questions_{split}"])
        whole = models.questions_of(settings["model"], split, source)
        asked = questions.subset(whole, settings[f"n_{split}"], settings["seed"])
        found |= {question.id: question.category for question in asked}
    return found


def _kept(table: pd.DataFrame, kept: Collection[str]) -> pd.DataFrame:
    return table[table["question_id"].isin(kept)]


def _gate(run: str, kept: Mapping[str, str]) -> Gate:
    settings = runs.read_manifest(run, "00_baseline")["parameters"]
    scores = nested.read_table(run, "00_baseline", "scores.csv.gz")
    written = answers.read(nested.path_of(run, "00_baseline", answers.FILE))
    return baseline.gate(
        _kept(scores, kept), _kept(written, kept), settings["framing"], settings["seed"], kept
    )


# Heads --------------------------------------------------------------------------------------------


def _of_heads(run: str, kept: Mapping[str, str], gate: Gate) -> Iterator:
    """Yield what the sweep says on the questions that are kept; MLPs are not stored by question, so
    that heads are found among heads alone.
    """
    table = nested.read_table(run, "07_heads", "effects_by_question.csv.gz")
    whole, left = net_effects(table), net_effects(_kept(table, kept))
    found = selection.heads_found(selection.find(left, gate))
    yield "early_head", evidence.early(found, evidence.layers_of(run), gate.grade)
    n = len(evidence.heads_of(run).chosen)
    chosen, base = (selection.top(net, n) for net in (left, whole))
    yield "same_heads", evidence.same(chosen, base, gate.grade)


def net_effects(table: pd.DataFrame) -> Effects:
    """Return the net effects of heads on sandbag prompts, of notebook 07's table by question."""
    of = dict(iter(table.groupby("condition", sort=False)))
    return net_of({c: effects_of(of[c]) for c in ("sandbag", "genuine")})["sandbag"]


def _of_circuit(run: str, kept: Mapping[str, str], gate: Gate) -> Iterator:
    joint = tuple(sorted(parse(nested.read_json(run, "08_circuit")["heads"])))
    on = {c: effects_of(_rows(run, "08_circuit", kept, c), joint) for c in ("genuine", "sandbag")}
    found = specificity.specific(on, joint, kept)
    against = found.differences["genuine"][DECIDES]
    yield "heads_specific", evidence.specific(found.says, against, gate.grade)
    survival = rivals.judge(on, joint, _rivals(run), _draws(run), gate, kept)
    for claim, rule in evidence.OF_SURVIVAL.items():
        yield claim, rule(survival)


def _rivals(run: str) -> list[Rival]:
    table = nested.read_table(run, "08_circuit", "rivals.csv")
    theirs = table[table["quantity"] == "margin"].drop_duplicates("chosen_on")
    return [
        Rival(row["chosen_on"], tuple(sorted(parse(row["heads"]))), False, 0)
        for row in theirs.to_dict("records")
    ]


def _draws(run: str) -> dict[str, list[Heads]]:
    """Return the random sets of each kind, in order."""
    table = nested.read_table(run, "08_circuit", "draws.csv")
    each = table[table["metric"] == DECIDES].sort_values("index")
    return {
        kind: [tuple(sorted(parse(heads))) for heads in part["heads"]]
        for kind, part in each.groupby("kind", sort=False)
    }


def _rows(run: str, artefact: str, kept: Collection[str], condition: str) -> pd.DataFrame:
    table = nested.read_table(run, artefact, "effects_by_question.csv.gz")
    return _kept(table[table["condition"] == condition], kept)


def effects_of(rows: pd.DataFrame, joint: Heads = ()) -> Effects:
    """Return the effects that `estimates.by_question` laid out as rows of one condition, on
    log-odds and p_full; `joint` is the set that it calls so.
    """
    names = list(rows["intervention"].unique())
    ids = sorted(rows["question_id"].unique())
    baseline_of, value_of = {}, {}
    for metric in (DECIDES, BESIDE):
        own = rows[rows["metric"] == metric]
        wide = own.pivot(index="intervention", columns="question_id", values="value")
        value_of[metric] = wide.loc[names, ids].to_numpy()
        first = own.drop_duplicates("question_id").set_index("question_id")["baseline"]
        baseline_of[metric] = first.loc[ids].to_numpy()
    sets = [joint if n == "joint" else tuple(sorted(parse(n.partition(":")[2]))) for n in names]
    return Effects(sets, tuple(ids), baseline_of, value_of)


# Swaps --------------------------------------------------------------------------------------------


def _swaps(run: str, kept: Mapping[str, str], gate: Gate) -> pd.DataFrame:
    table = nested.read_table(run, "04_swap", "effects_by_question.csv.gz")
    guards = read_guards(nested.read_table(run, "04_swap", "guards.csv"))
    settings = runs.read_manifest(run, "00_baseline")["parameters"]
    effects = estimates.stored_effects(_kept(table, kept))
    return decision.judge_cells(effects, guards, gate.grade, settings["seed"])
