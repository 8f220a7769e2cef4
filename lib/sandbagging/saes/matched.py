"""Detectors by latents, prompt by prompt: at each SAE's own L0, and at one L0 for SAEs of a layer
that can be matched.

An L0 below 16 at the last token leaves too little to compare: SAEs that have no more are not
matched with any.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from sandbagging import activations, files
from sandbagging.files import Folder
from sandbagging.progress import Progress
from sandbagging.saes import folders, probing, tokens
from sandbagging.saes.recipes import parse_tag

LEAST_L0 = 16
OWN, MATCHED = "own", "matched"
BY = ("best_latent", "all_latents")

Codes = Mapping[str, np.ndarray]  # condition -> [prompt latent], questions in one order


def levels(own: Mapping[str, float]) -> dict[str, int]:
    """Return {tag: L0 at which it is matched} from each SAE's own L0: by layer the smallest of
    those of at least 16, where these belong to two architectures or more; other tags are left out.
    """
    found: dict[str, int] = {}
    fields = {tag: parse_tag(tag) for tag, l0 in own.items() if l0 >= LEAST_L0}
    for layer in {f.layer for f in fields.values()}:
        there = [tag for tag, f in fields.items() if f.layer == layer]
        if len({fields[tag].architecture for tag in there}) > 1:
            found |= dict.fromkeys(there, int(min(own[tag] for tag in there)))
    return found


def own_l0(codes: Codes) -> float:
    """Return the mean number of active latents of a prompt, over conditions."""
    return float(np.mean([(c != 0).sum(axis=1).mean() for c in codes.values()]))


def scores(
    train: Codes, test: Codes, pair: tuple[str, str], l0: int | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Return {detector: {condition: [prompt]}} of two detectors: the latent that is best on train
    prompts, and the mean difference over all latents in units of their spread (a diagonal
    discriminant, with the median spread of active latents added).
    """
    shrink = (lambda codes: codes) if l0 is None else (lambda codes: probing.at_l0(codes, l0))
    seen, unseen = ({c: shrink(codes[c]) for c in pair} for codes in (train, test))
    first, second = (seen[c] for c in pair)
    on_train = probing.auroc(first, second) - 0.5
    latent = int(np.abs(on_train).argmax())
    sign = 1.0 if on_train[latent] >= 0 else -1.0
    spread = np.sqrt((first.var(axis=0) + second.var(axis=0)) / 2)
    floor = np.median(spread[spread > 0]) if spread.any() else 1.0
    along = (first.mean(axis=0) - second.mean(axis=0)) / (spread + floor)
    best = {c: sign * unseen[c][:, latent] for c in pair}
    return dict(zip(BY, (best, {c: unseen[c] @ along for c in pair}), strict=True))


def detector_scores(
    collected: Folder,
    trained: Folder,
    tags: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return what detectors by latents, fitted on train prompts, say of every test prompt.

    Columns: tag, layer, pair, by, at_l0 (own; matched, where `levels` allow it), l0, condition,
    first (of the pair's first condition), question_id, score. L0 is measured on train prompts.
    """
    conditions = list(dict.fromkeys(c for pair in pairs for c in pair))
    table = files.read_csv(collected / "tokens.csv.gz")
    codes = {tag: _codes(collected, trained, tag, table, conditions) for tag in tags}
    ids = _ids(table, conditions[0])
    own = {tag: own_l0(codes[tag]["train"]) for tag in tags}
    common = levels(own)
    tables = []
    for done, tag in enumerate(tags):
        at = {OWN: None} | ({MATCHED: common[tag]} if tag in common else {})
        for (kind, l0), pair in ((k, p) for k in at.items() for p in pairs):
            found = scores(codes[tag]["train"], codes[tag]["test"], pair, l0)
            where = {"tag": tag, "layer": parse_tag(tag).layer, "pair": " vs ".join(pair)}
            for by, of in found.items():
                for c in pair:
                    told = {"by": by, "at_l0": kind, "l0": own[tag] if l0 is None else l0}
                    side = {"condition": c, "first": c == pair[0], "question_id": ids}
                    tables.append(pd.DataFrame({**where, **told, **side, "score": of[c]}))
        if progress:
            progress("detectors", done + 1, len(tags))
    return pd.concat(tables, ignore_index=True)


def _codes(
    collected: Folder, trained: Folder, tag: str, table: pd.DataFrame, conditions: Sequence[str]
) -> dict[str, dict[str, np.ndarray]]:
    resid, sae = activations.load(collected, parse_tag(tag).layer), folders.load(trained / tag)
    return {
        split: {
            c: sae.encode(x).numpy()
            for c, x in tokens.last_tokens(resid, table, split, conditions).items()
        }
        for split in ("train", "test")
    }


def _ids(table: pd.DataFrame, condition: str) -> list[str]:
    """Return the test questions in the order of `tokens.last_tokens`."""
    last = table[table["is_last"] & (table["split"] == "test")]
    return sorted(last.loc[last["condition"] == condition, "question_id"])
