"""A set of heads that is chosen together: one head at a time joins those that are there.

The heads with the largest effects one by one need not act together: early ones that each do little
harm can ruin a model between them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from sandbagging import metrics
from sandbagging.errors import UserError
from sandbagging.heads import sweep
from sandbagging.heads.head import Head, Heads, join
from sandbagging.heads.net import net_of
from sandbagging.heads.sweep import Effects
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question


class Grown(NamedTuple):
    """Heads in the order in which they joined, and every set that was tried."""

    condition: str  # on whose prompts they were chosen
    question_ids: tuple[str, ...]
    heads: Heads
    tried: pd.DataFrame  # step, head, heads, effect, on_genuine, net: means in nats of log-odds
    on: dict[str, Effects]  # of the set after each step, on the condition's and genuine prompts

    def other_than(self, heads: Heads) -> Heads:
        """Return the best set of the last step that is not `heads`.

        Raises UserError where every candidate is one of them.
        """
        last = self.tried[self.tried["step"] == len(self.heads)]
        for joined in last.sort_values("net", ascending=False, kind="stable")["head"]:
            found = (*self.heads[:-1], Head.parse(joined))
            if set(found) != set(heads):
                return found
        raise UserError(
            f"Only {len(self.heads)} heads were tried, so there is no other set of as many; choose "
            "fewer heads."
        )


def grow(
    model: Model,
    asked: Sequence[Question],
    condition: str,
    framing: Framing,
    candidates: Sequence[Head],
    n: int,
    *,
    replacement: str = "zero",
    keep: Path | None = None,
    progress: Progress | None = None,
) -> Grown:
    """Return n heads out of the candidates: the one with the largest net effect on log-odds of a
    condition's prompts, then again and again the one with which the set has the largest.

    Net effects as in `net.net`. Raises UserError for heads that do not exist.
    """
    heads: Heads = ()
    rows, path, ids = [], [], tuple(question.id for question in asked)
    for step in range(1, min(n, len(candidates)) + 1):
        rest = [head for head in candidates if head not in heads]
        sets = [tuple(sorted((*heads, head))) for head in rest]
        swept = sweep.sweep_conditions(
            model,
            asked,
            list(dict.fromkeys([condition, "genuine"])),
            framing,
            sets,
            replacement=replacement,
            label=f"growing {condition} {step}",
            keep=keep,
            progress=progress,
        )
        told = {
            "effect": swept[condition].effect(metrics.DECIDES).mean(1),
            "on_genuine": swept["genuine"].effect(metrics.DECIDES).mean(1),
            "net": net_of(swept)[condition].effect(metrics.DECIDES).mean(1),
        }
        names = {"step": step, "head": list(map(str, rest)), "heads": [join(s) for s in sets]}
        rows.append(pd.DataFrame({**names, **told}))
        best = int(told["net"].argmax())
        heads = (*heads, rest[best])
        path.append({c: _only(of, best) for c, of in swept.items()})
    on = {c: _stacked([step[c] for step in path]) for c in path[0]}
    return Grown(condition, ids, heads, pd.concat(rows, ignore_index=True), on)


def _only(effects: Effects, i: int) -> Effects:
    value = {name: of[i : i + 1] for name, of in effects.value.items()}
    return effects._replace(sets=[effects.sets[i]], value=value)


def _stacked(parts: Sequence[Effects]) -> Effects:
    value = {name: np.concatenate([p.value[name] for p in parts]) for name in parts[0].value}
    return parts[0]._replace(sets=[heads for p in parts for heads in p.sets], value=value)
