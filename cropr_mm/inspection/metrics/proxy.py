"""Whether a similarity to one model tells how good other models are."""

from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import kendalltau, spearmanr


class ProxyCorrelation(NamedTuple):
    """Rank correlations, in [-1, 1]: Spearman's rho and Kendall's tau-b."""

    spearman: float
    kendall: float


def proxy_correlation(
    similarities: Sequence[float], scores: Sequence[float], anchor: float
) -> ProxyCorrelation:
    """Correlate similarity to an anchor model with what is lost against it.

    Models belong to one group: one data set, one capacity, one keep rate (a dense model counts as
    any rate).

    Args:
        similarities: Of each model to the anchor, or its distance from it.
        scores: How good each model is, such as its accuracy.
        anchor: The same of the anchor.

    Returns:
        Correlations with ``anchor - scores``: near -1 for a similarity that is a good proxy, near 1
        for such a distance.

    Raises:
        ValueError: If there are not two models or more with one value each, or all values are
            alike, which has no ranks.

    Source: Haurum et al., Which Tokens to Use?, supplement.
    """
    if len(similarities) != len(scores) or len(scores) < 2:
        raise ValueError(
            "expected one similarity and one score of two models or more, got "
            f"{len(similarities)} and {len(scores)}"
        )
    lost = [anchor - score for score in scores]
    for name, values in (("similarities", similarities), ("scores", scores)):
        if min(values) == max(values):
            raise ValueError(f"expected {name} that differ, got {values[0]} of all models")
    rho, tau = spearmanr(similarities, lost), kendalltau(similarities, lost)
    return ProxyCorrelation(float(rho.statistic), float(tau.statistic))
