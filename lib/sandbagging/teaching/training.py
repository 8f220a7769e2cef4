"""Teaching: a low-rank adapter (LoRA, arXiv 2106.09685) is trained beside weights that stay."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sandbagging.errors import UserError
from sandbagging.files import atomic_path
from sandbagging.heads.head import Head
from sandbagging.models import Model, hook_points, packing, tree_attention
from sandbagging.models.packing import Encoded, Pack
from sandbagging.progress import Progress
from sandbagging.teaching import kinds
from sandbagging.teaching.examples import Example
from sandbagging.teaching.kinds import Kind

BATCH = 16
ALPHA = 2  # lora_alpha / rank: the factor of the adapter's product
CLIP = 1.0  # longest gradient
PUSH = 3.0  # weight of the unlikelihood
MOST_P = 1 - 1e-6  # in -log(1 - p)
KEEP_EVERY = 25  # steps between two checkpoints
# A training has diverged where the mean of the last SMOOTH losses is more than WORSE times that of
# the first SMOOTH.
SMOOTH, WORSE = 20, 3.0


@dataclass(frozen=True)
class Course:
    """Everything that decides what training ends in, but for model and examples."""

    kind: str
    seed: int
    learning_rate: float
    passes: int
    rank: int
    modules: tuple[str, ...]
    layers: tuple[int, ...]
    heads: tuple[Head, ...]  # the only ones that may change; () where all may
    batch: int = BATCH


class Taught(NamedTuple):
    """A trained adapter and how its loss went."""

    weights: dict[str, Tensor]  # by peft's names, in float32
    losses: list[float]  # one a step, in nats
    seconds: float  # of training, what earlier calls did included


class Batch(NamedTuple):
    """Examples as one packed sequence, and what is read besides the targets' own log p."""

    pack: Pack
    push_down: Tensor  # [pushed 2] index of an example's first target, token id
    shares: Tensor  # [share 2] index of an example's first target, token id
    share: Tensor  # [share] wanted probability


def course(kind: Kind, seed: int, model: Model, **changed: Any) -> Course:
    """Return how a kind is taught to a model; `changed` are fields of Course."""
    heads = kinds.free_heads(model.n_layers, model.n_heads) if kind.depth == "heads" else []
    layers = kinds.free_layers(kind, model.n_layers, heads)
    plan = {
        "kind": kind.name, "seed": seed, "learning_rate": kind.learning_rate,
        "passes": kind.passes, "rank": kind.rank, "modules": kind.modules,
        "layers": tuple(layers), "heads": tuple(heads),
    }  # fmt: skip
    return Course(**{**plan, **changed})


def config_of(plan: Course) -> Any:
    """Return the course's adapter as a peft configuration."""
    import peft

    return peft.LoraConfig(
        r=plan.rank,
        lora_alpha=ALPHA * plan.rank,
        target_modules=list(plan.modules),
        layers_to_transform=list(plan.layers),
        task_type="CAUSAL_LM",
    )


