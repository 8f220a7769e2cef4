"""The ledger: every published claim beside what this run measured, judged by a rule fixed before.

1. `Artefacts.read` gathers the tables of the notebooks before (`artefacts`).
2. `measurements` turns them into one `Measurement` per claim of the `card`: a number with its CI95,
   or the reason why there is none (`measured`).
3. `verdict` judges each by the rule that `RULE` puts in words (`rule`).
4. `rows` lays claims, measurements and verdicts out as the ledger (`table`); `headline`
   says it in short.

No model is loaded here.
"""

from sandbagging.suite.ledger.artefacts import Artefacts, joint_by_question, specificity_cells
from sandbagging.suite.ledger.card import (
    ALIASES,
    SLIPS,
    beside,
    by_name,
    no_findings,
    published,
    same_model,
    slips,
)
from sandbagging.suite.ledger.headline import headline, headline_markdown, null_lines
from sandbagging.suite.ledger.measured import Measurement, measurements
from sandbagging.suite.ledger.rule import (
    CANNOT_BE_SAID,
    NO_FINDING,
    NOT_REPLICATED,
    NOT_TESTABLE,
    OPPOSITE,
    REPLICATED,
    RULE,
    SAME_DIRECTION,
    Judgement,
    difference,
    heads_verdict,
    verdict,
)
from sandbagging.suite.ledger.table import (
    COLUMNS,
    GROUPS,
    WITHOUT_GATE,
    Survived,
    about_others,
    comparable,
    findings,
    rows,
    shown,
    tally,
    what_survived,
)

__all__ = ["ALIASES", "CANNOT_BE_SAID", "COLUMNS", "GROUPS", "NOT_REPLICATED", "NOT_TESTABLE",
           "NO_FINDING", "OPPOSITE", "REPLICATED", "RULE", "SAME_DIRECTION", "SLIPS",
           "WITHOUT_GATE", "Artefacts", "Judgement", "Measurement", "Survived", "about_others",
           "beside", "by_name", "comparable", "difference", "findings", "headline",
           "headline_markdown", "heads_verdict", "joint_by_question", "measurements",
           "no_findings", "null_lines", "published", "rows", "same_model", "shown", "slips",
           "specificity_cells", "tally", "verdict", "what_survived"]  # fmt: skip
