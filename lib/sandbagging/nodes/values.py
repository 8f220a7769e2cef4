"""Where the values that replace a node come from: another run, or a mean over prompts, place by
place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sandbagging.models import Model, hook_points
from sandbagging.models.packing import Pack
from sandbagging.nodes.interventions import Values, points_of

MOST_SHIFT = 16  # tokens by which one instruction line may be longer than another


def values_of(model: Model, pack: Pack) -> Values:
    """Return the output of every node in an untouched run, {point: [token width]}."""
    _, saved = hook_points.forward(model, pack, reads=points_of(model))
    return {point: value[0] for point, value in saved.items()}


def place_means(model: Model, pack: Pack, banks: Sequence[Pack]) -> Values:
    """Return, for the tokens of a pack, the mean output of every node at the same place of other
    prompts, {point: [token width]}.

    Places of the shared prefix are counted from its start up to the end of the instruction, the
    rest of the prefix by its words, a question's own tokens from the prompt's end, and an answer's
    from there on; a place that the others lack takes the nearest. Each pack of `banks` weighs the
    same. Position 0, an attention sink, keeps its own value.
    """
    own = values_of(model, pack)
    means = [_means(model, pack, bank) for bank in banks]
    found = {point: torch.stack([mean[point] for mean in means]).mean(0) for point in own}
    for point, value in found.items():
        value[pack.position_ids == 0] = own[point][pack.position_ids == 0]
    return found


def _means(model: Model, pack: Pack, bank: Pack) -> Values:
    """Return the mean over one pack's tokens at the places of another's tokens."""
    at, place = places(pack, bank)
    at, place = at.to(model.device), place.to(model.device)
    count = torch.bincount(place)
    return {
        point: (value.new_zeros(len(count), value.shape[1]).index_add_(0, place, value))[at]
        / count[at, None]
        for point, value in values_of(model, bank).items()
    }


def places(pack: Pack, bank: Pack) -> tuple[Tensor, Tensor]:
    """Return the place of each token of a pack and of a bank, [token] each, numbered as the bank
    has them.
    """
    n, n_bank = pack.n_prefix, bank.n_prefix
    behind, bank_behind = _from_last(pack)[n:], _from_last(bank)[n_bank:]
    low, high = bank_behind.min(), bank_behind.max()
    prefix = aligned(pack.input_ids[:n], bank.input_ids[:n_bank])
    return (
        torch.cat([prefix, n_bank + behind.clamp(low, high) - low]),
        torch.cat([torch.arange(n_bank), n_bank + bank_behind - low]),
    )


def _from_last(pack: Pack) -> Tensor:
    """Return how far behind its prompt's last token each token stands, [token]: up to 0 in the
    prompt, 1 and more in an answer; meaningless in the prefix.
    """
    return pack.position_ids - pack.position_ids[pack.last][pack.block.clamp_min(0)]


def aligned(ids: Tensor, other: Tensor) -> Tensor:
    """Return, for each token of a prefix, which token of another prefix stands at its place.

    From the last difference on, the same words stand at the same place; up to there the place is
    counted from the start.
    """
    at, last = torch.arange(len(ids)), max(len(other) - 1, 0)
    both = min(len(ids), len(other))
    differ = (ids[:both] != other[:both]).nonzero()
    if not len(differ):
        return at.clamp(max=last)
    first = int(differ[0])

    def same(shift: int) -> Tensor:
        return (ids == other[(at + shift).clamp(0, last)]) & (0 <= at + shift)

    def agreeing(shift: int) -> tuple[int, int]:
        inside = at + shift <= last
        return int((same(shift) & inside)[first:].sum()), -abs(shift)

    shift = max(range(-MOST_SHIFT, MOST_SHIFT + 1), key=agreeing)
    wrong = (~same(shift) & (at + shift <= last)).nonzero()
    tail = int(wrong.max()) + 1 if len(wrong) else first
    from_start = at.clamp(max=max(tail + shift - 1, 0))
    return torch.where(at < tail, from_start, at + shift).clamp(0, last)
