"""Sites: one layer of the sandbag test prompts, ready for edits, and what edits there do.

1. One clean run of the test prompts keeps x, and the keys and values of every token that no edit
   reaches.
2. `effects_at` runs new x as batches from the layer above, over the tokens behind the edit alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations, metrics
from sandbagging.errors import UserError
from sandbagging.models import Model, check_layers, hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.models.packing import Pack
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.swaps import edits
from sandbagging.swaps.interventions import Key
from sandbagging.swaps.medians import rows_of

TOKENS_AT_ONCE = 6144  # batch x tokens of one forward pass
MIN_QUESTIONS = 10


class Site(NamedTuple):
    """One layer of one prompt set, ready for edits: the clean run, and where edits go."""

    layer: int
    position: str  # "last" or "all"
    pack: Pack  # the sandbag test prompts
    part: Pack  # the tokens that an edit can reach
    rows: Tensor  # [row] edited tokens of the pack
    question: Tensor  # [row] the question each belongs to
    resid: Tensor  # [1 token d_model] the clean residual stream
    stored: dict  # clean keys and values by layer
    baseline: dict[str, np.ndarray]  # metric -> [question]

    @property
    def x(self) -> Tensor:
        """The clean residual stream at the edited rows, [row d_model]."""
        return self.resid[0, self.rows.to(self.resid.device)]


def find_sites(
    model: Model,
    questions: Sequence[Question],
    framing: str,
    layers: Sequence[int],
    positions: Sequence[str] = ("last",),
) -> list[Site]:
    """Return the sites of the sandbag prompts of `questions`, all from one clean run.

    Raises UserError for fewer than 10 questions and for a layer that does not exist.
    """
    if len(questions) < MIN_QUESTIONS:
        raise UserError(
            f"{len(questions)} test questions are too few to judge an intervention on; "
            f"use at least {MIN_QUESTIONS}."
        )
    check_layers(model, list(layers))
    unknown = [p for p in positions if p not in ("last", "all")]
    if unknown or not positions:
        raise UserError(
            f"Unknown position {', '.join(map(str, unknown)) or '(none)'}; "
            "positions is a list of last, all or both."
        )
    pack = metrics.prepare(model, questions, "sandbag", framing)
    points, stored = [HookPoint("resid_post", layer) for layer in layers], {}
    final, saved = hook_points.forward(model, pack, reads=points, stored=stored, store=True)
    answers = metrics.answer_logprobs(model, pack, final)
    baseline = {
        name: metrics.METRICS[name](answers)[0].cpu().double().numpy() for name in metrics.JUDGED
    }
    result = []
    for position in positions:
        rows = {"last": pack.last, "all": pack.trunk()}[position]
        part = pack.part(pack.from_last() if position == "last" else pack.behind_prefix())
        for point in points:
            result.append(
                Site(
                    point.layer,
                    position,
                    pack,
                    part,
                    rows,
                    pack.block[rows],
                    saved[point],
                    stored,
                    baseline,
                )
            )
    return result


def same_rows(resid: Tensor, table: pd.DataFrame, condition: str, site: Site) -> Tensor | None:
    """Return the test prompts' stored resid_post of a condition at the site's rows, [row d_model].

    None where a question has another number of tokens under this condition, so that rows cannot be
    matched.
    """
    chosen = activations.select(table, "test", condition, site.position == "last")
    by_question = dict(list(chosen.groupby("question_id")))
    tables = [by_question[name] for name in site.pack.question_ids]
    if [len(t) for t in tables] != torch.bincount(site.question).tolist():
        return None
    return resid[rows_of(pd.concat(tables))].to(site.resid)


def effects_at(
    model: Model,
    site: Site,
    new: dict[Key, Tensor],
    *,
    tag: str = "",
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the per-question effects of replacing the site's rows by each new x [row d_model],
    seeds and variants as batches.

    Interventions that come to the same x (all swaps with empty medians do) are run once, and those
    that leave x as it was not at all. Columns: question_id, condition, layer, tag, position,
    error_term, intervention, seed, metric, baseline, value.
    """
    reached = site.part.index.to(site.resid.device)
    size = max(1, TOKENS_AT_ONCE // site.part.n_tokens)
    distinct, which = _distinct([site.x, *new.values()])
    values = {m: [site.baseline[m]] for m in metrics.JUDGED}
    for begin in range(1, len(distinct), size):
        batch = torch.stack(distinct[begin : begin + size])
        edited = edits.replace_rows(site.resid, site.rows, batch)[:, reached]
        scores = metrics.measure(
            model, site.part, metrics.JUDGED, start=(site.layer + 1, edited), stored=site.stored
        )
        for m in metrics.JUDGED:
            values[m] += list(scores[m])
        if progress:
            progress(
                f"{tag or 'no SAE'} L{site.layer} {site.position}",
                min(begin + size, len(distinct)) - 1,
                len(distinct) - 1,
            )
    tables = [
        _rows(site, key, tag, {m: values[m][i] for m in metrics.JUDGED})
        for key, i in zip(new, which[1:], strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def _distinct(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return the tensors without repetition, and for each tensor which of those it equals."""
    distinct: list[Tensor] = []
    which = []
    for tensor in tensors:
        same = next(
            (i for i, other in enumerate(distinct) if torch.equal(tensor, other)), len(distinct)
        )
        if same == len(distinct):
            distinct.append(tensor)
        which.append(same)
    return distinct, which


def _rows(site: Site, key: Key, tag: str, values: dict[str, np.ndarray]) -> pd.DataFrame:
    intervention, term, seed = key
    shared = {
        "question_id": site.pack.question_ids,
        "condition": "sandbag",
        "layer": site.layer,
        "tag": tag,
        "position": site.position,
        "error_term": term,
        "intervention": intervention,
        "seed": seed,
    }
    return pd.concat(
        [
            pd.DataFrame({**shared, "metric": m, "baseline": site.baseline[m], "value": v})
            for m, v in values.items()
        ]
    )
