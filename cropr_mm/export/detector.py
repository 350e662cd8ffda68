"""Two-stage detectors of mmdet with fixed numbers of proposals and detections.

The inference of mmdet's heads branches on data. Here it is written once more, on the same modules:
what there is too little of is filled up, and says so. One image; N proposals, D detections, K
classes, C channels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import nms, roi_align

from cropr_mm.engine.preflight import SetupError

MOST_CANDIDATES = 4000
"""Boxes and classes that the last non-maximum suppression sees at most, the best ones."""


class Chosen(NamedTuple):
    """A fixed number of boxes out of more.

    Attributes:
        index: Their places, best first, shape (D,), int64; where there are fewer, any place.
        real: Whether a box is one of those chosen, shape (D,), bool.
    """

    index: Tensor
    real: Tensor


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
            Boxes (1, D, 4), scores (1, D), 0 where there is no box, labels (1, D), int64, and
            where there is a mask head probabilities (1, D, m, m) inside of the boxes.
        """
        maps = self.model.extract_feat(images)
        limit = content[0].flip(0).repeat(2)  # x, y, x, y
        rois = self.propose(maps, limit)
        boxes, scores = self.classify(maps, rois, limit)
        cfg = self.model.test_cfg.rcnn
        num_classes = scores.shape[1]
        flat = scores.flatten()
        best = flat.topk(min(MOST_CANDIDATES, flat.shape[0])).indices
        place, label = best // num_classes, best % num_classes
        entry = place if boxes.shape[1] == 1 else best
        candidates, score = boxes.reshape(-1, 4)[entry], flat[best]
        chosen = choose(
            candidates,
            score,
            label,
            score > cfg.score_thr,
            cfg.nms.iou_threshold,
            cfg.max_per_img,
        )
        found, labels = candidates[chosen.index], label[chosen.index]
        kept = torch.where(chosen.real, score[chosen.index], 0.0)
        outputs = (found[None], kept[None], labels[None])
        if not self.model.roi_head.with_mask:
            return outputs
        return (*outputs, self.masks(maps, found, labels)[None])

    def propose(self, maps: Sequence[Tensor], limit: Tensor) -> Chosen:
        """Boxes (N, 4) of the region proposal network, as ``index``; zero where there are none."""
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
        return Chosen(boxes[chosen.index] * chosen.real[:, None], chosen.real)

    def classify(
        self, maps: Sequence[Tensor], proposals: Chosen, limit: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, 1 or K, 4) and probabilities (N, K) after all stages."""
        heads = self.model.roi_head
        boxes = proposals.index
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
        scores = scores[:, :-1] * proposals.real[:, None]
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
    for name, cfg in (("rpn", rpn), ("rcnn", rcnn)):
        kind = cfg.nms.get("type", "nms")
        extra = {key for key in cfg.nms if key not in ("type", "iou_threshold")}
        if kind != "nms" or extra:
            raise SetupError(
                f"expected test_cfg.{name}.nms of type 'nms' with iou_threshold alone, got "
                f"{dict(cfg.nms)}: --part encoder exports the encoder of any model"
            )
    if rcnn.get("mask_thr_binary", 0.5) != 0.5:
        raise SetupError(f"expected mask_thr_binary=0.5, got {rcnn.mask_thr_binary}")
    if type(model.rpn_head).__name__ != "RPNHead":
        raise SetupError(f"expected an RPNHead, got {type(model.rpn_head).__name__}")
    coder = type(model.rpn_head.bbox_coder).__name__
    if coder != "DeltaXYWHBBoxCoder":
        raise SetupError(f"expected a DeltaXYWHBBoxCoder, got {coder}")


def choose(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, count: int
) -> Chosen:
    """Non-maximum suppression inside of groups, with a fixed number of results.

    Args:
        boxes: Shape (N, 4).
        scores: Shape (N,).
        groups: Boxes of different groups do not meet, shape (N,), int64.
        valid: Boxes that may be chosen, shape (N,), bool.
        threshold: Intersection over union above which the lower score leaves.
        count: D.
    """
    shifted = boxes + (groups.to(boxes) * (boxes.flatten().amax(0) + 1))[:, None]
    kept = nms(shifted, torch.where(valid, scores, -1.0), threshold)
    number = torch.ones_like(kept).sum()
    padded = torch.cat([kept, torch.zeros(count, dtype=kept.dtype, device=kept.device)])
    index = padded.narrow(0, 0, count)
    real = torch.arange(count, device=index.device) < number
    return Chosen(index, real & valid[index])


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


def _means_probabilities(heads: nn.Module) -> bool:
    """Whether stages are averaged as probabilities, not as logits."""
    return type(heads).__name__ == "SharedMaskCascadeRoIHead"
