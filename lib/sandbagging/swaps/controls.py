"""E6 and its rivals on one axis: what swapping SAE codes does to sandbag prompts, and what else does the same.

x is resid_post at the edited rows of the sandbag test prompts, f and D the SAE's encoder and decoder, m_G and m_S the
median codes of genuine and sandbag train prompts.

1. One clean run of the test prompts keeps x, and the keys and values of every token that no edit reaches.
2. `replacements` makes every intervention's new x, seeds included.
3. `effects` runs them as batches from the layer above, over the tokens behind the edit alone.
4. What the effects say is told by `verdicts`: intervals, guards, and one decision table.
"""

import fnmatch
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import activations, metrics, saes, statistics
from sandbagging.errors import UserError
from sandbagging.models import check_layers, hook_points
from sandbagging.models.hook_points import HookPoint
from sandbagging.models.packing import Pack
from sandbagging.progress import Progress
from sandbagging.swaps import edits

TOKENS_AT_ONCE = 6144  # batch x tokens of one forward pass
MIN_QUESTIONS = 10

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

    Raises UserError for fewer than 10 questions and for a layer that does not exist.
    """
    if len(questions) < MIN_QUESTIONS:
        raise UserError(f"{len(questions)} test questions are too few to judge an intervention on; use at least {MIN_QUESTIONS}.")
    check_layers(model, list(layers))
    unknown = [p for p in positions if p not in ("last", "all")]
    if unknown or not positions:
        raise UserError(f"Unknown position {', '.join(map(str, unknown)) or '(none)'}; positions is a list of last, all or both.")
    pack = metrics.prepare(model, questions, "sandbag", framing)
    points, stored = [HookPoint("resid_post", layer) for layer in layers], {}
    final, saved = hook_points.forward(model, pack, reads=points, stored=stored, store=True)
    answers = metrics.answer_logprobs(model, pack, final)
    baseline = {name: metrics.METRICS[name](answers)[0].cpu().double().numpy() for name in metrics.JUDGED}
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


def e6_and_e4(x: Tensor, sae, train: TrainCodes) -> dict[Key, Tensor]:
    """Return E6 and E4, error kept and dropped, their delta forms, and identity."""
    m_g, m_s = median_codes(sae, train)
    delta = sae.decode(m_g[None]) - sae.decode(m_s[None])
    out: dict[Key, Tensor] = {("identity", "dropped", 0): edits.identity(x, sae)}
    out["delta+", "kept", 0], out["delta-", "kept", 0] = x + delta, x - delta
    for term, keep in (("kept", True), ("dropped", False)):
        out["E6", term, 0] = edits.swap_code(x, sae, m_g, keep)
        out["E4", term, 0] = edits.swap_code(x, sae, m_s, keep)
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
    return {(name, "kept", seed): edits.swap_code(x, sae, code) for seed, code in zip(seeds, found, strict=True)}


def e1_variants(x: Tensor, sae, train: TrainCodes, seeds: Sequence[int], balanced: bool = True) -> dict[Key, Tensor]:
    """Return E1's other forms, a seed each: error dropped, by the lower median (E1_lower), by the mean code (E1_mean), and delta_E1.

    delta_E1 is x + D(code of those labelled "genuine") - D(code of the others): a direction with expectation 0.
    """
    codes, out = train.pooled_codes(sae), {}
    forms = [shuffled_codes(codes, train, seeds, balanced, c) for c in ("average", "lower", "mean")]
    rest = shuffled_codes(codes, train, seeds, balanced, of_rest=True)
    for seed, own, lower, mean, other in zip(seeds, *forms, rest, strict=True):
        out["E1", "dropped", seed] = edits.swap_code(x, sae, own, keep_error=False)
        out["E1_lower", "kept", seed] = edits.swap_code(x, sae, lower)
        out["E1_mean", "kept", seed] = edits.swap_code(x, sae, mean)
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
            kind = "balanced" if balanced else "plain"
            rows.append([saes.short_tag(tag), kind, code, place.mean(), place.std(), place.min(), place.max(), r,
                         statistics.two_clusters(place.to_numpy())])  # fmt: skip
    return pd.DataFrame(rows, columns=["SAE", "shuffle", "code", "mean", "sd", "low", "high", "r_share", "two_clusters"])


def e1_with_labels(x: Tensor, sae, train: TrainCodes, labels: np.ndarray) -> Tensor:
    """Return E1 (error kept) under a given label vector over the pooled prompts; with the true labels it is E6."""
    return edits.swap_code(x, sae, median_code(train.pooled_codes(sae)[train.labelled(labels)]))


def noise(x: Tensor, like: Tensor, seeds: Sequence[int]) -> dict[Key, Tensor]:
    """Return x plus random directions, each row's as long as its change from x to `like` (E6's), a seed each.

    Raises UserError without a seed: an effect that is not compared with noise cannot be judged.
    """
    if not len(seeds):
        raise UserError("Noise needs at least one seed; set noise_seeds to 1 or more.")
    norm = (like - x).norm(dim=-1)
    return {("noise", "", seed): edits.add_noise(x, norm, seed) for seed in seeds}


def effects(model, site: Site, new: dict[Key, Tensor], *, tag: str = "", progress: Progress | None = None) -> pd.DataFrame:
    """Return the per-question effects of replacing the site's rows by each new x [row d_model], seeds and variants as batches.

    Interventions that come to the same x (all swaps with empty medians do) are run once, and those that leave x as it was not at all.
    Columns: question_id, condition, layer, tag, position, error_term, intervention, seed, metric, baseline, value.
    """
    run = site.part.run.to(site.resid.device)
    size = max(1, TOKENS_AT_ONCE // site.part.n_tokens)
    distinct, which = _distinct([site.x, *new.values()])
    values = {m: [site.baseline[m]] for m in metrics.JUDGED}
    for begin in range(1, len(distinct), size):
        batch = torch.stack(distinct[begin : begin + size])
        edited = edits.replace_rows(site.resid, site.rows, batch)[:, run]
        found = metrics.measure(model, site.part, metrics.JUDGED, start=(site.layer + 1, edited), stored=site.stored)
        for m in metrics.JUDGED:
            values[m] += list(found[m])
        if progress:
            progress(f"{tag or 'no SAE'} L{site.layer} {site.position}", min(begin + size, len(distinct)) - 1, len(distinct) - 1)
    tables = [_rows(site, key, tag, {m: values[m][i] for m in metrics.JUDGED}) for key, i in zip(new, which[1:], strict=True)]
    return pd.concat(tables, ignore_index=True)


def _distinct(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[int]]:
    """Return the tensors without repetition, and for each tensor which of those it equals."""
    distinct: list[Tensor] = []
    which = []
    for tensor in tensors:
        same = next((i for i, other in enumerate(distinct) if torch.equal(tensor, other)), len(distinct))
        if same == len(distinct):
            distinct.append(tensor)
        which.append(same)
    return distinct, which


def _rows(site: Site, key: Key, tag: str, values: dict[str, np.ndarray]) -> pd.DataFrame:
    intervention, term, seed = key
    shared = {"question_id": site.pack.question_ids, "condition": "sandbag", "layer": site.layer, "tag": tag, "position": site.position,
              "error_term": term, "intervention": intervention, "seed": seed}  # fmt: skip
    return pd.concat([pd.DataFrame({**shared, "metric": m, "baseline": site.baseline[m], "value": v}) for m, v in values.items()])
