"""The ledger: every published claim beside what this run measured, judged by a written rule.

1. `Artefacts.read` gathers the tables of the notebooks before (`artefacts`).
2. `measurements` turns them into one `Measurement` per claim of the `card`: a number with its CI95,
   or the reason why there is none (`measured`).
3. `verdict` judges each by the rule that `RULE` puts in words (`rule`).
4. `rows` lays claims, measurements and verdicts out as the ledger (`table`).
5. `claims` are the run's own (`standing`), `failed` and `harder_look` what did not hold
   (`failures`), `null_grades` and `calibration` what is found where nothing is (`nulls`);
   `headline` says all of it in short.

No model is loaded here.
"""

from sandbagging.suite.ledger.artefacts import Artefacts, joint_by_question, swap_cells
from sandbagging.suite.ledger.card import (
    ALIASES,
    SLIPS,
    UNDER,
    by_name,
    no_findings,
    published,
    same_model,
    slips,
)
from sandbagging.suite.ledger.failures import counted, failed, harder_look
from sandbagging.suite.ledger.headline import headline, headline_markdown, null_lines
from sandbagging.suite.ledger.measured import Measurement, measurements
from sandbagging.suite.ledger.nulls import calibration, false_alarms, null_grades, null_words
from sandbagging.suite.ledger.rule import (
    CANNOT_BE_SAID,
    NO_FINDING,
    NOT_REPLICATED,
    NOT_RUN,
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
from sandbagging.suite.ledger.standing import Claim, claims, elsewhere, intervals, standing
from sandbagging.suite.ledger.table import (
    COLUMNS,
    WITHOUT_GATE,
    findings,
    independent,
    rows,
    shown,
    tally,
    with_derived,
)

__all__ = ["ALIASES", "CANNOT_BE_SAID", "COLUMNS", "NOT_REPLICATED", "NOT_RUN", "NOT_TESTABLE",
           "NO_FINDING", "OPPOSITE", "REPLICATED", "RULE", "SAME_DIRECTION", "SLIPS", "UNDER",
           "WITHOUT_GATE", "Artefacts", "Claim", "Judgement", "Measurement", "by_name",
           "calibration", "claims", "counted", "difference", "elsewhere", "failed", "false_alarms",
           "findings", "harder_look", "headline", "headline_markdown", "heads_verdict",
           "independent", "intervals", "joint_by_question", "measurements", "no_findings",
           "null_grades", "null_lines", "null_words", "published", "rows", "same_model", "shown",
           "slips", "standing", "swap_cells", "tally", "verdict", "with_derived"]  # fmt: skip
