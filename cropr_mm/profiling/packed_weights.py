"""Matmuls with weights that are packed for the CPU's kernels.

``torch.compile`` packs the weights of frozen forms once, for one number of rows each (torch,
_inductor/fx_passes/mkldnn_fusion.py): by oneDNN in half precision, by MKL in float32.
"""

import torch
from torch import Tensor

from cropr_mm.profiling.matmuls import Matmul, Matmuls, is_linear

_SUPPORT = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}


def packed_matmuls(products: Matmuls) -> Matmuls | None:
    """The same products with weights packed where this CPU packs them; None where it packs none."""
    packed = {_packed(product): count for product, count in products.items()}
    return packed if packed.keys() != products.keys() else None


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


def _packed(product: Matmul) -> Matmul:
    if is_linear(product) and product.columns > 1 and _is_packed(product.dtype):
        return product._replace(packed=True)
    return product


def _is_packed(dtype: torch.dtype) -> bool:
    if dtype == torch.float32:
        return torch._C.has_mkl
    supported = getattr(torch.ops.mkldnn, _SUPPORT[dtype], None) if dtype in _SUPPORT else None
    return supported is not None and supported()
