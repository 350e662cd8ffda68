"""On what it is compared: data, with the models that are trained on them."""

import os
from dataclasses import dataclass, field, replace
from typing import Any

from cropr_mm.datasets import DemoSettings

DATA_ROOT = os.environ.get("CROPR_DATA_ROOT", "data")
"""As the configs read it."""

WARMUP_ITERS = 20
"""Iterations in which the learning rate rises, of all trainings."""


@dataclass(frozen=True)
class BenchmarkTask:
    """A data set with the models that are trained on it.

    Attributes:
        task: Name of a :class:`experiments.scores.Task`.
        dense: Config without pruning.
        pruned: The same with Cropr.
        pretrain_iters: Iterations of the dense model, from random weights or from those that its
            config names.
        finetune_iters: Iterations of each variant, from the dense model.
        finetune_lr: Their peak learning rate.
        auxiliary_lr_mult: Learning rate of Cropr's modules, which start from random values, in
            multiples of that of the trained encoder. In the published recipes layer decay does
            this: theirs is the learning rate of the head.
        overrides: Entries of both configs by dotted key, such as another image size.
        demo_data: Demo data to make first, by folder; empty where the user brings data.
        percent: Share of the patch tokens that variants prune, evenly over all blocks, unless they
            say themselves; 0 keeps the schedule of the pruned config.
    """

    task: str
    dense: str
    pruned: str
    pretrain_iters: int
    finetune_iters: int
    finetune_lr: float = 3e-4
    auxiliary_lr_mult: float = 3.0
    overrides: dict[str, Any] = field(default_factory=dict)
    demo_data: dict[str, DemoSettings] = field(default_factory=dict)
    percent: int = 0


_DIGITS = {"data/demo": DemoSettings()}


def _photo_size(height: int, width: int) -> dict[str, Any]:
    """Overrides of a segmenter of CamVid for photos of another size, in pixels."""
    return {
        "model.backbone.img_size": (height, width),
        "model.data_preprocessor.size": (height, width),
        "model.data_preprocessor.test_cfg.size": (height, width),
        "train_dataloader.dataset.pipeline.2.scale": (width, height),
        "train_dataloader.dataset.pipeline.3.crop_size": (height, width),
        "test_dataloader.dataset.pipeline.1.scale": (width, height),
    }


_MIXED_PRECISION = {"optim_wrapper.type": "cropr_mm.CroprBfloat16OptimWrapper"}

