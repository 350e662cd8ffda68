"""Losses and results of queries that went through the encoder.

B batch, Q queries, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS as MMDET_TASK_UTILS
from mmdet.structures import SampleList
from mmengine.model import BaseModule
from torch import Tensor

from cropr_mm.registry import MODELS

_MATCHING = ("assigner", "sampler", "num_points", "oversample_ratio", "importance_sample_ratio")


@MODELS.register_module()
class MaskQueryHead(Mask2FormerHead):
    """Mask2FormerHead without a decoder, for ``CroprViT(mask_queries=...)``.

    The encoder has predicted classes and masks already; matching, points, losses and results are
    those of the base. It has no parameters. As ``panoptic_head`` of mmdet's ``Mask2Former`` it does
    instance and panoptic segmentation.

    Args:
        num_things_classes: Classes of things.
        num_stuff_classes: Classes of stuff.
        num_queries: Q, that of the encoder.
        loss_cls: Config of the loss of classes, with ``class_weight`` for K classes and no object.
        loss_mask: Config of the loss of points of masks.
        loss_dice: Config of the overlap loss of points of masks.
        train_cfg: Assigner, sampler and points, as for Mask2FormerHead; None where nothing trains.
        test_cfg: Settings of results, given by the detector.
        init_cfg: None, as there is nothing to initialize.

    Raises:
        ValueError: If ``loss_cls`` is no softmax with weights, or ``train_cfg`` lacks an entry.

    Source: Kerssies et al., EoMT (arXiv 2503.19108), whose losses are those of Mask2Former.
    """

    reads_queries = True  # preflight refuses a head without, where the encoder has queries

    def __init__(
        self,
        num_things_classes: int,
        num_stuff_classes: int,
        num_queries: int,
        loss_cls: dict[str, Any],
        loss_mask: dict[str, Any],
        loss_dice: dict[str, Any],
        train_cfg: dict[str, Any] | None = None,
        test_cfg: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        BaseModule.__init__(self, init_cfg)  # the base would build its decoder
        _check_losses(loss_cls, train_cfg)
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.num_queries = num_queries
        self.class_weight = loss_cls["class_weight"]
        self.loss_cls = MMDET_MODELS.build(loss_cls)
        self.loss_mask = MMDET_MODELS.build(loss_mask)
        self.loss_dice = MMDET_MODELS.build(loss_dice)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if train_cfg:
            self.assigner = MMDET_TASK_UTILS.build(train_cfg["assigner"])
            self.sampler = MMDET_TASK_UTILS.build(
                train_cfg["sampler"], default_args=dict(context=self)
            )
            self.num_points = train_cfg["num_points"]
            self.oversample_ratio = train_cfg["oversample_ratio"]
            self.importance_sample_ratio = train_cfg["importance_sample_ratio"]

    def init_weights(self) -> None:
        """Nothing: the queries are initialized where they are."""

    def forward(
        self, x: tuple[Any, ...], batch_data_samples: SampleList | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of classes (B, Q, K + 1) and of masks (B, Q, h, w), by block, from the encoder."""
        return x[-1].classes, x[-1].masks


def _check_losses(loss_cls: Mapping[str, Any], train_cfg: Mapping[str, Any] | None) -> None:
    """Raise ValueError for settings without what the base reads in training."""
    weights, sigmoid = loss_cls.get("class_weight"), loss_cls.get("use_sigmoid", False)
    if not isinstance(weights, Sequence) or sigmoid:
        raise ValueError(
            "loss_cls expects class_weight, one number for each class and one for no object, and "
            f"use_sigmoid=False, got class_weight={weights} and use_sigmoid={sigmoid}"
        )
    missing = [name for name in _MATCHING if train_cfg and name not in train_cfg]
    if missing:
        raise ValueError(
            f"train_cfg of a head of mask queries expects {', '.join(_MATCHING)}, got none of "
            f"{', '.join(missing)}"
        )
