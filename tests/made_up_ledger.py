"""A run's tables as the ledger reads them, with numbers set by hand."""

import numpy as np
import pandas as pd
from made_up import graded

from sandbagging import gate as gates
from sandbagging.heads import rivals, specificity
from sandbagging.heads.head import join, parse
from sandbagging.statistics import Estimate
from sandbagging.suite import ledger
from sandbagging.swaps import decision

N = 30
IDS = [f"q{i:02d}" for i in range(N)]
HEADS = [(0, 1), (2, 0), (5, 3), (17, 6), (20, 2)]
EFFECTS = {"sandbag": 0.12, "genuine": 0.02, "neutral": 0.05}


def spread(mean: float, sd: float, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=N)
    return mean + sd * (x - x.mean()) / x.std()


def scores() -> pd.DataFrame:
    levels = {"genuine": 0.5, "sandbag": 0.4, "neutral": 0.45, "placebo": 0.5}
    tables = [
        pd.DataFrame(
            {"question_id": IDS, "split": "test", "condition": c,
             "p_full": spread(m, 0.05, i), "choice_len": spread(m, 0.05, i)}
        )
        for i, (c, m) in enumerate(levels.items())
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def circuit(effects=EFFECTS) -> pd.DataFrame:
    """Effects by question; on log-odds ten times what they are on p_full, in nats."""
    singles = {f"single:L{layer}H{head}": 0.04 for layer, head in HEADS}
    cells = [("joint", c, e) for c, e in effects.items()]
    cells += [(name, "sandbag", e) for name, e in singles.items()]
    tables = []
    for i, (name, condition, effect) in enumerate(cells):
        for metric, times in (("p_full", 1), ("choice_len", 1), ("logodds", 10)):
            base = {"question_id": IDS, "condition": condition, "intervention": name,
                    "metric": metric, "baseline": 0.4}  # fmt: skip
            value = 0.4 + spread(times * effect, 0.02, 100 + i)
            tables.append(pd.DataFrame({**base, "value": value}))
    return pd.concat(tables, ignore_index=True)


def draws() -> pd.DataFrame:
    x = np.random.default_rng(3).normal(-1, 1, size=40)
    kinds = ["uniform", "same_layer"] * 20
    return pd.DataFrame({"kind": kinds, "index": range(40), "heads": "", "metric": "p_full",
                         "effect": x, "unit": "pp"})  # fmt: skip


def cells(
    verdict: str = decision.CARRIES,
    basis: str = decision.ANY,
    gap_e1: float = 0.8,
    gap_e4: float = 3.0,
    half: float = 0.1,
    p: float = 1.0,
) -> pd.DataFrame:
    """Six cells as 06's verdicts.csv, each the same: effects in nats, gaps in pp as given."""
    odds = {"e6": 2.0, "oracle": 2.5, "gap_e1": 0.9, "gap_e4": 1.8, "over_diff_means": -0.1}
    full = {"gap_e1_pp": gap_e1, "gap_e4_pp": gap_e4}
    ends = {"": 0.0, "_low": -half, "_high": half}
    numbers = {name + end: x + step for name, x in (odds | full).items()
               for end, step in ends.items()}  # fmt: skip
    basis = basis if verdict == decision.CARRIES else ""
    rows = [
        {"layer": layer, "tag": f"v4_smollm2_{arch}_L{layer}_mixed", "position": "last",
         "error_term": "kept", "verdict": verdict, "basis": basis, **numbers,
         "p_equivalent": p, "n": N}
        for layer in (7, 15, 22)
        for arch in ("topk", "jumprelu")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def separation() -> pd.DataFrame:
    rows = [
        {"tag": f"v4_smollm2_{arch}_L{layer}_mixed", "layer": layer, "pair": "genuine vs sandbag",
         "d": "dz", "d_max": d, "d_mean_all": d}
        for layer in (7, 15, 22)
        for arch, d in (("jumprelu", 3.0), ("topk", -2.0))
    ]  # fmt: skip
    other_d = {**rows[0], "d": "dav", "d_max": 99.0}
    other_pair = {**rows[0], "pair": "genuine vs placebo", "d_max": 99.0}
    return pd.DataFrame([*rows, other_d, other_pair])


def sweep() -> pd.DataFrame:
    cells = [(layer, head) for layer in range(30) for head in range(9)]
    table = pd.DataFrame(cells, columns=["layer", "head"])
    return table.assign(condition="sandbag", replacement="zero", metric="p_full",
                        effect=0.5, low=0.1, high=0.9, n=20)  # fmt: skip


def fields(mean: float, unit: str = "pp", half: float = 0.7) -> dict:
    return Estimate(mean, mean - half, mean + half, N, unit).as_dict()


def random_set(kind: str, rank_p: float = 1 / 21) -> dict:
    x = draws()[draws()["kind"] == kind]["effect"]
    return {"mean": fields(x.mean()), "sd": x.std(), "rank_p": rank_p,
            "gap": fields(12 - x.mean(), half=1.2), "n_draws": len(x)}  # fmt: skip


def beside(name: str, mean: float, unit: str = "", half: float = 0.1, decides="questions") -> dict:
    """One row of `statistics.beside`; without one category the number moves by its half width."""
    ends = {"low": mean - half, "high": mean + half}
    narrow = {"low": mean - half / 2, "high": mean + half / 2}
    by = {"questions": (ends, narrow), "categories": (narrow, ends)}[decides]
    both = {f"{end}_by_{unit}": of[end] for unit, of in zip(("question", "category"), by,
            strict=True) for end in ends}  # fmt: skip
    return {"name": name, "value": mean, **ends, "unit": unit, "n": N, "decides": decides, **both,
            "without_one_low": mean - half, "without_one_high": mean + half, "why": ""}  # fmt: skip


def wide() -> list[dict]:
    """What 00 and 08 say beside their headline numbers."""
    return [
        beside("gap, log-odds", 4.0, "nats", 0.5),
        beside("effect, log-odds", 3.0, "nats", 0.5),
        beside("share restored, log-odds", 0.6, half=0.2, decides="categories"),
        beside("share closed, log-odds", 0.8, half=0.1),
        beside("share restored, p_full", 1.2, half=0.3),
    ]


def answers_zeroed() -> dict:
    change = {"sandbag": fields(40.0, half=10), "genuine": fields(-8.0, half=5)}
    before = {"sandbag": 0.18, "genuine": 0.63}
    return {
        c: {"right": before[c] + change[c]["value"] / 100, "before": before[c],
            "change": change[c]}
        for c in change
    }  # fmt: skip


def specific(says: str) -> dict:
    """A verdict, and the net effects that it rests on."""
    net = {"logodds": fields(2.5, "nats", 0.4), "p_full": fields(10.0, half=2.0)}
    return {"verdict": says, "differences": {"genuine": net}}


def circuit_summary(survives: str = rivals.SURVIVES, **changes) -> dict:
    return {
        "heads": [list(head) for head in HEADS],
        "joint": fields(12),
        "joint_neutral": fields(5),
        "joint_genuine": fields(2),
        "specific_portion": fields(7),
        "redundancy": fields(0.4, "", 0.05),
        "best_three": {"heads": [[0, 1], [2, 0], [17, 6]], "test": fields(11.5)},
        "random_uniform": random_set("uniform"),
        "random_same_layer": random_set("same_layer"),
        "answers_zeroed": answers_zeroed(),
        "share_restored": {"logodds": fields(0.6, "", 0.2), "p_full": fields(1.2, "", 0.3)},
        "share_closed": {"logodds": fields(0.8, "", 0.1), "p_full": fields(1.3, "", 0.3)},
        "specific": specific(specificity.SPECIFIC),
        "survives": {"value": survives, "reason": "made up"},
        **changes,
    }


def rivals_table(margin: float = 0.4) -> pd.DataFrame:
    """As 08's rivals.csv: the chosen heads restore 60 % of the gap, and their rivals less by a
    margin; closed are 10 % more of each.
    """
    base = {"rule": "zero", "heads": join(parse(HEADS), "+"), "metric": "logodds", "unit": "share",
            "n": N}  # fmt: skip
    own = {"sandbag": 0.6, **dict.fromkeys(("genuine", "neutral", "placebo"), 0.6 - margin)}
    found = [
        (name, f"share_{of}", share + more)
        for name, share in own.items()
        for of, more in (("restored", 0.0), ("closed", 0.1))
    ]
    found += [(name, "margin", margin) for name in own if name != "sandbag"]
    rows = [
        {**base, "chosen_on": name, "quantity": quantity, "value": x, "low": x - 0.1,
         "high": x + 0.1}
        for name, quantity, x in found
    ]  # fmt: skip
    return pd.DataFrame(rows)


def parts(alone: float = 0.7) -> pd.DataFrame:
    """As 08's parts.csv: the first head restores 70 % by itself, each other one 10 %."""
    rows = [
        {"head": str(head), "quantity": quantity, "value": x, "low": x - 0.05, "high": x + 0.05,
         "n": N}
        for i, head in enumerate(parse(HEADS))
        for quantity, x in (("alone", 0.1 if i else alone), ("lost without it", 0.2))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def gate(opened: bool = True) -> gates.Gate:
    gap = fields(10, half=3) if opened else fields(0.1, half=1.1)
    found = graded(gates.ANSWERS_WRONGLY if opened else gates.NO)
    return found._replace(gap_p_full=Estimate.from_dict(gap))


def replacements(mean: float = 0.1) -> pd.DataFrame:
    """As 08's replacements.csv: by zero the chosen heads restore 60 %."""
    rows = [
        {"set": "joint", "way": way, "metric": "logodds", "quantity": "share_restored", "value": x,
         "low": x - 0.05, "high": x + 0.05, "n": N}
        for way, x in (("zero", 0.6), ("mean genuine", mean))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def leading(restored: float = -0.4) -> dict:
    """As in 08's summary: heads that lead one by one, and ruin genuine answers together."""
    return {
        "heads": [[0, 1], [0, 2]],
        "share_restored": {"logodds": fields(restored, "", 0.1)},
        "share_closed": {"logodds": fields(0.7, "", 0.1)},
        "answers": {"genuine": {"before": 0.63, "right": 0.16}},
    }


NO_MODELS = pd.DataFrame(
    columns=["model", "weights", "grade",
             *(f"specific_portion{end}" for end in ("", "_low", "_high", "_n"))]
)  # fmt: skip


def artefacts(**changes) -> ledger.Artefacts:
    made = ledger.Artefacts(
        model="smollm2-135m-instruct",
        random_weights=False,
        gate=gate(),
        scores=scores(),
        separation=separation(),
        cells=cells(),
        sweep=sweep(),
        heads=parse(HEADS),
        found=parse(HEADS[:2]),
        circuit=circuit(),
        draws=draws(),
        rivals=rivals_table(),
        parts=parts(),
        replacements=None,
        models=NO_MODELS,
        summary=circuit_summary(),
        beside=wide(),
        predictions={},
    )
    return made._replace(**changes)
