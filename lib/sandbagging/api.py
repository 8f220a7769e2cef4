"""What `import sandbagging as sb` offers: ask, change, compare."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sandbagging import activations, gaps, generation, grading, metrics, prompts
from sandbagging.errors import UserError, nearest
from sandbagging.heads import estimates, head, interventions, sweep
from sandbagging.models import check_framing
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.model import Model
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question, check_disjoint
from sandbagging.saes import folders
from sandbagging.statistics import Estimate
from sandbagging.swaps import estimates as swap_estimates
from sandbagging.swaps import interventions as swaps
from sandbagging.swaps import medians, outcomes

if TYPE_CHECKING:
    from sae_lens import SAE

# Heads as "L17H6 L2H0", as a list of such names, or as pairs of layer and head.
HeadNames = str | Sequence[str | tuple[int, int]]


def score(
    lm: Model,
    asked: Sequence[Question],
    conditions: str | Sequence[str] = ("genuine", "sandbag"),
    framing: Framing | Sequence[Framing] = "instr",
    *,
    heads: HeadNames | None = None,
    edits: Mapping[HookPoint, Edit] | None = None,
) -> pd.DataFrame:
    """Return one row a framing, condition and question: question_id, condition, framing, heads, and
    every metric.

    `heads` are zeroed; `edits` are any other change of the forward pass (`hook_points.forward`).
    The column heads names those that were zeroed, "" where none were. Raises UserError, in one
    sentence, for whatever cannot be asked.
    """
    return _each(metrics.score, lm, asked, conditions, framing, heads, edits)


def answers(
    lm: Model,
    asked: Sequence[Question],
    conditions: str | Sequence[str] = ("genuine", "sandbag"),
    framing: Framing | Sequence[Framing] = "instr",
    *,
    heads: HeadNames | None = None,
    edits: Mapping[HookPoint, Edit] | None = None,
) -> pd.DataFrame:
    """Return what the model writes by itself behind each prompt, and what that is worth:
    question_id, condition, framing, heads, text, verdict ("right", "listed wrong", "something
    else").

    `heads` and `edits` as in `score`; they apply to the tokens that are written too. The text is
    greedy, one line, at most 12 tokens; for the verdict see `grading`. Raises UserError, in one
    sentence, for whatever cannot be asked.
    """
    table = _each(generation.write, lm, asked, conditions, framing, heads, edits)
    return grading.graded(table, asked)


def _each(
    ask: Callable[..., pd.DataFrame],
    lm: Model,
    asked: Sequence[Question],
    conditions: str | Sequence[str],
    framing: Framing | Sequence[Framing],
    heads: HeadNames | None,
    edits: Mapping[HookPoint, Edit] | None,
) -> pd.DataFrame:
    """Return the tables of all framings and conditions, stacked, with the heads that were
    zeroed.
    """
    _check_model(lm)
    _check_questions(asked)
    if heads is not None and edits is not None:
        raise UserError("Give heads or edits, not both; heads are edits that zero them.")
    zeroed = _heads(lm, heads) if heads is not None else []
    if zeroed:
        edits = interventions.ablate_heads(lm, zeroed)
    framings = [framing] if isinstance(framing, str) or callable(framing) else list(framing)
    conditions = [conditions] if isinstance(conditions, str) else list(conditions)
    if not framings or not conditions:
        raise UserError("Name at least one framing and one condition.")
    tables = []
    for one in framings:
        _check_framing(lm, one)
        tables += [ask(lm, asked, c, one, edits=edits) for c in conditions]
    table = pd.concat(tables, ignore_index=True)
    table.insert(3, "heads", head.join(zeroed, " "))
    return table


def effect(
    scores: pd.DataFrame,
    changed: pd.DataFrame | None = None,
    metric: str = metrics.CARD,
    *,
    condition: str = "sandbag",
    seed: int = 0,
) -> Estimate:
    """Return a mean difference, paired by question, with its CI95: in pp, or nats for logodds.

    One table of `score`: the sandbagging gap, genuine - sandbag. Two: what the change did in one
    condition, changed - scores; positive where the right answer gained. Raises UserError where the
    tables do not hold the same questions once each.
    """
    for table in (scores, changed):
        if table is not None:
            _check_table(table)
    if metric not in metrics.METRICS:
        raise UserError(
            f"Unknown metric {metric!r}; did you mean {nearest(str(metric), metrics.METRICS)!r}? "
            f"Known: {', '.join(metrics.METRICS)}."
        )
    if changed is None:
        return gaps.gap(scores, metric, seed)
    after, before = (metrics.per_question(t, condition, metric) for t in (changed, scores))
    return gaps.paired(after, before, metric, seed)


def sweep_heads(
    lm: Model,
    asked: Sequence[Question],
    framing: Framing = "instr",
    *,
    condition: str = "sandbag",
    layers: Sequence[int] = (),
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return what zeroing each head alone does to p_full and choice_len, the largest effect on
    p_full first.

    Columns: heads, layer, head, condition, replacement, metric, unit, effect, low, high, n
    (CI95 over questions; pp, or nats for logodds). `layers` () means all.
    """
    _check_model(lm)
    _check_questions(asked)
    _check_framing(lm, framing)
    pack = metrics.prepare(lm, asked, condition, framing)
    effects = sweep.ablate_sets(lm, pack, sweep.all_heads(lm, layers), progress=progress)
    table = estimates.effects_table(effects, condition, seed=seed)
    names = [str(head.Head(layer, h)) for layer, h in table[["layer", "head"]].to_numpy().tolist()]
    table.insert(0, "heads", names)
    return table.sort_values(
        ["metric", "effect"], ascending=False, key=_primary_first, ignore_index=True
    )


def _primary_first(column: pd.Series) -> pd.Series:
    return column == metrics.CARD if column.name == "metric" else column


def swap(
    lm: Model,
    train: Sequence[Question],
    test: Sequence[Question],
    sae: "SAE",
    framing: Framing = "instr",
    *,
    layer: int | None = None,
    seeds: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Return what swapping the whole SAE code at the last token does to sandbag prompts, beside its
    controls: E6 (the genuine median code), E1 (shuffled labels), E4 (the sandbag median code),
    noise of E6's length.

    The codes come from the train questions, the effects from the test questions. Columns:
    condition, layer, tag, position, error_term, intervention, metric, value, low, high (CI95 over
    questions), n, unit (nats for log-odds, pp for p_full). `layer` None reads it from the SAE.
    Raises UserError for an SAE of another width, and where train and test share a question.
    """
    _check_model(lm)
    for asked in (train, test):
        _check_questions(asked)
    check_disjoint(train, test)
    _check_framing(lm, framing)
    layer = _layer_of(sae) if layer is None else layer
    if sae.cfg.d_in != lm.d_model:
        raise UserError(
            f"The SAE reads {sae.cfg.d_in} dimensions and {lm.name} has {lm.d_model}; take one "
            "that was trained on this model."
        )
    resid, tokens = activations.collect_all(
        lm, {"train": train}, ("genuine", "sandbag"), framing, [layer]
    )
    codes = medians.train_codes(resid[layer], tokens)
    (place,) = outcomes.find_places(lm, test, "sandbag", framing, [layer])
    new = swaps.e6_and_e4(place.x, sae, codes)
    new |= swaps.e1(place.x, sae, codes, range(seeds))
    new |= swaps.noise(place.x, new["E6", "kept", 0], range(min(seeds, 4)))
    effects = outcomes.effects_at(lm, place, "sandbag", new, tag="sae")
    return swap_estimates.by_metric(effects, seed)


def _layer_of(sae: "SAE") -> int:
    """Return the layer that an SAE says it was trained on."""
    name = str(sae.cfg.metadata.get("hook_name", ""))
    parts = name.split(".")
    if len(parts) == 3 and parts[1].isdigit() and parts[2] == "hook_resid_post":
        return int(parts[1])
    raise UserError(
        f"The SAE's hook point {name!r} names no residual stream behind a block; give layer=..."
    )


def load_sae(folder: str | Path, lm: Model | None = None, **given: Any) -> "SAE":
    """Return the SAE of a SAELens folder, its width checked against a model's; see `saes.load`."""
    return folders.load(folder, d_in=lm.d_model if lm is not None else None, **given)


# Misuse, in the user's words ----------------------------------------------------------------------


def _check_model(lm: Any) -> None:
    if not isinstance(lm, Model):
        raise UserError(
            f"The first argument is a model, not {_short(lm)}; load one: lm = sb.load('NAME')."
        )


def _check_questions(asked: Any) -> None:
    if isinstance(asked, (str, Question)) or not isinstance(asked, Sequence):
        raise UserError(
            f"Questions are a list, not {_short(asked)}; make one: sb.questions('test', n=40)."
        )
    if not len(asked):
        raise UserError("There are no questions to ask; make some: sb.questions('test', n=40).")
    for item in asked:
        if not isinstance(item, Question):
            raise UserError(
                f"{_short(item)} is no question; write sb.Question(id, category, question, "
                "correct, incorrect), or read a file with sb.questions('FILE.jsonl')."
            )


def _check_framing(lm: Model, framing: Any) -> None:
    prompts.check_framing(framing)
    framing = prompts.resolved(framing)
    named = framing.framing if isinstance(framing, prompts.Worded) else framing
    if isinstance(named, str):
        check_framing(lm.name, named)


def _check_table(table: Any) -> None:
    if not isinstance(table, pd.DataFrame) or not {"question_id", "condition"} <= {*table.columns}:
        raise UserError(
            f"An effect is taken of tables that sb.score returns, not of {_short(table)}."
        )


def _heads(lm: Model, names: Any) -> list[head.Head]:
    """Return heads from text, a list of names or pairs, or one pair; checked against the model."""
    if isinstance(names, Sequence) and [type(part) for part in names] == [int, int]:
        names = [names]
    if not isinstance(names, Sequence):
        raise UserError(
            f"Heads are written 'L17H6 L2H0' or [(17, 6), (2, 0)], not {_short(names)}."
        )
    found = head.parse(names) if len(names) else []
    head.check(lm, found)
    return found


def _short(value: Any) -> str:
    """Return a value as a sentence can show it."""
    text = repr(value).split("\n")[0]
    return text if len(text) <= 60 else f"a {type(value).__name__}"
