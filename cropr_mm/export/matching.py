"""Which detections of an exported model the host library has too, and which it has not."""

import numpy as np
from numpy.typing import NDArray

from cropr_mm.export.runtime.results import Result

_PIXELS, _SCORE, _OVERLAP = 0.1, 1e-3, 0.95  # of detections that count as the same
_EDGE = 2  # pixels of a mask that may differ in any case: small masks are mostly edge


def unmatched(ours: Result, theirs: Result) -> int:
    """Number of our detections that the others have not, see :class:`.limits.Limits`."""
    left = set(range(len(theirs["scores"])))
    missing = 0
    for i, box in enumerate(ours["boxes"]):
        near = [j for j in left if _is_same(ours, i, theirs, j, box)]
        if near:
            left.remove(near[0])
        else:
            missing += 1
    return missing


def _is_same(ours: Result, i: int, theirs: Result, j: int, box: NDArray) -> bool:
    if ours["labels"][i] != theirs["labels"][j]:
        return False
    if np.abs(box - theirs["boxes"][j]).max() > _PIXELS:
        return False
    names = [name for name in ("scores", "mask_scores") if name in ours]
    if any(abs(ours[name][i] - theirs[name][j]) > _SCORE for name in names):
        return False
    if "masks" not in ours:
        return True
    a, b = ours["masks"][i], theirs["masks"][j]
    return bool((a ^ b).sum() <= max(_EDGE, (1 - _OVERLAP) * (a | b).sum()))
