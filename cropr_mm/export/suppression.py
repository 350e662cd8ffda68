"""Non-maximum suppression with a fixed number of results.

N boxes, D detections.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms


class Chosen(NamedTuple):
    """A fixed number of boxes out of more.

    Attributes:
        index: Their places, best first, shape (D,), int64; where there are fewer, any place.
        scores: Their scores, lowered where the suppression lowers them, shape (D,).
        real: Whether a box is one of those chosen, shape (D,), bool.
    """

    index: Tensor
    scores: Tensor
    real: Tensor


def choose(
    boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, count: int
) -> Chosen:
    """Non-maximum suppression inside of groups.

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
    return Chosen(index, scores[index], real & valid[index])


def choose_softly(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    count: int,
    iou_threshold: float,
    method: str = "linear",
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> Chosen:
    """Soft non-maximum suppression inside of groups, a step of the graph for each detection.

    Args:
        boxes: Shape (N, 4).
        scores: Shape (N,), float32; 0 where there is no candidate.
        groups: Boxes of different groups do not meet, shape (N,), int64.
        count: D.
        iou_threshold: As the others, see :func:`cropr_mm.ops.soft_nms.soft_nms`, whose results
            these are.
        method: 'linear' or 'gaussian'.
        sigma: Width for 'gaussian'.
        min_score: Lower scores are no detections.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    places = torch.arange(len(boxes), device=boxes.device)
    left, taken, best = scores, [], []
    for _ in range(count):
        place = left.argmax()[None]  # (1,)
        best.append(left[place])
        taken.append(place)
        box = boxes[place]
        inner = torch.minimum(boxes[:, 2:], box[:, 2:]) - torch.maximum(boxes[:, :2], box[:, :2])
        common = inner.clamp(min=0).prod(dim=1)
        union = areas + areas[place] - common
        overlap = torch.where(union > 0, common / union, 0.0)
        if method == "linear":
            factor = torch.where(overlap >= iou_threshold, 1 - overlap, 1.0)
        else:
            factor = torch.exp(-overlap.square() / sigma)
        left = torch.where(groups == groups[place], left * factor, left)
        left = torch.where(places == place, 0.0, left)
    found = torch.cat(best)
    return Chosen(torch.cat(taken), found, (found >= min_score) & (found > 0))
