"""Random images with labels for one step of training of any host library."""

from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

Size = tuple[int, int]
"""Height and width in pixels."""


def random_training_batch(
    cfg: Config, batch_size: int, size: Size, num_objects: int, seed: int = 0
) -> dict[str, Any]:
    """Images with labels, packed as the config's training pipeline packs its own.

    Args:
        cfg: Config of a detector of mmdet, a segmenter of mmseg or a classifier of mmpretrain.
        batch_size: Images.
        size: Height and width in pixels.
        num_objects: Boxes and masks of a detector in each image, all of one class; their sides lie
            between a 16th and a half of the shorter side of the image.
        seed: Of labels and pixels.

    Raises:
        ValueError: If there is no image or no object.
    """
    if min(batch_size, num_objects) < 1:
        raise ValueError(
            f"expected at least one image and one object, got {batch_size} and {num_objects}"
        )
    pack = TRANSFORMS.build(cfg.train_dataloader.dataset.pipeline[-1])
    random = np.random.default_rng(seed)
    samples = []
    for i in range(batch_size):
        if cfg.default_scope == "mmdet":
            truth = _objects(random, size, num_objects)
            stuff = (cfg.model.get("panoptic_head") or {}).get("num_stuff_classes", 0)
            if stuff:  # a panoptic model: the last class behind the objects
                labels = np.full(size, cfg.model.panoptic_head.num_things_classes + stuff - 1)
                truth |= dict(gt_seg_map=labels, seg_fields=["gt_seg_map"])
        elif cfg.default_scope == "mmseg":
            classes = cfg.model.decode_head.num_classes
            labels = random.integers(classes, size=size, dtype=np.uint8)
            truth = dict(gt_seg_map=labels, seg_fields=["gt_seg_map"])
        else:
            truth = dict(gt_label=int(random.integers(cfg.model.head.num_classes)))
        about = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), flip=False)
        picture = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        samples.append(pack(dict(img=picture, img_id=i, img_path="", **about, **truth)))
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def _objects(random: np.random.Generator, size: Size, num_objects: int) -> dict[str, Any]:
    """Boxes with masks that fill them."""
    # Only where a detector is at hand, as every tool that builds one.
    import torch
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    extent = min(size) * 2.0 ** random.uniform(-4, -1, (num_objects, 2))  # width, height
    start = random.uniform(0, 1, extent.shape) * (np.array(size[::-1]) - extent)
    boxes = np.concatenate([start, start + extent], axis=1).astype(np.float32)
    masks = np.zeros((num_objects, *size), dtype=np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    return dict(
        gt_bboxes=HorizontalBoxes(torch.from_numpy(boxes)),
        gt_bboxes_labels=np.zeros(num_objects, dtype=np.int64),
        gt_ignore_flags=np.zeros(num_objects, dtype=bool),
        gt_masks=BitmapMasks(masks, *size),
    )
