"""Cascade of box heads with one mask head, as in detectron2 and EVA-02-det.

N boxes of an image, R regions of a batch, K classes, C channels.
"""

from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import empty_instances
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from cropr_mm.ops.soft_nms import soft_nms
from cropr_mm.registry import MODELS

SOFT_NMS = "cropr_mm.soft_nms"


@MODELS.register_module()
class SharedMaskCascadeRoIHead(CascadeRoIHead):
    """Cascade R-CNN head of detectron2; arguments as mmdet's CascadeRoIHead, and one mask head.

    It differs from its base in what follows.

    - One mask head and one mask extractor. It learns from the regions of the first stage and sees
      the final boxes in inference.
    - Class probabilities, not logits, are averaged over the stages.
    - The gradient into the pooled box features of each stage is divided by the number of stages.
    - Boxes of the ground truth that were added to the proposals of a stage go on to the next one.
      Later stages use all boxes of the one before: give them ``PseudoSampler``.
    - ``test_cfg.rcnn.nms=dict(type='cropr_mm.soft_nms', iou_threshold=...)`` selects
      :func:`cropr_mm.ops.soft_nms.soft_nms`, whose other arguments may stand there too;
      ``score_thr`` and ``max_per_img`` keep their meaning.

    Raises:
        ValueError: If a box head is not class-agnostic in its boxes, or takes other probabilities
            than those of a softmax.

    Source: detectron2, modeling/roi_heads/cascade_rcnn.py, and the same file under EVA's
    EVA-02/det.
    """

    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        super().init_bbox_head(bbox_roi_extractor, bbox_head)
        for stage, head in enumerate(self.bbox_head):
            sigmoid = head.custom_activation or getattr(head.loss_cls, "use_sigmoid", False)
            if not head.reg_class_agnostic or sigmoid:
                raise ValueError(
                    "SharedMaskCascadeRoIHead expects box heads with reg_class_agnostic=True and "
                    f"a softmax over classes, got {type(head).__name__} with reg_class_agnostic="
                    f"{head.reg_class_agnostic}, loss_cls {type(head.loss_cls).__name__} in stage "
                    f"{stage}"
                )

    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        self.mask_head = MODELS.build(mask_head)
        self.mask_roi_extractor = MODELS.build(mask_roi_extractor)

    def bbox_loss(
        self, stage: int, x: tuple[Tensor, ...], sampling_results: list[SamplingResult]
    ) -> dict:
        for result in sampling_results:
            result.pos_is_gt.zero_()  # the base would drop these boxes between stages
        return super().bbox_loss(stage, x, sampling_results)

    def mask_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        batch_gt_instances: list[InstanceData],
    ) -> dict:
        if stage > 0:
            return dict(loss_mask={})
        if not all("masks" in instances for instances in batch_gt_instances):
            raise ValueError(
                "the mask head expects masks in the ground truth, got none: add with_mask=True to "
                "LoadAnnotations, or leave mask_head and mask_roi_extractor out of roi_head"
            )
        regions = bbox2roi([result.pos_priors for result in sampling_results])
        masks = self._mask_forward(x, regions)
        return self.mask_head.loss_and_target(
            masks, sampling_results, batch_gt_instances, self.train_cfg[0]
        )

    def predict_bbox(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rpn_results_list: list[InstanceData],
        rcnn_test_cfg: ConfigDict | None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        soft = rcnn_test_cfg is not None and rcnn_test_cfg.nms.get("type") == SOFT_NMS
        cfg = None if soft else rcnn_test_cfg
        results = super().predict_bbox(x, batch_img_metas, rpn_results_list, cfg, rescale)
        return [_select(result, rcnn_test_cfg) for result in results] if soft else results

    def predict_mask(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        regions = bbox2roi([result.bboxes for result in results_list])
        if len(regions) == 0:
            return empty_instances(
                batch_img_metas,
                regions.device,
                task_type="mask",
                instance_results=results_list,
                mask_thr_binary=self.test_cfg.mask_thr_binary,
            )
        masks = self._mask_forward(x, regions).split([len(result) for result in results_list])
        return self.mask_head.predict_by_feat(
            masks, results_list, batch_img_metas, self.test_cfg, rescale
        )

    def forward(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list[InstanceData],
        batch_data_samples: list,
    ) -> tuple:
        """Raw outputs: class log-probabilities and box deltas per image, mask logits per image."""
        metas = [sample.metainfo for sample in batch_data_samples]
        proposals = [result.bboxes for result in rpn_results_list]
        sizes = tuple(len(boxes) for boxes in proposals)
        regions, scores, deltas = self._refine_roi(x, bbox2roi(proposals), metas, sizes)
        if not self.with_mask:
            return scores, deltas
        return scores, deltas, self._mask_forward(x, torch.cat(regions)).split(sizes)

    def _bbox_forward(
        self, stage: int, x: tuple[Tensor, ...], rois: Tensor, probabilities: bool = False
    ) -> dict:
        extractor = self.bbox_roi_extractor[stage]
        features = extractor(x[: extractor.num_inputs], rois)
        features = _ScaledGradient.apply(features, 1 / self.num_stages)
        scores, deltas = self.bbox_head[stage](features)
        if probabilities:
            scores = scores.float().softmax(dim=-1)
        return dict(cls_score=scores, bbox_pred=deltas, bbox_feats=features)

    def _refine_roi(self, *args: Any, **kwargs: Any) -> tuple:
        regions, scores, deltas = super()._refine_roi(*args, probabilities=True, **kwargs)
        # The base takes the softmax of what is returned here, which gives the mean back.
        return regions, [score.log() for score in scores], deltas

    def _mask_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Mask logits of regions (R, 5), shape (R, K or 1, h, w)."""
        return self.mask_head(
            self.mask_roi_extractor(x[: self.mask_roi_extractor.num_inputs], rois)
        )


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def _select(result: InstanceData, cfg: ConfigDict) -> InstanceData:
    """Detections of one image out of all its boxes (N, 4) and probabilities (N, K + 1)."""
    settings = {key: value for key, value in cfg.nms.items() if key != "type"}
    scores = result.scores[:, :-1]
    scores = scores.where(scores > cfg.score_thr, torch.zeros_like(scores))
    boxes, labels, scores = soft_nms(result.bboxes, scores, max_num=cfg.max_per_img, **settings)
    return InstanceData(bboxes=result.bboxes[boxes], labels=labels, scores=scores)
