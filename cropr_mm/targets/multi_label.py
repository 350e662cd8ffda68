"""Multi-label target of any task: which classes are in the image.

B images, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets.base import LabelTarget


@TASK_UTILS.register_module()
class MultiLabelTarget(LabelTarget):
    """Classes present in the image, learned by sigmoid cross-entropy.

    Detection: the classes of ``gt_instances.labels`` (mmdet). Ignored regions (mmdet keeps them
    apart, in ``ignored_instances``) do not count. Multi-label classification: ``gt_score`` in
    [0, 1], which mixup and cutmix write, else the label set ``gt_label`` (mmpretrain).
    Segmentation: the classes of the label map ``gt_sem_seg`` (mmseg). An image without any class is
    a valid sample.

    Args:
        num_classes: Classes of the model.
        ignore_index: Label of pixels without a class.

    Source: Token Cropr, the auxiliary loss for detection and instance segmentation.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        super().__init__(num_classes)
        self.ignore_index = ignore_index

    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Multi-hot vectors, shape (B, K), float32; mixed images have values between 0 and 1."""
        if all(getattr(sample, "gt_score", None) is not None for sample in data_samples):
            return self._scores(data_samples, device)
        labels = [_labels(sample, self.ignore_index) for sample in data_samples]
        image = torch.arange(len(labels)).repeat_interleave(torch.tensor([len(x) for x in labels]))
        label = torch.cat([x.to(device) for x in labels])
        self.check_labels(label)
        target = torch.zeros(len(labels), self.num_classes, device=device)
        target[image.to(device), label] = 1.0
        return target

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Sigmoid cross-entropy in float32, mean over images and classes."""
        if logits.shape != target.shape:
            raise ValueError(
                f"MultiLabelTarget expects logits of shape {tuple(target.shape)} (images, classes; "
                f"one query per module), got {tuple(logits.shape)}"
            )
        return F.binary_cross_entropy_with_logits(logits.float(), target)

    def _scores(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        target = self.stack_scores(data_samples, device)
        if ((target < 0) | (target > 1)).any():
            raise ValueError(
                "MultiLabelTarget expects a gt_score in [0, 1], got values from "
                f"{target.min().item():g} to {target.max().item():g}"
            )
        return target


def _labels(sample: Any, ignore_index: int) -> Tensor:
    """Classes of one image, maybe with repetitions, shape (n,), int64."""
    labels = getattr(getattr(sample, "gt_instances", None), "labels", None)
    if labels is None:
        labels = getattr(sample, "gt_label", None)
    if labels is None:
        label_map = getattr(getattr(sample, "gt_sem_seg", None), "data", None)
        labels = None if label_map is None else label_map[label_map != ignore_index].unique().long()
    if labels is None:
        raise ValueError(
            "MultiLabelTarget expects data samples with gt_instances.labels, as mmdet makes them, "
            "with gt_label or gt_score, as mmpretrain, or with gt_sem_seg.data, as mmseg, got a "
            f"{type(sample).__name__} without"
        )
    return labels
