"""Make a segmentation config small, and give it demo data under the labels it expects."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
from mmengine.config import Config, ConfigDict
from timm.layers import to_2tuple

from cropr_mm.layers.arch import resolve_arch

GRID = 16  # patches a side
WIDTH = 32


def shrink_segmenter(model: ConfigDict) -> None:
    """Narrow layers on GRID x GRID patches, of which the schedule removes the same part."""
    backbone = model.backbone
    arch = resolve_arch(backbone.arch)
    patch = backbone.get("patch_size") or arch.patch_size
    height, width = to_2tuple(backbone.get("img_size") or arch.img_size)
    schedule = backbone.get("schedule", {})
    if "mask_dim" in backbone.get("reducer", {}):
        backbone.reducer.mask_dim = WIDTH
    if "rate" in schedule:
        schedule.rate = schedule.rate * GRID**2 // (height // patch * (width // patch))
    size = (GRID * patch, GRID * patch)
    backbone.update(
        arch={**asdict(arch), "embed_dim": WIDTH, "num_heads": 2, "hidden_dim": 48},
        img_size=size,
        patch_size=patch,
    )
    for part in ("neck", "decode_head", "auxiliary_head"):
        narrow(model.get(part) or {})
    for cfg in (model.data_preprocessor, model.data_preprocessor.get("test_cfg") or {}):
        if "size" in cfg:
            cfg.size = size
    if model.test_cfg.mode == "slide":
        model.test_cfg.update(crop_size=size, stride=(GRID * patch // 2,) * 2)


def narrow(cfg: dict[str, Any]) -> None:
    """Set every number of channels of a neck or head to WIDTH."""
    for key in ("in_channels", "out_channels", "channels", "embed_dim", "embed_dims"):
        if key in cfg:
            cfg[key] = [WIDTH] * len(cfg[key]) if isinstance(cfg[key], list) else WIDTH
    if "num_heads" in cfg:
        cfg["num_heads"] = 2


def use_label_maps(cfg: Config, data: Path, folder: Path) -> None:
    """Put digits in the place of the config's images, with labels among its classes.

    Where validation pads, images are not square, so that it has something to pad.
    """
    rows = 96 if cfg.model.data_preprocessor.get("test_cfg") else 128
    height, width = cfg.model.backbone.img_size
    if cfg.model.backbone.get("reducer", {}).get("type") == "cropr_mm.DToP":
        cfg.custom_hooks[-1].target.grid = (GRID, GRID)  # tokens learn their own labels
    for split in ("train", "val"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        for kind in ("images", "semantic"):
            (folder / kind / split).mkdir(parents=True)
            for file in (data / kind / split).iterdir():
                pixels = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
                cv2.imwrite(str(folder / kind / split / file.name), pixels[:rows])
        loader.dataset.update(
            data_root=str(folder),
            ann_file="",
            img_suffix=".png",
            data_prefix=dict(img_path=f"images/{split}", seg_map_path=f"semantic/{split}"),
        )
        for step in loader.dataset.pipeline:
            for key in ("scale", "crop_size"):
                if key in step:
                    step[key] = (width, height)
    for key in ("test_dataloader", "test_evaluator", "test_cfg"):
        cfg[key] = None
