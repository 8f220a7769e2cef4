"""What must be seen beside a gap before it can be believed: do the median codes differ at all?"""

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd
from torch import Tensor

CELL = ["layer", "tag", "position"]  # what guards are about


class Guards(NamedTuple):
    """What must be seen beside a gap to believe it; norms in units of the residual stream."""

    nnz_genuine: int  # non-zero entries of m_G
    nnz_sandbag: int
    norm_delta: float  # ||D(m_G) - D(m_S)||
    norm_change: float  # mean over rows of ||D(m_G) - D(f(x))||
    norm_x: float  # mean ||x||
    fvu: float  # of the SAE at these rows


def measure_guards(x: Tensor, sae, m_g: Tensor, m_s: Tensor) -> Guards:
    """Return the guards of a swap at the rows x [row d_model]."""
    decoded_g, decoded_s, own = (
        sae.decode(m_g[None]),
        sae.decode(m_s[None]),
        sae.decode(sae.encode(x)),
    )
    fvu = float((x - own).square().sum() / (x - x.mean(0)).square().sum())
    return Guards(
        int((m_g != 0).sum()),
        int((m_s != 0).sum()),
        float((decoded_g - decoded_s).norm()),
        float((decoded_g - own).norm(dim=-1).mean()),
        float(x.norm(dim=-1).mean()),
        fvu,
    )


def guard_table(guards: Mapping[tuple[int, str, str], Guards]) -> pd.DataFrame:
    """Return the guards as a table, a row per layer, tag and position."""
    return pd.DataFrame(
        [dict(zip(CELL, key, strict=True), **g._asdict()) for key, g in guards.items()]
    )


def read_guards(table: pd.DataFrame) -> dict[tuple[int, str, str], Guards]:
    """Return what `guard_table` wrote, as guards by layer, tag and position."""
    return {
        (row["layer"], row["tag"], row["position"]): Guards(**{f: row[f] for f in Guards._fields})
        for row in table.to_dict("records")
    }
