"""Collect the residual stream of prompts, token by token, and keep it on disk with a table of what
each row is.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sandbagging import metrics, prompts
from sandbagging.errors import UserError
from sandbagging.files import Folder, atomic_path
from sandbagging.models import check_layers, hook_points, packing
from sandbagging.models.hook_points import HookPoint
from sandbagging.models.model import Model
from sandbagging.models.packing import Pack
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question


def collect(
    model: Model,
    questions: Sequence[Question],
    condition: str,
    framing: Framing,
    layers: Sequence[int],
    split: str,
) -> tuple[dict[int, Tensor], pd.DataFrame]:
    """Return {layer: resid_post [row d_model]} of one condition's prompt tokens, and one line a
    row.

    Rows are the tokens of each question behind the prefix that all prompts of this condition share;
    of that prefix one copy is kept (question_id ""), without position 0, whose norm is hundreds of
    times that of the others. Columns: row, question_id, split, condition, framing, position,
    is_last.
    """
    check_layers(model, list(layers))
    pack = _prompts_only(model, questions, condition, framing)
    points = [HookPoint("resid_post", layer) for layer in layers]
    _, saved = hook_points.forward(model, pack, reads=points)
    rows = torch.cat([torch.arange(1, pack.n_prefix), pack.trunk()])
    resid = {point.layer: value[0, rows.to(value.device)].cpu() for point, value in saved.items()}
    return resid, _describe(pack, rows, condition, framing, split)


def _prompts_only(
    model: Model, questions: Sequence[Question], condition: str, framing: Framing
) -> Pack:
    """Return the prompts as one pack that runs no answer token."""
    encoded = [metrics.encode(model, q, condition, framing)[1] for q in questions]
    # An option of one token is read at the prompt's last token and never run itself.
    return packing.pack([replace(item, options=[item.options[0][:1]]) for item in encoded])


def _describe(
    pack: Pack, rows: Tensor, condition: str, framing: Framing, split: str
) -> pd.DataFrame:
    names = np.array([*pack.question_ids, ""])
    return pd.DataFrame(
        {
            "row": np.arange(len(rows)),
            # block -1, the prefix, is the empty name at the end
            "question_id": names[pack.block[rows].numpy()],
            "split": split,
            "condition": condition,
            "framing": prompts.name_of(framing),
            "position": pack.position_ids[rows].numpy(),
            "is_last": np.isin(rows.numpy(), pack.last.numpy()),
        }
    )


def collect_all(
    model: Model,
    questions: dict[str, Sequence[Question]],
    conditions: Sequence[str],
    framing: Framing,
    layers: Sequence[int],
    progress: Progress | None = None,
) -> tuple[dict[int, Tensor], pd.DataFrame]:
    """Return `collect` for every split ({split: questions}) and condition, stacked, with rows
    numbered through.
    """
    jobs = [(split, condition) for split in questions for condition in conditions]
    parts, tables = [], []
    for done, (split, condition) in enumerate(jobs):
        resid, table = collect(model, questions[split], condition, framing, layers, split)
        parts.append(resid)
        tables.append(table)
        if progress:
            progress(f"collect {split} {condition}", done + 1, len(jobs))
    table = pd.concat(tables, ignore_index=True)
    return {layer: torch.cat([p[layer] for p in parts]) for layer in layers}, table.assign(
        row=np.arange(len(table))
    )


def norms_by_position(
    model: Model,
    questions: Sequence[Question],
    condition: str,
    framing: Framing,
    layers: Sequence[int],
) -> pd.DataFrame:
    """Return the mean norm of resid_post at each position, attention sink included: columns layer,
    position, norm, n (tokens).
    """
    pack = _prompts_only(model, questions, condition, framing)
    _, saved = hook_points.forward(
        model, pack, reads=[HookPoint("resid_post", layer) for layer in layers]
    )
    tables = [
        pd.DataFrame(
            {
                "layer": point.layer,
                "position": pack.position_ids,
                "norm": value[0].norm(dim=-1).cpu().numpy(),
            }
        )
        for point, value in saved.items()
    ]
    return (
        pd.concat(tables)
        .groupby(["layer", "position"], as_index=False)
        .agg(norm=("norm", "mean"), n=("norm", "size"))
    )


def file_name(layer: int) -> str:
    """Return the name of one layer's file: L07.safetensors."""
    return f"L{layer:02d}.safetensors"


