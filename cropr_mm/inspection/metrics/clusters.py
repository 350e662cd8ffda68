"""Agreement of two ways to cluster the patches of one image."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sklearn.metrics import homogeneity_completeness_v_measure


class Agreement(NamedTuple):
    """Homogeneity, completeness, and their harmonic mean: the normalized mutual information."""

    homogeneity: float
    completeness: float
    nmi: float


def compose_assignments(steps: Iterable[Sequence[int]]) -> list[list[int]]:
    """Cluster of every patch of the whole image after each step.

    Args:
        steps: Of each step the cluster of every token before it.
    """
    clusters: list[int] | None = None
    composed = []
    for step in steps:
        clusters = list(step) if clusters is None else [step[i] for i in clusters]
        composed.append(clusters)
    return composed


def cluster_agreement(coarse: Sequence[int], fine: Sequence[int]) -> Agreement:
    """Compare the clusters of two models on the same patches.

    Args:
        coarse: Cluster of each patch, of the model with fewer clusters.
        fine: The same of the other one.

    Returns:
        Homogeneity is 1 if every fine cluster lies inside a coarse one.

    Source: Haurum et al., Which Tokens to Use?, supplement; in the order of its code: that of its
    text would not give 1 there.
    """
    return Agreement(*map(float, homogeneity_completeness_v_measure(coarse, fine)))
