"""How alike token patterns, clusters, maps and features of two models are."""

from cropr_mm.metrics.clusters import cluster_agreement, compose_assignments
from cropr_mm.metrics.features import centred, cka, mean_cca, procrustes, pwcca
from cropr_mm.metrics.maps import (
    depth_map,
    earth_movers_distance,
    histogram_similarity,
    jensen_shannon,
    kendall,
    pearson,
    spearman,
)
from cropr_mm.metrics.patterns import (
    compose_kept,
    intersection_over_area,
    intersection_over_union,
    least_overlap,
)
from cropr_mm.metrics.proxy import ProxyCorrelation, proxy_correlation

__all__ = [
    "ProxyCorrelation",
    "centred",
    "cka",
    "cluster_agreement",
    "compose_assignments",
    "compose_kept",
    "depth_map",
    "earth_movers_distance",
    "histogram_similarity",
    "intersection_over_area",
    "intersection_over_union",
    "jensen_shannon",
    "kendall",
    "least_overlap",
    "mean_cca",
    "pearson",
    "procrustes",
    "proxy_correlation",
    "pwcca",
    "spearman",
]
