"""Make a detection config small."""

from dataclasses import asdict
from typing import Any

from mmengine.config import ConfigDict

from cropr_mm.layers.arch import resolve_arch

CHANNELS = {"out_channels", "feat_channels", "conv_out_channels", "fc_out_channels"}
MASK2FORMER = dict(
    embed_dims=16,
    feedforward_channels=16,
    num_heads=2,
    num_layers=1,
    num_feats=8,  # half of the channels
    num_groups=4,
    num_queries=20,
)
WINDOW = 4


def shrink_detector(model: ConfigDict) -> None:
    """Narrow layers, small windows on as many windows as before, few proposals."""
    size = shrink_backbone(model.backbone)
    model.data_preprocessor.pad_size_divisor = size
    if "neck" in model:
        model.neck.in_channels = 32
    if model.type == "DINO":
        model.num_queries = 20
        model.encoder.num_layers = model.decoder.num_layers = 1
    elif "mask_queries" in model.backbone:
        shrink_mask_queries(model, size)
    elif model.type == "Mask2Former":
        shrink_mask2former(model, size)
    else:
        shrink_two_stages(model)


def shrink_backbone(backbone: ConfigDict) -> int:
    """Narrow the encoder; returns the side of its images, in pixels."""
    arch = resolve_arch(backbone.arch)
    patch = backbone.get("patch_size") or arch.patch_size
    size = backbone.get("img_size") or arch.img_size
    if backbone.get("window_size"):
        size = size // patch * WINDOW // backbone.window_size * patch
        backbone.window_size = WINDOW
    else:
        schedule = backbone.get("schedule", {})
        if "rate" in schedule:  # the same part of the patches
            schedule.rate = schedule.rate * 16**2 // (size // patch) ** 2
        size = 16 * patch
    backbone.update(
        arch={**asdict(arch), "embed_dim": 32, "num_heads": 2, "hidden_dim": 48},
        img_size=size,
        patch_size=patch,
    )
    return size


def shrink_two_stages(model: ConfigDict) -> None:
    """Narrow pyramid and heads, few proposals."""
    for head in (model.neck, model.rpn_head, model.roi_head):
        change(head, dict.fromkeys(CHANNELS | {"in_channels"}, 16))
    model.neck.in_channels = 32
    for part in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        part.update(nms_pre=50, max_per_img=8)
    model.train_cfg.rpn.sampler.num = 16
    model.test_cfg.rcnn.score_thr = 0.0  # some detections for the metric
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 4


def shrink_mask_queries(model: ConfigDict, size: int) -> None:
    """Few queries and points."""
    for part in (model.backbone.mask_queries, model.panoptic_head):
        part.num_queries = MASK2FORMER["num_queries"]
    shrink_masks(model, size)


def shrink_mask2former(model: ConfigDict, size: int) -> None:
    """Narrow pyramid and head, one layer a transformer, few queries and points."""
    model.neck.out_channels = 16
    change(model.panoptic_head, {**MASK2FORMER, **dict.fromkeys(CHANNELS, 16)})
    model.panoptic_head.in_channels = [16] * 4
    shrink_masks(model, size)


def shrink_masks(model: ConfigDict, size: int) -> None:
    """Few points and results, on images of the encoder's size."""
    model.train_cfg.num_points = 64
    model.test_cfg.max_per_image = 8
    for augment in model.data_preprocessor.get("batch_augments") or []:
        augment.size = (size, size)


def change(cfg: Any, values: dict[str, int]) -> None:
    """Set every entry of these names below a config."""
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, dict | list | tuple):
            change(value, values)
    if isinstance(cfg, dict):
        cfg.update({key: values[key] for key in cfg if key in values})
