"""Similarity of two maps of positive numbers, such as the mean depth at which patches leave.

h x w cells; maps are compared as distributions over cells unless a function says otherwise.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.spatial.distance import cdist, jensenshannon
from scipy.stats import kendalltau, pearsonr, spearmanr

Map = NDArray[np.float64]


def depth_map(
    images: Iterable[Mapping[int, set[int]]], grid: tuple[int, int], num_blocks: int
) -> Map:
    """Mean depth at which each patch leaves.

    Args:
        images: Of each image the patches that are left, by the 0-based block that the step stands
            before or in (one after a block counts as one before the next).
        grid: Patch grid (h, w).
        num_blocks: Depth of a patch that never leaves.

    Returns:
        Shape (h, w): the block of the step that a patch did not survive.

    Raises:
        ValueError: If there is no image.
    """
    total, count = np.zeros(grid[0] * grid[1]), 0
    for kept in images:
        depth = np.full(total.shape, float(num_blocks))
        for block in sorted(kept, reverse=True):
            gone = np.ones(total.shape, dtype=bool)
            gone[list(kept[block])] = False
            depth[gone] = block
        total, count = total + depth, count + 1
    if count == 0:
        raise ValueError("expected at least one image, got none")
    return (total / count).reshape(grid)


def spearman(a: Map, b: Map) -> float:
    """Rank correlation of the cells; ties share the mean rank."""
    _check(a, b)
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


def pearson(a: Map, b: Map) -> float:
    """Correlation of the cells."""
    _check(a, b)
    return float(pearsonr(a.ravel(), b.ravel()).statistic)


def kendall(a: Map, b: Map) -> float:
    """Kendall's tau-b of the cells."""
    _check(a, b)
    return float(kendalltau(a.ravel(), b.ravel()).statistic)


def jensen_shannon(a: Map, b: Map, compat: bool = False) -> float:
    """Jensen-Shannon divergence in bits, in [0, 1].

    Args:
        a: Map, shape (h, w).
        b: Map, shape (h, w).
        compat: As in the code of Haurum et al., with the arguments of both divergences reversed,
            which is unbounded.
    """
    p, q = _shares(a, b)
    if not compat:
        return float(jensenshannon(p.ravel(), q.ravel(), base=2) ** 2)
    middle = (p + q) / 2
    return float(sum((middle * np.log2(middle / r)).sum() for r in (p, q)) / 2)


def earth_movers_distance(a: Map, b: Map) -> float:
    """Least mass times distance that turns one map into the other, in cells.

    Only what a cell has too much is moved, which is exact: distance between cells is a metric.
    """
    p, q = _shares(a, b)
    excess = (p - q).ravel()
    sources, sinks = np.flatnonzero(excess > 0), np.flatnonzero(excess < 0)
    if len(sources) == 0 or len(sinks) == 0:
        return 0.0
    cells = np.stack(np.unravel_index(np.arange(excess.size), a.shape), axis=1)
    cost = cdist(cells[sources], cells[sinks])
    leaving = np.kron(np.eye(len(sources)), np.ones(len(sinks)))
    arriving = np.kron(np.ones(len(sources)), np.eye(len(sinks)))
    # Rounding may leave a little more mass on one side: all of it need not leave.
    mass = np.concatenate([excess[sources], -excess[sinks]])
    mass[: len(sources)] *= mass[len(sources) :].sum() / mass[: len(sources)].sum()
    found = linprog(cost.ravel(), A_eq=np.concatenate([leaving, arriving])[:-1], b_eq=mass[:-1])
    if not found.success:
        raise RuntimeError(f"the transport problem was not solved: {found.message}")
    return float(found.fun)


def histogram_similarity(a: Map, b: Map, stretch: bool = True) -> float:
    """Overlap of both distributions, in [0, 1].

    Args:
        a: Map, shape (h, w).
        b: Map, shape (h, w).
        stretch: Scale each map to [0, 1] first, as in the code of Haurum et al.

    Raises:
        ValueError: If a constant map is to be stretched.
    """
    if stretch:
        if min(np.ptp(a), np.ptp(b)) == 0:
            raise ValueError("a constant map cannot be scaled to [0, 1]; expected stretch=False")
        a, b = ((m - m.min()) / np.ptp(m) for m in (a, b))
    p, q = _shares(a, b)
    return float(np.minimum(p, q).sum())


def _shares(a: Map, b: Map) -> tuple[Map, Map]:
    _check(a, b)
    return a / a.sum(), b / b.sum()


def _check(a: Map, b: Map) -> None:
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"expected two maps of one shape (h, w), got {a.shape} and {b.shape}")
    if min(a.min(), b.min()) < 0 or min(a.sum(), b.sum()) <= 0:
        raise ValueError("expected maps of numbers that are not negative nor all zero")
