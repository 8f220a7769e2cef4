"""How notebook 00 shows prompts and scores."""

import html
import re
from collections.abc import Iterable, Mapping

import pandas as pd

from sandbagging import files, metrics, prompts
from sandbagging.models import Model
from sandbagging.questions import Question
from sandbagging.suite.tables import Shown

CELL = "<td style='text-align:left;vertical-align:top'><b>{}</b><pre>{}</pre></td>"
FOLD = "<details><summary><b>{}</b>: {}</summary><table><tr>{}</tr></table></details>"


def texts(
    model: Model, question: Question, framings: Iterable[str], conditions: Iterable[str]
) -> dict[str, dict[str, str]]:
    """Return {framing: {condition: prompt}} of one question."""
    render, tokenizer = prompts.render, model.tokenizer
    return {f: {c: render(question, c, f, tokenizer) for c in conditions} for f in framings}


def side_by_side(prompts_of: Mapping[str, Mapping[str, str]]) -> Shown:
    """Return {framing: {condition: prompt}} for a page: a fold a framing, the conditions side by
    side.
    """
    folds, lines = [], []
    for framing, of_condition in prompts_of.items():
        cells = "".join(CELL.format(c, html.escape(text)) for c, text in of_condition.items())
        about = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(_about(framing)))
        folds.append(FOLD.format(framing, about, cells))
        lines += [f"{framing}, {c}:\n{text}\n" for c, text in of_condition.items()]
    return Shown("".join(folds), "\n".join(lines))


def _about(framing: str) -> str:
    name = framing.split(":")[0]
    if name in prompts.FRAMINGS:
        return prompts.FRAMINGS[name].__doc__ or ""
    return "Through the chat template of the model."


def collisions(first: pd.DataFrame) -> pd.DataFrame:
    """Return by split how many questions have a wrong option that begins like the correct one, from
    one condition of `metrics.first_token_collisions`.
    """
    return first.groupby("split", sort=False).agg(
        questions=("n_shared", "size"),
        colliding_questions=("n_shared", lambda n: (n > 0).sum()),
        colliding_options=("n_shared", "sum"),
        tokens_per_answer=("n_tokens", "mean"),
    )


def framing_table(scores: pd.DataFrame, gap_table: pd.DataFrame) -> pd.DataFrame:
    """Return the gap of each framing (pp), how well the model does in it when it is to be correct,
    and the kind of gap: a row a framing, in the order of `gaps.gap_table`.
    """
    kinds = gap_table.drop_duplicates("framing")[["framing", "kind"]]
    kinds = kinds.rename(columns={"kind": "kind of gap"})
    wide = gap_table.pivot(index="framing", columns="metric", values="value")
    wide = wide.add_prefix("gap on ").add_suffix(" (pp)").loc[kinds["framing"]].reset_index()
    genuine = scores[scores["condition"] == "genuine"]
    able = genuine.groupby("framing")[list(metrics.JUDGED)].mean().add_prefix("genuine ")
    beside = files.joined(files.joined(wide, able.reset_index(), "framing"), kinds, "framing")
    return beside.set_index("framing").rename_axis(columns=None)
