"""Multi-label target for detection: which classes are present in the image."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets.base import AuxiliaryTarget


@TASK_UTILS.register_module()
class MultiLabelTarget(AuxiliaryTarget):
    """Classes present among the ground-truth instances, learned by sigmoid cross-entropy.

    An image without instances is a valid sample: no class is present. Ignored regions (mmdet keeps
    them apart, in ``ignored_instances``) do not count.

    Args:
        num_classes: Classes of the detector.

    Source: Token Cropr, the auxiliary loss for detection and instance segmentation.
    """

    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Multi-hot vectors, shape (B, num_classes), float32, from ``gt_instances.labels``."""
        labels = [_instance_labels(sample) for sample in data_samples]
        image = torch.arange(len(labels)).repeat_interleave(torch.tensor([len(x) for x in labels]))
        label = torch.cat([x.to(device) for x in labels])
        outside = label[(label < 0) | (label >= self.num_classes)]
        if len(outside):
            raise ValueError(
                f"MultiLabelTarget(num_classes={self.num_classes}) expects labels in "
                f"[0, {self.num_classes - 1}], got {sorted(set(outside.tolist()))}"
            )
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


def _instance_labels(sample: Any) -> Tensor:
    """Class of each ground-truth instance, shape (num_instances,), int64."""
    instances = getattr(sample, "gt_instances", None)
    labels = getattr(instances, "labels", None)
    if labels is None:
        raise ValueError(
            "MultiLabelTarget expects data samples with gt_instances.labels, as mmdet makes them, "
            f"got a {type(sample).__name__} without"
        )
    return labels
