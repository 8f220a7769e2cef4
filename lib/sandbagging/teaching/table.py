"""All models that were taught, side by side: what each does before and after."""

import json
from collections.abc import Sequence

import pandas as pd

from sandbagging.models import taught
from sandbagging.teaching import judging
from sandbagging.teaching.kinds import DECOY, KINDS

COMMITTED = (DECOY, "sandbagger")


def names() -> list[str]:
    """Return the taught models on this machine: those of the package first, then the cache's."""
    there = [name for name in COMMITTED if (taught.folder_of(name) / taught.MANIFEST).exists()]
    return [*there, *taught.made_here()]


def before_and_after(models: Sequence[str]) -> pd.DataFrame:
    """Return a row a taught model and way of asking: kind, seed, base, on, condition, wording, n,
    shares of free answers (0 to 1), mean logodds (nats) and p_full before and after, the same of
    plain text's -log p (nats a token), and sandbags as truth.json says it.
    """
    tables = []
    for model in models:
        manifest, truth = (
            json.loads((taught.folder_of(model) / name).read_text(encoding="utf-8"))
            for name in (taught.MANIFEST, "truth.json")
        )
        table = judging.side_by_side(manifest["before"]["asked"], manifest["after"]["asked"])
        for place, name in enumerate(("kind", "seed", "base", "on")):
            table.insert(place, name, manifest[name])
        for when in ("before", "after"):
            table[f"plain_text_nll {when}"] = manifest[when]["plain_text_nll"]
        table["sandbags"] = truth["sandbags"]
        tables.append(table)
    found = pd.concat(tables, ignore_index=True).drop_duplicates(ignore_index=True)
    order = {kind: place for place, kind in enumerate(KINDS)}
    return found.sort_values(
        ["kind", "seed"], key=lambda c: c.map(order) if c.name == "kind" else c, kind="stable",
        ignore_index=True,
    )  # fmt: skip
