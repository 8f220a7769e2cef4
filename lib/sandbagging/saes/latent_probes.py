"""What the latents of SAEs can be read for: the same targets as of probes of the raw residual
stream (`raw_probes`), from the codes at the last prompt token.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from sandbagging import prompts
from sandbagging.files import Folder
from sandbagging.models import Model
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.saes import folders, matched
from sandbagging.saes.raw_probes import ANSWER, CONDITION, MIN_EACH, SAME
from sandbagging.saes.recipes import parse_tag
from sandbagging.saes.streams import Streams, last_streams
from sandbagging.wordings import KEPT_OUT

PAIR = ("sandbag", "genuine")
KINDS = ("wrong", "right")  # of sandbag prompts, by the answer that will be given

Part = tuple[dict[str, object], matched.Codes, dict[str, Sequence[str]]]  # shown as, codes, ids


def latent_scores(
    model: Model,
    asked: Mapping[str, Sequence[Question]],
    framing: str,
    trained: Folder,
    tags: Sequence[str],
    wordings: Sequence[str] = KEPT_OUT,
    right: Mapping[str, bool] | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the scores of test prompts by the latents of each SAE, weighed on train prompts, as
    `raw_probes.probe_scores` returns them of the raw residual stream.

    probe: best_latent or all_latents, of `matched.scores`, at each SAE's own L0. Columns: tag,
    layer, target, wording, probe, question_id, positive, score.
    """
    layers = sorted({parse_tag(tag).layer for tag in tags})
    worded = {SAME: framing} | {name: prompts.wording(framing, name) for name in wordings}
    read = {
        (split, wording, c): last_streams(model, asked[split], c, worded[wording], layers)
        for wording in worded
        for split in ("train", "test")
        for c in PAIR
        if split == "test" or wording == SAME
    }
    tables = []
    for done, tag in enumerate(tags):
        sae, layer = folders.load(trained / tag), parse_tag(tag).layer
        codes = {key: sae.encode(of.resid[layer].float()).numpy() for key, of in read.items()}
        for train, parts in _targets(read, codes, tuple(worded), right):
            for shown_as, test, ids in parts:
                where = {"tag": tag, "layer": layer, **shown_as}
                tables += _scored(train, test, ids, where)
        if progress:
            progress("probes of latents", done + 1, len(tags))
    return pd.concat(tables, ignore_index=True)


def _scored(
    train: matched.Codes,
    test: matched.Codes,
    ids: Mapping[str, Sequence[str]],
    where: Mapping[str, object],
) -> Iterator[pd.DataFrame]:
    positive, negative = train
    for by, of_kind in matched.scores(train, test, (positive, negative)).items():
        for kind, score in of_kind.items():
            told = {"probe": by, "question_id": ids[kind], "positive": kind == positive}
            yield pd.DataFrame({**where, **told, "score": score})


def _targets(
    read: Mapping[tuple[str, str, str], Streams],
    codes: Mapping[tuple[str, str, str], np.ndarray],
    worded: Sequence[str],
    right: Mapping[str, bool] | None,
) -> Iterator[tuple[matched.Codes, list[Part]]]:
    """Return, target by target, the codes to weigh latents on, the positive kind first, and those
    to judge them on.
    """
    train = {c: codes["train", SAME, c] for c in PAIR}
    parts = []
    for wording in worded:
        ids = {c: read["test", wording, c].question_ids for c in PAIR}
        test = {c: codes["test", wording, c] for c in PAIR}
        parts.append(({"target": CONDITION, "wording": wording}, test, ids))
    yield train, parts
    if right is None:
        return
    sides, ids = {}, {}
    for split in ("train", "test"):
        asked = np.array(read[split, SAME, "sandbag"].question_ids)
        wrongly = np.array([not right[i] for i in asked])
        kinds = dict(zip(KINDS, (wrongly, ~wrongly), strict=True))
        sides[split] = {k: codes[split, SAME, "sandbag"][which] for k, which in kinds.items()}
        ids[split] = {k: list(asked[which]) for k, which in kinds.items()}
    if min(len(x) for x in sides["train"].values()) >= MIN_EACH:
        shown_as = {"target": ANSWER, "wording": SAME}
        yield sides["train"], [(shown_as, sides["test"], ids["test"])]
