"""Average tokens that share a slot.

B batch, P prefix tokens, N live patch tokens, K slots, C channels.
"""

import torch
from torch import Tensor

from cropr_mm.structures import PATCH_FIELDS, Tokens

NO_PATCH_FIELDS: dict[str, None] = dict.fromkeys(PATCH_FIELDS)
"""What :meth:`Tokens.replace` takes where tokens become new ones: fields of the old ones end."""


def merge_tokens(
    tokens: Tokens, assignment: Tensor, num_slots: int, log_weight: Tensor | None = None
) -> Tokens:
    """Weighted mean of the patch tokens of each slot.

    Args:
        tokens: P prefix and N patch tokens; the prefix passes untouched.
        assignment: Slot of each patch token, shape (B, N), int64 in [0, K). Every slot should
            receive a token; an empty one gives a zero token of size 0.
        num_slots: K.
        log_weight: Logarithm of the weight of each patch token, shape (B, N), float32; None weighs
            by size.

    Returns:
        P + K tokens. ``size`` (B, K) float32 counts the cells behind each one; ``index`` keeps the
        raster id of a slot with a single token and is -1 where several were merged (or none);
        ``source`` says where every cell went; ``position`` is averaged as the features are.

    Raises:
        ValueError: If ``assignment`` does not match the patch tokens, or some tokens are masked or
            left the model.
    """
    if assignment.shape != tokens.index.shape:
        raise ValueError(
            f"expected an assignment of shape {tuple(tokens.index.shape)}, "
            f"got {tuple(assignment.shape)}"
        )
    check_mergeable(tokens)
    prefix, patches = tokens.x.split([tokens.num_prefix, assignment.shape[1]], dim=1)
    size = torch.ones_like(assignment, dtype=torch.float32) if tokens.size is None else tokens.size
    empty = size.new_zeros(size.shape[0], num_slots)
    new_size = empty.scatter_add(1, assignment, size)  # (B, K)
    share = size
    if log_weight is not None:
        # Only ratios inside a slot count: with the largest at one, none overflows or all vanish.
        largest = empty.scatter_reduce(
            1, assignment, log_weight.detach(), "amax", include_self=False
        )
        share = (log_weight - largest.gather(1, assignment)).exp()
    whole = empty.scatter_add(1, assignment, share)
    whole = whole.masked_fill(whole == 0, 1.0)  # an empty slot stays zero
    mean = _sum(patches, assignment, share, num_slots) / whole.unsqueeze(-1)  # (B, K, C)
    position = None
    if tokens.position is not None:
        position = _sum(tokens.position, assignment, share, num_slots) / whole.unsqueeze(-1)
        position = position.detach()

    count = torch.zeros_like(assignment[:, :1]).expand(-1, num_slots)
    count = count.scatter_add(1, assignment, torch.ones_like(assignment))
    index = torch.zeros_like(count).scatter_add(1, assignment, tokens.index)
    merged = dict(
        x=torch.cat([prefix, mean.to(tokens.x.dtype)], dim=1),
        index=index.masked_fill(count != 1, -1),
        size=new_size,
        source=merged_source(tokens, assignment),
        position=position,
    )
    return tokens.replace(**{**NO_PATCH_FIELDS, **merged})


def check_mergeable(tokens: Tokens) -> None:
    """Raise ValueError where some tokens are masked or left the model with their logits."""
    if tokens.policy is not None or tokens.exit is not None:
        raise ValueError("expected tokens without a policy mask: masked tokens cannot be merged")


def append_token(tokens: Tokens, x: Tensor, size: Tensor | None, position: Tensor | None) -> Tokens:
    """Put one new patch token, which belongs to no cell, behind the others.

    The new token is live.

    Args:
        tokens: P prefix and N patch tokens.
        x: Features of the new token, shape (B, 1, C).
        size: Number of cells that it stands for, shape (B, 1); None where ``tokens`` have no size.
        position: Where it lies, shape (B, 1, 2); None where ``tokens`` have no position.

    Returns:
        P + N + 1 tokens, features in the dtype of ``tokens``.
    """
    return tokens.replace(
        x=torch.cat([tokens.x, x.to(tokens.x.dtype)], dim=1),
        index=_append(tokens.index, -1),
        size=_append(tokens.size, size),
        policy=_append(tokens.policy, True),
        exit=_append(tokens.exit, 0),
        position=_append(tokens.position, position),
    )


def _append(field: Tensor | None, last: Tensor | float | None) -> Tensor | None:
    if field is None or last is None:
        return None
    if not isinstance(last, Tensor):
        last = field.new_full((field.shape[0], 1, *field.shape[2:]), last)
    return torch.cat([field, last], dim=1)


def _sum(x: Tensor, assignment: Tensor, share: Tensor, num_slots: int) -> Tensor:
    """Sum by slot of values (B, N, D) times shares (B, N), shape (B, K, D)."""
    # In float32: half precision loses tokens when many meet in one slot.
    rows = assignment.unsqueeze(-1).expand_as(x)
    empty = share.new_zeros(x.shape[0], num_slots, x.shape[2])
    return empty.scatter_add(1, rows, x.float() * share.unsqueeze(-1))


def merged_source(tokens: Tokens, assignment: Tensor) -> Tensor:
    """Slot that every cell of the grid went to, shape (B, h * w), int64; -1 where it left before.

    Args:
        tokens: Tokens before they are merged.
        assignment: Slot of each patch token, shape (B, N), int64.
    """
    source = tokens.source
    if source is None:  # position by raster id
        position = torch.arange(assignment.shape[1], device=assignment.device)
        cells = tokens.grid[0] * tokens.grid[1]
        source = torch.full((assignment.shape[0], cells), -1, device=assignment.device)
        source = source.scatter(1, tokens.index, position.expand_as(tokens.index))
    return torch.where(source < 0, source, assignment.gather(1, source.clamp(min=0)))
