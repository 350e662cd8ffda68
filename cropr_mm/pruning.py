"""From the config of a dense backbone to that of a pruned one."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cropr_mm.backbones import CroprViT
from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.reducers import AttentionRanker, MergingReducer
from cropr_mm.registry import MODELS, class_of
from cropr_mm.text_table import format_table


def prune(
    backbone: Mapping[str, Any],
    pruned: float = 0.5,
    num_classes: int | None = None,
    reducer: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Add a reducer, a schedule and Last Layer Fusion to the config of a dense backbone.

    Methods that merge tokens leave none to fuse, so they go without fusion.

    With global attention tokens leave after every block, the same share of those that are left, so
    that any image size works. With window attention they leave right before the global blocks, in
    equal steps of the side length and in whole windows, for the native image size only. The table
    of the steps is printed.

    Args:
        backbone: Config of a backbone that can reduce tokens, such as a ``cropr_mm.CroprViT``,
            without a reducer; not changed.
        pruned: Share of the patch tokens that are gone before the last block, in (0, 1).
        num_classes: Classes that Cropr's auxiliary heads learn; needed where ``reducer`` is None.
        reducer: Config of another reducer. Default: Cropr with one query.

    Returns:
        Config of the pruned backbone. A model trains it with ``CroprAuxLossHook`` among its hooks.

    Raises:
        ValueError: If the backbone cannot reduce tokens or does so already, or an argument does not
            fit it.
    """
    if not 0 < pruned < 1:
        raise ValueError(f"expected pruned in (0, 1), the share of tokens that leave, got {pruned}")
    if reducer is None and num_classes is None:
        raise ValueError("expected num_classes, what Cropr's auxiliary heads learn, got None")
    if backbone.get("reducer") is not None:
        raise ValueError(f"expected a backbone without reducer, got {backbone['reducer']}")
    if reducer is not None:
        _check_scope(reducer)
    dense = _build(backbone)
    cfg = copy.deepcopy(dict(backbone))
    cfg["reducer"] = dict(reducer or dict(type="cropr_mm.Cropr", num_classes=num_classes))
    merges = issubclass(class_of(cfg["reducer"], MODELS), MergingReducer)
    fuses = "fusion" in inspect.signature(type(dense)).parameters and not merges
    fusion = last_layer_fusion(dense) if fuses else None
    blocks = possible_blocks(dense.depth, fusion)
    if isinstance(dense, CroprViT) and dense.window_size is not None:
        cfg["schedule"] = _whole_windows(dense, dense.window_size, pruned, blocks)
    else:
        ratio = (1 - pruned) ** (1 / len(blocks))
        cfg["schedule"] = dict(type="cropr_mm.KeepRatios", ratio=ratio, blocks=list(blocks))
    if fusion:
        cfg["fusion"] = fusion
    encoder = _build(cfg)
    if min(encoder.num_keep().values()) == encoder.grid[0] * encoder.grid[1]:
        raise ValueError(
            f"expected a larger share, got {pruned:g}: of {encoder.grid[0]} x {encoder.grid[1]} "
            "tokens no step could drop any, in whole windows where there are some"
        )
    print(_steps(encoder))
    return cfg


def last_layer_fusion(encoder: ReducingBackbone) -> dict[str, Any]:
    """Config of the fusion that brings tokens back before mask queries enter, if there are any."""
    num_blocks = encoder.num_query_blocks
    return dict(
        type="cropr_mm.LastLayerFusion", **({"num_blocks": num_blocks} if num_blocks else {})
    )


def possible_blocks(depth: int, fusion: Mapping[str, Any] | None) -> range:
    """Blocks (0-based) after which tokens can leave.

    Args:
        depth: Number of blocks.
        fusion: Config of the fusion, or None.
    """
    return range(depth - 1 - (fusion.get("num_blocks", 1) if fusion else 0))


def untrained_method(encoder: ReducingBackbone) -> dict[str, Any]:
    """Config of the method that needs no training and does best among the cheap ones.

    It is the attention of the class token, or where there is none the variance of pixels.
    """
    if encoder.has_cls and "cls_row" in encoder.signals:
        return dict(type="cropr_mm.AttnTopK")
    return dict(type="cropr_mm.VariancePruner")


def with_signal(reducer: Mapping[str, Any], encoder: ReducingBackbone) -> dict[str, Any]:
    """Config of a method that an encoder can run: without a class token, attention is the mean.

    Args:
        reducer: Config of a method.
        encoder: Encoder.
    """
    ranks = issubclass(class_of(reducer, MODELS), AttentionRanker)
    if ranks and "signal" not in reducer and not encoder.has_cls:
        return {**reducer, "signal": "column_mean"}
    return dict(reducer)


def _check_scope(cfg: Mapping[str, Any]) -> None:
    """Refuse a name without a scope, which the configs of the host libraries would not find."""
    kind = cfg.get("type")
    if not inspect.isclass(kind) and "." not in str(kind):
        raise ValueError(
            "expected type with the prefix of its package, such as 'cropr_mm.CroprViT', got "
            f"{kind!r}"
        )


def _build(cfg: Mapping[str, Any]) -> ReducingBackbone:
    """The backbone on the meta device, where it needs no memory."""
    _check_scope(cfg)
    kind = class_of(cfg, MODELS)
    if not issubclass(kind, ReducingBackbone):
        raise ValueError(
            "expected the config of a backbone that can reduce tokens, such as "
            f"dict(type='cropr_mm.CroprViT', arch=...), got type={cfg['type']!r}"
        )
    with torch.device("meta"):
        return MODELS.build({**cfg, "init_cfg": None})


def _whole_windows(
    dense: CroprViT, window_size: int, pruned: float, blocks: Sequence[int]
) -> dict[str, Any]:
    """Schedule whose steps leave whole windows, each right before a global block."""
    before_global = [block - 1 for block in dense.global_block_indexes if block - 1 in blocks]
    if not before_global:
        raise ValueError(
            "expected global_block_indexes with a block before which windows can leave, got "
            f"{sorted(dense.global_block_indexes)}"
        )
    area = window_size**2
    total = dense.grid[0] * dense.grid[1]
    last_side = (1 - pruned) ** 0.5
    num_keep = {}
    for step, block in enumerate(sorted(before_global), start=1):
        side = 1 - (1 - last_side) * step / len(before_global)
        num_keep[block] = area * max(1, round(total / area * side**2))
    return dict(type="cropr_mm.ExplicitTokens", num_keep=num_keep)


def _steps(backbone: ReducingBackbone) -> str:
    """Table of the tokens that each step keeps."""
    total = backbone.grid[0] * backbone.grid[1]
    rows = [["after block", "patch tokens", "pruned"]]
    for block, count in backbone.num_keep().items():
        rows.append([str(block + 1), str(count), f"{1 - count / total:.1%}"])
    return f"{total} patch tokens of {backbone.img_size} pixels\n{format_table(rows)}"
