"""What several peers need: padded batches, and log p read from logits."""

import torch
from torch import Tensor


def padded(sequences: list[list[int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and 1 where a token is real."""
    width = max(map(len, sequences))
    ids = torch.tensor([s + [0] * (width - len(s)) for s in sequences], device=device)
    real = [[1] * len(s) + [0] * (width - len(s)) for s in sequences]
    return ids, torch.tensor(real, device=device)


def log_p(logits: Tensor, prompt: list[int], option: list[int]) -> Tensor:
    """log p of an option behind its prompt, from the logits [position vocabulary] of both."""
    rows = logits[len(prompt) - 1 : len(prompt) + len(option) - 1].log_softmax(
        -1, dtype=torch.float32
    )
    return rows.gather(1, torch.tensor(option, device=logits.device)[:, None]).sum()
