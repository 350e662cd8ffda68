"""Matmuls with weights that are packed for the CPU's kernels.

``torch.compile`` packs the weights of frozen forms once, for one number of rows each (torch,
_inductor/fx_passes/mkldnn_fusion.py): by oneDNN in half precision, by MKL in float32.
"""

import torch
from torch import Tensor

from cropr_mm.profiling.matmuls import Matmul, Matmuls, is_linear

_SUPPORT = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


def packed_matmuls(matmuls: Matmuls) -> Matmuls | None:
    """The same matmuls with weights packed where this CPU packs them; None where it packs none."""
    packed = {_packed(matmul): count for matmul, count in matmuls.items()}
    return packed if packed.keys() != matmuls.keys() else None


def pack(weight: Tensor, rows: int) -> Tensor:
    """Packed form of a weight (columns, inner), for inputs of that many rows."""
    if weight.dtype == torch.float32:
        return torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def packed_linear(x: Tensor, weight: Tensor, packed: Tensor) -> Tensor:
    """Matmul of (rows, inner) with a weight (columns, inner) that :func:`pack` packed."""
    if x.dtype == torch.float32:
        return torch.ops.mkl._mkl_linear(x, packed, weight, None, len(x))
    return torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _packed(matmul: Matmul) -> Matmul:
    if is_linear(matmul) and matmul.columns > 1 and _is_packed(matmul.dtype):
        return matmul._replace(packed=True)
    return matmul


def _is_packed(dtype: torch.dtype) -> bool:
    if dtype == torch.float32:
        return torch._C.has_mkl
    supported = getattr(torch.ops.mkldnn, _SUPPORT[dtype], None) if dtype in _SUPPORT else None
    return supported is not None and supported()