def save(folder: Path, resid: dict[int, Tensor]) -> None:
    """Write one safetensors file a layer, tensor "resid_post" [row d_model]."""
    from safetensors.torch import save_file

    for layer, value in resid.items():
        with atomic_path(folder / file_name(layer)) as temporary:
            save_file({"resid_post": value.contiguous()}, temporary)


def collect_to_files(
    model: Model,
    questions: dict[str, Sequence[Question]],
    conditions: Sequence[str],
    framing: str,
    layers: Sequence[int],
    *,
    into: Path,
    progress: Progress | None = None,
) -> tuple[Folder, pd.DataFrame]:
    """Write what `collect_all` returns into a folder, a file a layer; return the files and the
    table of their rows.
    """
    resid, table = collect_all(model, questions, conditions, framing, layers, progress)
    save(into, resid)
    return Folder.of(into, *map(file_name, layers)), table


def load(folder: Path | Folder, layer: int) -> Tensor:
    """Return resid_post [row d_model] of one layer; raises UserError if it was not collected."""
    from safetensors.torch import load_file

    path = folder / file_name(layer)
    if not path.exists():
        there = ", ".join(p.stem for p in sorted(path.parent.glob("L*.safetensors"))) or "none"
        raise UserError(
            f"Layer {layer} was not collected (there: {there}); add it to `layers` of notebook 01 "
            "and run that again."
        )
    return load_file(path)["resid_post"].float()


def select(
    table: pd.DataFrame, split: str, condition: str, last: bool | None = None
) -> pd.DataFrame:
    """Return the lines of a split and condition that belong to a question; `last` keeps last prompt
    tokens only.
    """
    chosen = table[
        (table["split"] == split)
        & (table["condition"] == condition)
        & table["question_id"].notna()
        & (table["question_id"] != "")
    ]
    return chosen[chosen["is_last"]] if last else chosen


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Return what was collected by split and condition: questions, question tokens, tokens of the
    one prefix copy, longest prompt.
    """
    rows = []
    for (split, condition), part in table.groupby(["split", "condition"], sort=False):
        own = select(part, split, condition)
        rows.append(
            {
                "split": split,
                "condition": condition,
                "questions": own["question_id"].nunique(),
                "question_tokens": len(own),
                "prefix_tokens": len(part) - len(own),
                "longest_prompt": int(part["position"].max()) + 1,
            }
        )
    return pd.DataFrame(rows)


def last_tokens(resid: dict[int, Tensor], table: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return resid_post at the last prompt token of each question beside its genuine twin, a row a
    layer, condition and question.

    Columns: layer, condition, question_id, norm (model units), distance (norm of the difference
    from genuine / genuine norm).
    Raises UserError where the conditions hold other questions.
    """
    rows = {
        c: select(table, split, c, last=True).set_index("question_id")["row"]
        for c in table["condition"].unique()
    }
    ids, parts = rows["genuine"].index, []
    for condition, of_question in rows.items():
        if sorted(of_question.index) != sorted(ids):
            raise UserError(
                f"The {split} questions under {condition} are not those under genuine; collect the "
                "activations of both again."
            )
    for layer, values in resid.items():
        genuine = values[rows["genuine"].tolist()]
        for condition, of_question in rows.items():
            x = values[of_question.loc[ids].tolist()]
            distance = (x - genuine).norm(dim=-1) / genuine.norm(dim=-1)
            parts.append(
                pd.DataFrame(
                    {
                        "layer": layer,
                        "condition": condition,
                        "question_id": ids,
                        "norm": x.norm(dim=-1).numpy(),
                        "distance": distance.numpy(),
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def compare_last_tokens(files: Folder, table: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return `last_tokens` of collected files and the table of their rows."""
    layers = sorted(int(name[1:].split(".")[0]) for name in files.hashes if name[0] == "L")
    return last_tokens({layer: load(files, layer) for layer in layers}, table, split)
