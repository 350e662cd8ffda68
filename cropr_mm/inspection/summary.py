"""What one encoder does with the tokens of a data set, without another to compare it with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from cropr_mm.inspection.similarity import mean_depth
from cropr_mm.inspection.token_record import TokenRecord
from cropr_mm.text_table import format_table

_NEIGHBORS = 10
_MOST = 2000  # patches, of the first images


def map_features(record: TokenRecord) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """Features of patches in the last map, and the block where each left.

    Returns:
        Shapes (n, D) and (n,), the last block for patches that stayed; None for methods that merge
        and encoders without maps.
    """
    if record.outputs is None or record.left_after is None or record.merges:
        return None
    left = record.left_after[:, record.cells].reshape(-1)[:_MOST]
    x = record.outputs.reshape(-1, record.outputs.shape[2])[:_MOST]
    return x, np.where(left < 0, record.num_blocks - 1, left)


def neighbors_of_one_block(x: NDArray, block: NDArray[np.int64]) -> dict[str, float]:
    """Whether features of patches that left together lie together.

    Args:
        x: Features, shape (n, D).
        block: Block where each patch left, shape (n,).

    Returns:
        'share' of the ten nearest neighbors, by Euclidean distance, that left at the same block,
        mean over patches; and 'chance', what it would be if features told nothing of the block.
    """
    count = min(_NEIGHBORS, len(x) - 1)
    nearest = NearestNeighbors(n_neighbors=count).fit(x).kneighbors(return_distance=False)
    sizes = np.unique(block, return_counts=True)[1].astype(float)
    chance = (sizes * (sizes - 1)).sum() / (len(x) * (len(x) - 1))
    return {"share": float((block[nearest] == block[:, None]).mean()), "chance": float(chance)}


def summarize_record(record: TokenRecord) -> dict[str, Any]:
    """Patches and clusters after each step, and the mean depth map.

    Returns:
        Plain values for JSON: 'images', 'grid' (h, w), 'blocks'; 'steps', each with the 0-based
        'block', of methods that keep patches 'kept' (mean, least and most over images), of those
        that have clusters 'clusters' (mean over images of their number) and 'largest' (of the
        patches of the largest one); 'depth_map' (h, w), blocks, None where no patch can leave;
        'neighbors' of :func:`neighbors_of_one_block`, None without maps or patches that leave.
    """
    kept = None
    if record.left_after is not None:
        kept = [record.kept(image) for image in range(record.num_images)]
    steps = []
    for block in record.steps:
        entry: dict[str, Any] = {"block": block}
        if kept is not None:
            counts = [len(image[block]) for image in kept]
            entry["kept"] = [float(np.mean(counts)), min(counts), max(counts)]
        if block in record.clusters:
            sizes = [np.unique(c[c >= 0], return_counts=True)[1] for c in record.clusters[block]]
            entry["clusters"] = float(np.mean([len(s) for s in sizes]))
            entry["largest"] = float(np.mean([s.max() for s in sizes]))
        steps.append(entry)
    has_depth = kept is not None and record.steps
    features = map_features(record) if record.steps else None
    return {
        "images": record.num_images,
        "grid": list(record.grid),
        "blocks": record.num_blocks,
        "steps": steps,
        "depth_map": mean_depth(record).tolist() if has_depth else None,
        "neighbors": neighbors_of_one_block(*features) if features else None,
    }


def format_summary(name: str, summary: Mapping[str, Any]) -> str:
    """Table for people; blocks count from 1."""
    height, width = summary["grid"]
    title = f"{name}, {summary['images']} images of {height} x {width} patches"
    if not summary["steps"]:
        return f"{title}: all patches stay"
    rows = [["block", "patches kept", "least", "most", "clusters", "patches of the largest"]]
    for step in summary["steps"]:
        mean, least, most = step.get("kept", (None, None, None))
        values = (mean, least, most, step.get("clusters"), step.get("largest"))
        texts = ("-" if v is None else f"{v:.1f}".removesuffix(".0") for v in values)
        rows.append([str(step["block"] + 1), *texts])
    used = [i for i in range(len(rows[0])) if any(row[i] != "-" for row in rows[1:])]
    text = f"{title}\n{format_table([[row[i] for i in used] for row in rows])}"
    if summary["neighbors"]:
        share, chance = (summary["neighbors"][key] for key in ("share", "chance"))
        text += (
            f"\nlast map: {100 * share:.0f} % of a patch's nearest neighbors left at its block, "
            f"{100 * chance:.0f} % by chance"
        )
    return text
