"""The matmuls that a function runs, by shape and precision.

A matmul with weights stands for a linear or convolution layer or the scorer of a reducer; matmuls
of activations with each other are those of attention.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_MATMULS = frozenset({"matmul", "__matmul__", "bmm", "mm", "mv"})


class Gemm(NamedTuple):
    """Matmul of (rows, inner) and (inner, columns).

    Attributes:
        rows: For a layer, the tokens of the whole batch.
        inner: Length of the sums.
        columns: 1 for a vector.
        batch: None for a matmul with weights; for activations, how many matmuls one call runs.
        dtype: Of the result, so that autocast is seen.
        packed: Whether its weights are packed, see :mod:`cropr_mm.profiling.packed_weights`.
    """

    rows: int
    inner: int
    columns: int
    batch: int | None
    dtype: torch.dtype
    packed: bool = False

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return (self.batch or 1) * self.rows * self.inner * self.columns


class Sdpa(NamedTuple):
    """One call of scaled dot-product attention.

    Attributes:
        batch: Images times windows.
        heads: Attention heads.
        queries: Tokens that attend.
        keys: Tokens attended to.
        head_dim: Channels of a head.
        biased: Whether a bias is added to the logits, which rules out some kernels.
        dtype: Of the result.
        kernel: Kernel that is allowed, see :class:`cropr_mm.profiling.run_mode.Mode`.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    biased: bool
    dtype: torch.dtype
    kernel: str = "auto"

    @property
    def macs(self) -> int:
        """Multiply-adds of both matmuls."""
        return 2 * self.batch * self.heads * self.queries * self.keys * self.head_dim


Matmul = Gemm | Sdpa
Matmuls = Mapping[Matmul, int]
"""How often each matmul occurs."""


def is_linear(matmul: Matmul) -> TypeGuard[Gemm]:
    """Whether this is a matmul with weights."""
    return isinstance(matmul, Gemm) and matmul.batch is None


def macs(matmuls: Matmuls, linear: bool) -> int:
    """Multiply-adds of the matmuls with weights, or of the others."""
    return sum(n * p.macs for p, n in matmuls.items() if is_linear(p) == linear)


def record_matmuls(function: Callable[[], object], kernel: str = "auto") -> Matmuls:
    """Run a function once and note its matmuls.

    Args:
        function: Call without arguments; on the meta device it costs nothing. Matmuls inside
            functions of ``torch.nn.functional`` that are compositions themselves, such as
            ``multi_head_attention_forward``, are not seen.
        kernel: The kernel of attention that it allows itself.
    """
    with _Recorder() as recorder:
        function()
    return {
        p._replace(kernel=kernel) if isinstance(p, Sdpa) else p: n
        for p, n in recorder.matmuls.items()
    }


class _Recorder(TorchFunctionMode):
    """Notes the matmuls that pass through torch's Python interface."""

    def __init__(self) -> None:
        super().__init__()
        self.matmuls: Counter[Matmul] = Counter()

    def __torch_function__(
        self,
        func: Callable,
        types: Iterable[type],
        args: tuple = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        matmul = _recorded(func, args, kwargs, result)
        if matmul is not None:
            self.matmuls[matmul] += 1
        return result


def _recorded(func: Callable, args: tuple, kwargs: Mapping[str, Any], out: Any) -> Matmul | None:
    if func is F.scaled_dot_product_attention:
        q, k = args[0], args[1]
        heads, queries, width = q.shape[-3:]
        batch = q.shape[:-3].numel()
        bias = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        return Sdpa(batch, heads, queries, k.shape[-2], width, bias is not None, out.dtype)
    if func is F.linear:
        columns, inner = args[1].shape
        return Gemm(args[0].numel() // inner, inner, columns, None, out.dtype)
    if func is F.conv2d:
        columns, inner = args[1].shape[0], args[1][0].numel()
        return Gemm(out.numel() // columns, inner, columns, None, out.dtype)
    if getattr(func, "__name__", "") in _MATMULS:
        return _matmul(args[0], args[1], out)
    return None


def _matmul(a: Tensor, b: Tensor, out: Tensor) -> Gemm:
    columns = b.shape[-1] if b.dim() > 1 else 1
    inner = a.shape[-1]
    if b.dim() <= 2:
        return Gemm(a.numel() // inner, inner, columns, None, out.dtype)
    batch = out.shape[:-2].numel()
    return Gemm(a.shape[-2], inner, columns, batch, out.dtype)
