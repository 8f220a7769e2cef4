"""E6 and its rivals on one axis: what swapping SAE codes does to sandbag prompts, and what else does the same.

x is resid_post at the edited rows of the sandbag test prompts, f and D the SAE's encoder and decoder, m_G and m_S the
median codes of genuine and sandbag train prompts.

1. One clean run of the test prompts keeps x, and the keys and values of every token that no edit reaches.
2. `replacements` makes every intervention's new x, seeds included.
3. `effects` runs them as batches from the layer above, over the tokens behind the edit alone.
4. `summarise` turns per-question effects into rows with CIs, guards and a verdict by one decision table.
"""

import fnmatch
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations, hook_points, interventions, metrics, saes, statistics
from sandbagging.errors import UserError
from sandbagging.hook_points import HookPoint
from sandbagging.packing import Pack
from sandbagging.statistics import Estimate

METRICS = (metrics.PRIMARY, metrics.SECONDARY)
CELL = ["layer", "tag", "position"]  # what a verdict is about
TOKENS_AT_ONCE = 6144  # batch x tokens of one forward pass
MARGIN_PP = 0.15  # the card's bound on the specificity gap, fixed in advance as the margin of equivalence
MIN_QUESTIONS = 10

Progress = Callable[[str, int, int], None]
Key = tuple[str, str, int]  # intervention, error term ("kept", "dropped" or "" where there is none), seed


class Site(NamedTuple):
    """One layer of one prompt set, ready for edits: the clean run, and where edits go."""

    layer: int
    position: str  # "last" or "all"
    pack: Pack  # the sandbag test prompts
    part: Pack  # the tokens that an edit can reach
    rows: Tensor  # [row] edited tokens of the pack
    question: Tensor  # [row] the question each belongs to
    resid: Tensor  # [1 token d_model] the clean residual stream
    stored: dict  # clean keys and values by layer
    baseline: dict[str, np.ndarray]  # metric -> [question]

    @property
    def x(self) -> Tensor:
        """The clean residual stream at the edited rows, [row d_model]."""
        return self.resid[0, self.rows.to(self.resid.device)]


def sites(model, questions, framing: str, layers: Sequence[int], positions: Sequence[str] = ("last",)) -> list[Site]:
    """Return the sites of the sandbag prompts of `questions`, all from one clean run.

    Raises UserError for fewer than 10 questions and for the last layer, which nothing reads before the unembedding.
    """
    if len(questions) < MIN_QUESTIONS:
        raise UserError(f"{len(questions)} test questions are too few to judge an intervention on; use at least {MIN_QUESTIONS}.")
    if max(layers) >= model.n_layers - 1:
        raise UserError(f"Layer {max(layers)} is the last one, and nothing attends to what it writes; choose a lower layer.")
    unknown = [p for p in positions if p not in ("last", "all")]
    if unknown or not positions:
        raise UserError(f"Unknown position {', '.join(map(str, unknown)) or '(none)'}; positions is a list of last, all or both.")
    pack = metrics.prepare(model, questions, "sandbag", framing)
    points, stored = [HookPoint("resid_post", layer) for layer in layers], {}
    final, saved = hook_points.run(model, pack, reads=points, stored=stored, store=True)
    answers = metrics.answer_logprobs(model, pack, final)
    baseline = {name: metrics.METRICS[name](answers)[0].cpu().double().numpy() for name in METRICS}
    result = []
    for position in positions:
        rows = {"last": pack.last, "all": pack.trunk()}[position]
        part = pack.part(pack.from_last() if position == "last" else pack.behind_prefix())
        for point in points:
            result.append(Site(point.layer, position, pack, part, rows, pack.block[rows], saved[point], stored, baseline))
    return result


# Medians and labels ------------------------------------------------------------------------------------------------