BENCHMARK_TASKS = {
    "digits": BenchmarkTask(
        task="det",
        dense="configs/demo/unpruned_tiny_cascade_digits.py",
        pruned="configs/demo/cropr_tiny_cascade_digits.py",
        pretrain_iters=400,
        finetune_iters=150,
        auxiliary_lr_mult=1.0,
        demo_data=_DIGITS,
    ),
    "person": BenchmarkTask(
        task="det",
        dense="configs/detection/unpruned_tiny_cascade_coco_person.py",
        pruned="configs/detection/cropr_tiny_cascade_coco_person.py",
        pretrain_iters=400,
        finetune_iters=100,
        auxiliary_lr_mult=1.0,
    ),
    "digits_seg": BenchmarkTask(
        task="seg",
        dense="configs/demo/unpruned_tiny_segmenter_digits.py",
        pruned="configs/demo/cropr_tiny_segmenter_digits.py",
        pretrain_iters=1400,
        finetune_iters=600,
        finetune_lr=1e-3,
        demo_data=_DIGITS,
    ),
    "camvid": BenchmarkTask(
        task="seg",
        dense="configs/segmentation/unpruned_tiny_segmenter_camvid.py",
        pruned="configs/segmentation/cropr_tiny_segmenter_camvid.py",
        pretrain_iters=600,
        finetune_iters=300,
        finetune_lr=1e-3,
    ),
    "digits_cls": BenchmarkTask(
        task="cls",
        dense="configs/demo/unpruned_tiny_vit_digits_cls.py",
        pruned="configs/demo/cropr_tiny_vit_digits_cls.py",
        pretrain_iters=400,
        finetune_iters=400,
        finetune_lr=1e-3,
        demo_data=_DIGITS,
    ),
    "digits_labels": BenchmarkTask(
        task="multilabel",
        dense="configs/demo/unpruned_tiny_vit_digits_multilabel.py",
        pruned="configs/demo/cropr_tiny_vit_digits_multilabel.py",
        pretrain_iters=600,
        finetune_iters=400,
        finetune_lr=1e-3,
        demo_data=_DIGITS,
    ),
    "trashnet": BenchmarkTask(
        task="cls",
        dense="configs/classification/unpruned_tiny_vit_trashnet.py",
        pruned="configs/classification/cropr_tiny_vit_trashnet.py",
        pretrain_iters=600,
        finetune_iters=400,
        finetune_lr=1e-3,
    ),
}
BENCHMARK_TASKS["digits_strokes"] = replace(
    BENCHMARK_TASKS["digits_seg"],
    overrides={
        "train_dataloader.dataset.data_root": "data/demo_strokes",
        "test_dataloader.dataset.data_root": "data/demo_strokes",
    },
    demo_data={"data/demo_strokes": DemoSettings(stroke_contrast=180.0)},
)
BENCHMARK_TASKS["camvid_small"] = replace(
    BENCHMARK_TASKS["camvid"], overrides=_photo_size(144, 192), percent=86
)
BENCHMARK_TASKS["trashnet_small"] = replace(
    BENCHMARK_TASKS["trashnet"],
    overrides={
        "model.backbone.img_size": (96, 128),
        "train_dataloader.dataset.pipeline.1.scale": (128, 96),
        "test_dataloader.dataset.pipeline.1.scale": (128, 96),
    },
    percent=87,
)
BENCHMARK_TASKS |= {
    "camvid_dinov2s": BenchmarkTask(
        task="seg",
        dense="configs/segmentation/unpruned_dinov2s_segmenter_camvid.py",
        pruned="configs/segmentation/cropr_dinov2s_segmenter_camvid.py",
        pretrain_iters=240,
        finetune_iters=90,
        finetune_lr=1e-3,
        auxiliary_lr_mult=1.0,
        percent=86,
    ),
    "trashnet_dinov2s": BenchmarkTask(
        task="cls",
        dense="configs/classification/unpruned_dinov2s_trashnet.py",
        pruned="configs/classification/cropr_dinov2s_trashnet.py",
        pretrain_iters=110,
        finetune_iters=60,
        finetune_lr=5e-4,
        auxiliary_lr_mult=1.0,
        percent=86,
    ),
    "person_dinov2s": BenchmarkTask(
        task="det",
        dense="configs/detection/unpruned_dinov2s_cascade_coco_person.py",
        pruned="configs/detection/cropr_dinov2s_cascade_coco_person.py",
        pretrain_iters=120,
        finetune_iters=60,
        finetune_lr=1e-3,
        auxiliary_lr_mult=1.0,
        percent=86,
    ),
    "person_mask2former_dinov2s": BenchmarkTask(
        task="det",
        dense="configs/detection/unpruned_dinov2s_mask2former_coco_person.py",
        pruned="configs/detection/cropr_dinov2s_mask2former_coco_person.py",
        pretrain_iters=150,
        finetune_iters=100,
        auxiliary_lr_mult=1.0,
        overrides=_MIXED_PRECISION,
        percent=86,
    ),
    "person_dino_dinov2s": BenchmarkTask(
        task="boxes",
        dense="configs/detection/unpruned_dinov2s_dino_coco_person.py",
        pruned="configs/detection/cropr_dinov2s_dino_coco_person.py",
        pretrain_iters=500,
        finetune_iters=100,
        auxiliary_lr_mult=1.0,
        overrides=_MIXED_PRECISION,
        percent=86,
    ),
    "camvid_upernet_dinov2s": BenchmarkTask(
        task="seg",
        dense="configs/segmentation/unpruned_dinov2s_upernet_camvid.py",
        pruned="configs/segmentation/cropr_dinov2s_upernet_camvid.py",
        pretrain_iters=120,
        finetune_iters=60,
        finetune_lr=1e-3,
        auxiliary_lr_mult=1.0,
        overrides=_MIXED_PRECISION,
    ),
    "coco_mini_dinov2s": BenchmarkTask(
        task="multilabel",
        dense="configs/classification/unpruned_dinov2s_coco_multilabel.py",
        pruned="configs/classification/cropr_dinov2s_coco_multilabel.py",
        pretrain_iters=60,
        finetune_iters=30,
        finetune_lr=1e-3,
        auxiliary_lr_mult=1.0,
        percent=86,
    ),
}
BENCHMARK_TASKS["camvid_dinov2s_long"] = replace(
    BENCHMARK_TASKS["camvid_dinov2s"],
    pretrain_iters=480,
    finetune_iters=240,
    overrides=_MIXED_PRECISION,
)
BENCHMARK_TASKS["camvid_dinov2s_coarse"] = replace(
    BENCHMARK_TASKS["camvid_dinov2s"], overrides=_photo_size(126, 168)
)
BENCHMARK_TASKS["camvid_mini_dinov2s"] = replace(
    BENCHMARK_TASKS["camvid_dinov2s"],
    overrides={
        **{
            f"{split}_dataloader.dataset.data_root": f"{DATA_ROOT}/camvid_mini/"
            for split in ("train", "test")
        },
        "test_dataloader.dataset.ann_file": "val.txt",
        "test_dataloader.dataset.data_prefix": dict(
            img_path="images/val", seg_map_path="masks/val"
        ),
    },
)
