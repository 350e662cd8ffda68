"""Pictures of where encoders prune."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from cropr_mm.analysis.token_record import TokenRecord
from cropr_mm.analysis.token_similarity import mean_depth


def draw_depth_maps(records: Mapping[str, TokenRecord], file: Path) -> bool:
    """Draw the mean depth at which each patch leaves, one panel per encoder that keeps patches.

    Args:
        records: By name.
        file: Picture to write.

    Returns:
        Whether there was one to draw.
    """
    maps = {name: mean_depth(r) for name, r in records.items() if r.left_after is not None}
    if not maps:
        return False
    figure = Figure(figsize=(3.2 * len(maps) + 1.2, 3.4), layout="constrained")
    axes = figure.subplots(1, len(maps), squeeze=False)[0]
    low = min(m.min() for m in maps.values()) + 1
    high = max(m.max() for m in maps.values()) + 1
    for axis, (name, depth) in zip(axes, maps.items(), strict=True):
        image = axis.imshow(depth + 1, vmin=low, vmax=high, cmap="viridis")
        axis.set_title(name, fontsize=8)
        axis.set_axis_off()
    label = "mean block before or in which patches leave\n(from 1; never: one more than the last)"
    figure.colorbar(image, ax=axes).set_label(label, fontsize=8)
    figure.savefig(file, dpi=120)
    return True


def draw_features(records: Mapping[str, TokenRecord], file: Path, most: int = 2000) -> bool:
    """Draw features of patches in the last map by t-SNE, coloured by the block where each left.

    Where pruned patches lie apart from the others, the map that heads read has two kinds of
    features, as with Token Concat; where fusion has updated them, they mix.

    Args:
        records: By name; those without maps, or that merge, are left out.
        file: Picture to write.
        most: Patches to draw, of the first images.

    Returns:
        Whether there was one to draw.

    Source: van der Maaten and Hinton, Visualizing data using t-SNE; scikit-learn's.
    """
    from sklearn.manifold import TSNE

    shown = {
        name: (record.outputs, record.left_after[:, record.cells], record.num_blocks)
        for name, record in records.items()
        if record.outputs is not None and record.left_after is not None and not record.merges
    }
    if not shown:
        return False
    figure = Figure(figsize=(4 * len(shown) + 1.2, 4), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    depth = max(blocks for _, _, blocks in shown.values())
    colours = colormaps["viridis"].resampled(depth)
    for axis, (name, (outputs, left, _)) in zip(axes, shown.items(), strict=True):
        x = outputs.reshape(-1, outputs.shape[2])[:most]
        block = np.where(left < 0, depth - 1, left).reshape(-1)[:most]
        perplexity = min(30.0, (len(x) - 1) / 3)
        places = TSNE(perplexity=perplexity, random_state=0).fit_transform(x)
        points = axis.scatter(*places.T, c=block + 1, s=4, cmap=colours, vmin=0.5, vmax=depth + 0.5)
        axis.set_title(name, fontsize=8)
        axis.set_xticks([])
        axis.set_yticks([])
    label = "block after which the patch left\n(from 1; the last: never)"
    figure.colorbar(points, ax=axes).set_label(label, fontsize=8)
    figure.savefig(file, dpi=120)
    return True
