"""Which attention heads hold the right answer down: the sweep over all heads, sets of heads, and random sets.

An effect is m(condition, heads replaced) - m(condition), per question; in the sandbag condition it is called restoration.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from sandbagging import files, metrics, statistics
from sandbagging.errors import UserError
from sandbagging.heads import interventions
from sandbagging.heads.interventions import Head, head_name
from sandbagging.models import check_layers, hook_points, tree_attention
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.packing import Pack
from sandbagging.progress import Progress
from sandbagging.questions import Question
from sandbagging.statistics import Estimate

# batch x tokens of one forward pass. On a CPU, what a layer makes of 1536 tokens stays in the cache: larger batches are a fifth slower.
TOKENS_AT_ONCE = {"cpu": 1536, "cuda": 16384}
FLOOR_PP, FLOOR_SHARE = 1.0, 0.10  # a head counts as found from 1 pp and from 10 % of the gap on
SURVIVES_PP, SURVIVES_P = 0.5, 0.05  # a circuit survives with CI low above 0.5 pp and rank p at most 0.05
FORMAT_MARGIN_PP = 1.0  # choice_len within 1 pp of its baseline counts as unchanged: an effect on p_full is then one of format
MOST_HEADS = 8  # of which all subsets are run: 2^8 - 1 = 255 of them

Heads = tuple[Head, ...]


class Effects(NamedTuple):
    """What replacing sets of heads does to each question."""

    sets: list[Heads]
    question_ids: tuple[str, ...]
    baseline: dict[str, np.ndarray]  # metric -> [question]
    value: dict[str, np.ndarray]  # metric -> [set question], under replacement

    def effect(self, metric: str = metrics.PRIMARY) -> np.ndarray:
        """Return [set question] changes of the metric; positive: the right answer comes back."""
        return self.value[metric] - self.baseline[metric]

    def of(self, heads: Iterable[Head], metric: str = metrics.PRIMARY) -> np.ndarray:
        """Return the [question] changes under one of the sets."""
        return self.effect(metric)[self.sets.index(tuple(sorted(heads)))]


def minus(effects: Effects, other: Effects) -> Effects:
    """Return one effect minus another (sandbag minus genuine), set by set and question by question, over a baseline of 0."""
    if (effects.sets, effects.question_ids) != (other.sets, other.question_ids):
        raise ValueError("effects are subtracted question by question and set by set: both need the same ones, in the same order")
    change = {name: effects.effect(name) - other.effect(name) for name in effects.value}
    return Effects(effects.sets, effects.question_ids, {name: np.zeros(len(effects.question_ids)) for name in change}, change)


def all_heads(model, layers: Sequence[int] = ()) -> list[Heads]:
    """Return every head of the model, or of some layers, as a set of one; raises UserError for a layer that does not exist."""
    check_layers(model, list(layers))
    return [((layer, head),) for layer in sorted(set(layers)) or range(model.n_layers) for head in range(model.n_heads)]


def set_name(heads: Iterable[Head]) -> str:
    """Return a set's name: L2H0+L5H3."""
    return "+".join(map(head_name, heads))


def ablate_sets(model, pack: Pack, sets: Sequence[Heads], *, replacement: str = "zero", bank: Mapping[int, Tensor] | None = None,
                names: Sequence[str] = metrics.JUDGED, keep: Path | None = None, progress: Progress | None = None,
                label: str = "heads") -> Effects:  # fmt: skip
    """Return the effect of replacing each set of heads, one set at a time, on every question of a pack.

    1. One clean run keeps the residual stream at the input of every layer.
    2. Sets that begin at the same layer start there as one batch: nothing below is computed again.
    3. `keep` names a folder for what is finished: called again after an interruption, only the layers that are missing are run.
    Raises UserError for heads that do not exist.
    """
    return run_sets(model, pack, sets, lambda batch: interventions.ablate_each(model, batch, replacement, bank), names=names,
                    keep=keep, progress=progress, label=label)  # fmt: skip


