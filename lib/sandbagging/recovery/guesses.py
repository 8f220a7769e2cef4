"""Can a probe of the raw residual stream read what is not there? Labels that a coin threw."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sandbagging.progress import Progress
from sandbagging.recovery.subjects import subject
from sandbagging.saes.raw_probes import PROBES
from sandbagging.saes.streams import last_streams


def guessed(
    name: str, layers: Sequence[int], seeds: Sequence[int], progress: Progress | None = None
) -> pd.DataFrame:
    """Return the scores of sandbag test prompts by probes of "will be answered wrongly", where a
    fair coin says which are: nothing is there to be read.

    Columns as `raw_probes.probe_scores`: layer, probe, question_id, target, wording, positive,
    score; and seed.
    """
    of = subject(name, progress)
    train, test = (
        last_streams(of.model, asked, "sandbag", of.framing, layers)
        for asked in (of.train, of.test)
    )
    tables = []
    for done, seed in enumerate(seeds):
        rng = np.random.default_rng([seed, 71])
        wrongly, positive = (rng.permutation(n) < n // 2 for n in (len(of.train), len(of.test)))
        for layer in train.resid:
            x, held_out = (s.resid[layer].double().cpu().numpy() for s in (train, test))
            for probe, fit in PROBES.items():
                score = fit(x[wrongly], x[~wrongly]).score(held_out)
                where = {"layer": layer, "probe": probe, "question_id": test.question_ids}
                told = {"target": "answer", "wording": "same", "positive": positive}
                tables.append(pd.DataFrame({**where, **told, "score": score, "seed": seed}))
        if progress:
            progress("probes of coins", done + 1, len(seeds))
    return pd.concat(tables, ignore_index=True)
