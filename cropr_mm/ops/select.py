"""Split tokens by score: exact count, total order, no full sort.

B batch, N tokens, K kept tokens.
"""

import torch
from torch import Tensor

# Constants: older versions of torch.compile do not read finfo.
_NAN, _HIGHEST = torch.finfo(torch.float32).min, torch.finfo(torch.float32).max
# The lowest rank of a number: one step above that of NaN, which is the lowest float32. On the CPU,
# even if this is imported where tensors are made on 'meta'.
_LOWEST = torch.tensor(_NAN, device="cpu").nextafter(torch.zeros((), device="cpu")).item()


def select_topk(scores: Tensor, num_keep: int) -> tuple[Tensor, Tensor]:
    """Positions of the highest scores and of the rest.

    The order is total: equal scores rank by position (lower first), -0.0 equals 0.0, and NaN is the
    lowest score of all. An infinite score equals the largest finite one of its sign. The result is
    that of a stable descending sort, without sorting: shapes are static, nothing is read back to
    the host, and every operation has a form in ONNX.

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

    rank = _finite_rank(scores.detach())
    # The top-k of the smaller side is the cheaper one; ``last`` is the rank at the border.
    num_drop = num_tokens - num_keep
    if num_keep <= num_drop:
        last = rank.topk(num_keep, dim=1, sorted=False).values.amin(1, keepdim=True)
    else:
        last = rank.topk(num_drop, dim=1, largest=False, sorted=False).values.amax(1, keepdim=True)
    above, equal = rank > last, rank == last
    room = num_keep - above.sum(1, keepdim=True)  # (B, 1), for the first of the equal ones
    keep = above | (equal & (running_count(equal) <= room))
    kept_so_far = running_count(keep)  # (B, N), counts the token itself
    slot = torch.where(keep, kept_so_far - 1, num_keep + position - kept_so_far)
    order = torch.zeros_like(slot).scatter(1, slot, position)  # kept first, then dropped
    return order[:, :num_keep], order[:, num_keep:]


def running_count(mask: Tensor) -> Tensor:
    """How many entries are true up to each one, itself included, along the second axis.

    Counted in float32, which is exact up to 2**24 entries: TensorRT documents running sums of
    floating-point numbers only.

    Args:
        mask: Shape (B, N), bool or 0 and 1 in int64.

    Returns:
        Shape (B, N), int64.
    """
    return mask.cumsum(1, dtype=torch.float32).to(torch.int64)


def _finite_rank(scores: Tensor) -> Tensor:
    """Numbers (B, N), float32, that rank as the scores do; none is infinite or NaN.

    Runtimes of exported graphs differ in how they compare those.
    """
    value = scores.float()
    return value.clamp(_LOWEST, _HIGHEST).masked_fill(value.isnan(), _NAN)
