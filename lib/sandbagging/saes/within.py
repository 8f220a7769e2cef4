"""How much of what sets prompts of one condition apart an SAE rebuilds.

Pooled over conditions, the cue itself counts as explained: two clusters are told apart by a single
direction, however poor the SAE is within each of them.
"""

from collections.abc import Sequence

import pandas as pd

from sandbagging import activations
from sandbagging.files import Folder, read_csv
from sandbagging.saes import folders
from sandbagging.saes.evaluation import errors_by_question
from sandbagging.saes.recipes import parse_tag

OF = {"genuine": "genuine_only", "sandbag": "sandbagging_only"}  # condition -> its selection


def errors_within(trained: Folder, tags: Sequence[str], collected: Folder) -> pd.DataFrame:
    """Return what FVU at the last tokens of held-out prompts is made of, condition by condition,
    the distance taken from that condition's own mean.

    Columns: tag, condition, question_id, error, spread, of `evaluation.errors_by_question`.
    """
    table = read_csv(collected / "tokens.csv.gz")
    parts = []
    for tag in tags:
        resid = activations.load(collected, parse_tag(tag).layer)
        sae = folders.load(trained / tag)
        for condition, chosen in OF.items():
            part = errors_by_question(sae, resid, table, chosen, "test", last=True)
            part.insert(0, "tag", tag)
            part.insert(1, "condition", condition)
            parts.append(part)
    return pd.concat(parts, ignore_index=True)
