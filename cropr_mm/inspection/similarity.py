"""How alike two encoders treat the same images, as one record and as text."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from cropr_mm.inspection.metrics import (
    cka,
    cluster_agreement,
    depth_map,
    earth_movers_distance,
    histogram_similarity,
    intersection_over_area,
    intersection_over_union,
    jensen_shannon,
    least_overlap,
    procrustes,
    pwcca,
    spearman,
)
from cropr_mm.inspection.token_record import TokenRecord
from cropr_mm.text_table import format_table

MAPS: Mapping[str, Callable] = {
    "spearman": spearman,
    "jensen_shannon_bits": jensen_shannon,
    "earth_movers_distance_cells": earth_movers_distance,
    "histogram_similarity": lambda a, b: histogram_similarity(a, b, stretch=False),
}
FEATURES: Mapping[str, Callable] = {"procrustes": procrustes, "cka": cka, "pwcca": pwcca}


def compare_records(one: TokenRecord, other: TokenRecord) -> dict[str, Any]:
    """Similarity of two encoders on the same images in the same order.

    Steps and recorded blocks are paired in their order. Means and population standard deviations
    are over images.

    Args:
        one: Record of the first encoder.
        other: Record of the second.

    Returns:
        Plain values for JSON: 'images', 'grid', 'num_features' of both, 'patches' of each step (two
        methods that keep patches), 'clusters' of each step (two that have clusters), 'depth_maps'
        (two that keep patches), 'features' of each block, where 'pwcca' is None unless there are
        more images than features: else it is always zero.
        K-Medoids and DPC-KNN have both: medoids or centers, and clusters.

    Raises:
        ValueError: If grids or numbers of images differ.
    """
    if one.grid != other.grid or one.num_images != other.num_images:
        raise ValueError(
            "expected records of the same images, got "
            f"{one.num_images} of {one.grid} and {other.num_images} of {other.grid} patches"
        )
    result: dict[str, Any] = {"images": one.num_images, "grid": list(one.grid)}
    result["num_features"] = [next(iter(r.features.values())).shape[1] for r in (one, other)]
    if one.left_after is not None and other.left_after is not None:
        result["patches"] = _patches(one, other)
        maps = [mean_depth(record) for record in (one, other)]
        result["depth_maps"] = {name: metric(*maps) for name, metric in MAPS.items()}
    if one.clusters and other.clusters:
        result["clusters"] = _clusters(one, other)
    result["features"] = [
        {"blocks": [a, b], **_features(one.features[a].T, other.features[b].T)}
        for a, b in zip(one.features, other.features, strict=False)
    ]
    return result


def _features(x: np.ndarray, y: np.ndarray) -> dict[str, float | None]:
    """Similarity of features (D, n) of the same images; those that say nothing are None."""
    too_few = x.shape[1] <= max(len(x), len(y))
    return {
        name: None if too_few and metric is pwcca else metric(x, y)
        for name, metric in FEATURES.items()
    }


def mean_depth(record: TokenRecord) -> np.ndarray:
    """Mean depth at which each patch leaves, shape (h, w), as :func:`depth_map` gives it."""
    depth = dict(zip(record.steps, record.depths, strict=True))
    kept = (record.kept(i) for i in range(record.num_images))
    images = ({depth[b]: patches for b, patches in image.items()} for image in kept)
    return depth_map(images, record.grid, record.num_blocks)


def format_similarity(names: tuple[str, str], result: Mapping[str, Any]) -> str:
    """Tables for people; blocks count from 1."""
    lines = [f"{names[0]} and {names[1]}, {result['images']} images"]
    if "patches" in result:
        rows = [["after block", "kept", "IoA", "(least)", "IoU", "(least)"]]
        for step in result["patches"]:
            area, union = step["intersection_over_area"], step["intersection_over_union"]
            rows.append(
                [
                    _both(f"{b + 1}" for b in step["blocks"]),
                    _both(f"{k:.0f}" for k in step["mean_kept"]),
                    *(f"{area['mean']:.3f}", f"{area['least']:.3f}"),
                    *(f"{union['mean']:.3f}", f"{union['least']:.3f}"),
                ]
            )
        lines += ["overlap of kept patches:", format_table(rows)]
        rows = [["", *result["depth_maps"]]]
        rows.append(["mean depth maps", *(f"{v:.3f}" for v in result["depth_maps"].values())])
        lines.append(format_table(rows))
    if "clusters" in result:
        rows = [["after block", "homogeneity", "completeness", "NMI"]]
        for step in result["clusters"]:
            values = (step[k]["mean"] for k in ("homogeneity", "completeness", "nmi"))
            rows.append([_both(f"{b + 1}" for b in step["blocks"]), *(f"{v:.3f}" for v in values)])
        lines += ["agreement of clusters:", format_table(rows)]
    if "patches" not in result and "clusters" not in result:
        lines.append("no overlap nor agreement: not both keep patches, or have clusters")
    rows = [["after block", *FEATURES]]
    for entry in result["features"]:
        values = (entry[name] for name in FEATURES)
        texts = ("-" if value is None else f"{value:.3f}" for value in values)
        rows.append([_both(f"{b + 1}" for b in entry["blocks"]), *texts])
    lines += ["features (Procrustes and PWCCA are distances, CKA is a similarity):"]
    lines += [format_table(rows)]
    if any(entry["pwcca"] is None for entry in result["features"]):
        lines += [
            "warning: PWCCA is left out, it needs more images than features, got "
            f"{result['images']} of {max(result['num_features'])}"
        ]
    return "\n".join(lines)


def _both(texts: Iterable[str]) -> str:
    """Texts of both models, once where they are the same."""
    return " and ".join(dict.fromkeys(texts))


def _patches(one: TokenRecord, other: TokenRecord) -> list[dict[str, Any]]:
    pairs = [(one.kept(i), other.kept(i)) for i in range(one.num_images)]
    steps = []
    for blocks in zip(pairs[0][0], pairs[0][1], strict=False):
        sets = [(a[blocks[0]], b[blocks[1]]) for a, b in pairs]
        # The larger set first, by its mean: counts of one model are nearly always the same.
        counts = np.mean([[len(a), len(b)] for a, b in sets], axis=0)
        ordered = sets if counts[0] >= counts[1] else [(b, a) for a, b in sets]
        cells = one.grid[0] * one.grid[1]
        least = [least_overlap(cells, *sorted(map(len, pair), reverse=True)) for pair in sets]
        steps.append(
            {
                "blocks": list(blocks),
                "mean_kept": counts.tolist(),
                "intersection_over_area": _over_images(
                    [intersection_over_area(a, b) for a, b in ordered],
                    [bound.over_area for bound in least],
                ),
                "intersection_over_union": _over_images(
                    [intersection_over_union(a, b) for a, b in sets],
                    [bound.over_union for bound in least],
                ),
            }
        )
    return steps


def _clusters(one: TokenRecord, other: TokenRecord) -> list[dict[str, Any]]:
    steps = []
    for blocks in zip(one.clusters, other.clusters, strict=False):
        pairs = list(zip(one.clusters[blocks[0]], other.clusters[blocks[1]], strict=True))
        # The model of fewer clusters is the coarser one in all images, also where soft ones of
        # the other are empty.
        counts = [r.num_keep[r.steps.index(b)] for r, b in zip((one, other), blocks, strict=True)]
        ordered = pairs if counts[0] <= counts[1] else [(b, a) for a, b in pairs]
        found = [cluster_agreement(coarse, fine) for coarse, fine in ordered]
        entry: dict[str, Any] = {"blocks": list(blocks), "clusters": counts}
        for name in ("homogeneity", "completeness", "nmi"):
            entry[name] = _over_images([getattr(agreement, name) for agreement in found])
        steps.append(entry)
    return steps


def _over_images(values: list[float], least: list[float] | None = None) -> dict[str, float]:
    entry = {"mean": float(np.mean(values)), "std": float(np.std(values))}
    return entry if least is None else {**entry, "least": float(np.mean(least))}
