"""How alike token patterns, clusters, maps and features of two models are."""

from cropr_mm.inspection.metrics.clusters import cluster_agreement, compose_assignments
from cropr_mm.inspection.metrics.depth_maps import (
    depth_map,
    earth_movers_distance,
    histogram_similarity,
    jensen_shannon,
    kendall,
    pearson,
    spearman,
)
from cropr_mm.inspection.metrics.features import centered, cka, mean_cca, procrustes, pwcca
from cropr_mm.inspection.metrics.kept_patterns import (
    compose_kept,
    intersection_over_area,
    intersection_over_union,
    least_overlap,
)
from cropr_mm.inspection.metrics.proxy import ProxyCorrelation, proxy_correlation

__all__ = [
    "ProxyCorrelation",
    "centered",
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
