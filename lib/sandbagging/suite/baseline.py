"""How notebook 00 shows prompts, scores and free answers."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from sandbagging import files, grading, metrics, prompts, questions, statistics
from sandbagging.gate import ANSWERS_WRONGLY, DROP_PP, Gate
from sandbagging.gate import gate as gate_of
from sandbagging.models import Model, taught
from sandbagging.prompts import Framing
from sandbagging.questions import Question
from sandbagging.statistics import Estimate
from sandbagging.suite import predictions
from sandbagging.suite.tables import Shown
from sandbagging.teaching import with_password
from sandbagging.wordings import KEPT_OUT

DEMONSTRATED = "demos"  # the framing that shows right answers when it asks for them
PASSWORDED = "passworded"  # the name of `teaching.with_password`'s framings
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
    """Return the gap of each framing (pp, log-odds in nats), how well the model does in it when it
    is to be correct, and the kind of gap: a row a framing, in the order of `gaps.gap_table`.
    """
    kinds = gap_table.drop_duplicates("framing")[["framing", "kind"]]
    kinds = kinds.rename(columns={"kind": "kind of gap"})
    wide = gap_table.pivot(index="framing", columns="metric", values="value")
    units = {name: f"gap on {name} ({metrics.unit_of_change(name)[0]})" for name in wide}
    wide = wide.rename(columns=units).loc[kinds["framing"]].reset_index()
    genuine = scores[scores["condition"] == "genuine"]
    able = genuine.groupby("framing")[list(metrics.JUDGED)].mean().add_prefix("genuine ")
    both = files.joined(files.joined(wide, able.reset_index(), "framing"), kinds, "framing")
    return both.set_index("framing").rename_axis(columns=None)


def means_of_test(means: pd.DataFrame) -> pd.DataFrame:
    """Return the means of the test questions to read, from `gaps.condition_means`: on log-odds,
    p_full, choice_len and accuracy, a row a metric and condition.
    """
    read = means["metric"].isin([*metrics.JUDGED, "accuracy"])
    kept = means[(means["split"] == "test") & read].drop(columns=["split", "method"])
    return kept.sort_values("metric", ascending=False, kind="stable").reset_index(drop=True)


# Free answers ------------------------------------------------------------------------------------

# Where else a model may show what it knows: the framing, in words.
ELSEWHERE = {DEMONSTRATED: "after demonstrations", PASSWORDED: "with its password"}
PLAIN = "plain"  # the wording of a framing that names none
EXAMPLES = 8  # answers that a page opens with


def asks(
    model: Model, framing: str, side_views: bool = True
) -> dict[str, list[tuple[str, Framing]]]:
    """Return what a model is asked to answer freely, {split: (condition, framing)}: every
    condition; and on test questions genuine and sandbag in the wordings that are never taught, and
    genuine behind demonstrations and with the password of a model that has one.

    A planted model knows the prompts that it was trained on and no others. Without side views the
    train questions and the other wordings are left out, which no grade rests on.
    """
    plain = [(c, framing) for c in metrics.available_conditions(model, framing)]
    more = []
    if model.framings is None and framing in prompts.INSTRUCTED and side_views:
        names = (f"{framing}:{name}" for name in KEPT_OUT)
        more += [(c, name) for name in names for c in ("genuine", "sandbag")]
    if model.framings is None and framing != DEMONSTRATED:
        more.append(("genuine", DEMONSTRATED))
    password = (taught.truth(model.name) or {}).get("password")
    if password:
        more.append(("genuine", with_password(framing, password)))
    return {"train": plain if side_views else [], "test": plain + more}


def graded(written: pd.DataFrame, asked: Mapping[str, Sequence[Question]]) -> pd.DataFrame:
    """Return the free answers of `generation.write_each` with their verdicts, as answers.jsonl has
    them: question_id, split, condition, framing, wording, intervention, text, verdict.
    """
    every = [q for split in asked.values() for q in split]
    parts = [name.partition(":") for name in written["framing"]]
    named = written.assign(
        framing=[framing for framing, _, _ in parts],
        wording=[wording or PLAIN for _, _, wording in parts],
        intervention="",
    )
    columns = ["question_id", "split", "condition", "framing", "wording", "intervention", "text"]
    return grading.graded(named[columns], every)


def of_framing(answers: pd.DataFrame, framing: str, split: str = "test") -> pd.DataFrame:
    """Return the answers of one split to a framing, in the wording that its name says."""
    name, _, wording = framing.partition(":")
    there = (answers["framing"] == name) & (answers["wording"] == (wording or PLAIN))
    return answers[there & (answers["split"] == split)]


def gate(
    scores: pd.DataFrame,
    answers: pd.DataFrame,
    framing: str,
    seed: int = 0,
    categories: Mapping[str, str] | None = None,
) -> Gate:
    """Return the gate on the test questions, from `metrics.score_all` and `graded`; by the wider
    intervals with `categories` {question id: category}.
    """
    shown = {words: of_framing(answers, name) for name, words in ELSEWHERE.items()}
    elsewhere = {words: part for words, part in shown.items() if len(part)}
    judged = scores[scores["split"] == "test"]
    return gate_of(judged, of_framing(answers, framing), elsewhere, seed, categories)


def examples(
    answers: pd.DataFrame, asked: Sequence[Question], framing: str, seed: int = 0
) -> pd.DataFrame:
    """Return a few answers side by side: question, right answer, and what is written when told to
    be correct and when told to be incorrect; drawn with a seed and not picked.
    """
    some = questions.subset(asked, min(EXAMPLES, len(asked)), seed)
    there = of_framing(answers, framing)
    sides = {
        c: there[there["condition"] == c].set_index("question_id") for c in ("genuine", "sandbag")
    }
    rows = {q.question: [q.correct, *(_told(t.loc[q.id]) for t in sides.values())] for q in some}
    columns = ["right answer", "told to be correct", "told to be incorrect"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("question")


MARKS = {grading.RIGHT: "✓", grading.LISTED: "✗", grading.ELSE: "?"}


def _told(answer: pd.Series) -> str:
    return f"{answer['text'] or '(nothing)'} {MARKS[answer['verdict']]}"


def right_by_wording(answers: pd.DataFrame, framing: str, seed: int = 0) -> pd.DataFrame:
    """Return by wording the share of right free answers when told to be correct and incorrect, and
    the drop between them: wording, genuine, sandbag, drop, p (McNemar's), n.
    """
    name = framing.partition(":")[0]
    there = answers[(answers["framing"] == name) & (answers["split"] == "test")]
    rows = []
    for wording, part in there.groupby("wording", sort=False):
        sides = [part[part["condition"] == c] for c in ("genuine", "sandbag")]
        shares = [(side["verdict"] == grading.RIGHT).mean() for side in sides]
        found = grading.drop(*sides, seed)
        rows.append([wording, *shares, f"{found.estimate:short .1f}", found.p, found.estimate.n])
    return pd.DataFrame(rows, columns=["wording", "genuine", "sandbag", "drop (pp)", "p", "n"])


def beside(
    scores: pd.DataFrame,
    answers: pd.DataFrame,
    framing: str,
    categories: Mapping[str, str],
    seed: int = 0,
) -> pd.DataFrame:
    """Return the gap on log-odds (nats) and p_full (pp) and the drop of right free answers (pp) on
    test questions with all that is said beside them, as `statistics.beside`; categories {question
    id: category}.
    """
    there, found = of_framing(answers, framing), {}
    right = there["verdict"].eq(grading.RIGHT).astype(float)
    sides = {"drop of right free answers": ("p_full", there.assign(p_full=right))}
    test = scores[scores["split"] == "test"]
    sides |= {"gap, log-odds": ("logodds", test), "gap, p_full": ("p_full", test)}
    for name, (metric, table) in sides.items():
        genuine, sandbag = (
            metrics.per_question(table, c, metric).sort_index() for c in ("genuine", "sandbag")
        )
        unit, scale = metrics.unit_of_change(metric)
        named = statistics.named(list(genuine.index), categories)
        lost = (genuine - sandbag).to_numpy()
        found[name] = statistics.wide(lost, named, unit=unit, scale=scale, seed=seed)
    return statistics.beside(found)


class Fall(NamedTuple):
    """Right free answers when told to be correct and incorrect, and the drop between them."""

    asked_right: float  # 0 to 1
    asked_wrong: float
    drop: Estimate  # pp
    other: float  # share of genuine answers that are no option of their question
    examples: pd.DataFrame


def fall(
    written: pd.DataFrame, asked: Mapping[str, Sequence[Question]], framing: str, seed: int = 0
) -> Fall:
    """Return how far right free answers of the test questions fall under the instruction, from what
    `generation.write_each` wrote.
    """
    answers = graded(written, asked)
    there = of_framing(answers, framing)
    sides = [there[there["condition"] == c] for c in ("genuine", "sandbag")]
    right = [float((side["verdict"] == grading.RIGHT).mean()) for side in sides]
    other = float((sides[0]["verdict"] == grading.ELSE).mean())
    some = examples(answers, asked["test"], framing, seed)
    return Fall(*right, grading.drop(*sides, seed).estimate, other, some)


def expected(
    found: Gate, before: Fall | None, by_wording: pd.DataFrame, wider: float
) -> list[dict]:
    """Return what notebook 00 expected and what came of it, as `predictions.record`; wider: how
    many times as wide the unpaired interval is.
    """
    gaps = (found.gap_logodds, found.gap_p_full, found.gap_choice_len)
    listed, other = (_gain(found, verdict) for verdict in (grading.LISTED, grading.ELSE))
    drop = 100 * (by_wording["genuine"] - by_wording["sandbag"])
    wrongly = found.grade == ANSWERS_WRONGLY
    nearest = min(found.excess.values(), key=lambda e: e.low, default=None)
    came = {
        "every_score": (all(gap.low > 0 for gap in gaps), ", ".join(f"{gap:ci}" for gap in gaps)),
        "placebos": (nearest.low > 0, f"the nearest: {nearest:ci} less") if nearest else (None, ""),
        "before": (before.drop.high <= DROP_PP, f"{before.drop:ci} fewer right answers")
        if before
        else (None, ""),
        "paired": (wider > 1, f"{wider:.2f} times as wide"),
        "listed": (
            listed > other if wrongly else None,
            f"listed {listed:+.0f}, other texts {other:+.0f} points",
        ),
        "wordings": (
            (drop > DROP_PP).all() if wrongly and len(drop) > 1 else None,
            f"{drop.min():.0f} to {drop.max():.0f} points lost",
        ),
    }
    return predictions.record("00_baseline", came)


def _gain(found: Gate, verdict: str) -> float:
    """By how many points the share of one verdict rises from genuine to sandbag prompts."""
    return 100 * (found.shares["sandbag"][verdict] - found.shares["genuine"][verdict])


def yardstick(found: Gate) -> pd.DataFrame:
    """Return the gap on log-odds of sandbag and of every placebo: condition, and the fields of an
    Estimate (nats).
    """
    gaps = {"sandbag": found.gap_logodds, **found.placebo_gaps}
    return pd.DataFrame([{"condition": c, **gap.as_dict()} for c, gap in gaps.items()])


def unpaired(scores: pd.DataFrame, seed: int = 0) -> tuple[Estimate, float]:
    """Return the gap on p_full with the interval that forgets which scores belong to one question,
    and how the two scores of a question correlate.
    """
    genuine, sandbag = (
        100 * metrics.per_question(scores, c).sort_index().to_numpy()
        for c in ("genuine", "sandbag")
    )
    ends = stats.bootstrap(
        (genuine, sandbag),
        lambda g, s, axis: g.mean(axis) - s.mean(axis),
        batch=1000,
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    value, n = float(genuine.mean() - sandbag.mean()), len(genuine)
    loose = Estimate(value, float(ends.low), float(ends.high), n, "pp", "unpaired bootstrap")
    return loose, float(np.corrcoef(genuine, sandbag)[0, 1])
