"""What a model answers when it writes freely: the greedy continuation of its prompts.

All questions are written at once on one pack: the shared prefix and the prompts are run first, then
one new token of every unfinished question at a time, on top of the stored keys and values.
"""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from sandbagging import prompts
from sandbagging.errors import UserError
from sandbagging.models import hook_points, packing
from sandbagging.models.hook_points import Edit, HookPoint
from sandbagging.models.model import Model
from sandbagging.models.packing import Encoded, Pack
from sandbagging.progress import Progress
from sandbagging.prompts import Framing
from sandbagging.questions import Question

MOST = 12  # tokens of an answer
QUESTIONS_AT_ONCE = 512  # bounds the keys and values that are held
# rows of logits held in memory: 256 x 128k vocabulary in float32 is an eighth of a gigabyte
ROWS_AT_ONCE = 256


def write(
    model: Model,
    asked: Sequence[Question],
    condition: str,
    framing: Framing,
    *,
    edits: Mapping[HookPoint, Edit] | None = None,
    most: int = MOST,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return what the model writes behind each prompt: question_id, condition, framing, text.

    The most likely token is taken each time, up to the first newline, the end of the text or `most`
    tokens; the text is stripped. `edits` (see `hook_points.forward`) apply to every token, of the
    prompt and of the answer, and must treat a token alike wherever it stands. Raises UserError for
    unknown conditions and framings, for a prompt that ends in a space and for `most` below 1.
    """
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise UserError(f"An answer has 1 token or more; most={most!r} cannot be written.")
    special = not prompts.is_chat(framing)
    items = [
        packing.encode(
            model.tokenizer,
            question.id,
            prompts.render(question, condition, framing, model.tokenizer),
            (),
            special,
        )
        for question in asked
    ]
    written: list[list[int]] = []
    for begin in range(0, len(items), QUESTIONS_AT_ONCE):
        written += tokens(
            model,
            items[begin : begin + QUESTIONS_AT_ONCE],
            edits=edits,
            most=most,
            finished=progress
            and (lambda n, begin=begin: progress(f"write {condition}", begin + n, len(items))),
        )
    return pd.DataFrame(
        {
            "question_id": [item.question_id for item in items],
            "condition": condition,
            "framing": prompts.name_of(framing),
            "text": [_text(model, ids) for ids in written],
        }
    )


def write_all(
    model: Model,
    questions: Mapping[str, Sequence[Question]],
    conditions: Sequence[str],
    framing: Framing,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return `write` for every split ({split: questions}) and condition, stacked, with the column
    split after question_id.
    """
    asks = {split: [(condition, framing) for condition in conditions] for split in questions}
    return write_each(model, questions, asks, progress)


def write_each(
    model: Model,
    questions: Mapping[str, Sequence[Question]],
    asks: Mapping[str, Sequence[tuple[str, Framing]]],
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return `write` for every split ({split: questions}) and each of its (condition, framing),
    stacked, with the column split after question_id.
    """
    jobs = [(split, *ask) for split in questions for ask in asks[split]]
    tables = []
    for done, (split, condition, framing) in enumerate(jobs):
        table = write(model, questions[split], condition, framing)
        table.insert(1, "split", split)
        tables.append(table)
        if progress:
            progress(f"write {split} {condition}", done + 1, len(jobs))
    return pd.concat(tables, ignore_index=True)


def tokens(
    model: Model,
    items: Sequence[Encoded],
    *,
    edits: Mapping[HookPoint, Edit] | None = None,
    most: int = MOST,
    finished: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Return the token ids written behind each prompt, [question][token], the one that ended the
    answer included.

    `finished` is told after each step how many answers are complete.
    """
    pack, last = _pack(items, most)
    written: list[list[int]] = [[] for _ in items]
    unfinished = torch.arange(len(items))
    run, stored = _of_prompts(pack, last, most), {}
    for step in range(most):
        read = last[unfinished] + step
        if model.remote:  # a remote run keeps nothing from one step to the next
            final, _ = hook_points.forward(model, pack, edits=edits)
            rows = read
        else:
            part = pack.part(run)
            final, _ = hook_points.forward(model, part, edits=edits, stored=stored, store=True)
            rows = torch.searchsorted(run, read)
        new = _next(model, final[0, rows.to(final.device)])
        for question, token in zip(unfinished.tolist(), new.tolist(), strict=True):
            written[question].append(token)
        goes_on = torch.tensor(
            [step < most - 1 and not _ends(model, written[q]) for q in unfinished.tolist()]
        )
        unfinished, new = unfinished[goes_on], new[goes_on]
        if finished:
            finished(len(items) - len(unfinished))
        if not len(unfinished):
            break
        run = last[unfinished] + step + 1
        pack.input_ids[run] = new
    return written


def _pack(items: Sequence[Encoded], most: int) -> tuple[Pack, Tensor]:
    """Return a pack of the prompts with room for `most` - 1 written tokens behind each, and the
    index of each prompt's last token, [question].

    The last token of an answer is never run. What stands in the empty places is not read before it
    is written: a token sees only what stands before it in its own block.
    """
    n_prefix = packing.shared_prefix([item.prompt for item in items])
    roomy = [Encoded(i.question_id, i.prompt + i.prompt[-1:] * (most - 1), []) for i in items]
    pack = packing.pack(roomy, n_prefix)
    return pack, pack.last - (most - 1)


def _of_prompts(pack: Pack, last: Tensor, most: int) -> Tensor:
    """Return the indices of all tokens but the empty places, [token]."""
    of_prompt = torch.ones(pack.n_tokens, dtype=torch.bool)
    of_prompt[(last[:, None] + torch.arange(1, most)).flatten()] = False
    return of_prompt.nonzero().squeeze(1)


def _next(model: Model, hidden: Tensor) -> Tensor:
    """Return the most likely next token [row] of the normed residual stream [row d_model]."""
    return torch.cat(
        [hook_points.most_likely(model, rows) for rows in hidden.split(ROWS_AT_ONCE)]
    ).cpu()


def _ends(model: Model, ids: list[int]) -> bool:
    """Return whether an answer is finished with its last token."""
    return ids[-1] in end_tokens(model) or "\n" in _decoded(model, ids)


def end_tokens(model: Model) -> set[int]:
    """Return the ids that end a text: the tokenizer's and those of the model's own settings."""
    settings = getattr(model.module, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    ids = named if isinstance(named, list) else [named]
    return {i for i in (model.tokenizer.eos_token_id, *ids) if i is not None}


def _text(model: Model, ids: list[int]) -> str:
    """Return an answer's line, without what ended it."""
    shown = ids[:-1] if ids[-1] in end_tokens(model) else ids
    return _decoded(model, shown).split("\n")[0].strip()


def _decoded(model: Model, ids: list[int]) -> str:
    # As it stands: cleaning up would take spaces away from before signs.
    return model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
