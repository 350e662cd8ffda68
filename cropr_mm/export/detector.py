"""Two-stage detectors of mmdet with fixed numbers of proposals and detections.

The inference of mmdet's heads branches on data. Here it is written once more, on the same modules:
what there is too little of is filled up, and says so. One image; N proposals, D detections, K
classes, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from cropr_mm.engine.preflight import SetupError
from cropr_mm.export.suppression import choose, choose_softly
from cropr_mm.ops.maskness import maskness
from cropr_mm.ops.soft_nms import SOFT_NMS

MOST_CANDIDATES = 3800
"""Boxes and classes that the last suppression sees at most, the best ones; TensorRT's limit."""


class DetectorPart(nn.Module):
    """A whole Mask R-CNN or cascade up to boxes, scores, labels and masks of 28 x 28 cells or so.

    Args:
        model: Of the kind ``TwoStageDetector``.

    Raises:
        SetupError: If a part of it has no form for export.
    """

    task = "detector"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        check_detector(model)
        self.model = model
        heads = model.roi_head
        self.cascade = isinstance(heads.bbox_head, nn.ModuleList)

    def forward(self, images: Tensor, content: Tensor) -> tuple[Tensor, ...]:
        """Detect.

        Args:
            images: One normalized image, shape (1, 3, H, W).
            content: Height and width of the picture in it, shape (1, 2), float32.

        Returns:
            Boxes (1, D, 4), scores (1, D), 0 where there is no box, labels (1, D), int64; where
            there is a mask head probabilities (1, D, m, m) inside of the boxes, and where it has
            scores of its own those of the masks (1, D).
        """
        maps = self.model.extract_feat(images)
        limit = content[0].flip(0).repeat(2)  # x, y, x, y
        rois, real = self.propose(maps, limit)
        boxes, labels, scores = self.select(*self.classify(maps, rois, real, limit))
        outputs = (boxes[None], scores[None], labels[None])
        if not self.model.roi_head.with_mask:
            return outputs
        masks = self.masks(maps, boxes, labels)
        threshold = _maskness_threshold(self.model)
        if threshold is None:
            return (*outputs, masks[None])
        return (*outputs, masks[None], (scores * maskness(masks, threshold))[None])

    def select(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of boxes (N, 1 or K, 4) and probabilities (N, K).

        Returns:
            Boxes (D, 4), labels (D,) and scores (D,), 0 where there is no box.
        """
        cfg = self.model.test_cfg.rcnn
        num_classes = scores.shape[1]
        flat = scores.flatten()
        best = flat.topk(min(MOST_CANDIDATES, flat.shape[0])).indices
        # Not //, whose graph compares truth values, which TensorRT does not.
        place, label = best.div(num_classes, rounding_mode="trunc"), best % num_classes
        candidates = boxes.reshape(-1, 4)[place if boxes.shape[1] == 1 else best]
        score = flat[best]
        valid, settings = score > cfg.score_thr, _nms_settings(cfg)
        count = min(cfg.max_per_img, len(score))
        if cfg.nms.get("type", "nms") == SOFT_NMS:
            score = torch.where(valid, score, 0.0)
            chosen = choose_softly(candidates, score, label, count, **settings)
        else:
            chosen = choose(candidates, score, label, valid, settings["iou_threshold"], count)
        index = chosen.index
        return candidates[index], label[index], torch.where(chosen.real, chosen.scores, 0.0)

    def propose(self, maps: Sequence[Tensor], limit: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, 4) of the region proposal network, and whether each one is real (N,)."""
        head, cfg = self.model.rpn_head, self.model.test_cfg.rpn
        deltas, priors, scores, levels = [], [], [], []
        logits, shifts = head(maps)
        sizes = [level.shape[-2:] for level in logits]
        anchors = head.prior_generator.grid_priors(sizes, device=maps[0].device)
        for i, (logit, shift, anchor) in enumerate(zip(logits, shifts, anchors, strict=True)):
            score = logit[0].permute(1, 2, 0).flatten().sigmoid()
            delta = shift[0].permute(1, 2, 0).reshape(-1, 4)
            if cfg.nms_pre < score.shape[0]:
                score, order = score.topk(cfg.nms_pre)
                delta, anchor = delta[order], anchor[order]
            deltas.append(delta)
            priors.append(anchor)
            scores.append(score)
            levels.append(torch.full_like(score, i, dtype=torch.int64))
        score = torch.cat(scores)
        boxes = decode(head.bbox_coder, torch.cat(priors), torch.cat(deltas), limit)
        least = cfg.get("min_bbox_size", -1)
        extent = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1)
        valid = extent > least if least >= 0 else torch.ones_like(score, dtype=torch.bool)
        chosen = choose(
            boxes, score, torch.cat(levels), valid, cfg.nms.iou_threshold, cfg.max_per_img
        )
        return boxes[chosen.index] * chosen.real[:, None], chosen.real

    def classify(
        self, maps: Sequence[Tensor], boxes: Tensor, real: Tensor, limit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, 1 or K, 4) and probabilities (N, K) after all stages; 0 where not real."""
        heads = self.model.roi_head
        stages = len(heads.bbox_head) if self.cascade else 1
        sums: Any = 0
        for stage in range(stages):
            head = heads.bbox_head[stage] if self.cascade else heads.bbox_head
            extractor = heads.bbox_roi_extractor
            extractor = extractor[stage] if self.cascade else extractor
            logits, deltas = head(pool(extractor, maps, boxes))
            sums = sums + (logits.softmax(dim=-1) if _means_probabilities(heads) else logits)
            agnostic = head.reg_class_agnostic
            if stage < stages - 1:
                if not agnostic:
                    label = logits[:, :-1].argmax(dim=1)
                    places = label[:, None] * 4 + torch.arange(4, device=label.device)
                    deltas = deltas.gather(1, places)
                boxes = decode(head.bbox_coder, boxes, deltas, limit)
        repeated = boxes[:, None].expand(-1, deltas.shape[1] // 4, -1).reshape(-1, 4)
        last = decode(head.bbox_coder, repeated, deltas.reshape(-1, 4), limit)
        mean = sums / stages
        scores = mean if _means_probabilities(heads) else mean.softmax(dim=-1)
        scores = scores[:, :-1] * real[:, None]
        return last.view(boxes.shape[0], -1, 4), scores

    def masks(self, maps: Sequence[Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Probabilities inside of boxes (D, 4), shape (D, m, m)."""
        heads = self.model.roi_head
        several = isinstance(heads.mask_head, nn.ModuleList)
        mask_heads = list(heads.mask_head) if several else [heads.mask_head]
        total: Any = 0
        for i, head in enumerate(mask_heads):
            extractor = heads.mask_roi_extractor
            extractor = extractor[i] if several else extractor
            total = total + head(pool(extractor, maps, boxes)).sigmoid()
        mean = total / len(mask_heads)
        if mean.shape[1] == 1:
            return mean[:, 0]
        places = labels[:, None, None, None].expand(-1, 1, *mean.shape[2:])
        return mean.gather(1, places)[:, 0]


