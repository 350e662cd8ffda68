"""Names of detectron2's detectors on a plain ViT, and their positions, as ours.

Layers and their orders agree: channels, rows and columns are flattened in that order before the
first linear layer, the background is the last class, a box is (dx, dy, dw, dh), class by class,
and the anchors of a cell go by aspect ratio. So names are all that changes.

Source: detectron2, modeling/backbone/vit.py (``SimpleFeaturePyramid``), layers/wrappers.py (a
convolution owns its ``norm``), modeling/proposal_generator/rpn.py (``StandardRPNHead`` with two
convolutions), modeling/roi_heads/box_head.py, fast_rcnn.py, mask_head.py and cascade_rcnn.py,
modeling/meta_arch/rcnn.py, modeling/anchor_generator.py.
"""

import re
from collections.abc import Mapping
from math import isqrt

import torch.nn.functional as F
from torch import Tensor

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.rename import Rule

ENCODER = r"backbone\.net\."
_WEIGHT = r"(weight|bias)"

# Level -> (detectron2's layer, ours), with None for our normalization of a convolution.
_PYRAMID = {
    2: ((0, 0, None), (1, 1, None), (3, 3, None), (4, 4, 5), (5, 6, 7)),
    3: ((0, 0, None), (1, 1, 2), (2, 3, 4)),
    4: ((0, 0, 1), (1, 2, 3)),
    5: ((1, 1, 2), (2, 3, 4)),
}


def _pyramid_rules() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for level, layers in _PYRAMID.items():
        for theirs, ours, norm in layers:
            old, new = rf"backbone\.simfp_{level}\.{theirs}\.", f"neck.levels.{level - 2}."
            if norm is not None:
                rules.append((rf"{old}norm\.{_WEIGHT}", rf"{new}{norm}.\1"))
            rules.append((old + _WEIGHT, rf"{new}{ours}.\1"))
    return tuple(rules)


def _box_rules(stage: str, ours: str) -> tuple[Rule, ...]:
    """Rules of one box head, or of the stages of a cascade with ``stage`` as a group."""
    last = r"\2" if stage else r"\1"  # the group of weight or bias
    new = f"roi_head.bbox_head.{ours}"
    head, predictor = rf"roi_heads\.box_head\.{stage}", rf"roi_heads\.box_predictor\.{stage}"
    rules: list[Rule] = [
        (rf"{head}fc1\.{_WEIGHT}", f"{new}shared_fcs.0.{last}"),
        (rf"{predictor}cls_score\.{_WEIGHT}", f"{new}fc_cls.{last}"),
        (rf"{predictor}bbox_pred\.{_WEIGHT}", f"{new}fc_reg.{last}"),
    ]
    for i in range(1, 5):  # theirs count from 1
        rules += [
            (rf"{head}conv{i}\.weight", f"{new}shared_convs.{i - 1}.conv.weight"),
            (rf"{head}conv{i}\.norm\.{_WEIGHT}", f"{new}shared_convs.{i - 1}.ln.{last}"),
        ]
    return tuple(rules)


def _mask_rules() -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for i in range(1, 5):
        old, new = rf"roi_heads\.mask_head\.mask_fcn{i}\.", f"roi_head.mask_head.convs.{i - 1}."
        rules += [
            (rf"{old}weight", f"{new}conv.weight"),
            (rf"{old}norm\.{_WEIGHT}", rf"{new}ln.\1"),
        ]
    return (
        *rules,
        (rf"roi_heads\.mask_head\.deconv\.{_WEIGHT}", r"roi_head.mask_head.upsample.\1"),
        (rf"roi_heads\.mask_head\.predictor\.{_WEIGHT}", r"roi_head.mask_head.conv_logits.\1"),
    )


_RPN = r"proposal_generator\.rpn_head\."
DETECTOR: tuple[Rule, ...] = (
    *_pyramid_rules(),
    (rf"{_RPN}conv\.conv(\d)\.{_WEIGHT}", r"rpn_head.rpn_conv.\1.conv.\2"),
    (rf"{_RPN}objectness_logits\.{_WEIGHT}", r"rpn_head.rpn_cls.\1"),
    (rf"{_RPN}anchor_deltas\.{_WEIGHT}", r"rpn_head.rpn_reg.\1"),
    *_box_rules(r"(\d)\.", r"\1."),
    *_box_rules("", ""),
    *_mask_rules(),
    # Constants that some files hold: normalization of images, anchors, class frequencies of LVIS.
    (r"pixel_mean|pixel_std", None),
    (r"proposal_generator\.anchor_generator\.cell_anchors\.\d+", None),
    (r"roi_heads\.box_predictor\.(\d\.)?fed_loss_cls_weights", None),
)


def native_grid(weights: Mapping[str, Tensor]) -> tuple[int, int] | None:
    """Patch grid (h, w) of the images that a detector was trained with.

    Args:
        weights: Under the names in the file.

    Returns:
        The grid that the rotation table of global blocks, or the largest tables of relative
        positions, are made for; None where there are neither.
    """
    rotation = weights.get("backbone.net.rope_glb.freqs_cos")
    if rotation is not None:
        return isqrt(len(rotation)), isqrt(len(rotation))
    extents = [max(_extents(weights, axis), default=0) for axis in "hw"]
    return (extents[0], extents[1]) if all(extents) else None


def native_window(weights: Mapping[str, Tensor]) -> int | None:
    """Side of the windows, in patches, that a detector was trained with, in the same way."""
    rotation = weights.get("backbone.net.rope_win.freqs_cos")
    if rotation is not None:
        return isqrt(len(rotation))
    return min(_extents(weights, "h"), default=None)


def _extents(weights: Mapping[str, Tensor], axis: str) -> list[int]:
    """Extents of the tables of relative positions of all blocks, in patches."""
    pattern = rf".*\.attn\.rel_pos_{axis}"
    return [(len(v) + 1) // 2 for n, v in weights.items() if re.fullmatch(pattern, n)]


def fit_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring absolute positions to a grid as these detectors do in each forward pass.

    timm resamples with antialiasing, whose cubic kernel is another one even when enlarging.

    Args:
        positions: Of a square grid, shape (1, rows, C); a first row that belongs to the class
            token of the pre-training is left out.
        grid: Patch grid (h, w).

    Returns:
        Positions of shape (1, h * w, C).

    Raises:
        CheckpointError: If the rows, with or without the first, are no square.

    Source: detectron2, modeling/backbone/utils.py (``get_abs_pos``).
    """
    rows = positions.shape[1]
    side = isqrt(rows)
    if side**2 != rows:
        side = isqrt(rows - 1)
        positions = positions[:, 1:]
    if side**2 != positions.shape[1]:
        raise CheckpointError(
            "pos_embed: expected rows for a square grid, with or without one for the class token; "
            f"got {rows} rows"
        )
    if (side, side) == tuple(grid):
        return positions
    table = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2).float()
    table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
    return table.flatten(2).transpose(1, 2).to(positions.dtype)
