"""Soft non-maximum suppression of all classes at once.

N boxes, K classes, M detections.
"""

import torch
from torch import Tensor

SOFT_NMS = "cropr_mm.soft_nms"
"""What test settings call it."""


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_num: int,
    method: str = "linear",
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take the best detection time and again, each lowering its class's scores where it overlaps.

    One step per detection, over all classes together: a score only ever falls, so the best of all
    that is left is the next in the final order, whatever its class. Nothing waits for the device
    but the number of detections, once at the end.

    Args:
        boxes: Corners (x1, y1, x2, y2) in pixels, shared by all classes, shape (N, 4).
        scores: Score of each box for each class, shape (N, K); 0 or less is no candidate.
        iou_threshold: In [0, 1]. 'linear' multiplies the scores of boxes that overlap at least so
            much by 1 - IoU, others keep theirs. 'gaussian' does not use it.
        max_num: Detections at most, in all.
        method: 'linear' or 'gaussian' (every score times exp(-IoU^2 / sigma)).
        sigma: Width for 'gaussian'.
        min_score: Lower scores are no detections; not negative.

    Returns:
        Box positions, shape (M,), int64; classes, shape (M,), int64; lowered scores, shape (M,),
        float32, descending.

    Raises:
        ValueError: If shapes do not fit, the method is unknown, or a number is out of range.

    Source: Bodla et al., arXiv 1704.04503; class by class, linear and with min_score 0.001 as
    EVA-02-det has it (detectron2/modeling/roi_heads/fast_rcnn.py there), whose list of detections
    has no maximum.
    """
    _check_shapes(boxes, scores)
    _check_settings(iou_threshold, max_num, method, sigma, min_score)
    num_boxes = len(boxes)
    overlap = _pairwise_iou(boxes.float())
    if method == "linear":
        factors = torch.where(overlap >= iou_threshold, 1 - overlap, torch.ones_like(overlap))
    else:
        factors = torch.exp(-overlap.square() / sigma)
    left = scores.float().T.clone(memory_format=torch.contiguous_format)  # one row per class
    taken = []
    for _ in range(min(max_num, left.numel())):
        score, place = left.view(-1).max(dim=0, keepdim=True)
        taken.append((score, place))
        row = place // num_boxes
        lowered = left.index_select(0, row) * factors.index_select(0, place % num_boxes)
        left.index_copy_(0, row, lowered)
        left.view(-1).index_fill_(0, place, 0)
    if not taken:
        nothing = torch.zeros(0, dtype=torch.int64, device=scores.device)
        return nothing, nothing, left.new_zeros(0)
    best, places = (torch.cat(values) for values in zip(*taken, strict=True))
    found = (best >= min_score) & (best > 0)
    places, best = places[found], best[found]
    return places % num_boxes, places // num_boxes, best


def _pairwise_iou(boxes: Tensor) -> Tensor:
    """IoU of all pairs, shape (N, N); 0 where both boxes are empty."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clamp(min=0).prod(dim=2)
    union = area[:, None] + area[None] - common
    return torch.where(union > 0, common / union, torch.zeros_like(union))


def _check_shapes(boxes: Tensor, scores: Tensor) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.ndim != 2 or len(boxes) != len(scores):
        raise ValueError(
            "soft_nms expects boxes (N, 4) and scores (N, K), got "
            f"{tuple(boxes.shape)} and {tuple(scores.shape)}"
        )


def _check_settings(
    iou_threshold: float, max_num: int, method: str, sigma: float, min_score: float
) -> None:
    if method not in ("linear", "gaussian"):
        raise ValueError(f"soft_nms expects method 'linear' or 'gaussian', got {method!r}")
    if not 0 <= iou_threshold <= 1 or not min_score >= 0:
        raise ValueError(
            "soft_nms expects iou_threshold in [0, 1] and a min_score that is not negative, got "
            f"{iou_threshold}, {min_score}"
        )
    if max_num < 1 or not sigma > 0:
        raise ValueError(
            f"soft_nms expects max_num of at least 1 and a positive sigma, got {max_num}, {sigma}"
        )
