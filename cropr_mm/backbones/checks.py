"""Checks of the backbone's arguments; ValueError says what was expected and what came."""

from collections.abc import Sequence
from typing import Any

import torch

from cropr_mm.reducers import MergingReducer, RadialPruner, TokenReducer
from cropr_mm.schedules import Discs, Schedule, ShrinkingDiscs

_CHOICES = {
    "out_type": ("featmap", "raw", "avg_featmap", "avg_all", "cls_token"),
    "survivor_order": ("window", "raster"),
    "window_rope": ("origin", "slot"),
    "synthetic_rope": ("none", "mean"),
}


def check_sizes(img_size: tuple[int, int], patch_size: int, in_channels: int) -> None:
    """Raise ValueError for sizes that are not whole numbers of at least 1."""
    for name, value in {"patch_size": patch_size, "in_channels": in_channels}.items():
        _check_whole(name, value)
    if len(img_size) != 2 or not all(isinstance(side, int) and side >= 1 for side in img_size):
        raise ValueError(f"img_size must be one or two whole numbers of pixels, got {img_size!r}")


def check_images(img: torch.Tensor, in_channels: int) -> None:
    """Raise ValueError for what is no batch of images (B, in_channels, H, W), floating point."""
    if img.ndim != 4 or img.shape[1] != in_channels or not img.is_floating_point():
        raise ValueError(
            f"expected images of shape (B, {in_channels}, H, W) in floating point, got shape "
            f"{tuple(img.shape)} and {img.dtype}"
        )


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_choices(**given: str) -> None:
    """Raise ValueError for an option that is none of the known words."""
    for name, value in given.items():
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_CHOICES[name])}; got {value!r}")


def check_lora(frozen_stages: int, deploy: bool) -> None:
    """Raise ValueError for adapters in a model where they cannot train."""
    if deploy:
        raise ValueError("lora is merged in a deployed model: expected deploy=True without lora")
    if frozen_stages >= 0:
        raise ValueError(
            f"lora freezes the blocks already: expected frozen_stages=-1, got {frozen_stages}"
        )


def check_frozen_stages(frozen_stages: int, depth: int) -> None:
    """Raise ValueError for more frozen blocks than there are, or fewer than none."""
    if not -1 <= frozen_stages <= depth:
        raise ValueError(f"frozen_stages must be in -1..{depth}, got {frozen_stages}")


def check_outputs(out_indices: Sequence[int], depth: int, out_type: str, has_cls: bool) -> None:
    """Raise ValueError for outputs of blocks or tokens that do not exist, or for none."""
    if out_type == "cls_token" and not has_cls:
        raise ValueError("out_type='cls_token' needs a class token, got with_cls_token=False")
    _check_ascending("out_indices", out_indices, depth)
    if not out_indices:
        raise ValueError("out_indices must name at least one block, got none")


def _check_ascending(name: str, blocks: Sequence[int], depth: int) -> None:
    if list(blocks) != sorted(set(blocks) & set(range(depth))):
        raise ValueError(f"{name} must be ascending blocks of 0..{depth - 1}, got {list(blocks)}")


def check_windows(window_size: int | None, global_block_indexes: Sequence[int], depth: int) -> None:
    """Raise ValueError for windows that a model of this depth cannot have."""
    _check_ascending("global_block_indexes", global_block_indexes, depth)
    if window_size is None:
        if global_block_indexes:
            raise ValueError("global_block_indexes needs a window_size, got None")
        return
    _check_whole("window_size", window_size)


def check_window_positions(
    window_size: int | None, use_rel_pos: bool, window_rope: str, num_prefix: int
) -> None:
    """Raise ValueError for a relative position bias that prefix tokens or windows cannot have."""
    if use_rel_pos and num_prefix:
        raise ValueError(
            f"relative position bias is one of patches: expected no prefix tokens, got {num_prefix}"
            "; set with_cls_token=False and choose an architecture without registers"
        )
    if window_size is not None and use_rel_pos and window_rope != "slot":
        raise ValueError(
            "relative position bias in windows uses the places in the window: "
            f"use_rel_pos with window_size needs window_rope='slot', got {window_rope!r}"
        )


