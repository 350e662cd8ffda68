"""One tiny config and four small images for each host library, written to a folder."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

CLASSES = ("disc", "box")
BACKBONE = dict(
    type="cropr_mm.CroprViT",
    arch=dict(embed_dim=16, depth=5, num_heads=2, patch_size=8, img_size=64),
    schedule=dict(type="cropr_mm.ConstantRate", rate=16),
    fusion=dict(type="cropr_mm.LastLayerFusion"),
)
NORMALIZE = dict(mean=[128.0] * 3, std=[64.0] * 3)


def write_images(root: Path) -> None:
    """Four images of 64 x 64 pixels with a bright box each, with labels of all three kinds."""
    random = np.random.default_rng(0)
    images, boxes = [], []
    for folder in ("det", "seg", "masks", *(f"cls/{name}" for name in CLASSES)):
        (root / folder).mkdir(parents=True)
    for i in range(4):
        image = random.integers(0, 90, (64, 64, 3), dtype=np.uint8)
        mask = np.zeros((64, 64), np.uint8)
        x, y, side, label = 4 * i + 2, 30 - 4 * i, 24, i % 2
        image[y : y + side, x : x + side, label] = 255
        mask[y : y + side, x : x + side] = 1
        name = f"{i}.png"
        for folder in ("det", "seg", f"cls/{CLASSES[label]}"):
            cv2.imwrite(str(root / folder / name), image)
        cv2.imwrite(str(root / "masks" / name), mask)
        images.append(dict(id=i, file_name=name, width=64, height=64))
        box = dict(id=i, image_id=i, category_id=label + 1, bbox=[x, y, side, side])
        boxes.append({**box, "area": side * side, "iscrowd": 0})
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    content = dict(images=images, annotations=boxes, categories=categories)
    (root / "det.json").write_text(json.dumps(content))


def write_config(root: Path, task: str, **changes: Any) -> Path:
    """Config file of one task: 'det', 'seg' or 'cls'; ``changes`` replace entries by dotted key."""
    cfg = Config({**_RUNTIME, **TASKS[task](str(root))})
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    path = root / f"tiny_{task}_{len([*root.glob('tiny_*.py')])}.py"
    cfg.dump(path)
    return path


_RUNTIME = dict(
    train_cfg=dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2),
    val_cfg=dict(type="ValLoop"),
    test_cfg=dict(type="TestLoop"),
    optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3)),
    default_hooks=dict(
        logger=dict(type="LoggerHook", interval=1),
        checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False),
    ),
    log_processor=dict(by_epoch=False),
    visualizer=dict(type="Visualizer"),
    randomness=dict(seed=0),
)


def _loaders(train: dict[str, Any], val: dict[str, Any], evaluator: Any) -> dict[str, Any]:
    shared = dict(batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
    # Loops of iterations sleep two seconds whenever another sampler ends.
    endless = dict(type="InfiniteSampler", shuffle=False)
    return dict(
        train_dataloader=dict(shared, sampler=endless, dataset=train),
        val_dataloader=dict(shared, dataset=val),
        test_dataloader=dict(shared, dataset=val),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
    )


def _detection(root: str) -> dict[str, Any]:
    dataset = dict(
        type="CocoDataset",
        data_root=root,
        ann_file="det.json",
        data_prefix=dict(img="det/"),
        metainfo=dict(classes=CLASSES),
    )
    load = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True),
        dict(type="PackDetInputs"),
    ]
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    test = [
        load[0],
        dict(type="Resize", scale=(64, 64), keep_ratio=True),
        dict(type="PackDetInputs", meta_keys=meta),
    ]
    reducer = dict(type="cropr_mm.Cropr", num_classes=2)
    hook = dict(
        type="cropr_mm.CroprAuxLossHook",
        target=dict(type="cropr_mm.MultiLabelTarget", num_classes=2),
    )
    return dict(
        default_scope="mmdet",
        model=dict(
            type="FCOS",
            data_preprocessor=dict(type="DetDataPreprocessor", **NORMALIZE),
            backbone=dict(BACKBONE, reducer=reducer),
            neck=dict(type="FPN", in_channels=[16], out_channels=16, num_outs=2),
            bbox_head=dict(
                type="FCOSHead",
                num_classes=2,
                in_channels=16,
                feat_channels=16,
                stacked_convs=1,
                strides=[8, 16],
                regress_ranges=((-1, 32), (32, 1e8)),
                norm_cfg=dict(type="GN", num_groups=4, requires_grad=True),
            ),
            test_cfg=dict(
                nms_pre=100,
                min_bbox_size=0,
                score_thr=0.0,
                nms=dict(type="nms", iou_threshold=0.5),
                max_per_img=10,
            ),
        ),
        custom_hooks=[hook],
        visualizer=dict(type="DetLocalVisualizer"),
        **_loaders(
            dict(dataset, pipeline=load),
            dict(dataset, pipeline=test, test_mode=True),
            dict(type="CocoMetric", ann_file=f"{root}/det.json"),
        ),
    )


def _segmentation(root: str) -> dict[str, Any]:
    load = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations"),
        dict(type="PackSegInputs"),
    ]
    dataset = dict(
        type="BaseSegDataset",
        data_root=root,
        data_prefix=dict(img_path="seg", seg_map_path="masks"),
        img_suffix=".png",
        metainfo=dict(classes=CLASSES, palette=[[255, 0, 0], [0, 255, 0]]),
        pipeline=load,
    )
    return dict(
        default_scope="mmseg",
        model=dict(
            type="EncoderDecoder",
            data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 64), **NORMALIZE),
            backbone=dict(BACKBONE, reducer=dict(type="cropr_mm.VariancePruner")),
            decode_head=dict(
                type="FCNHead",
                in_channels=16,
                channels=16,
                num_convs=0,
                kernel_size=1,
                concat_input=False,
                num_classes=2,
                dropout_ratio=0.0,
            ),
            train_cfg=dict(),
            test_cfg=dict(mode="whole"),
        ),
        visualizer=dict(type="SegLocalVisualizer"),
        **_loaders(dataset, dataset, dict(type="IoUMetric", iou_metrics=["mIoU"])),
    )


def _classification(root: str) -> dict[str, Any]:
    dataset = dict(
        type="CustomDataset",
        data_root=root,
        data_prefix="cls",
        pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
    )
    loaders = _loaders(dataset, dataset, dict(type="Accuracy"))
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loaders[name]["collate_fn"] = dict(type="default_collate")
    return dict(
        default_scope="mmpretrain",
        model=dict(
            type="ImageClassifier",
            data_preprocessor=dict(num_classes=2, **NORMALIZE),
            backbone=dict(
                BACKBONE, reducer=dict(type="cropr_mm.VariancePruner"), out_type="avg_featmap"
            ),
            head=dict(
                type="LinearClsHead",
                num_classes=2,
                in_channels=16,
                loss=dict(type="CrossEntropyLoss"),
                topk=(1,),
            ),
        ),
        visualizer=dict(type="UniversalVisualizer"),
        **loaders,
    )


TASKS = dict(det=_detection, seg=_segmentation, cls=_classification)
