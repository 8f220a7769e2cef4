"""Many prompts and their answer options as one token sequence: a prefix tree, so that each shared
token is computed once.

1. All prompts share a prefix (instruction and demonstrations): its tokens stand once, at the front.
2. Each question then has a block: its own prompt tokens (the trunk) and, behind them, one branch
   per answer option.
3. A token sees the prefix, its own trunk and its own branch, up to itself. Positions restart at
   each branch.
4. The last token of an option is never run: only what predicts it is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sandbagging.errors import UserError


@dataclass(frozen=True)
class Encoded:
    """The token ids of one prompt and of its answer options, correct option first."""

    question_id: str
    prompt: list[int]
    options: list[list[int]]


@dataclass(frozen=True)
class Pack:
    """One packed sequence: what to run, who sees whom, and where to read."""

    input_ids: Tensor  # [token]
    position_ids: Tensor  # [token]
    n_prefix: int  # shared tokens at the front
    block: Tensor  # [token] the question a token belongs to, -1 in the prefix
    branch: Tensor  # [token] 0 in the trunk, 1 + option in a branch
    last: Tensor  # [question] index of the last prompt token
    read_at: Tensor  # [target] index of the token that predicts a target
    target: Tensor  # [target] token id to be predicted
    target_option: Tensor  # [target] question * n_options + option
    question_ids: tuple[str, ...]
    n_options: int
    whole: "Pack | None" = None  # of a part: the pack it belongs to
    # of a part: [token] index in the whole pack of each token that is run
    index: Tensor | None = None

    def part(self, index: Tensor) -> "Pack":
        """Return the pack cut down to the tokens `index` (ascending indices), which must hold every
        token that is read.
        """
        place = torch.full((self.n_tokens,), -1)
        place[index] = torch.arange(len(index))
        if (place[self.read_at] < 0).any():
            raise ValueError("a part must run every token that its targets are read at")
        return replace(
            self,
            input_ids=self.input_ids[index],
            position_ids=self.position_ids[index],
            block=self.block[index],
            branch=self.branch[index],
            n_prefix=int((index < self.n_prefix).sum()),
            last=place[self.last],
            read_at=place[self.read_at],
            whole=self,
            index=index,
        )

    def trunk(self) -> Tensor:
        """Return the indices of the questions' own prompt tokens, [token]."""
        return ((self.block >= 0) & (self.branch == 0)).nonzero().squeeze(1)

    def from_last(self) -> Tensor:
        """Return the indices of the last prompt tokens and of all option tokens, [token]: what an
        edit at the last token reaches.
        """
        wanted = self.branch > 0
        wanted[self.last] = True
        return wanted.nonzero().squeeze(1)

    def behind_prefix(self) -> Tensor:
        """Return the indices of all tokens behind the shared prefix, [token]."""
        return (self.block >= 0).nonzero().squeeze(1)

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)

    def dense_mask(self) -> Tensor:
        """Return who sees whom, [token token] bool: the tree written out as an ordinary attention
        mask.
        """
        block, branch = self.block, self.branch
        same_block = (block[:, None] == block[None]) & (
            (branch[None] == 0) | (branch[:, None] == branch[None])
        )
        earlier = torch.arange(self.n_tokens)
        return ((block[None] == -1) | same_block) & (earlier[None] <= earlier[:, None])


def encode(
    tokenizer: Any, question_id: str, prompt: str, options: Sequence[str], special: bool = True
) -> Encoded:
    """Return the token ids of a prompt and of " " + each option.

    Raises UserError if the prompt ends in a space, if its last tokens change when the answer is put
    behind it (log p of the answer would then belong to another text), or if a beginning-of-sequence
    token stands twice.
    """
    if prompt != prompt.rstrip():
        raise UserError(
            f"The prompt of {question_id} ends in white space; answers are scored as ' ' + answer, "
            "so end it at the colon."
        )
    prompt_ids = tokenizer(prompt, add_special_tokens=special).input_ids
    bos = tokenizer.bos_token_id
    if special and bos is not None and prompt_ids[:2] == [bos, bos]:
        raise UserError(
            f"The prompt of {question_id} begins with two beginning-of-sequence tokens; remove the "
            "one in its text."
        )
    option_ids = []
    for option in options:
        # Tokenised together, since a tokenizer that begins every text with a space of its own gives
        # " " + option alone two of them.
        ids = tokenizer(f"{prompt} {option}", add_special_tokens=special).input_ids
        if ids[: len(prompt_ids)] != prompt_ids or len(ids) == len(prompt_ids):
            raise UserError(
                f"This tokenizer splits the prompt of {question_id} otherwise once the answer "
                f"{option!r} stands behind it, "
                "so the answer's probability cannot be read; choose another framing, answer or "
                "model."
            )
        option_ids.append(ids[len(prompt_ids) :])
    return Encoded(question_id, prompt_ids, option_ids)


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many leading tokens all prompts share; every prompt keeps at least one token of
    its own.
    """
    limit = min(len(p) for p in prompts) - 1
    first = prompts[0]
    for i in range(limit):
        if any(p[i] != first[i] for p in prompts):
            return i
    return limit


def pack(encoded: Sequence[Encoded], n_prefix: int | None = None) -> Pack:
    """Return the prompts and options as one prefix tree; `n_prefix` fixes the shared length
    (default: the longest).
    """
    if n_prefix is None:
        n_prefix = shared_prefix([e.prompt for e in encoded])
    ids, positions = list(encoded[0].prompt[:n_prefix]), list(range(n_prefix))
    block, branch = [-1] * n_prefix, [0] * n_prefix
    last, read_at, target, target_option = [], [], [], []
    n_options = len(encoded[0].options)
    for item in encoded:
        if len(item.options) != n_options:
            raise UserError(
                f"Question {item.question_id} has {len(item.options) - 1} wrong answers and "
                f"{encoded[0].question_id} has {n_options - 1}; questions that are asked together "
                "need as many."
            )

    def add(tokens: Sequence[int], start: int, in_block: int, in_branch: int) -> None:
        ids.extend(tokens)
        positions.extend(range(start, start + len(tokens)))
        block.extend([in_block] * len(tokens))
        branch.extend([in_branch] * len(tokens))

    for q, item in enumerate(encoded):
        add(item.prompt[n_prefix:], n_prefix, q, 0)
        last.append(len(ids) - 1)
        for k, option in enumerate(item.options):
            # The first answer token is predicted by the prompt's last token, the others by their
            # predecessor.
            read_at.extend([last[-1], *range(len(ids), len(ids) + len(option) - 1)])
            target.extend(option)
            target_option.extend([q * n_options + k] * len(option))
            add(option[:-1], len(item.prompt), q, 1 + k)
    as_tensor = partial(torch.tensor, dtype=torch.long)  # a list may be empty
    return Pack(
        as_tensor(ids),
        as_tensor(positions),
        n_prefix,
        as_tensor(block),
        as_tensor(branch),
        as_tensor(last),
        as_tensor(read_at),
        as_tensor(target),
        as_tensor(target_option),
        tuple(e.question_id for e in encoded),
        n_options,
    )
