"""An ordinary mmdet detector on a Cropr backbone, and all that a runner needs to train it."""

from pathlib import Path
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

CLASSES = ("disc", "box", "bar")
AUXILIARY = ["loss_cropr_b00", "loss_cropr_b01", "loss_cropr_b02"]
HOOK = dict(
    type="cropr_mm.CroprAuxLossHook", target=dict(type="cropr_mm.MultiLabelTarget", num_classes=3)
)


class Boxes(Dataset):
    """Noise with bright boxes, brighter in the channel of their class; every third image is empty.

    Args:
        length: Number of images, 64 x 64 pixels.
    """

    def __init__(self, length: int) -> None:
        self.metainfo = dict(classes=CLASSES)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        g = torch.Generator().manual_seed(index)
        image = torch.randint(0, 100, (3, 64, 64), generator=g, dtype=torch.uint8)
        count = 0 if index % 3 == 2 else 1 + index % 2
        corners = torch.randint(0, 40, (count, 2), generator=g)
        labels = torch.randint(0, 3, (count,), generator=g)
        for (x, y), label in zip(corners.tolist(), labels.tolist(), strict=True):
            image[label, y : y + 24, x : x + 24] = 255
        sample = DetDataSample(
            metainfo=dict(
                img_id=index, img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0)
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corners, corners + 24], dim=1).float(), labels=labels
        )
        return dict(inputs=image, data_samples=sample)


class Count(BaseMetric):
    """Counts images that came out of validation."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [len(sample["pred_instances"]["labels"]) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict[str, float]:
        return dict(images=len(results))


class Record(Hook):
    """Keeps what each training iteration logged."""

    priority = "LOWEST"

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any, outputs: Any
    ) -> None:
        self.logged.append({name: value.item() for name, value in outputs.items()})


def model(**backbone: Any) -> ConfigDict:
    """Config of an FCOS of mmdet, with changes to its backbone."""
    cropr = dict(
        type="cropr_mm.CroprViT",
        arch=dict(embed_dim=16, depth=5, num_heads=2, patch_size=8, img_size=64),
        reducer=dict(type="cropr_mm.Cropr", num_classes=3),
        schedule=dict(type="cropr_mm.ConstantRate", rate=16),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
    cropr.update(backbone)
    return ConfigDict(
        type="FCOS",
        data_preprocessor=dict(
            type="DetDataPreprocessor",
            mean=[128.0] * 3,
            std=[64.0] * 3,
            bgr_to_rgb=True,
            pad_size_divisor=8,
        ),
        backbone=cropr,
        neck=dict(type="FPN", in_channels=[16], out_channels=16, num_outs=1),
        bbox_head=dict(
            type="FCOSHead",
            num_classes=3,
            in_channels=16,
            feat_channels=16,
            stacked_convs=1,
            strides=[8],
            regress_ranges=((-1, 1e8),),
            norm_cfg=dict(type="GN", num_groups=4, requires_grad=True),
        ),
        test_cfg=dict(
            nms_pre=100,
            min_bbox_size=0,
            score_thr=0.0,
            nms=dict(type="nms", iou_threshold=0.5),
            max_per_img=10,
        ),
    )


def optim_wrapper(type: str = "cropr_mm.CroprOptimWrapper", **changes: Any) -> dict[str, Any]:
    """Config of an optimizer wrapper with layer decay and clipping."""
    cfg = dict(
        type=type,
        optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
        clip_grad=dict(max_norm=1.0),
        constructor="cropr_mm.LayerDecayConstructor",
        paramwise_cfg=dict(decay_rate=0.8),
    )
    cfg.update(changes)
    return cfg


def loader(length: int, batch_size: int, sampler: str = "InfiniteSampler") -> dict[str, Any]:
    """Config of a data loader over the first images, always in the same order."""
    return dict(
        dataset=Boxes(length),
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type=sampler, shuffle=False),
        collate_fn=dict(type="pseudo_collate"),
    )


def make_runner(work_dir: Path, **changes: Any) -> Runner:
    """A runner for four iterations on batches of four images, with validation after each two.

    Args:
        work_dir: Where logs and checkpoints go.
        changes: Arguments of the runner to replace.
    """
    cfg: dict[str, Any] = dict(
        model=model(),
        work_dir=str(work_dir),
        experiment_name=work_dir.name,
        train_dataloader=loader(8, 4),
        train_cfg=dict(by_epoch=False, max_iters=4, val_interval=2),
        optim_wrapper=optim_wrapper(),
        val_dataloader=loader(3, 1, "DefaultSampler"),
        val_cfg=dict(),
        val_evaluator=Evaluator([Count()]),
        custom_hooks=[HOOK],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=4, by_epoch=False)),
        default_scope="mmdet",
        log_level="WARNING",
        randomness=dict(seed=0),
        env_cfg=dict(dist_cfg=dict(backend="gloo")),
    )
    cfg.update(changes)
    return Runner(**cfg)
