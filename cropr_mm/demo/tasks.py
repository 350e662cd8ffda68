"""What the demo shows for each task, and which results it must reach."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoTask:
    """One task of the demo.

    Attributes:
        config: Pruned config, a file in the folder of configs that :func:`run_demo` is given.
        title: Over the pictures.
        metrics: Names that the evaluator gives, with what people call them.
        thresholds: Least values of some metrics, in the evaluator's unit, and of 'pruned', the
            share of tokens that leave.
    """

    config: str
    title: str
    metrics: dict[str, str]
    thresholds: dict[str, float]


TASKS = {
    "det": DemoTask(
        config="cropr_tiny_cascade_digits.py",
        title="Detections, and which patches the detector needed to the end",
        metrics={
            "coco/bbox_mAP_50": "box AP50",
            "coco/segm_mAP_50": "mask AP50",
            "coco/bbox_mAP": "box AP",
            "coco/segm_mAP": "mask AP",
        },
        thresholds={"coco/bbox_mAP_50": 0.5, "coco/segm_mAP_50": 0.5, "pruned": 0.85},
    ),
    "seg": DemoTask(
        config="cropr_tiny_segmenter_digits.py",
        title="Label maps, and which patches the segmenter needed to the end",
        metrics={"mIoU": "mIoU, %", "aAcc": "pixels right, %"},
        thresholds={"mIoU": 40.0, "pruned": 0.85},
    ),
    "cls": DemoTask(
        config="cropr_tiny_vit_digits_cls.py",
        title="Number of digits, and which patches the classifier needed to the end",
        metrics={"accuracy/top1": "top-1, %"},
        thresholds={"accuracy/top1": 80.0, "pruned": 0.8},
    ),
}
PRUNED = "tokens pruned, share"
