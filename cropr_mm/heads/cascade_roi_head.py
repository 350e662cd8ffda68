"""Cascade of box heads with one mask head, as in detectron2 and EVA-02-det.

N boxes of an image, R regions of a batch, K classes, C channels.
"""

from typing import Any

import torch
from mmdet.models.roi_heads import CascadeRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from cropr_mm.ops.soft_nms import SOFT_NMS, soft_nms
from cropr_mm.registry import MODELS


@MODELS.register_module()
class SharedMaskCascadeRoIHead(CascadeRoIHead):
    """Cascade R-CNN head of detectron2; arguments as mmdet's CascadeRoIHead, and one mask head.

    It differs from its base in what follows.

    - One mask head and one mask extractor. It learns from the regions of the first stage and sees
      the final boxes in inference.
    - Class probabilities, not logits, are averaged over the stages.
    - The gradient into the pooled box features of each stage is divided by the number of stages.
    - Boxes of the ground truth that were added to the proposals of a stage go on to the next one,
      empty boxes do not in training. Later stages use all boxes of the one before: give them
      ``PseudoSampler``.
    - Every stage has its losses, zero ones where no region is left, so that the processes of
      data-parallel training agree.
    - Boxes or probabilities that are not finite are no detections with
      :func:`cropr_mm.ops.soft_nms.soft_nms`.
    - ``test_cfg.rcnn.nms=dict(type='cropr_mm.soft_nms', iou_threshold=...)`` selects
      :func:`cropr_mm.ops.soft_nms.soft_nms`, whose other arguments may stand there too;
      ``score_thr`` and ``max_per_img`` keep their meaning.

    Raises:
        ValueError: If a box head is not class-agnostic in its boxes, or takes other probabilities
            than those of a softmax, or if the test settings are none of soft NMS.

    Source: detectron2, modeling/roi_heads/cascade_rcnn.py, and the same file under EVA's
    EVA-02/det.
    """

    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Build the box heads of all stages."""
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
        """Build the mask head that all stages share."""
        self.mask_head = MODELS.build(mask_head)
        self.mask_roi_extractor = MODELS.build(mask_roi_extractor)

        if _is_soft(self.test_cfg):
            _try_settings(self.test_cfg)

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list[InstanceData],
        batch_data_samples: list,
    ) -> dict[str, Tensor]:
        """Losses and accuracies of all stages, and of the masks in the first, by name."""
        truths, ignored, metas = unpack_gt_instances(batch_data_samples)
        proposals = [result.bboxes for result in rpn_results_list]
        losses: dict[str, Tensor] = {}
        for stage in range(self.num_stages):
            samples = self._sample(stage, x, proposals, truths, ignored)
            results = self.bbox_loss(stage, x, samples)
            found = dict(results["loss_bbox"])
            if stage == 0 and self.with_mask:
                found.update(self.mask_loss(stage, x, samples, truths)["loss_mask"])
            weight = self.stage_loss_weights[stage]
            for name, value in found.items():
                losses[f"s{stage}.{name}"] = value * weight if "loss" in name else value
            deltas = results["bbox_pred"].detach().split([len(s.priors) for s in samples])
            proposals = [
                _not_empty(self._decode(stage, sample.priors, delta, meta["img_shape"]))
                for sample, delta, meta in zip(samples, deltas, metas, strict=True)
            ]
        return losses

    def bbox_loss(
        self, stage: int, x: tuple[Tensor, ...], sampling_results: list[SamplingResult]
    ) -> dict:
        """Loss of the boxes of one stage."""
        results = super().bbox_loss(stage, x, sampling_results)
        if len(results["rois"]) == 0:  # the base leaves the classes out
            nothing = results["cls_score"].sum()
            results["loss_bbox"].update(loss_cls=nothing, acc=nothing.detach().view(1))
        return results

    def mask_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        batch_gt_instances: list[InstanceData],
    ) -> dict:
        """Loss of the masks of one stage."""
        if not all("masks" in instances for instances in batch_gt_instances):
            raise ValueError(
                "the mask head expects masks in the ground truth, got none: add with_mask=True to "
                "LoadAnnotations, or leave mask_head and mask_roi_extractor out of roi_head"
            )
        regions = bbox2roi([result.pos_priors for result in sampling_results])
        masks = self._mask_forward(x, regions)
        return self.mask_head.loss_and_target(
            masks, sampling_results, batch_gt_instances, self.train_cfg[stage]
        )

    def predict_bbox(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rpn_results_list: list[InstanceData],
        rcnn_test_cfg: ConfigDict | None,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Boxes of all images, by soft non-maximum suppression where the config asks for it."""
        soft = _is_soft(rcnn_test_cfg)
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
        """Masks of the predicted boxes."""
        regions = bbox2roi([result.bboxes for result in results_list])
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

    def _sample(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        proposals: list[Tensor],
        truths: list[InstanceData],
        ignored: list[InstanceData | None],
    ) -> list[SamplingResult]:
        """Regions of each image that a stage learns from, with the objects that they match."""
        samples = []
        for i, boxes in enumerate(proposals):
            priors = InstanceData(priors=boxes)
            matches = self.bbox_assigner[stage].assign(priors, truths[i], ignored[i])
            maps = [level[i][None] for level in x]
            samples.append(self.bbox_sampler[stage].sample(matches, priors, truths[i], feats=maps))
        return samples

    def _decode(self, stage: int, boxes: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        return self.bbox_head[stage].bbox_coder.decode(boxes, deltas, max_shape=size)

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


def _not_empty(boxes: Tensor) -> Tensor:
    """Boxes (N, 4) with an extent; ones that are not numbers have none."""
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]


def _is_soft(cfg: ConfigDict | None) -> bool:
    return cfg is not None and cfg.get("nms", {}).get("type") == SOFT_NMS


def _try_settings(cfg: ConfigDict) -> None:
    """Raise a ValueError for test settings that no image could be tested with."""
    try:
        _select(InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0, 2)), cfg)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"expected test_cfg with score_thr, max_per_img and nms=dict(type={SOFT_NMS!r}, "
            f"iou_threshold=...), got {dict(cfg)}: {error}"
        ) from error


def _select(result: InstanceData, cfg: ConfigDict) -> InstanceData:
    """Detections of one image out of all its boxes (N, 4) and probabilities (N, K + 1)."""
    settings = {key: value for key, value in cfg.nms.items() if key != "type"}
    bad = ~(result.bboxes.isfinite().all(dim=1) & result.scores.isfinite().all(dim=1))[:, None]
    scores = result.scores[:, :-1]
    scores = scores.masked_fill(bad | (scores <= cfg.score_thr), 0)
    bboxes = result.bboxes.masked_fill(bad, 0)
    boxes, labels, scores = soft_nms(bboxes, scores, max_num=cfg.max_per_img, **settings)
    return InstanceData(bboxes=bboxes[boxes], labels=labels, scores=scores)