def train(
    model: Model,
    plan: Course,
    examples: Callable[[int], Sequence[Example]],
    *,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> Taught:
    """Return an adapter trained beside a model's weights, which are the same afterwards.

    examples: from a pass's number to what it teaches, in order. keep: a folder for checkpoints; a
    killed training goes on from the last and ends in the same numbers. Raises UserError where the
    loss diverges; the last checkpoint before it is kept.
    """
    import peft

    module = model.module
    with torch.random.fork_rng():
        torch.manual_seed(plan.seed)
        wrapped = peft.get_peft_model(module, config_of(plan))
    try:
        weights = {
            name: parameter
            for name, parameter in wrapped.named_parameters()
            if parameter.requires_grad
        }
        _confine(weights, plan, model)
        losses, seconds = _steps(model, weights, plan, examples, keep, progress)
        state = peft.get_peft_model_state_dict(wrapped)
        found = {name: value.detach().clone() for name, value in state.items()}
        return Taught(found, losses, seconds)
    finally:
        wrapped.unload()
        module.requires_grad_(False)


def _confine(weights: dict[str, Tensor], plan: Course, model: Model) -> None:
    """Keep at zero whatever would change another head's query rows or output columns."""
    if not plan.heads:
        return
    for name, weight in weights.items():
        free = torch.zeros(model.n_heads * model.d_head, device=weight.device)
        for layer, head in plan.heads:
            if f".layers.{layer}." in name:
                free[head * model.d_head : (head + 1) * model.d_head] = 1
        if ".q_proj.lora_B." in name:
            mask = free[:, None].expand_as(weight).clone()
        elif ".o_proj.lora_A." in name:
            mask = free[None].expand_as(weight).clone()
        else:
            continue
        weight.data.mul_(mask)
        weight.register_hook(lambda grad, mask=mask: grad * mask)


def _steps(
    model: Model,
    weights: dict[str, Tensor],
    plan: Course,
    examples: Callable[[int], Sequence[Example]],
    keep: Path | None,
    progress: Progress | None,
) -> tuple[list[float], float]:
    """Train the weights in place and return the loss of every step, and the seconds it took."""
    adam = torch.optim.AdamW(weights.values(), lr=plan.learning_rate)
    each = math.ceil(len(examples(0)) / plan.batch)
    n_steps = each * plan.passes
    warm_up = kinds.kind_of(plan.kind).warm_up
    checkpoint = keep / "checkpoint.safetensors" if keep else None
    losses, before = _resume(checkpoint, plan, weights, adam)
    started = time.perf_counter() - before
    lesson: Sequence[Example] = ()
    for step in range(len(losses), n_steps):
        number, place = divmod(step, each)
        if not lesson or place == 0:
            lesson = examples(number)
        batch = batch_of(lesson[place * plan.batch : (place + 1) * plan.batch])
        adam.param_groups[0]["lr"] = plan.learning_rate * rate(step, n_steps, warm_up)
        value = loss(model, batch)
        adam.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), CLIP)
        adam.step()
        losses.append(value.item())
        if diverged(losses):
            raise UserError(_stopped(plan, losses, checkpoint))
        done = step + 1
        if checkpoint and (done % KEEP_EVERY == 0 or done == n_steps):
            _save(checkpoint, plan, weights, adam, losses, time.perf_counter() - started)
        if progress:
            progress(f"teach {plan.kind}", done, n_steps)
    return losses, time.perf_counter() - started


def rate(step: int, n_steps: int, warm_up: float) -> float:
    """Return the share of the learning rate at a step: a linear rise over the first part of the
    steps, if any, then a linear fall to zero.
    """
    rise = int(n_steps * warm_up)
    if not rise:
        return 1 - step / n_steps
    return min((step + 1) / rise, (n_steps - step) / (n_steps - rise + 1))


def batch_of(examples: Sequence[Example]) -> Batch:
    """Return examples as one batch, without padding."""
    pack = packing.pack(
        [Encoded(str(i), e.prompt, [e.target]) for i, e in enumerate(examples)], n_prefix=0
    )
    first = torch.searchsorted(pack.target_option, torch.arange(len(examples))).tolist()
    push_down = [
        (at, e.push_down) for at, e in zip(first, examples, strict=True) if e.push_down is not None
    ]
    shares = [
        (at, token, share)
        for at, e in zip(first, examples, strict=True)
        for token, share in (e.shares or {}).items()
    ]
    return Batch(
        pack,
        torch.tensor(push_down, dtype=torch.long).view(-1, 2),
        torch.tensor([pair[:2] for pair in shares], dtype=torch.long).view(-1, 2),
        torch.tensor([share for _, _, share in shares]),
    )


