"""The findings of a run in short, its null models included."""

from __future__ import annotations

import json
from math import isnan

from sandbagging import grading
from sandbagging.errors import UserError
from sandbagging.gate import Gate
from sandbagging.heads import rivals
from sandbagging.statistics import Estimate
from sandbagging.suite import nested, runs
from sandbagging.suite.ledger.artefacts import Artefacts, specificity_cells
from sandbagging.suite.ledger.measured import architecture_of

NULL_RUNS = {"null_model": "random weights", "placebo": "placebo prompts",
             "decoy": "taught right answers alone"}  # fmt: skip
UNTOUCHED = "untouched"  # the run of the subject's weights before they were taught
RANDOM = {"uniform": "as many random heads",
          "same_layer": "as many random heads of the same layers"}  # fmt: skip


def headline(a: Artefacts, run: str) -> list[dict[str, str]]:
    """Return the findings in short, null models included where they were run.

    Each is a dict of finding, value_text (with CI95 and n) and verdict.
    """
    before = before_lines(run)
    return [*_gap_lines(a), *before, *_circuit_lines(a), *_swap_lines(a), *null_lines(run)]


def _line(finding: str, value: object, verdict: str) -> dict[str, str]:
    text = "not measured" if value is None else str(value)
    return {"finding": finding, "value_text": text, "verdict": verdict}


def _by_sign(effect: Estimate | None, above: str, below: str) -> str:
    """Return one of two phrases where the CI95 lies above or below 0, else that it does not."""
    if effect is None:
        return "not measured"
    return above if effect.low > 0 else below if effect.high < 0 else "not clear of 0"


def _gap_lines(a: Artefacts) -> list[dict[str, str]]:
    g, right = a.gate, _right_answers(a.gate)
    odds = _by_sign(g.gap_logodds, "less sure of the right answer", "surer of the right answer")
    return [
        _line("right free answers, told to be correct → incorrect", right, f"grade: {g.grade}"),
        _line("sandbagging gap, log-odds", g.gap_logodds, f"{odds}{_nearest(g)}"),
        _line("sandbagging gap, p_full", g.gap_p_full, _leaving(g)),
    ]


def _right_answers(g: Gate) -> str:
    genuine, sandbag = (100 * g.shares[c][grading.RIGHT] for c in ("genuine", "sandbag"))
    return f"{genuine:.0f} % → {sandbag:.0f} %, a drop of {g.drop:.1f}"


def before_lines(run: str) -> list[dict[str, str]]:
    """Return what the same instruction does to the weights before they were taught, where that was
    run beside (RUN/untouched): one line or none.

    Raises UserError where a file of that run was changed after it was written.
    """
    untouched = f"{run}/{UNTOUCHED}"
    if not runs.read_manifest(untouched, "00_baseline"):
        return []
    gate = Gate.from_dict(nested.read_json(untouched, "00_baseline")["gate"])
    value = f"{_right_answers(gate)}; log-odds {gate.gap_logodds:ci}"
    return [_line("the same, before it was taught", value, f"grade: {gate.grade}")]


def _nearest(g: Gate) -> str:
    """Return how the gap compares with that of the nearest placebo, if one was asked."""
    if not g.excess:
        return ""
    nearest = g.nearest_placebo
    return f"; {g.excess[nearest]:ci .2f} more than under `{nearest}`"


def _leaving(g: Gate) -> str:
    return f"all options together lose {g.gap_p_options:ci}"


def _circuit_lines(a: Artefacts) -> list[dict[str, str]]:
    joint, heads = a.recorded("joint"), ", ".join(map(str, a.heads))
    if not a.gate.open:
        return [_line(f"zeroing {heads}: joint effect, p_full", joint, "no sandbagging to explain")]
    secondary = a.recorded("joint_choice_len")
    closed = {m: a.recorded("share_closed", m) for m in ("logodds", "p_full")}
    overlap = a.recorded("redundancy")
    survives = "survives" if a.summary["survives"]["value"] else "does not survive"
    lines = [
        _line(f"zeroing {heads}: joint effect, p_full", joint, survives),
        _line("the same, choice_len", secondary, _towards(secondary)),
        *(
            _line(f"share of the gap closed, {m}", _share_text(share), _share_words(share))
            for m, share in closed.items()
        ),
        *(_draw_line(a, kind, words) for kind, words in RANDOM.items()),
    ]
    for other in ("neutral", "genuine"):
        effect = a.recorded(f"joint_{other}")
        lines.append(_line(f"the same heads on {other} prompts", effect, _towards(effect)))
    for other, key in (("neutral", "specific_portion"), ("genuine", "specific_portion_vs_genuine")):
        portion = a.recorded(key)
        words = _by_sign(portion, "specific to sandbagging", "less than elsewhere")
        lines.append(_line(f"sandbag-specific portion (sandbag − {other})", portion, words))
    name = "redundancy (1 − joint / sum of singles)"
    return [*lines, _line(name, _share_text(overlap), _overlap(overlap))]


