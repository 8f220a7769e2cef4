"""What a training leaves behind while it runs, so that a killed one goes on where it stopped."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from sandbagging.errors import UserError
from sandbagging.files import atomic_path
from sandbagging.saes.recipes import Recipe
from sandbagging.saes.stack import Stack


def save(
    path: Path, recipes: Sequence[Recipe], stack: Stack, history: list[dict[str, float]]
) -> None:
    """Write the whole state of a training, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    told = {
        "recipes": json.dumps([dataclasses.asdict(recipe) for recipe in recipes]),
        "history": json.dumps(history),
    }
    with atomic_path(path) as temporary:
        try:
            save_file(stack.state(), temporary, told)
        except SafetensorError as error:
            raise OSError(str(error)) from error


def resume(path: Path | None, recipes: Sequence[Recipe], stack: Stack) -> list[dict[str, float]]:
    """Load a checkpoint into `stack`, if there is one, and return its history; raises UserError if
    it is of other recipes.
    """
    if path is None or not path.exists():
        return []
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        before, history = json.loads(told["recipes"]), json.loads(told["history"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"The checkpoint {path} is damaged; delete it, and training starts anew."
        ) from None
    now = [dataclasses.asdict(recipe) for recipe in recipes]
    if before != now:
        differ = difference(before, now)
        raise UserError(
            f"{path} is the checkpoint of another training ({differ}); go on with those settings, "
            "or delete it."
        )
    stack.restore(state)
    return history


def difference(before: list[dict], now: list[dict]) -> str:
    """Return which hyperparameters differ, with both values."""
    if len(before) != len(now):
        return f"{len(before)} SAEs there, {len(now)} now"
    differ = {
        name: (a.get(name), b.get(name))
        for a, b in zip(before, now, strict=True)
        for name in a | b
        if a.get(name) != b.get(name)
    }
    return ", ".join(
        f"{name} = {there} there, {here} now" for name, (there, here) in differ.items()
    )
