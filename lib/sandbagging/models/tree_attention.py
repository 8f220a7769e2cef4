"""Attention over a packed prefix tree: a question's tokens attend to the shared prefix and to their
own block, to nothing else.

Equal to dense attention under `Pack.dense_mask()`, at a cost that grows with the tokens and not
with their square. It is registered with transformers under the name "tree" and is used when a
forward call is given `tree=`; any other call of the same model takes torch's own attention.

A part of a pack can be run alone (`Pack.part`): the keys and values of the tokens that are left out
then come from an earlier run of the whole pack, which is right exactly as long as nothing that
these tokens depend on was edited. Parts can also be run one after another, each storing its keys
and values beside those of the parts before it: so text is written token by token.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sandbagging.models.packing import Pack

# layer -> keys and values, each [1 kv_head token d_head]
KeysValues = dict[int, tuple[Tensor, Tensor]]


def use(module: torch.nn.Module) -> None:
    """Make a transformers model take tree attention wherever a forward call is given `tree=`."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("tree", tree_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("tree", sdpa_mask)
    module.config._attn_implementation = "tree"


@dataclass(frozen=True)
class Tree:
    """The index tensors that tree attention needs, for one pack; slots are places in a block,
    padded to one width.
    """

    n_prefix: int  # tokens of the prefix
    n_prefix_run: int  # of them, how many are run: all or none
    keys: Tensor  # [block key_slot] index of a token behind the prefix
    # [block query_slot] index, among the tokens run behind the prefix, of the token in a slot
    queries: Tensor
    visible: Tensor  # [block query_slot key_slot] bool
    slot_of: Tensor  # [token run behind the prefix] its place in the flattened block x query_slot
    index: Tensor | None  # [token run] its index in the whole pack, None if all are run
    n_tokens: int  # of the whole pack
    # filled by whatever is run if `store`, read by a run of a part
    stored: KeysValues = field(default_factory=dict)
    store: bool = False


def tree_of(
    pack: Pack,
    device: torch.device | str = "cpu",
    stored: KeysValues | None = None,
    store: bool = False,
) -> Tree:
    """Return the index tensors of a pack; `stored` holds the keys and values that a part takes
    over. Blocks of which nothing is run are left out.
    """
    whole = pack.whole or pack
    n = whole.n_prefix
    run = torch.arange(whole.n_tokens) if pack.index is None else pack.index
    behind = run[run >= n] - n
    blocks, block = torch.unique(whole.block[n:][behind], return_inverse=True)
    keys, key_branch, _ = _slots(
        whole.block[n:], whole.branch[n:], torch.arange(whole.n_tokens - n)
    )
    keys, key_branch = keys[blocks], key_branch[blocks]
    queries, query_branch, slot_of = _slots(
        block, whole.branch[n:][behind], torch.arange(len(behind))
    )
    earlier = keys[:, None, :] <= behind[queries][:, :, None]
    visible = earlier & (
        (key_branch[:, None, :] == 0) | (key_branch[:, None, :] == query_branch[:, :, None])
    )
    return Tree(
        n,
        len(run) - len(behind),
        keys.to(device),
        queries.to(device),
        visible.to(device),
        slot_of.to(device),
        None if pack.index is None else run.to(device),
        whole.n_tokens,
        {} if stored is None else stored,
        store,
    )


def _slots(block: Tensor, branch: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay tokens out as [block slot]: their index (0 in padding), their branch (-1 in padding), and
    each token's place.
    """
    sizes = torch.bincount(block)
    width = int(sizes.max())
    slots = torch.arange(len(block)) - (torch.cumsum(sizes, 0) - sizes)[block]
    indices = torch.zeros(len(sizes), width, dtype=torch.long)
    branches = torch.full((len(sizes), width), -1)
    indices[block, slots] = index
    branches[block, slots] = branch
    return indices, branches, block * width + slots


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    tree: Tree | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers' interface: query [batch head token d_head], key and value [batch
    kv_head token d_head].
    """
    if tree is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    if tree.store:
        key, value = _kept(tree, module.layer_idx, key, value)
    elif tree.index is not None:
        key, value = (
            _completed(new, old, tree.index)
            for new, old in zip((key, value), tree.stored[module.layer_idx], strict=True)
        )
    n = tree.n_prefix_run
    out = []
    if n:
        grouped = query.shape[1] != key.shape[1]
        out.append(
            F.scaled_dot_product_attention(
                query[:, :, :n],
                key[:, :, :n],
                value[:, :, :n],
                is_causal=True,
                scale=scaling,
                enable_gqa=grouped,
            )
        )
    out.append(
        _blocks(
            query[:, :, n:], key, value, module.head_dim**-0.5 if scaling is None else scaling, tree
        )
    )
    return torch.cat(out, dim=2).transpose(1, 2).contiguous(), None


def _kept(tree: Tree, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Store the keys and values of the tokens that are run, and return those of all tokens: zero
    where nothing was run so far.
    """
    if tree.index is None:
        tree.stored[layer] = (key, value)
    elif layer not in tree.stored:
        tree.stored[layer] = tuple(
            x.new_zeros(*x.shape[:2], tree.n_tokens, x.shape[-1]) for x in (key, value)
        )
    if tree.index is not None:
        for whole, new in zip(tree.stored[layer], (key, value), strict=True):
            whole[:, :, tree.index] = new
    return tree.stored[layer]


def _completed(new: Tensor, stored: Tensor, run: Tensor) -> Tensor:
    """Return the keys (or values) of all tokens: new where a token was run, stored elsewhere."""
    whole = stored.expand(len(new), -1, -1, -1).clone()
    whole[:, :, run] = new
    return whole


def _blocks(query: Tensor, key: Tensor, value: Tensor, scaling: float, tree: Tree) -> Tensor:
    """Return what the tokens run behind the prefix attend to, [batch head token d_head]."""
    n, (n_blocks, query_width) = tree.n_prefix, tree.queries.shape
    batch, heads, tokens, d_head = query.shape
    kv_heads = key.shape[1]
    group = torch.arange(heads // kv_heads, device=query.device)
    # The query heads that share a key head stand side by side like tokens of one block, so that no
    # key is copied for each of them.
    q = (query * scaling).reshape(batch, kv_heads, len(group) * tokens, d_head)
    queries = (tree.queries[:, None] + group[:, None] * tokens).flatten(1)
    block, slot = tree.slot_of // query_width, tree.slot_of % query_width
    slots = ((block * len(group) + group[:, None]) * query_width + slot).flatten()
    k, v = (x[:, :, n:][:, :, tree.keys] for x in (key, value))
    # One softmax over two sources: the prefix, for which nothing is padded, and the block itself.
    to_own = (q[:, :, queries] @ k.mT).view(batch, kv_heads, n_blocks, len(group), query_width, -1)
    to_own = to_own.masked_fill_(~tree.visible[:, None], float("-inf")).flatten(2, 4)[:, :, slots]
    weights = torch.softmax(
        torch.cat([q @ key[:, :, :n].mT, to_own], -1), dim=-1, dtype=torch.float32
    ).to(q.dtype)
    out = (weights[..., n:][:, :, queries] @ v).flatten(2, 3)[:, :, slots]
    out += weights[..., :n] @ value[:, :, :n]
    return out.view(batch, heads, tokens, d_head)
