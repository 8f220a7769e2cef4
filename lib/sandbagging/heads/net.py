"""What replacing heads brings back on a condition's prompts beyond what it does to genuine ones.

A gap between genuine and sandbag prompts closes from either side: wrong answers may turn right, or
right ones may be ruined. Heads that many others need ruin both, which closes gaps and restores
nothing; so what they do to genuine prompts is taken off, in either direction.
"""

from collections.abc import Mapping

import numpy as np

from sandbagging.heads.sweep import Effects


def net(there: Effects, genuine: Effects) -> Effects:
    """Return the net effects of each set: its effect on one condition's prompts minus the size of
    its mean effect on the genuine prompts of the same questions, paired by question.

    Where genuine scores fall by as much as sandbag scores rise, nothing is left of an effect; where
    they rise as much, the heads held back every answer. Raises ValueError unless both are of the
    same sets and questions.
    """
    if there.sets != genuine.sets or there.question_ids != genuine.question_ids:
        raise ValueError("a net effect is paired: both conditions need the same sets and questions")
    value = {}
    for metric in there.value:
        cost = genuine.effect(metric)
        cost = np.sign(cost.mean(1, keepdims=True)) * cost
        value[metric] = there.value[metric] - cost
    return there._replace(value=value)


def net_of(swept: Mapping[str, Effects]) -> dict[str, Effects]:
    """Return {condition: net effects}; on genuine prompts, of which nothing is taken off, the
    effects themselves.
    """
    genuine = swept["genuine"]
    return {c: of if c == "genuine" else net(of, genuine) for c, of in swept.items()}