def check_sampling(window_size: int | None, use_rel_pos: bool, pad_first: bool) -> None:
    """Raise ValueError for settings about cells where sampled tokens lie in none."""
    if window_size is not None or use_rel_pos or pad_first:
        raise ValueError(
            "arch: progressive sampling moves tokens out of their cells: expected window_size=None,"
            f" use_rel_pos=False and pad_first=False, got {window_size}, {use_rel_pos} and "
            f"{pad_first}"
        )


def check_sampled(reducer: TokenReducer) -> None:
    """Raise ValueError for a reducer that looks at the cells of tokens."""
    if isinstance(reducer, RadialPruner) or "variance" in reducer.needs:
        raise ValueError(
            f"{type(reducer).__name__} looks at the cells of tokens, which progressive sampling "
            "moved elsewhere: expected a method that looks at the tokens, such as Cropr"
        )


def check_reduction(
    reducer: dict[str, Any] | None,
    schedule: dict[str, Any] | None,
    fusion: dict[str, Any] | None,
    pad_first: bool,
) -> None:
    """Raise ValueError unless reducer and schedule are given together, also for the others."""
    if (reducer is None) != (schedule is None) or (reducer is None and fusion is not None):
        raise ValueError(
            "reducer and schedule go together, and fusion needs both; "
            f"got reducer={reducer}, schedule={schedule}, fusion={fusion}"
        )
    if pad_first and reducer is None:
        raise ValueError("pad_first says what a pruner drops first: expected a reducer, got None")


def check_reducer(
    reducer: TokenReducer,
    has_cls: bool,
    fused: bool,
    windows: bool,
    rel_pos: bool,
    pad_first: bool,
) -> None:
    """Raise ValueError for a built reducer that cannot work in its backbone."""
    name = type(reducer).__name__
    if {"cls_row", "cls_heads"} & reducer.needs and not has_cls:
        raise ValueError(
            f"{name} reads the attention of the class token, got a model without; "
            "AttnTopK, EViT, ETPS and ATS with signal='column_mean' do not need one"
        )
    if reducer.synthetic and (windows or rel_pos):
        raise ValueError(
            f"{name} makes tokens that belong to no cell of the grid: expected window_size=None "
            "and use_rel_pos=False"
        )
    if reducer.masking and windows:
        raise ValueError(f"{name} masks tokens in global attention: expected window_size=None")
    if reducer.num_exit_classes and fused:
        raise ValueError(f"{name} lets tokens leave with their logits: expected fusion=None")
    if not isinstance(reducer, MergingReducer):
        return
    if fused:
        raise ValueError(
            f"{name} merges tokens, so none are left to bring back before the last block: expected "
            "fusion=None, with which maps get a copy of a merged token in each of its cells"
        )
    if pad_first:
        raise ValueError(f"{name} merges tokens: pad_first needs a pruner, which drops them")


def check_served(
    reducer: TokenReducer,
    host: str,
    signals: frozenset[str],
    synthetic: bool = False,
    masks: bool = False,
    exits: bool = False,
    note: str = "",
) -> None:
    """Raise ValueError for a built reducer that asks for what its backbone does not serve.

    Args:
        reducer: The reducer.
        host: Name of the backbone, for the message.
        signals: Signals that the backbone can fill.
        synthetic: Whether it works with tokens of no cell.
        masks: Whether it heeds ``Tokens.policy``.
        exits: Whether it returns the logits of tokens that exit.
        note: Why signals are missing.
    """
    invalid = sorted(reducer.needs - signals)
    asked = {
        "makes tokens of no cell": reducer.synthetic and not synthetic,
        "masks tokens": reducer.masking and not masks,
        "lets tokens leave with their logits": reducer.num_exit_classes > 0 and not exits,
        f"reads {', '.join(invalid)}{note}": bool(invalid),
    }
    reasons = [reason for reason, holds in asked.items() if holds]
    if reasons:
        raise ValueError(
            f"{type(reducer).__name__} {' and '.join(reasons)}: expected for {host} a reducer that "
            f"works with the tokens it has and reads none but {', '.join(sorted(signals))}"
        )


