"""Overlap of the patches that two models keep of one image.

P patches of the whole image.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


def compose_kept(steps: Iterable[Sequence[int]]) -> list[set[int]]:
    """Patches of the whole image that are left after each step.

    Args:
        steps: Of each step the places, among the tokens before it, of the tokens that it keeps; -1
            for a token that stands for no patch.

    Returns:
        Ids of the patches, counted in the whole image, after each step.
    """
    left: list[int] | None = None
    kept = []
    for step in steps:
        left = [i if left is None or i < 0 else left[i] for i in step]
        kept.append({i for i in left if i >= 0})
    return kept


def intersection_over_area(larger: set[int], smaller: set[int]) -> float:
    """Share of the smaller set that the larger one has too; 0 where there is none."""
    return len(larger & smaller) / len(smaller) if smaller else 0.0


def intersection_over_union(one: set[int], other: set[int]) -> float:
    """Share of the patches of either set that both have; 0 where there is none."""
    union = one | other
    return len(one & other) / len(union) if union else 0.0


class LeastOverlap(NamedTuple):
    """The least that the overlap of two sets of given sizes can be."""

    over_area: float
    over_union: float


def least_overlap(num_patches: int, larger: int, smaller: int) -> LeastOverlap:
    """Lower bounds for sets of known sizes, whatever their content; both are reached.

    Args:
        num_patches: P.
        larger: Patches in the larger set.
        smaller: Patches in the smaller set.

    Returns:
        Bounds of :func:`intersection_over_area` and :func:`intersection_over_union`.

    Source: Haurum et al., Which Tokens to Use?, supplement, for sizes floor(P * r**stage).
    """
    overlap = max(0, larger + smaller - num_patches)
    return LeastOverlap(overlap / smaller if smaller else 0.0, overlap / num_patches)