def run_sets(model, pack: Pack, sets: Sequence[Heads], edits_of: Callable[[list[Heads]], Mapping[HookPoint, Edit]], *,
             names: Sequence[str] = metrics.JUDGED, run: Tensor | None = None, keep: Path | None = None, progress: Progress | None = None,
             label: str = "heads") -> Effects:  # fmt: skip
    """Return what edits of sets of heads do to every question; `edits_of` gives the edits under which row i has set i edited.

    `run` names the tokens that the edits reach [token]: only these are run again. Otherwise as `ablate_sets`.
    """
    sets = [tuple(sorted(heads)) for heads in sets]
    for heads in sets:
        interventions.check_heads(model, heads)
    lowest = np.array([min((layer for layer, _ in heads), default=0) for heads in sets])
    layers = sorted(set(lowest.tolist()))
    kept = {layer: keep / f"{label.replace(' ', '_')}_L{layer:02d}.npz" for layer in layers} if keep else {}
    missing = [layer for layer in layers if not (layer in kept and kept[layer].exists())]
    clean = _clean(model, pack, missing, names, run)
    value = {name: np.empty((len(sets), len(pack.question_ids))) for name in names}
    done = 0
    for layer in layers:
        here = np.flatnonzero(lowest == layer)
        if layer not in missing:
            found = np.load(kept[layer])
        else:
            found = _run_layer(model, clean, layer, [sets[i] for i in here], edits_of, names,
                               lambda n, done=done: progress and progress(label, done + n, len(sets)))  # fmt: skip
            if keep:
                with files.atomic_path(kept[layer]) as path:
                    np.savez(path, **found)
        for name in names:
            value[name][here] = found[name]
        done += len(here)
        if progress:
            progress(label, done, len(sets))
    return Effects(sets, pack.question_ids, clean.baseline, value)


class _Clean(NamedTuple):
    """What a clean run leaves behind for the edited ones."""

    pack: Pack  # the tokens to run
    resid: dict[int, Tensor]  # layer -> the residual stream at its input, [1 token d_model]
    stored: tree_attention.KeysValues  # of the whole pack, where only a part is run
    baseline: dict[str, np.ndarray]


def _clean(model, pack: Pack, layers: Sequence[int], names: Sequence[str], run: Tensor | None) -> _Clean:
    points = {layer: HookPoint("resid_post", layer - 1) for layer in layers if layer > 0}
    stored: tree_attention.KeysValues = {}
    final, saved = hook_points.forward(model, pack, reads=list(points.values()), stored=stored, store=run is not None)
    part = pack if run is None else pack.part(run)
    resid = {layer: saved[point] if run is None else saved[point][:, run.to(model.device)] for layer, point in points.items()}
    return _Clean(part, resid, stored, {name: rows[0] for name, rows in _metrics(model, pack, final, names).items()})


