"""Make a folder of trained SAEs ready to upload: one subfolder a tag, and a README with front
matter and measured quality.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from sandbagging import files, models
from sandbagging.errors import UserError
from sandbagging.saes import folders

FILES = ("cfg.json", "sae_weights.safetensors", "metrics.json")
LICENCE = "mit"  # that of this suite
# what a model without a hub id here was made from
BASES = {models.EMBEDDED: "HuggingFaceTB/SmolLM2-135M-Instruct"}
COLUMNS = {
    "l0": "L0",
    "fvu": "FVU",
    "dead": "dead",
    "loss_recovered": "loss recovered",
    "fvu_last": "FVU at last tokens",
}


def release(trained: Path, folder: Path, *, repository: str = "owner/name") -> list[str]:
    """Write a folder, ready to upload, of every SAE below a run's 02_saes, and return the tags.

    Each SAE is read with every guard first. Raises UserError where there is none, where weights are
    missing (a committed run holds none), and for a folder that is not empty. The folder appears
    whole or not at all.
    """
    found = sorted(path.parent for path in trained.glob("*/metrics.json"))
    if not found:
        raise UserError(
            f"There are no trained SAEs in {trained}; run notebook 02_train_saes with the tags to "
            "release."
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; name a new folder.")
    metrics = [json.loads((path / "metrics.json").read_text()) for path in found]
    contents = [folders.read(path) for path in found]
    for path, content in zip(found, contents, strict=True):
        for note in folders.weight_notes(content.weights):
            raise UserError(f"{path.name} is not fit for release: {note}")
    with files.atomic_folder(folder) as partial:
        for path in found:
            (partial / path.name).mkdir()
            for name in FILES:
                shutil.copy2(path / name, partial / path.name / name)
        files.write_bytes(
            partial / "README.md",
            readme(metrics, contents[0].config["metadata"], repository).encode(),
        )
    return [path.name for path in found]


def readme(metrics: list[dict[str, Any]], metadata: dict[str, Any], repository: str) -> str:
    """Return the README of a release: front matter, how the SAEs were made, how to load one, and a
    table of measured quality.
    """
    model_name, recipe = metadata["model_name"], metrics[0]["recipe"]
    entry = models.entry(model_name)
    beneath = entry.base if entry and entry.base else model_name
    entry = models.entry(beneath)
    base = BASES.get(beneath) or (entry.hub_id if entry is not None else beneath)
    layers = sorted({m["layer"] for m in metrics})
    return f"""---
library_name: saelens
base_model: {base}
license: {LICENCE}
tags:
- sparse-autoencoder
- saelens
- sandbagging
---

# {len(metrics)} sparse autoencoders on sandbagging prompts: {model_name}

They read the residual stream after block {", ".join(map(str, layers))} (resid_post), raw: the
scaling of the input is folded into the weights. Trained on prompts that ask for a right answer
(genuine_only), for a wrong one on purpose (sandbagging_only), or on both and neutral ones (mixed);
questions: {metadata["dataset"]}. A tag is `v4_MODEL_ARCHITECTURE_LLAYER_CONDITION`; TopK has k = 64
unless the tag says another, and x8 means 8 latents for each dimension instead of 4.

Adam, learning rate {recipe["lr"]:g}, batch {recipe["batch"]}, decoder rows at unit norm,
seed {recipe["seed"]}; JumpReLU with a {recipe["kernel"]}-kernel straight-through estimator of
width {recipe["bandwidth"]:g}, L1 coefficient {recipe["l1"]:g}. Every setting stands in each
`cfg.json` under `metadata.recipe`.

```python
from sae_lens import SAE
sae = SAE.from_pretrained("{repository}", "{metrics[0]["tag"]}")
```

## Quality on held-out questions

FVU: squared error over squared distance from the mean (0 perfect, 1 no better than a constant).
Dead: share of latents that never fire on these {metrics[0]["n_tokens"]} tokens. Loss recovered: 1
if next-token prediction is as good as without the SAE, 0 as bad as with zeros.

{_quality_table(metrics)}

Made with sandbagging {metadata["sandbagging_version"]}, commit {metadata.get("commit", "unknown")}.
"""


def _quality_table(metrics: list[dict[str, Any]]) -> str:
    lines = pd.DataFrame(metrics)[["tag", *COLUMNS]].astype(object)
    rows = ["| tag | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    for line in lines.to_dict("records"):
        rows.append(
            f"| {line['tag']} | "
            + " | ".join("–" if pd.isna(line[c]) else f"{line[c]:.3f}" for c in COLUMNS)
            + " |"
        )
    return "\n".join(rows)


def upload(folder: Path, repository: str) -> str:
    """Upload a released folder to the hub with the token in HF_TOKEN, and return its address;
    raises UserError without a token.
    """
    token = os.environ.get("HF_TOKEN")
    if not token:
        raise UserError(
            "An upload needs a token in the environment variable HF_TOKEN; set it, then run the "
            "command again."
        )
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository)
    except Exception as error:  # the hub and its transports each have their own kinds
        raise UserError(
            f"The upload to {repository} failed ({type(error).__name__}); {folder} is ready, so "
            "try again."
        ) from error
    return f"https://huggingface.co/{repository}"
