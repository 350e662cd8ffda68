"""Which similarity to the first model tells how good the others are, as record and as text."""

from collections.abc import Mapping
from typing import Any

from cropr_mm.inspection.metrics import proxy_correlation
from cropr_mm.inspection.similarity import FEATURES
from cropr_mm.text_table import format_table

_PATCHES = {"intersection_over_area": "IoA", "intersection_over_union": "IoU"}
_CLUSTERS = {"homogeneity": "homogeneity", "completeness": "completeness", "nmi": "NMI"}


def proxy_correlations(
    similarities: Mapping[str, Mapping[str, Any]], scores: Mapping[str, float], anchor: str
) -> dict[str, Any]:
    """Correlate every similarity that all models have with what they lose against the anchor.

    Args:
        similarities: Of each other model, what
            :func:`cropr_mm.inspection.similarity.compare_records` gives for it and the anchor.
        scores: Of every model, by name.
        anchor: Name of the first model.

    Returns:
        Plain values for JSON: 'scores', and 'correlations', of each measure 'spearman' and
        'kendall', or None where it, or the score, is the same of all models. Steps and recorded
        blocks are numbered in their order, from 1.

    Raises:
        ValueError: If there are not two other models or more.
    """
    if len(similarities) < 2:
        raise ValueError(
            f"expected three models or more, the first one included, got {len(similarities) + 1}"
        )
    measures = {name: _measures(result) for name, result in similarities.items()}
    first, *rest = measures.values()
    lost = [scores[name] for name in measures]
    found: dict[str, dict[str, float] | None] = {}
    for key in [key for key in first if all(key in other for other in rest)]:
        values = [measure[key] for measure in measures.values()]
        differ = min(values) < max(values) and min(lost) < max(lost)
        found[key] = proxy_correlation(values, lost, scores[anchor])._asdict() if differ else None
    return {"scores": dict(scores), "correlations": found}


def format_proxies(result: Mapping[str, Any]) -> str:
    """Table for people."""
    rows = [["measure", "Spearman", "Kendall"]]
    for name, entry in result["correlations"].items():
        values = ("-", "-") if entry is None else (f"{v:.3f}" for v in entry.values())
        rows.append([name, *values])
    scores = ", ".join(f"{name} {value:.4g}" for name, value in result["scores"].items())
    title = "correlation with what models lose against the first one"
    return f"{title} ({scores}):\n{format_table(rows)}"


def _measures(result: Mapping[str, Any]) -> dict[str, float]:
    """All similarities of two models by a title."""
    found: dict[str, float] = {}
    for part, names in (("patches", _PATCHES), ("clusters", _CLUSTERS)):
        for number, step in enumerate(result.get(part, ()), start=1):
            found |= {f"{title}, step {number}": step[k]["mean"] for k, title in names.items()}
    found |= {f"depth maps, {name}": v for name, v in result.get("depth_maps", {}).items()}
    for number, entry in enumerate(result["features"], start=1):
        known = {name: entry[name] for name in FEATURES if entry[name] is not None}
        found |= {f"features, {name}, {number}": value for name, value in known.items()}
    return found
