"""What replacing nodes, heads and MLPs alike, does to each question: by zero, a mean, or the values
of the other condition.

An effect is m(condition, nodes replaced) - m(condition), per question, in the unit of the metric;
positive: the right answer comes back. Nothing is judged here: see `ranking`.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from sandbagging import metrics
from sandbagging.errors import UserError
from sandbagging.heads import patching, positions
from sandbagging.heads import sweep as of_heads
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.models.packing import Pack
from sandbagging.nodes import interventions, values
from sandbagging.nodes.interventions import Values
from sandbagging.nodes.node import Nodes, check
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question

METRICS = ("logodds", "p_full")
REPLACEMENTS = ("zero", "mean")


def replace_sets(
    model: Model,
    pack: Pack,
    sets: Sequence[Nodes],
    new: Values | None = None,
    *,
    others: bool = False,
    names: Sequence[str] = METRICS,
    only: Tensor | None = None,
    keep: Path | None = None,
    progress: Progress | None = None,
    label: str = "nodes",
) -> Effects:
    """Return the effect of replacing each set of nodes by zero or by `new` values, on the questions
    of a pack; with `others`, of replacing every node but these.

    Sets are run as the sweep of heads runs them: those that begin at one layer start there, as one
    batch. Values are those of the tokens that are run: all, or `only` these. Raises UserError for
    nodes that do not exist.
    """
    sets = [tuple(sorted(nodes)) for nodes in sets]
    for nodes in sets:
        check(model, nodes)
    lowest = [0 if others else min((node.layer for node in nodes), default=0) for nodes in sets]
    return of_heads.run_from(
        model,
        pack,
        sets,
        lowest,
        lambda batch: interventions.replace_each(model, batch, new, others),
        names=names,
        only=only,
        keep=keep,
        progress=progress,
        label=label,
    )


def sweep_conditions(
    model: Model,
    asked: Sequence[Question],
    conditions: Sequence[str],
    framing: Framing,
    sets: Sequence[Nodes],
    *,
    replacement: str = "zero",
    drawn_from: Sequence[Question] = (),
    means_of: Sequence[str] = ("genuine",),
    others: bool = False,
    names: Sequence[str] = METRICS,
    label: str = "nodes",
    keep: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Effects]:
    """Return {condition: effects} of replacing each set of nodes (or all `others`) on the
    questions' prompts.

    "mean" is that at the same position of the prompts of the questions `drawn_from`, or of those
    that are asked, under the conditions `means_of`. Raises UserError for nodes that do not exist
    and for an unknown replacement.
    """
    if replacement not in REPLACEMENTS:
        raise UserError(f"Unknown replacement {replacement!r} of nodes; choose zero or mean.")
    banks = []
    if replacement == "mean":
        banks = values.banks(model, drawn_from or asked, means_of, framing)
    effects = {}
    for condition in conditions:
        if banks:
            target = positions.placed(model, asked, condition, framing)
            pack, new = target.pack, values.means(model, target, banks)
        else:
            pack, new = metrics.prepare(model, asked, condition, framing), None
        effects[condition] = replace_sets(
            model,
            pack,
            sets,
            new,
            others=others,
            names=names,
            keep=keep,
            progress=progress,
            label=f"{label} {condition}",
        )
    return effects


def patch_packs(
    model: Model,
    genuine: Pack,
    sandbag: Pack,
    sets: Sequence[Nodes],
    *,
    others: bool = False,
    names: Sequence[str] = METRICS,
    progress: Progress | None = None,
    label: str = "patching of nodes",
) -> Effects:
    """Return the effect, on sandbag prompts, of giving each set of nodes (or all `others`) its
    values of the genuine run, at all tokens.

    Only what lies behind the first difference is run. Raises UserError where the prompts do not
    match token by token.
    """
    rows = patching.reached(genuine, sandbag)
    new = {
        point: value[rows.to(model.device)]
        for point, value in values.values_of(model, genuine).items()
    }
    return replace_sets(
        model,
        sandbag,
        sets,
        new,
        others=others,
        names=names,
        only=rows,
        progress=progress,
        label=label,
    )


def patch_sets(
    model: Model,
    asked: Sequence[Question],
    framing: Framing,
    sets: Sequence[Nodes],
    *,
    names: Sequence[str] = METRICS,
    progress: Progress | None = None,
) -> Effects:
    """Return `patch_packs` on the questions' genuine and sandbag prompts under a framing in which
    they match, such as "one_token" or "instr:pick".
    """
    genuine, sandbag = (
        metrics.prepare(model, asked, condition, framing) for condition in ("genuine", "sandbag")
    )
    return patch_packs(model, genuine, sandbag, sets, names=names, progress=progress)