def _run_layer(model, clean: _Clean, layer: int, sets: Sequence[Heads], edits_of: Callable, names: Sequence[str],
               progress: Callable[[int], object]) -> dict[str, np.ndarray]:  # fmt: skip
    """Return the metrics [set question] of sets that all begin at one layer, run in batches of TOKENS_AT_ONCE tokens."""
    size = max(1, TOKENS_AT_ONCE[model.device.type] // clean.pack.n_tokens)
    found = []
    for begin in range(0, len(sets), size):
        batch = sets[begin : begin + size]
        start = None if layer == 0 else (layer, clean.resid[layer].expand(len(batch), -1, -1))
        final, _ = hook_points.forward(model, clean.pack, edits=edits_of(batch), start=start, batch=len(batch), stored=clean.stored)
        found.append(_metrics(model, clean.pack, final, names))
        progress(begin + len(batch))
    return {name: np.concatenate([rows[name] for rows in found]) for name in names}


def _metrics(model, pack: Pack, final: Tensor, names: Sequence[str]) -> dict[str, np.ndarray]:
    answers = metrics.answer_logprobs(model, pack, final)
    return {name: metrics.METRICS[name](answers).cpu().double().numpy() for name in names}


def unit_of(metric: str) -> tuple[str, float]:
    """Return the unit in which a metric's change is told, and the factor to it: pp for probabilities, nats for logodds."""
    return ("nats", 1.0) if metric == "logodds" else ("pp", 100.0)


def estimate(change: np.ndarray, metric: str = metrics.PRIMARY, seed: int = 0) -> Estimate:
    """Return the mean of a metric's changes [question] with CI95 over questions, in pp (nats for logodds)."""
    unit, scale = unit_of(metric)
    return statistics.paired_effect(change, np.zeros_like(change), unit=unit, scale=scale, seed=seed)


def mean_single(effects: Effects, heads: Sequence[Head], seed: int = 0) -> Estimate:
    """Return the mean effect of ablating one of the heads on p_full, in pp with CI95 over questions."""
    return estimate(np.mean([effects.of([head]) for head in heads], axis=0), seed=seed)


def by_question(effects: Effects, condition: str, joint: Iterable[Head] = (), names: Sequence[str] = metrics.JUDGED) -> pd.DataFrame:
    """Return one row a set, metric and question: question_id, condition, intervention, metric, baseline, value.

    `intervention` is "joint" for the set `joint`, "single:L17H6" for one head and "subset:L2H0+L5H3" for other sets.
    """
    joint, n, tables = tuple(sorted(joint)), len(effects.question_ids), []
    for name in names:
        for heads, value in zip(effects.sets, effects.value[name], strict=True):
            kind = "joint" if heads == joint else f"{'single' if len(heads) == 1 else 'subset'}:{set_name(heads)}"
            tables.append(pd.DataFrame({
                "question_id": effects.question_ids, "condition": [condition] * n, "intervention": kind, "metric": name,
                "baseline": effects.baseline[name], "value": value,
            }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def effects_table(effects: Effects, condition: str, replacement: str = "zero", seed: int = 0) -> pd.DataFrame:
    """Return the sweep as rows layer, head, condition, replacement, metric, effect_pp, low, high, n (CI95 over questions)."""
    tables = []
    for name in effects.value:
        value, low, high = statistics.column_cis(effects.effect(name).T, scale=100.0, seed=seed)
        tables.append(pd.DataFrame({
            "layer": [heads[0][0] for heads in effects.sets], "head": [heads[0][1] for heads in effects.sets], "condition": condition,
            "replacement": replacement, "metric": name, "effect_pp": value, "low": low, "high": high, "n": len(effects.question_ids),
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def check_how_many(n: int, heads: Sequence) -> None:
    """Raise UserError for a number of heads to choose that is not one, or more than there are."""
    if not 1 <= n <= len(heads):
        raise UserError(f"Cannot choose {n} heads out of {len(heads)}; ask for between 1 and {len(heads)}.")


def top(effects: Effects, n: int = 5, minus: Effects | None = None, metric: str = metrics.PRIMARY) -> Heads:
    """Return the n heads with the largest mean effect, or effect minus that in `minus` (the genuine condition).

    Raises UserError for an n that is no number of heads of the sweep.
    """
    check_how_many(n, effects.sets)
    mean = effects.effect(metric).mean(1)
    if minus is not None:
        mean = mean - minus.effect(metric).mean(1)
    return tuple(effects.sets[i][0] for i in np.argsort(-mean, kind="stable")[:n])


def floor_pp(gap: Estimate) -> float:
    """Return the effect, in pp, below which no head counts as found, however significant."""
    return max(FLOOR_PP, FLOOR_SHARE * gap.value)


def found(effects: Effects, gate: metrics.Gate, seed: int = 0, metric: str = metrics.PRIMARY) -> pd.DataFrame:
    """Return each head's effect_pp, its max-T p over all heads, and whether it is found: p <= 0.05, the floor, and an open gate."""
    p = statistics.max_t(effects.effect(metric).T, seed=seed)
    mean = 100 * effects.effect(metric).mean(1)
    passes = (p <= 0.05) & (mean >= floor_pp(gate.gap_p_full)) & gate.open
    heads = [s[0] for s in effects.sets]
    return pd.DataFrame({"layer": [h[0] for h in heads], "head": [h[1] for h in heads], "effect_pp": mean, "p_max_t": p, "found": passes})


def compare(sandbag: Effects, genuine: Effects, heads: Sequence[Head], seed: int = 0, margin_pp: float = FORMAT_MARGIN_PP) -> pd.DataFrame:
    """Return, per head: its effects in pp on sandbag prompts (p_full and choice_len, as text with CI95), on genuine ones, and its kind.

    `kind` is "format" where p_full moves while choice_len is equivalent to zero within the margin, "choice" where the CI95 of
    choice_len leaves out zero, else "cannot be said".
    """
    rows = []
    for head in heads:
        full, choice = (estimate(sandbag.of([head], name), name, seed) for name in metrics.JUDGED)
        still = statistics.equivalence(100 * sandbag.of([head], metrics.SECONDARY), margin_pp).equivalent
        rows.append({"head": head_name(head), "p_full, sandbag": _short(full), "choice_len, sandbag": _short(choice),
                     "p_full, genuine": _short(estimate(genuine.of([head]), seed=seed)),
                     "kind": kind(full, choice, still)})  # fmt: skip
    return pd.DataFrame(rows)


def kind(full: Estimate, choice: Estimate, still: bool) -> str:
    """Return "format", "choice" or "cannot be said" for effects on p_full and choice_len; `still`: the latter is equivalent to zero."""
    if still and not full.low <= 0 <= full.high:
        return "format"
    return "choice" if not choice.low <= 0 <= choice.high else "cannot be said"


def _short(found: Estimate) -> str:
    return f"{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


def random_sets(model, chosen: Sequence[Head], n: int, kind: str, seed: int = 0) -> list[Heads]:
    """Return n random sets as large as `chosen` and without its heads.

    `kind` "uniform" draws from all heads; "same_layer" gives every chosen head a stand-in from its own layer.
    Raises UserError where a layer has too few other heads.
    """
    rng = np.random.default_rng([seed, {"uniform": 0, "same_layer": 1}[kind]])
    others = {layer: [(layer, h) for h in range(model.n_heads) if (layer, h) not in chosen] for layer in range(model.n_layers)}
    if kind == "uniform":
        pool = [head for heads in others.values() for head in heads]
        if len(pool) < len(chosen):
            raise UserError(f"{model.name} has too few heads left to draw {len(chosen)} random ones.")
        return [tuple(sorted(pool[i] for i in rng.choice(len(pool), len(chosen), replace=False))) for _ in range(n)]
    wanted = {layer: sum(at == layer for at, _ in chosen) for layer in sorted({layer for layer, _ in chosen})}
    if any(len(others[layer]) < count for layer, count in wanted.items()):
        raise UserError("A layer has too few other heads for same-layer draws; use fewer chosen heads in it.")
    return [tuple(sorted(others[at][i] for at, k in wanted.items() for i in rng.choice(len(others[at]), k, False))) for _ in range(n)]


def draws_table(effects: Effects, kind: str) -> pd.DataFrame:
    """Return the random sets of one kind as rows kind, index, heads, metric, effect_pp."""
    rows = {"kind": kind, "index": range(len(effects.sets)), "heads": [set_name(s) for s in effects.sets]}
    tables = [pd.DataFrame(rows | {"metric": name, "effect_pp": 100 * effects.effect(name).mean(1)}) for name in metrics.JUDGED]
    return pd.concat(tables, ignore_index=True)


def against_random(joint: np.ndarray, draws: np.ndarray, seed: int = 0) -> dict:
    """Return how a joint effect [question] stands among those of random sets [draw question].

    mean (over questions and draws) and gap (joint - mean) in pp with CI95 over questions and draws; sd of the draws in pp, z and
    rank_p, n_draws and the smallest rank p that so many draws can give.
    """
    mean = statistics.bootstrap_questions_and_draws(draws.T, unit="pp", scale=100.0, seed=seed)
    gap = statistics.bootstrap_questions_and_draws(joint[:, None] - draws.T, unit="pp", scale=100.0, seed=seed)
    seen, drawn = 100 * joint.mean(), 100 * draws.mean(1)
    return {"mean": mean, "sd": float(drawn.std(ddof=1)), "z": statistics.z_score(seen, drawn), "rank_p": statistics.rank_p(seen, drawn),
            "gap": gap, "n_draws": len(drawn), "smallest_rank_p": 1 / (1 + len(drawn))}  # fmt: skip


def condition_rows(effects: Mapping[str, Effects], heads: Iterable[Head], seed: int = 0) -> pd.DataFrame:
    """Return one set's effect as rows condition, metric, effect_pp, low, high, n; `effects` maps conditions to effects."""
    heads = tuple(heads)
    rows = [
        {"condition": condition, "metric": name, **_columns(estimate(found.of(heads, name), name, seed))}
        for name in next(iter(effects.values())).value
        for condition, found in effects.items()
    ]
    return pd.DataFrame(rows)


def _columns(found: Estimate) -> dict:
    return {"effect_pp": found.value, "low": found.low, "high": found.high, "n": found.n}


def compare_replacements(model, pack: Pack, heads: Heads, token_sets: Mapping[str, Pack], seed: int = 0) -> pd.DataFrame:
    """Return the effect of replacing the heads by zero and, per named token set, by its mean and by its tokens drawn at random.

    Rows replacement, tokens (the name of the set), metric, effect_pp, low, high, n.
    """
    layers = sorted({layer for layer, _ in heads})
    banks = {name: interventions.z_bank(model, [tokens], layers) for name, tokens in token_sets.items()}
    ways = [("zero", "", None), *((way, name, bank) for way in ("mean", "resample") for name, bank in banks.items())]
    rows = []
    for replacement, tokens, bank in ways:
        effects = ablate_sets(model, pack, [heads], replacement=replacement, bank=bank)
        rows += [{"replacement": replacement, "tokens": tokens, "metric": name, **_columns(estimate(effects.of(heads, name), name, seed))}
                 for name in metrics.JUDGED]  # fmt: skip
    return pd.DataFrame(rows)


def subsets(heads: Sequence[Head]) -> list[Heads]:
    """Return all subsets of the heads but the empty one, smallest first; raises UserError for more than eight heads."""
    if len(heads) > MOST_HEADS:
        raise UserError(f"{len(heads)} heads have {2 ** len(heads) - 1} subsets, too many to run; name at most {MOST_HEADS} heads.")
    return [tuple(sorted(s)) for size in range(1, len(heads) + 1) for s in itertools.combinations(heads, size)]


def subsets_table(effects: Effects, seed: int = 0) -> pd.DataFrame:
    """Return rows heads, metric, effect_pp, low, high, n (CI95 over questions), one a set and metric."""
    tables = []
    for name in metrics.JUDGED:
        value, low, high = statistics.column_cis(effects.effect(name).T, scale=100.0, seed=seed)
        rows = {"heads": [set_name(s) for s in effects.sets], "metric": name, "effect_pp": value, "low": low, "high": high}
        tables.append(pd.DataFrame(rows | {"n": len(effects.question_ids)}))
    return pd.concat(tables, ignore_index=True)


def best_subset(effects: Effects, size: int) -> Heads:
    """Return the set of `size` heads with the largest mean effect among those that were run."""
    return max((s for s in effects.sets if len(s) == size), key=lambda s: effects.of(s).mean())


def shapley(effects: Effects, heads: Sequence[Head]) -> dict[Head, float]:
    """Return each head's Shapley value in pp, its mean gain over all orders of adding the heads; they sum to the joint effect."""
    return statistics.shapley({s: 100 * e.mean() for s, e in zip(effects.sets, effects.effect(), strict=True)}, heads)


def without_question(asked: Sequence[Question]) -> list[Question]:
    """Return the questions with their text left out: what the options get from a prompt that asks nothing."""
    return [replace(question, question="") for question in asked]


def sizes_that_fit(n: int, sizes: Sequence[int] = (1, 5, 10, 20, 40)) -> list[int]:
    """Return the sizes that leave at least as many of n questions to judge on as they take to select on."""
    return [size for size in sizes if size <= n // 2]


def stability(effects: Effects, n_chosen: int = 5, repeats: int = 200, seed: int = 0) -> np.ndarray:
    """Return, for random splits of the questions into halves, how many heads the top n of both halves share, [repeat]."""
    change = effects.effect()
    rng = np.random.default_rng(seed)
    half = change.shape[1] // 2
    shared = []
    for _ in range(repeats):
        order = rng.permutation(change.shape[1])
        first, second = (np.argsort(-change[:, part].mean(1), kind="stable")[:n_chosen] for part in (order[:half], order[half:]))
        shared.append(len(set(first) & set(second)))
    return np.array(shared)


def winners_curse(effects: Effects, sizes: Sequence[int], n_chosen: int = 5, repeats: int = 200, seed: int = 0) -> pd.DataFrame:
    """Return, per number of questions selected on, the chosen heads' mean single effect in sample and on the other questions, in pp.

    Columns n_selected_on, in_sample, out_of_sample and the 2.5 and 97.5 percentiles of both over random selections.
    """
    change = 100 * effects.effect()
    rng = np.random.default_rng(seed)
    rows = []
    for size in sizes:
        if size >= change.shape[1]:
            raise UserError(f"{size} questions to select on leave none of {change.shape[1]} to judge on; sweep more questions.")
        means = np.array([_select_and_judge(change, rng.permutation(change.shape[1]), size, n_chosen) for _ in range(repeats)])
        low, high = np.percentile(means, [2.5, 97.5], axis=0)
        rows.append({"n_selected_on": size, "in_sample": means[:, 0].mean(), "in_sample_low": low[0], "in_sample_high": high[0],
                     "out_of_sample": means[:, 1].mean(), "out_of_sample_low": low[1], "out_of_sample_high": high[1]})  # fmt: skip
    return pd.DataFrame(rows)


def _select_and_judge(change: np.ndarray, order: np.ndarray, size: int, n_chosen: int) -> tuple[float, float]:
    selected_on, others = order[:size], order[size:]
    chosen = np.argsort(-change[:, selected_on].mean(1), kind="stable")[:n_chosen]
    return change[chosen][:, selected_on].mean(), change[chosen][:, others].mean()


def survives(joint: Estimate, rank_p: float, gate: metrics.Gate) -> tuple[bool, str]:
    """Return whether a circuit survives, by the one rule for real and null models alike, and the reason in words."""
    if not gate.open:
        return False, f"no sandbagging to explain (gate {gate.reason})"
    if joint.low <= SURVIVES_PP:
        return False, f"the joint effect {joint} does not clear {SURVIVES_PP} pp"
    if rank_p > SURVIVES_P:
        return False, f"too many random sets of as many heads reach it, or too few were drawn (rank p = {rank_p:.3f})"
    return True, f"the joint effect {joint} clears {SURVIVES_PP} pp and few random sets reach it (rank p = {rank_p:.3f})"
