"""Target for classification: the image's class, or the mixture of classes of a mixed image.

B images, K classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets.base import LabelTarget


@TASK_UTILS.register_module()
class ClassTarget(LabelTarget):
    """The main head's target and loss for every auxiliary head.

    Mixup and cutmix of mmpretrain's data preprocessor write the mixed classes to ``gt_score``; it
    comes before ``gt_label``, as in mmpretrain's heads.

    Args:
        num_classes: Classes of the classifier.
        loss: Config of the main head's loss, such as ``dict(type='mmpretrain.LabelSmoothLoss',
            label_smooth_val=0.1)``; it must take scores of shape (B, K). Default: cross-entropy.

    Raises:
        ValueError: If ``loss`` does not make one number of logits and scores of ``num_classes``.

    Source: Token Cropr, the auxiliary loss for classification, which is the main one's.
    """

    def __init__(self, num_classes: int, loss: dict[str, Any] | None = None) -> None:
        super().__init__(num_classes)
        self.criterion = None if loss is None else MODELS.build(loss)
        self._try_criterion(loss)

    def encode(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        """Scores of classes, shape (B, K), float32, each row summing to 1."""
        if all(getattr(sample, "gt_score", None) is not None for sample in data_samples):
            return self._scores(data_samples, device)
        labels = [_label(sample) for sample in data_samples]
        counts = sorted({label.numel() for label in labels})
        if counts != [1]:
            raise ValueError(
                "ClassTarget expects data samples with one gt_label each, or all with gt_score, as "
                f"mmpretrain makes them, got samples with {', '.join(map(str, counts))} labels"
                + ("; several classes in one image need MultiLabelTarget" if counts[-1] > 1 else "")
            )
        label = torch.cat([label.reshape(1) for label in labels]).to(device)
        self.check_labels(label)
        return F.one_hot(label, self.num_classes).float()

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The main loss in float32, averaged over images as mmpretrain's heads do."""
        if logits.shape != target.shape:
            raise ValueError(
                f"ClassTarget expects logits of shape {tuple(target.shape)} (images, classes; one "
                f"query per module), got {tuple(logits.shape)}"
            )
        if self.criterion is None:
            return F.cross_entropy(logits.float(), target)
        return self.criterion(logits.float(), target, avg_factor=len(target))

    def _scores(self, data_samples: Sequence[Any], device: torch.device) -> Tensor:
        target = self.stack_scores(data_samples, device)
        sums = target.sum(dim=1)
        if ((sums - 1).abs() > 1e-3).any():
            raise ValueError(
                "ClassTarget expects a gt_score that sums to 1 over the classes, got sums from "
                f"{sums.min().item():g} to {sums.max().item():g}; several classes in one image "
                "need MultiLabelTarget"
            )
        return target

    def _try_criterion(self, loss: dict[str, Any] | None) -> None:
        """Find out before training whether the loss takes what ``encode`` gives."""
        target = torch.full((2, self.num_classes), 1 / self.num_classes, device="cpu")
        expected = (
            f"ClassTarget expects a loss that takes logits and scores of shape (images, "
            f"{self.num_classes}) and avg_factor, and returns their mean; {loss} "
        )
        try:
            value = self.loss(torch.zeros_like(target), target)
        except (TypeError, ValueError, AssertionError, IndexError, RuntimeError) as error:
            raise ValueError(f"{expected}raised {type(error).__name__}: {error}") from error
        if not isinstance(value, Tensor) or value.dim() != 0:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{expected}returned {shape} instead of one number")


def _label(sample: Any) -> Tensor:
    """Label of one image, empty where it has none."""
    label = getattr(sample, "gt_label", None)
    return torch.empty(0, dtype=torch.int64) if label is None else label