def check_detector(model: nn.Module) -> None:
    """Raise SetupError for a detector with a part that has no form for export."""
    rcnn, rpn = model.test_cfg.rcnn, model.test_cfg.rpn
    for name, cfg, kinds in (("rpn", rpn, ("nms",)), ("rcnn", rcnn, ("nms", SOFT_NMS))):
        kind = cfg.nms.get("type", "nms")
        extra = {key for key in cfg.nms if key not in ("type", "iou_threshold")}
        if kind not in kinds or (kind == "nms" and extra):
            raise SetupError(
                f"expected test_cfg.{name}.nms of type {' or '.join(map(repr, kinds))}, 'nms' with "
                f"iou_threshold alone, got {dict(cfg.nms)}: --part encoder exports the encoder of "
                "any model"
            )
    if rcnn.get("mask_thr_binary", 0.5) != 0.5:
        raise SetupError(f"expected mask_thr_binary=0.5, got {rcnn.mask_thr_binary}")
    if type(model.rpn_head).__name__ != "RPNHead":
        raise SetupError(f"expected an RPNHead, got {type(model.rpn_head).__name__}")
    coder = type(model.rpn_head.bbox_coder).__name__
    if coder != "DeltaXYWHBBoxCoder":
        raise SetupError(f"expected a DeltaXYWHBBoxCoder, got {coder}")


def decode(coder: Any, boxes: Tensor, deltas: Tensor, limit: Tensor) -> Tensor:
    """Boxes (N, 4) moved by deltas (N, 4) and cut at ``limit`` (x, y, x, y)."""
    moved = coder.decode(boxes, deltas)
    return torch.minimum(moved.clamp(min=0), limit)


def pool(extractor: nn.Module, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Features (N, C, s, s) of boxes from the level that fits their size."""
    used = maps[: extractor.num_inputs]
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    level = extractor.map_roi_levels(rois, len(used))
    pooled: Any = 0
    for i, (layer, features) in enumerate(zip(extractor.roi_layers, used, strict=True)):
        samples = layer.sampling_ratio or -1
        scale, aligned = layer.spatial_scale, layer.aligned
        part = roi_align(features, rois, layer.output_size, scale, samples, aligned)
        pooled = torch.where((level == i)[:, None, None, None], part, pooled)
    return pooled


def _nms_settings(cfg: Any) -> dict[str, Any]:
    return {key: value for key, value in cfg.nms.items() if key != "type"}


def _maskness_threshold(model: nn.Module) -> float | None:
    """Of masks that have scores of their own; None where they have not."""
    kinds = [parent.__name__ for parent in type(model.roi_head.mask_head).__mro__]
    scores_masks = "ConvUpsampleMaskHead" in kinds
    return model.test_cfg.rcnn.get("maskness_thr") if scores_masks else None


def _means_probabilities(heads: nn.Module) -> bool:
    """Whether stages are averaged as probabilities, not as logits."""
    return type(heads).__name__ == "SharedMaskCascadeRoIHead"