def median_code(codes: Tensor, convention: str = "average") -> Tensor:
    """Return the per-latent median of codes [prompt latent]: the average of the two middle values, or the "lower" of them.

    For a latent that is on in one condition only, the median of a half-and-half set sits on the jump, and the convention decides.
    """
    if convention == "lower":
        return codes.median(dim=0).values
    ordered = codes.sort(dim=0).values
    n = len(codes)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def shuffled_labels(n_genuine: int, n_sandbag: int, seed: int, balanced: bool = True) -> np.ndarray:
    """Return a vector over the pooled prompts (genuine first), True where a prompt is labelled "genuine".

    `balanced` labels half of each condition, which needs even counts (else UserError); otherwise it is a plain shuffle.
    Prompts are relabelled, never tokens.
    """
    rng = np.random.default_rng([seed, 61])
    if not balanced:
        return rng.permutation(np.arange(n_genuine + n_sandbag) < n_genuine)
    if n_genuine % 2 or n_sandbag % 2:
        raise UserError(
            f"A balanced shuffle halves each condition, and {n_genuine} genuine and {n_sandbag} sandbag prompts are not both even; "
            "take an even n_train, or balanced=False."
        )
    halves = [rng.permutation(np.arange(n) < n // 2) for n in (n_genuine, n_sandbag)]
    return np.concatenate(halves)


class TrainCodes(NamedTuple):
    """What the interventions know about the train prompts at one site."""

    genuine: Tensor  # [row d_model] resid_post of genuine prompts
    sandbag: Tensor  # [row d_model]
    genuine_prompt: np.ndarray  # [row] which prompt (by question) a row belongs to
    sandbag_prompt: np.ndarray

    def pooled_codes(self, sae) -> Tensor:
        """Return f of all rows, genuine first, [row latent]."""
        return sae.encode(torch.cat([self.genuine, self.sandbag]))

    def labelled(self, labels: np.ndarray) -> Tensor:
        """Return [row] bool over the pooled rows, True where the row's prompt is labelled "genuine"."""
        prompts_g, prompts_s = pd.unique(self.genuine_prompt), pd.unique(self.sandbag_prompt)  # in order of their rows
        of_g = dict(zip(prompts_g, labels[: len(prompts_g)], strict=True))
        of_s = dict(zip(prompts_s, labels[len(prompts_g) :], strict=True))
        return torch.tensor([of_g[p] for p in self.genuine_prompt] + [of_s[p] for p in self.sandbag_prompt])

    def shuffles(self, seeds: Sequence[int], balanced: bool) -> list[Tensor]:
        """Return one row labelling a seed."""
        n = len(np.unique(self.genuine_prompt)), len(np.unique(self.sandbag_prompt))
        return [self.labelled(shuffled_labels(*n, seed, balanced)) for seed in seeds]


# From a run folder -------------------------------------------------------------------------------------------------


def train_codes(resid: Tensor, table: pd.DataFrame, position: str = "last") -> TrainCodes:
    """Return the train prompts' resid_post at one layer: at the last prompt token, or at "all" the question's tokens.

    resid [row d_model] and table are what notebook 01 wrote. The prefix that all prompts share is left out.
    """
    chosen = [activations.select(table, "train", condition, position == "last") for condition in ("genuine", "sandbag")]
    return TrainCodes(*(resid[_rows_of(c)] for c in chosen), *(c["question_id"].to_numpy() for c in chosen))


def same_rows(resid: Tensor, table: pd.DataFrame, condition: str, site: Site) -> Tensor | None:
    """Return the test prompts' stored resid_post of a condition at the site's rows, [row d_model].

    None where a question has another number of tokens under this condition, so that rows cannot be matched.
    """
    chosen = activations.select(table, "test", condition, site.position == "last")
    by_question = dict(list(chosen.groupby("question_id")))
    tables = [by_question[name] for name in site.pack.question_ids]
    if [len(t) for t in tables] != torch.bincount(site.question).tolist():
        return None
    return resid[_rows_of(pd.concat(tables))].to(site.resid)


def _rows_of(chosen: pd.DataFrame) -> Tensor:
    return torch.tensor(chosen["row"].to_list())


def load_saes(folder: Path, tags: Sequence[str], model, only: Sequence[str] = ("*",)) -> dict[int, dict]:
    """Return {layer: {tag: SAE}} of the SAELens folders that notebook 02 wrote, layers ascending; `only` are globs over tags."""
    found: dict[int, dict] = {}
    tags = [tag for tag in tags if any(fnmatch.fnmatch(tag, glob) for glob in only)]
    if not tags:
        raise UserError(f"Notebook 02 trained no SAE named {', '.join(only)}; change swap_tags, or tags of notebook 02.")
    for tag in sorted(tags, key=lambda t: (saes.parse_tag(t).layer, t)):
        found.setdefault(saes.parse_tag(tag).layer, {})[tag] = saes.load(folder / tag, d_in=model.d_model, device=str(model.device))
    return found


def stored_effects(*tables: pd.DataFrame) -> pd.DataFrame:
    """Return tables of effects as one; in a CSV file an empty tag or error term reads as NaN, and is made empty again."""
    return pd.concat(tables, ignore_index=True).fillna({"tag": "", "error_term": ""})


def gate_sentence(gate: Mapping) -> str:
    """Return, as Markdown, what notebook 00 says about sandbagging; `gate` is the entry of its summary.json."""
    sentence = f"Gate of notebook 00, {gate['reason']}."
    return sentence if gate["open"] else f"{sentence}\n\n**No sandbagging to explain: the verdicts below are marked so.**"


# Interventions -----------------------------------------------------------------------------------------------------


def without_sae(x: Tensor, train: TrainCodes, *, oracle: Tensor | None, seeds: Sequence[int], balanced: bool = True) -> dict[Key, Tensor]:
    """Return {(intervention, "", seed): new x} of the rivals that need no SAE.

    oracle: the same question's genuine residual (the ceiling). diff_means: x + mean_G - mean_S. diff_means_shuffled: the same with
    shuffled labels. mean_ablation: the pooled train mean.
    """
    pooled = torch.cat([train.genuine, train.sandbag])
    out: dict[Key, Tensor] = {("diff_means", "", 0): x + train.genuine.mean(0) - train.sandbag.mean(0)}
    if oracle is not None:
        out["oracle", "", 0] = oracle
    out["mean_ablation", "", 0] = pooled.mean(0).expand_as(x)
    for seed, labels in zip(seeds, train.shuffles(seeds, balanced), strict=True):
        out["diff_means_shuffled", "", seed] = x + pooled[labels].mean(0) - pooled[~labels].mean(0)
    return out


def median_codes(sae, train: TrainCodes) -> tuple[Tensor, Tensor]:
    """Return m_G and m_S [latent], the median codes of genuine and of sandbag train prompts."""
    return median_code(sae.encode(train.genuine)), median_code(sae.encode(train.sandbag))


def e6_and_e4(x: Tensor, sae, train: TrainCodes, brief: bool = False) -> dict[Key, Tensor]:
    """Return E6 and E4, error kept and dropped, their delta forms, and identity; `brief`: E6 and E4 (error kept) and identity alone."""
    m_g, m_s = median_codes(sae, train)
    out: dict[Key, Tensor] = {("identity", "dropped", 0): interventions.identity(x, sae)}
    for term, keep in (("kept", True), ("dropped", False))[: 1 if brief else 2]:
        out["E6", term, 0] = interventions.swap_code(x, sae, m_g, keep)
        out["E4", term, 0] = interventions.swap_code(x, sae, m_s, keep)
    if not brief:
        delta = sae.decode(m_g[None]) - sae.decode(m_s[None])
        out["delta+", "kept", 0], out["delta-", "kept", 0] = x + delta, x - delta
    return out


def shuffled_codes(codes: Tensor, train: TrainCodes, seeds: Sequence[int], balanced: bool = True, convention: str = "average",
                   of_rest: bool = False) -> list[Tensor]:  # fmt: skip
    """Return the code [latent] of the prompts that each seed's shuffle labels "genuine", or `of_rest`: of the others.

    codes [row latent] are those of the pooled rows, genuine first; convention: the "average" or "lower" median, or the "mean".
    """
    chosen = [~labels if of_rest else labels for labels in train.shuffles(seeds, balanced)]
    return [codes[rows].mean(0) if convention == "mean" else median_code(codes[rows], convention) for rows in chosen]


def e1(x: Tensor, sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True, name: str = "E1") -> dict[Key, Tensor]:
    """Return E1 (error kept): E6 with the median code of the prompts that a shuffle labels "genuine", a seed each."""
    if not len(seeds):
        raise UserError("E1 needs at least one shuffle; set e1_seeds to 1 or more (20 or more to see their spread).")
    found = shuffled_codes(train.pooled_codes(sae), train, seeds, balanced)
    return {(name, "kept", seed): interventions.swap_code(x, sae, code) for seed, code in zip(seeds, found, strict=True)}


def e1_variants(x: Tensor, sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True) -> dict[Key, Tensor]:
    """Return E1's other forms, a seed each: error dropped, by the lower median (E1_lower), by the mean code (E1_mean), and delta_E1.

    delta_E1 is x + D(code of those labelled "genuine") - D(code of the others): a direction with expectation 0.
    """
    codes, out = train.pooled_codes(sae), {}
    forms = [shuffled_codes(codes, train, seeds, balanced, c) for c in ("average", "lower", "mean")]
    rest = shuffled_codes(codes, train, seeds, balanced, of_rest=True)
    for seed, own, lower, mean, other in zip(seeds, *forms, rest, strict=True):
        out["E1", "dropped", seed] = interventions.swap_code(x, sae, own, keep_error=False)
        out["E1_lower", "kept", seed] = interventions.swap_code(x, sae, lower)
        out["E1_mean", "kept", seed] = interventions.swap_code(x, sae, mean)
        out["delta_E1", "kept", seed] = x + sae.decode(own[None]) - sae.decode(other[None])
    return out


def shuffle_places(sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True, convention: str = "average") -> pd.DataFrame:
    """Return where each shuffle's code decodes to, on the line from D(m_S) (place 0, which E4 takes) to D(m_G) (place 1, E6's).

    Columns: seed, share (of the rows labelled "genuine", those that are), place (NaN where the two ends are one point).
    """
    codes, n_genuine = train.pooled_codes(sae), len(train.genuine)
    ends = [sae.decode(median_code(part)[None]) for part in (codes[n_genuine:], codes[:n_genuine])]
    line = ends[1] - ends[0]
    shuffled = torch.stack(shuffled_codes(codes, train, seeds, balanced, convention))
    place = ((sae.decode(shuffled) - ends[0]) @ line[0]) / line.square().sum()
    share = [float(rows[:n_genuine].sum() / rows.sum()) for rows in train.shuffles(seeds, balanced)]
    return pd.DataFrame({"seed": list(seeds), "share": share, "place": place.cpu().numpy()})


def places_by_kind(saes_by_layer: Mapping[int, Mapping], train: Mapping[int, TrainCodes], seeds: Sequence[int],
                   kinds: Sequence[bool] = (True, False)) -> pd.DataFrame:  # fmt: skip
    """Return how `shuffle_places` spreads over seeds: a row per SAE, kind of shuffle (balanced or not) and convention.

    train: {layer: TrainCodes}. Columns: SAE, shuffle, code, mean, sd, low and high (the extremes), r_share (correlation with
    the share of genuine prompts; NaN where that is fixed), two_clusters.
    """
    rows = []
    for layer, by_tag in saes_by_layer.items():
        for (tag, sae), balanced, code in itertools.product(by_tag.items(), kinds, ("average", "lower", "mean")):
            found = shuffle_places(sae, train[layer], seeds, balanced, code)
            place, r = found["place"], found["place"].corr(found["share"]) if found["share"].nunique() > 1 else float("nan")
            rows.append([short_tag(tag), "balanced" if balanced else "plain", code, place.mean(), place.std(), place.min(), place.max(), r,
                         two_clusters(place.to_numpy())])  # fmt: skip
    return pd.DataFrame(rows, columns=["SAE", "shuffle", "code", "mean", "sd", "low", "high", "r_share", "two_clusters"])


def e1_with_labels(x: Tensor, sae, train: TrainCodes, labels: np.ndarray) -> Tensor:
    """Return E1 (error kept) under a given label vector over the pooled prompts; with the true labels it is E6."""
    return interventions.swap_code(x, sae, median_code(train.pooled_codes(sae)[train.labelled(labels)]))


def noise(x: Tensor, like: Tensor, seeds: Sequence[int]) -> dict[Key, Tensor]:
    """Return x plus random directions, each row's as long as its change from x to `like` (E6's), a seed each.

    Raises UserError without a seed: an effect that is not compared with noise cannot be judged.
    """
    if not len(seeds):
        raise UserError("Noise needs at least one seed; set noise_seeds to 1 or more.")
    norm = (like - x).norm(dim=-1)
    return {("noise", "", seed): interventions.add_noise(x, norm, seed) for seed in seeds}


def effects(model, site: Site, new: dict[Key, Tensor], *, tag: str = "", progress: Progress | None = None) -> pd.DataFrame:
    """Return the per-question effects of replacing the site's rows by each new x [row d_model], seeds and variants as batches.

    Columns: question_id, condition, layer, tag, position, error_term, intervention, seed, metric, baseline, value.
    """
    run = site.part.run.to(site.resid.device)
    size = max(1, TOKENS_AT_ONCE // site.part.n_tokens)
    keys = list(new)
    tables = []
    for begin in range(0, len(keys), size):
        batch = keys[begin : begin + size]
        edited = interventions.replace_rows(site.resid, site.rows, torch.stack([new[key] for key in batch]))[:, run]
        values = metrics.measure(model, site.part, METRICS, start=(site.layer + 1, edited), stored=site.stored)
        tables += [_rows(site, key, tag, {m: v[i] for m, v in values.items()}) for i, key in enumerate(batch)]
        if progress:
            progress(f"{tag or 'no SAE'} L{site.layer} {site.position}", min(begin + size, len(keys)), len(keys))
    return pd.concat(tables, ignore_index=True)


def _rows(site: Site, key: Key, tag: str, values: dict[str, np.ndarray]) -> pd.DataFrame:
    intervention, term, seed = key
    shared = {"question_id": site.pack.question_ids, "condition": "sandbag", "layer": site.layer, "tag": tag, "position": site.position,
              "error_term": term, "intervention": intervention, "seed": seed}  # fmt: skip
    return pd.concat([pd.DataFrame({**shared, "metric": m, "baseline": site.baseline[m], "value": v}) for m, v in values.items()])


# Guards and verdicts -----------------------------------------------------------------------------------------------


class Guards(NamedTuple):
    """What must be seen beside a gap before it can be believed; norms in units of the residual stream."""

    nnz_genuine: int  # non-zero entries of m_G
    nnz_sandbag: int
    norm_delta: float  # ||D(m_G) - D(m_S)||
    norm_change: float  # mean over rows of ||D(m_G) - D(f(x))||
    norm_x: float  # mean ||x||
    fvu: float  # of the SAE at these rows


def guards(x: Tensor, sae, m_g: Tensor, m_s: Tensor) -> Guards:
    """Return the guards of a swap at the rows x [row d_model]."""
    decoded_g, decoded_s, own = sae.decode(m_g[None]), sae.decode(m_s[None]), sae.decode(sae.encode(x))
    fvu = float((x - own).square().sum() / (x - x.mean(0)).square().sum())
    return Guards(int((m_g != 0).sum()), int((m_s != 0).sum()), float((decoded_g - decoded_s).norm()),
                  float((decoded_g - own).norm(dim=-1).mean()), float(x.norm(dim=-1).mean()), fvu)  # fmt: skip


DEGENERATE_SHARE = 0.01  # ||D(m_G) - D(m_S)|| below 1 % of the swap's own change: E6 and E4 are one intervention


def degenerate(g: Guards) -> str:
    """Return why a swap cannot tell the conditions apart by its design, or "" if it can."""
    if g.nnz_genuine == 0 and g.nnz_sandbag == 0:
        return "both median codes are all zero"
    if g.norm_delta <= DEGENERATE_SHARE * g.norm_change:
        return f"the median codes decode to the same point (their distance {g.norm_delta:.3g} against a change of {g.norm_change:.3g})"
    return ""


def two_clusters(seed_effects: np.ndarray) -> bool:
    """Return whether the effects of shuffles fall in two groups with an empty middle: E1's medians flip as a block.

    The largest gap between neighbouring effects is compared with the full range; 20 draws of one normal rarely leave half of it empty.
    """
    ordered = np.sort(seed_effects)
    if len(ordered) < 8 or np.ptp(ordered) == 0:
        return False
    cut = int(np.argmax(np.diff(ordered)))
    smaller = min(cut + 1, len(ordered) - cut - 1)
    return bool(np.diff(ordered)[cut] > 0.5 * np.ptp(ordered) and smaller >= 2)


# The decision table, in the order in which its lines are tried.
DECISIONS = (
    ("no sandbagging to explain", "the gate of notebook 00 is closed"),
    ("degenerate", "both median codes are all zero, or decode to the same point, or E1's seeds fall in two clusters"),
    ("destructive", "identity or noise costs at least as much as E6 changes, in either direction"),
    ("specific", "E6, E6 - E1 and E6 - E4 all have their CI95 above 0, and noise does less than E6"),
    ("reversed", "E6 - E1 and E6 - E4 both have their CI95 below 0"),
    ("equivalent", "E6 - E1 and E6 - E4 both lie within the margin by two one-sided tests"),
    ("cannot be said", "none of these: the gap is neither seen nor excluded at this number of questions"),
)


class Verdict(NamedTuple):
    """A verdict in one word or two, and the reason in words."""

    verdict: str
    reason: str


def verdict(gate_open: bool, degenerate_why: str, e6: Estimate, identity: Estimate, noise: Estimate, gap_e1: Estimate, gap_e4: Estimate,
            equivalent: bool, detectable: float, margin: float = MARGIN_PP) -> Verdict:  # fmt: skip
    """Return the first line of DECISIONS that holds, for one cell; effects and gaps are in pp on the sandbag prompts."""
    if not gate_open:
        return Verdict("no sandbagging to explain", "the gate is closed")
    if degenerate_why:
        return Verdict("degenerate", degenerate_why)
    damage = max(-identity.value, -noise.value)
    if damage > 0 and damage >= abs(e6.value):
        return Verdict("destructive", f"identity or noise costs {damage:.2f} pp, E6 changes {e6.value:+.2f} pp")
    if e6.low > 0 and gap_e1.low > 0 and gap_e4.low > 0 and noise.value < e6.value:
        return Verdict("specific", f"E6 restores {e6}, more than E1 by {gap_e1} and than E4 by {gap_e4}")
    if gap_e1.high < 0 and gap_e4.high < 0:
        return Verdict("reversed", f"E6 does worse than E1 by {gap_e1} and than E4 by {gap_e4}")
    if equivalent:
        return Verdict("equivalent", f"E6 - E1 and E6 - E4 lie within {margin} pp by two one-sided tests")
    damaged = f"E6 itself costs {-e6.value:.2f} pp; " if e6.high < 0 else ""
    return Verdict("cannot be said", f"{damaged}at this n a gap below {detectable:.2f} pp is not seen, and the margin is {margin} pp")


def by_question_and_seed(table: pd.DataFrame, intervention: str, error_term: str, metric: str = metrics.PRIMARY) -> pd.DataFrame:
    """Return an intervention's effects in pp, a row per question (in order of question_id) and a column per seed."""
    rows = table[(table["intervention"] == intervention) & (table["error_term"] == error_term) & (table["metric"] == metric)]
    if rows.empty:
        raise UserError(f"No effects of {intervention} (error term {error_term!r}) in this table.")
    return rows.assign(effect=100 * (rows["value"] - rows["baseline"])).pivot(index="question_id", columns="seed", values="effect")


def by_question(table: pd.DataFrame, intervention: str, error_term: str, metric: str = metrics.PRIMARY) -> np.ndarray:
    """Return an intervention's effect per question in pp, averaged over its seeds, in order of question_id."""
    return by_question_and_seed(table, intervention, error_term, metric).mean(axis=1).to_numpy()


def by_seed(table: pd.DataFrame, intervention: str = "E1", error_term: str = "kept", metric: str = metrics.PRIMARY) -> np.ndarray:
    """Return an intervention's mean effect in pp per seed: its spread is what a CI over questions does not contain."""
    return by_question_and_seed(table, intervention, error_term, metric).mean(axis=0).to_numpy()


def summarise(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return mean effects in pp with CI95 over questions, a row per layer, tag, position, error_term, intervention and metric."""
    keys = [*CELL, "error_term", "intervention", "metric"]
    change = table.assign(effect_pp=100 * (table["value"] - table["baseline"]))
    wide = change.pivot_table(index=keys, columns="question_id", values="effect_pp", aggfunc="mean", sort=False).sort_index(axis=1)
    mean, low, high = statistics.column_cis(wide.to_numpy().T, seed=seed)
    return wide.index.to_frame(index=False).assign(effect_pp=mean, low=low, high=high, n=wide.shape[1])


def cells(table: pd.DataFrame) -> Iterator[tuple[tuple[int, str, str], pd.DataFrame]]:
    """Yield ((layer, tag, position), rows) for each SAE and place; the rivals that need no SAE are among every cell's rows."""
    for key, own in table[table["tag"] != ""].groupby(CELL, sort=False):
        shared = table[(table["tag"] == "") & (table["layer"] == key[0]) & (table["position"] == key[2])]
        yield key, pd.concat([own, shared])


def has(cell: pd.DataFrame, intervention: str, error_term: str) -> bool:
    """Return whether a cell holds effects of an intervention in this form."""
    return bool(((cell["intervention"] == intervention) & (cell["error_term"] == error_term)).any())


def estimates(rows: pd.DataFrame) -> list[Estimate]:
    """Return the effects of a summary's rows, in pp with their CI95."""
    method = f"percentile bootstrap over questions, {statistics.N_RESAMPLES} resamples"
    return [Estimate(r["effect_pp"], r["low"], r["high"], int(r["n"]), "pp", method) for r in rows.to_dict("records")]


def rows_of(
    summary: pd.DataFrame, tag: str, interventions: Sequence[str], metric: str = metrics.PRIMARY, position: str = "last"
) -> pd.DataFrame:
    """Return one SAE's rows of a summary, one per intervention and in their order; the error term is kept where there is one."""
    rows = shown(summary)
    rows = rows[(rows["tag"] == tag) & (rows["metric"] == metric) & (rows["position"] == position)]
    return rows.set_index("intervention").loc[list(interventions)].reset_index()


def effect_table(summary: pd.DataFrame, interventions: Sequence[str], *, metric: str = metrics.PRIMARY, position: str = "last",
                 error_term: str = "kept") -> pd.DataFrame:  # fmt: skip
    """Return effects in pp with CI95 as text, a row per SAE, a column per intervention; "" where there is none.

    Rivals that need no SAE stand in every row of their layer.
    """
    rows = shown(summary, error_term)
    rows = rows[(rows["metric"] == metric) & (rows["position"] == position) & rows["intervention"].isin(interventions)]
    rows = rows.assign(text=[f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]" for e in estimates(rows)])
    cells = summary.loc[(summary["tag"] != "") & (summary["position"] == position), CELL].drop_duplicates()
    shared = rows[rows["tag"] == ""].drop(columns="tag").merge(cells, on=["layer", "position"])
    rows = pd.concat([rows[rows["tag"] != ""], shared])
    wide = rows.assign(SAE=rows["tag"].map(short_tag)).pivot(index="SAE", columns="intervention", values="text")
    return wide.reindex(index=cells["tag"].map(short_tag), columns=[name for name in interventions if name in wide]).fillna("")


def short_tag(tag: str) -> str:
    """Return a tag without the model's name: v4_smollm2_topk_L7_mixed is "L7 topk mixed"."""
    fields = saes.parse_tag(tag)
    return f"L{fields.layer} {tag.split('_', 2)[2].replace(f'_L{fields.layer}_', ' ', 1)}"


def signs(rows: pd.DataFrame) -> str:
    """Return in words on which side of 0 the CI95 of a summary's rows lie."""
    above, below = int((rows["low"] > 0).sum()), int((rows["high"] < 0).sum())
    return f"above 0 in {above}, below 0 in {below} and around 0 in {len(rows) - above - below} of {len(rows)} cells"


def findings(summary: pd.DataFrame, interventions: Sequence[str], metric: str = metrics.PRIMARY) -> dict[str, dict[str, Estimate]]:
    """Return {"tag, position": {intervention: effect}} for a summary file; the error term is kept where there is one."""
    rows = shown(summary)
    rows = rows[(rows["metric"] == metric) & rows["intervention"].isin(interventions)]
    found: dict[str, dict[str, Estimate]] = {}
    for row, effect in zip(rows.to_dict("records"), estimates(rows), strict=True):
        found.setdefault(f"{row['tag'] or 'no SAE, L' + str(row['layer'])}, {row['position']}", {})[row["intervention"]] = effect
    return found


# What is compared, question by question: (first, its error term, second, its error term).
GAPS = (
    ("E6", "kept", "E1", "kept"),
    ("E6", "kept", "E4", "kept"),
    ("E6", "dropped", "E1", "dropped"),
    ("E6", "dropped", "E4", "dropped"),
    ("delta+", "kept", "delta_E1", "kept"),
    ("delta+", "kept", "delta-", "kept"),
    ("E6", "kept", "diff_means", ""),
    ("delta+", "kept", "diff_means", ""),
)


def gaps(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return the paired differences of GAPS in pp with CI95 over questions, in the columns of `summarise` ("E6-E1")."""
    rows = []
    for key, cell in cells(table):
        for first, term, second, other in GAPS:
            if not (has(cell, first, term) and has(cell, second, other)):
                continue
            for metric in METRICS:
                change = by_question(cell, first, term, metric) - by_question(cell, second, other, metric)
                found = statistics.mean_ci(change, unit="pp", seed=seed)
                rows.append([*key, term, f"{first}-{second}", metric, found.value, found.low, found.high, found.n])
    return pd.DataFrame(rows, columns=[*CELL, "error_term", "intervention", "metric", "effect_pp", "low", "high", "n"])


GUARD_COLUMNS = ["nnz_genuine", "nnz_sandbag", "norm_delta", "norm_change", "fvu"]


def with_guards(summary: pd.DataFrame, guarded: pd.DataFrame, verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a summary with each cell's guards and verdict beside every row.

    guarded: columns layer, tag, position and the guards; verdicts: the same keys, perhaps error_term, and verdict.
    """
    keys = [*CELL, "error_term"] if "error_term" in verdicts else CELL
    return summary.merge(guarded[[*CELL, *GUARD_COLUMNS]], on=CELL, how="left").merge(verdicts[[*keys, "verdict"]], on=keys, how="left")


def guard_table(found: Mapping[tuple[int, str, str], Guards]) -> pd.DataFrame:
    """Return the guards as a table, a row per layer, tag and position; `degenerate` says why a swap cannot tell conditions apart."""
    return pd.DataFrame([dict(zip(CELL, key, strict=True), **g._asdict(), degenerate=degenerate(g)) for key, g in found.items()])


def read_guards(table: pd.DataFrame) -> dict[tuple[int, str, str], Guards]:
    """Return what `guard_table` wrote, as guards by layer, tag and position."""
    return {(row["layer"], row["tag"], row["position"]): Guards(**{f: row[f] for f in Guards._fields}) for row in table.to_dict("records")}


def first_verdicts(guarded: pd.DataFrame, gate_open: bool) -> pd.DataFrame:
    """Return the verdicts that need no rival: gate closed or degenerate; all others wait for E1 and E4."""
    words = np.where(guarded["degenerate"] != "", "degenerate", "not judged before notebook 06")
    return guarded[CELL].assign(verdict=words if gate_open else DECISIONS[0][0])


def shown(summary: pd.DataFrame, error_term: str = "kept") -> pd.DataFrame:
    """Return the rows to draw beside each other: one error term, and what has none (identity, noise, rivals without an SAE)."""
    no_term = summary["intervention"].isin(["identity", "noise"]) | (summary["error_term"] == "")
    return summary[no_term | (summary["error_term"] == error_term)].drop(columns="error_term")


def judge(cell: pd.DataFrame, g: Guards, gate_open: bool, margin: float = MARGIN_PP, error_term: str = "kept", seed: int = 0) -> dict:
    """Return the verdict on one cell (one tag, layer and position; E6, E4, E1, identity and noise together) with its numbers in pp.

    gap_e1 and gap_e4 are paired by question, E1 averaged over its seeds, with a CI over questions; gap_e1_seeds has a CI over
    questions and seeds, and seed_sd is the spread of E1's mean effect. detectable: the smallest gap seen with 80 % power.
    """
    e1_ = by_question_and_seed(cell, "E1", error_term)
    changes = {"e6": by_question(cell, "E6", error_term), "e4": by_question(cell, "E4", error_term), "e1": e1_.mean(axis=1).to_numpy(),
               "identity": by_question(cell, "identity", "dropped"), "noise": by_question(cell, "noise", "")}  # fmt: skip
    changes |= {"gap_e1": changes["e6"] - changes["e1"], "gap_e4": changes["e6"] - changes["e4"]}
    found = {name: statistics.mean_ci(change, unit="pp", seed=seed) for name, change in changes.items()}
    tests = [statistics.equivalence(changes[gap], margin) for gap in ("gap_e1", "gap_e4")]
    detectable = max(statistics.smallest_detectable(changes[gap]) for gap in ("gap_e1", "gap_e4"))
    seeds = e1_.mean(axis=0).to_numpy()
    why = degenerate(g) or ("E1's seeds fall in two clusters" if two_clusters(seeds) else "")
    judged = verdict(gate_open, why, found["e6"], found["identity"], found["noise"], found["gap_e1"], found["gap_e4"],
                     all(t.equivalent for t in tests), detectable, margin)  # fmt: skip
    return {**found, "gap_e1_seeds": _over_seeds(changes["e6"][:, None] - e1_.to_numpy(), seed), "p_equivalent": max(t.p for t in tests),
            "detectable": detectable, "seed_sd": _sd(seeds), "n_seeds": len(seeds),
            **judged._asdict()}  # fmt: skip


def between(cell: pd.DataFrame, error_term: str = "kept", metric: str = metrics.PRIMARY) -> dict:
    """Return where E1's effect lies between E4's and E6's in one cell (pp): the three effects, E1's spread, and the share of the way.

    share = (E1 - E4) / (E6 - E4): 0 at E4, 1 at E6; E6 - E1 is then 1 - share of E6 - E4. above: E1 seeds that reach E6's effect.
    """
    e6, e4 = (float(by_question(cell, name, error_term, metric).mean()) for name in ("E6", "E4"))
    seeds = by_seed(cell, "E1", error_term, metric)
    share = (seeds.mean() - e4) / (e6 - e4) if e6 != e4 else float("nan")
    return {"E4": e4, "E1": float(seeds.mean()), "E6": e6, "share": share, "seed_sd": _sd(seeds), "seeds": len(seeds),
            "above": int((seeds >= e6).sum()), "two_clusters": two_clusters(seeds)}  # fmt: skip


def _sd(seeds: np.ndarray) -> float:
    return float(seeds.std(ddof=1)) if len(seeds) > 1 else float("nan")


def between_all(table: pd.DataFrame, position: str = "last") -> pd.DataFrame:
    """Return `between` of every cell at a position, a row per SAE."""
    rows = {short_tag(tag): between(cell) for (_, tag, where), cell in cells(table) if where == position}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("SAE")


def seed_spread(table: pd.DataFrame, names: Sequence[str], position: str = "last") -> pd.DataFrame:
    """Return the SD over seeds of some interventions' mean effect (error kept, in pp), a row per SAE."""
    rows = {}
    for (_, tag, where), cell in cells(table):
        if where == position:
            rows[short_tag(tag)] = {n: _sd(by_seed(cell, n)) for n in names if has(cell, n, "kept")}
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(names)).rename_axis("SAE")


def as_text(judged: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of `judge_all` for reading, a row per SAE and error term, estimates as "+1.20 [+0.30, +2.10]"."""

    def text(value: object) -> object:
        return str(value).split(", n =")[0].replace(" pp", "") if isinstance(value, Estimate) else value

    table = judged[list(columns)].map(text)
    names = {"SAE": judged["tag"].map(short_tag), "at": judged["position"], "error": judged["error_term"]}
    table.index = pd.MultiIndex.from_arrays(list(names.values()), names=list(names))
    return table


def beside_card(judged: pd.DataFrame) -> pd.DataFrame:
    """Return each JumpReLU cell (error kept) beside the card's bound: what we measured, and the verdict with its reason."""
    rows = judged[(judged["error_term"] == "kept") & judged["tag"].str.contains("jumprelu")]
    return pd.DataFrame({
        "cell": rows["tag"].map(short_tag) + ", " + rows["position"],
        "card (§24, §26, §31)": f"gap < {MARGIN_PP} pp",
        "E6 - E1": [f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]" for e in rows["gap_e1"]],
        "E6 - E4": [f"{e.value:+.2f} [{e.low:+.2f}, {e.high:+.2f}]" for e in rows["gap_e4"]],
        "why they may differ": [_why_other(row) for row in rows.to_dict("records")],
    }).reset_index(drop=True)  # fmt: skip


def _why_other(row: dict) -> str:
    """Return how a cell can look as the card says, or else, in words."""
    if row["verdict"] == "degenerate":
        return f"{row['reason']}: the gap is small by construction, whatever the model does"
    if row["verdict"] == "specific":
        return "edited at the last token, where the median codes differ; over all tokens they need not"
    return row["reason"]


def _over_seeds(change: np.ndarray, seed: int) -> Estimate:
    """Return the mean of change [question seed] with a CI over both; without a second seed there is none."""
    if change.shape[1] < 2:
        return Estimate(float(change.mean()), float("nan"), float("nan"), len(change), "pp", "one seed: no interval")
    return statistics.bootstrap_questions_and_draws(change, unit="pp", seed=seed)


def judge_all(table: pd.DataFrame, guarded: Mapping[tuple[int, str, str], Guards], gate_open: bool, margin: float = MARGIN_PP,
              seed: int = 0) -> pd.DataFrame:  # fmt: skip
    """Return `judge` of every cell and error term that holds both E6 and E1, a row each: layer, tag, position, error_term, ..."""
    rows = []
    for key, cell in cells(table):
        for term in ("kept", "dropped"):
            if has(cell, "E1", term) and has(cell, "E6", term):
                found = judge(cell, guarded[key], gate_open, margin, term, seed)
                rows.append({**dict(zip(CELL, key, strict=True)), "error_term": term, **found})
    return pd.DataFrame(rows)
