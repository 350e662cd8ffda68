"""In bfloat16 an encoder computes in bfloat16: of its tokens only the scores see float32."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from cropr_mm import CroprViT

PLAIN = dict(embed_dim=32, depth=4, num_heads=2, patch_size=4)
EVA = dict(**PLAIN, hidden_dim=48, mlp="swiglu", attn_bias="qv", rope="eva", cls_token=False)
BATCH = 2
PRODUCTS = ("linear", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "convolution")
PRUNED = dict(
    reducer=dict(type="cropr_mm.Cropr", num_classes=5),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 48, 1: 32}),
    fusion=dict(type="cropr_mm.LastLayerFusion"),
)


class Float32Watcher(TorchDispatchMode):
    """Notes matmuls of float32, and operators that make so many numbers of it or more."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.large: list[str] = []
        self.matmuls: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        large = any(t.numel() >= self.least for t in float32_tensors(out))
        if large and name != "view":  # makes no new tensor
            self.large.append(name)
        if float32_tensors((args, kwargs)) and (name in PRODUCTS or "attention" in name):
            self.matmuls.append(name)
        return out


def float32_tensors(tree: Any) -> list[Tensor]:
    leaves, _ = tree_flatten(tree)
    return [t for t in leaves if isinstance(t, Tensor) and t.dtype == torch.float32]


@pytest.mark.parametrize(
    "settings",
    [dict(arch=PLAIN), dict(arch=EVA), dict(arch=EVA, window_size=4, global_block_indexes=[1])],
    ids=["plain", "eva", "eva_windows"],
)
def test_only_scores_are_computed_in_float32(settings: dict[str, Any]) -> None:
    model = CroprViT(**settings, img_size=32, **PRUNED).eval()
    model.switch_to_deploy()
    model.bfloat16()
    images = torch.randn(BATCH, 3, 32, 32, dtype=torch.bfloat16)
    fewest = min(model.num_keep().values())
    with torch.no_grad(), Float32Watcher(BATCH * fewest * model.embed_dim) as seen:
        (y,) = model(images)
    steps = len(model.reducers)
    assert y.dtype == torch.bfloat16
    assert steps == 2
    assert seen.large == ["_to_copy"] * steps, "the tokens, once a step, for their scores"
    assert len(seen.matmuls) == steps, seen.matmuls
    assert set(seen.matmuls) <= {"mv", "addmv", "mm"}