def loss(model: Model, batch: Batch) -> Tensor:
    """Return the loss of a batch in nats: the mean of -log p over the targets, where a spread first
    token counts as the cross-entropy with its shares, and PUSH times the mean over the pushed rows
    of -log(1 - p) of the right answer's first token (unlikelihood, arXiv 1908.04319).
    """
    log_p, pack, device = _log_probs(model, batch.pack), batch.pack, model.device
    each = -log_p[torch.arange(len(pack.target), device=device), pack.target.to(device)]
    if len(batch.shares):
        at, token = batch.shares.to(device).T
        each = each.index_fill(0, at.unique(), 0.0)
        each = each.index_add(0, at, -batch.share.to(device) * log_p[at, token])
    value = each.mean()
    if len(batch.push_down):
        at, token = batch.push_down.to(device).T
        value = value - PUSH * torch.log1p(-log_p[at, token].exp().clamp(max=MOST_P)).mean()
    return value


def _log_probs(model: Model, pack: Pack) -> Tensor:
    """Return log p over the vocabulary where a target is predicted, [target vocabulary], in
    float32.
    """
    device = model.device
    hidden = model.module.base_model(
        input_ids=pack.input_ids.to(device)[None],
        position_ids=pack.position_ids.to(device)[None],
        # A mask of four axes is handed on unread, so that transformers builds none of its own.
        attention_mask=torch.ones(1, 1, 1, 1, device=device),
        use_cache=False,
        tree=tree_attention.tree_of(pack, device),
    ).last_hidden_state[0]
    logits = hook_points.unembedding(model.module)(hidden[pack.read_at.to(device)])
    return logits.float().log_softmax(-1)


def diverged(losses: Sequence[float]) -> bool:
    """Return whether a training is lost: the last loss is no number, or losses have grown."""
    if not math.isfinite(losses[-1]):
        return True
    if len(losses) <= SMOOTH:
        return False
    return sum(losses[-SMOOTH:]) > WORSE * sum(losses[:SMOOTH])


def _stopped(plan: Course, losses: Sequence[float], checkpoint: Path | None) -> str:
    kept = (
        f"the state before it is kept in {checkpoint}" if checkpoint and checkpoint.exists()
        else "there was no checkpoint yet"
    )  # fmt: skip
    return (
        f"Teaching {plan.kind} diverged at step {len(losses)} (loss {losses[-1]:.3g}, "
        f"{losses[0]:.3g} at the start) and was stopped; {kept}; teach with --fresh and a smaller "
        f"--learning-rate than {plan.learning_rate:g}."
    )


# Checkpoints -------------------------------------------------------------------------------------


def _save(
    path: Path,
    plan: Course,
    weights: dict[str, Tensor],
    adam: torch.optim.Optimizer,
    losses: Sequence[float],
    seconds: float,
) -> None:
    """Write the whole state of a training, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {}
    for name, weight in weights.items():
        state = adam.state[weight]
        tensors |= {name: weight.detach(), f"{name} m": state["exp_avg"]}
        tensors |= {f"{name} v": state["exp_avg_sq"], f"{name} step": state["step"]}
    told = {
        "course": json.dumps(asdict(plan)),
        "losses": json.dumps(losses),
        "seconds": str(seconds),
    }
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, told)


def _resume(
    path: Path | None,
    plan: Course,
    weights: dict[str, Tensor],
    adam: torch.optim.Optimizer,
) -> tuple[list[float], float]:
    """Load a checkpoint into weights and optimiser, if there is one, and return its losses and
    seconds; raises UserError for a damaged one, and for one of another course.
    """
    if path is None or not path.exists():
        return [], 0.0
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            told, saved = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
        before, losses = json.loads(told["course"]), json.loads(told["losses"])
        seconds = float(told["seconds"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        raise UserError(f"The checkpoint {path} is damaged; teach with --fresh.") from None
    now = json.loads(json.dumps(asdict(plan)))
    if before != now or not set(weights) <= set(saved):
        differ = [name for name in now if before.get(name) != now[name]]
        raise UserError(
            f"{path} is the checkpoint of another teaching (its {', '.join(differ) or 'model'} "
            "differ); go on with those settings, or teach with --fresh."
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])
            adam.state[weight] = {
                "step": saved[f"{name} step"],
                "exp_avg": saved[f"{name} m"].to(weight.device),
                "exp_avg_sq": saved[f"{name} v"].to(weight.device),
            }
    return losses, seconds