def _share_text(share: Estimate | None) -> str | None:
    return share and f"{share:.0%}"


def _share_words(share: Estimate | None) -> str:
    if share is None or isnan(share.low):
        return "not defined"
    if share.low <= 0:
        return "the gap widens" if share.high < 0 else "not clear of 0"
    if share.low > 1:
        return "more than the gap"
    return "part of the gap" if share.high < 1 else "part of it or all"


def _draw_line(a: Artefacts, kind: str, words: str) -> dict[str, str]:
    found = a.summary[f"random_{kind}"]
    spread = "" if found["sd"] is None else f"SD {found['sd']:.2f} pp, "
    mean = f"{Estimate.from_dict(found['mean']):ci}"
    value = f"mean {mean}, {spread}{found['n_draws']} draws; rank p = {found['rank_p']:.3f}"
    if found["rank_p"] <= rivals.RANK_P:
        return _line(words, value, "few reach the chosen ones")
    smallest = 1 / (1 + found["n_draws"])  # p that so many draws can give
    enough = smallest <= rivals.RANK_P
    said = "do as well as the chosen ones" if enough else "too few draws to tell"
    return _line(words, value, said)


def _towards(effect: Estimate | None) -> str:
    return _by_sign(effect, "raises the right answer", "lowers the right answer")


def _overlap(overlap: Estimate | None) -> str:
    if overlap is None or isnan(overlap.low):
        return "not defined"
    return _by_sign(overlap, "the heads overlap", "more than the sum of its parts")


def _swap_lines(a: Artefacts) -> list[dict[str, str]]:
    cells, lines = specificity_cells(a), []
    mixed = cells["tag"].str.endswith("_mixed")
    for layer, part in cells[mixed if mixed.any() else ~mixed].groupby("layer"):
        part = part.assign(architecture=[architecture_of(tag) or tag for tag in part["tag"]])
        others_last = part["architecture"].ne("jumprelu").sort_values(kind="stable").index
        first = part.loc[others_last].iloc[0]
        rest = part[part["tag"] != first["tag"]]
        others = [f"{row.architecture}: {row.verdict}" for row in rest.itertuples()]
        e1, e4 = first["gap_e1"], first["gap_e4"]
        value = f"E6 − E1 {e1:ci}; E6 − E4 {e4:ci}; n = {e1.n}"
        words = first["verdict"] + (f" ({'; '.join(others)})" if others else "")
        lines.append(_line(f"SAE swap at layer {layer} ({first['architecture']})", value, words))
    return lines


def null_lines(run: str) -> list[dict[str, str]]:
    """Return one line per null model nested in the run (RUN/null_model and so on).

    It says what the same rule finds where there is nothing to find. Raises UserError where a file
    of such a run was changed after it was written.
    """
    lines = []
    for name, words in NULL_RUNS.items():
        null = f"{run}/{name}"
        if not all(runs.read_manifest(null, done) for done in ("00_baseline", "08_circuit")):
            lines.append(_line(f"null model: {words}", "not run", "not run"))
            continue
        gate = Gate.from_dict(nested.read_json(null, "00_baseline")["gate"])
        circuit = nested.read_json(null, "08_circuit")
        joint = f"{Estimate.from_dict(circuit['joint']):ci}"
        value = f"grade {gate.grade}, gap on p_full {gate.gap_p_full}; joint effect {joint}"
        nothing = not gate.open and not circuit["survives"]["value"]
        said = "nothing found" if nothing else "SOMETHING FOUND: trust no finding above"
        lines.append(_line(f"null model: {words}", value, said))
    return lines


def headline_markdown(run: str) -> str:
    """Return a run's headline as a Markdown table, as the README shows it.

    Raises UserError where notebook 10 has not been run.
    """
    path = runs.run_folder(run) / "10_ledger" / "headline.json"
    if not path.is_file():
        raise UserError(
            f"The run {run} holds no headline: run notebook 10_what_survived first "
            f"(python -m sandbagging run 10 --run {run})."
        )
    lines = [[row[key] for key in ("finding", "value_text", "verdict")]
             for row in json.loads(path.read_text())]  # fmt: skip
    table = [["finding", "measured, with CI95", "verdict"], ["---"] * 3, *lines]
    escaped = [[text.replace("|", "\\|") for text in line] for line in table]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)