def check_query_blocks(
    num_query_blocks: int,
    num_restored: int,
    reduces: bool,
    depth: int,
    windows: bool,
    rel_pos: bool,
    out_type: str,
) -> None:
    """Raise ValueError for queries that would enter an encoder that they cannot work in."""
    if num_query_blocks > depth:
        raise ValueError(
            f"mask_queries expects num_blocks of at most {depth}, the depth, got {num_query_blocks}"
        )
    if windows or rel_pos:
        raise ValueError(
            "mask_queries belong to no window and no cell: expected window_size=None and "
            f"use_rel_pos=False, got {'windows' if windows else 'use_rel_pos=True'}"
        )
    if reduces and num_restored < num_query_blocks:
        raise ValueError(
            f"mask_queries enter for the last {num_query_blocks} blocks, for which all tokens have "
            "to be back: expected a pruner, since merged tokens do not come back, with "
            f"fusion=dict(type='cropr_mm.LastLayerFusion', num_blocks={num_query_blocks}), got a "
            f"fusion that brings them back for {num_restored}"
        )
    if out_type != "featmap":
        raise ValueError(
            f"mask_queries predict masks on the grid: expected out_type='featmap', got {out_type!r}"
        )


def check_discs(reducer: TokenReducer, schedule: Schedule | None) -> None:
    """Raise ValueError for a schedule that counts other discs than the pruner keeps."""
    if not isinstance(reducer, RadialPruner) or not isinstance(schedule, Discs | ShrinkingDiscs):
        return
    counted, kept = (f"norm={x.norm!r}, compat={x.compat}" for x in (schedule, reducer))
    if counted != kept:
        raise ValueError(
            f"{type(schedule).__name__} counts discs of {counted}, RadialPruner keeps those of "
            f"{kept}: expected the same, else rings are cut"
        )


def check_synthetic_rope(synthetic_rope: str, rope: str | None, makes_tokens: bool) -> None:
    """Raise ValueError for ``synthetic_rope`` where no token of no cell is rotated."""
    if synthetic_rope == "mean" and (rope is None or not makes_tokens):
        raise ValueError(
            "synthetic_rope='mean' rotates tokens that belong to no cell: expected a reducer that "
            f"makes such tokens and an architecture with RoPE, got rope={rope!r} and "
            f"{'such' if makes_tokens else 'no such'} reducer"
        )


def check_init_cfg(init_cfg: dict[str, Any] | None) -> None:
    """Raise ValueError for an ``init_cfg`` that does not load a checkpoint."""
    if init_cfg is None:
        return
    keys = set(init_cfg)
    known = {"type", "checkpoint", "prefix"}
    if init_cfg.get("type") != "Pretrained" or "checkpoint" not in keys or not keys <= known:
        raise ValueError(
            f"init_cfg must be dict(type='Pretrained', checkpoint=..., prefix=''), got {init_cfg}"
        )


def drop_path_rates(rate: float | Sequence[float], depth: int, pruned: bool) -> list[float]:
    """Probability of each block to skip a branch in training.

    Args:
        rate: Of the last block, rising linearly from 0, or of each block.
        depth: Number of blocks.
        pruned: Whether there is a reducer; the last block then has 0.

    Raises:
        ValueError: If a rate is not in [0, 1), or there is not one for each block.
    """
    if isinstance(rate, Sequence):
        rates = list(rate)
    else:
        rates = torch.linspace(0, rate, depth, device="cpu").tolist()
    if len(rates) != depth or not all(0 <= value < 1 for value in rates):
        raise ValueError(
            f"drop_path_rate must be in [0, 1), one number or one for each of {depth} blocks, "
            f"got {rate}"
        )
    return [*rates[:-1], 0.0] if pruned else rates
