"""Split tokens by score: exact count, total order, no full sort.

B batch, N tokens, K kept tokens.
"""

import torch
from torch import Tensor

NAN_RANK = -(2**31)  # below -inf


def select_topk(scores: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """Positions of the highest scores and of the rest.

    The order is total: equal scores rank by position (lower first), -0.0 equals 0.0, and NaN is the
    lowest score of all. The result is that of a stable descending sort, without sorting: shapes are
    static and nothing is read back to the host.

    Args:
        scores: Shape (B, N), floating point; compared at float32 precision.
        num_keep: K, number of tokens to keep, in [0, N].

    Returns:
        Positions kept (B, K) and dropped (B, N - K), int64, both ascending.

    Raises:
        ValueError: If ``scores`` is not a floating point matrix or ``num_keep`` is out of range.
    """
    if scores.dim() != 2 or not scores.is_floating_point():
        raise ValueError(
            "expected floating point scores of shape (B, N), "
            f"got {scores.dtype} of shape {tuple(scores.shape)}"
        )
    num_tokens = scores.shape[1]
    if not 0 <= num_keep <= num_tokens:
        raise ValueError(f"expected num_keep in [0, {num_tokens}], got {num_keep}")
    position = torch.arange(num_tokens, device=scores.device).expand_as(scores)  # (B, N)
    if num_keep in (0, num_tokens):
        position = position.contiguous()
        return position[:, :num_keep], position[:, num_keep:]

    key = _unique_key(scores.detach(), position)
    # The top-k of the smaller side is the cheaper one.
    num_drop = num_tokens - num_keep
    if num_keep <= num_drop:
        keep = key >= key.topk(num_keep, dim=1, sorted=False).values.amin(1, keepdim=True)
    else:
        last = key.topk(num_drop, dim=1, largest=False, sorted=False).values.amax(1, keepdim=True)
        keep = key > last
    kept_so_far = keep.cumsum(1)  # (B, N), counts the token itself
    slot = torch.where(keep, kept_so_far - 1, num_keep + position - kept_so_far)
    order = torch.zeros_like(slot).scatter(1, slot, position)  # kept first, then dropped
    return order[:, :num_keep], order[:, num_keep:]


def _unique_key(scores: Tensor, position: Tensor) -> Tensor:
    """Integers (B, N), int64, unique in a row: by score, then the lower position is the higher."""
    value = scores.float()
    bits = value.view(torch.int32).long()
    # A float is a sign and a magnitude: read as an integer, a negative one is -2**31 + magnitude.
    # Its rank is -magnitude, which also makes both zeros equal.
    rank = torch.where(bits < 0, -(2**31) - bits, bits)
    rank = rank.masked_fill(value.isnan(), NAN_RANK)
    return rank * 2**32 + (scores.shape[1] - 1 - position)
