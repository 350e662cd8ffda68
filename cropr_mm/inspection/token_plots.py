"""Pictures of what encoders do with tokens: where they leave or merge, and what their maps hold."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from cropr_mm.inspection.maps import Image, block_colors, draw_clusters, draw_pruning_map
from cropr_mm.inspection.similarity import mean_depth
from cropr_mm.inspection.summary import map_features
from cropr_mm.inspection.token_record import TokenRecord

_SMALL = 8  # points
_MOST_STEPS = 5  # columns of a picture
_MOST_PANELS = 3  # in a row
_SHARP = 384  # pixels; smaller images are enlarged, or borders of patches would be blurred


def draw_depth_maps(records: Mapping[str, TokenRecord], file: Path) -> list[str]:
    """Draw the mean depth at which each patch leaves, one panel per encoder that drops patches.

    Args:
        records: By name; those that merge without centers, or keep all, are left out.
        file: Picture to write.

    Returns:
        Names of the encoders that were drawn; without any there is no picture.
    """
    maps = {n: mean_depth(r) for n, r in records.items() if r.left_after is not None and r.steps}
    if not maps:
        return []
    height, width = next(iter(maps.values())).shape
    figure, axes = _panels(len(maps), (3, 3 * height / width + 0.3))
    low = min(m.min() for m in maps.values()) + 1
    high = max(m.max() for m in maps.values()) + 1
    for axis, (name, depth) in zip(axes.flat, maps.items(), strict=False):
        image = axis.imshow(depth + 1, vmin=low, vmax=high, cmap="viridis")
        _bare(axis, name)
    bar = figure.colorbar(image, ax=axes, aspect=15, pad=0.01)
    bar.ax.tick_params(labelsize=_SMALL)
    last = max(record.num_blocks for record in records.values())
    label = f"first block without the patch, mean\n(from 1; never: {last + 1})"
    bar.set_label(label, fontsize=_SMALL)
    figure.savefig(file, dpi=120)
    return list(maps)


def draw_features(records: Mapping[str, TokenRecord], file: Path) -> list[str]:
    """Draw features of patches in the last map by t-SNE, colored by the block where each left.

    Where pruned patches lie apart from the others, the map that heads read has two kinds of
    features, as with Token Concat; where fusion has updated them, they mix.

    Args:
        records: By name; those without maps, or that merge, are left out.
        file: Picture to write.

    Returns:
        Names of the encoders that were drawn; without any there is no picture.

    Source: van der Maaten and Hinton, Visualizing data using t-SNE; scikit-learn's.
    """
    found = {name: map_features(record) for name, record in records.items()}
    shown = {name: features for name, features in found.items() if features is not None}
    if not shown:
        return []
    figure, axes = _panels(len(shown), (4, 4))
    depth = max(records[name].num_blocks for name in shown)
    colors = colormaps["viridis"].resampled(depth)
    for axis, (name, (x, block)) in zip(axes.flat, shown.items(), strict=False):
        perplexity = min(30.0, (len(x) - 1) / 3)
        places = TSNE(perplexity=perplexity, random_state=0).fit_transform(x)
        points = axis.scatter(*places.T, c=block + 1, s=6, cmap=colors, vmin=0.5, vmax=depth + 0.5)
        _bare(axis, name)
        axis.set_axis_on()
    bar = figure.colorbar(points, ax=axes, pad=0.01, ticks=range(1, depth + 1))
    bar.ax.tick_params(labelsize=_SMALL)
    bar.set_label(f"block at which the patch left (from 1; {depth}: never)", fontsize=_SMALL)
    figure.savefig(file, dpi=120)
    return list(shown)


def draw_tokens(records: Mapping[str, TokenRecord], file: Path) -> list[str]:
    """Draw kept patches or clusters of some images, a row for each image and encoder.

    Columns are steps of an encoder, spread evenly where it has many.

    Args:
        records: By name, of the same images; those without steps are left out.
        file: Picture to write.

    Returns:
        Names of the encoders that were drawn; without any there is no picture.
    """
    shown = {name: r for name, r in records.items() if r.steps and len(r.pictures)}
    if not shown:
        return []
    rows = [(name, i) for i in range(len(next(iter(shown.values())).shown)) for name in shown]
    columns = max(min(len(record.steps), _MOST_STEPS) for record in shown.values())
    height, width = next(iter(shown.values())).pictures.shape[1:3]
    size = (2.2 * (columns + 1), (2.2 * height / width + 0.25) * len(rows) + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), columns + 1, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (name, image) in zip(axes, rows, strict=True):
        record = shown[name]
        large = _enlarged(record.pictures[image])
        line[0].imshow(large)
        _bare(line[0], f"{name}, image {record.shown[image] + 1}")
        numbers = np.linspace(0, len(record.steps) - 1, min(len(record.steps), columns))
        for axis, number in zip(line[1:], np.unique(numbers.round().astype(int)), strict=False):
            picture, left = _after(record, image, number, large)
            axis.imshow(picture)
            _bare(axis, f"block {record.steps[number] + 1}: {left}")
    _legend(figure, shown)
    figure.savefig(file, dpi=110)
    return list(shown)


def _panels(count: int, size: tuple[float, float]) -> tuple[Figure, NDArray]:
    """Figure of that many panels, each of a size in inches, and room for a bar of colors."""
    columns = min(count, _MOST_PANELS)
    rows = -(-count // columns)
    figure = Figure(figsize=(size[0] * columns + 1, size[1] * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return figure, axes


def _after(record: TokenRecord, image: int, number: int, large: Image) -> tuple[Image, str]:
    """Tokens of one image after a step, and how many of what."""
    block, place = record.steps[number], record.shown[image]
    if record.merges:
        clusters = record.clusters[block][place].reshape(record.grid)
        return draw_clusters(large, clusters), f"{len(np.unique(clusters))} clusters"
    assert record.left_after is not None, "a method that drops patches has it"
    left = record.left_after[place].reshape(record.grid)
    left = np.where(left > block, -1, left)
    return draw_pruning_map(large, left, record.steps), f"{(left < 0).sum()} patches"


def _legend(figure: Figure, records: Mapping[str, TokenRecord]) -> None:
    """Colors of the blocks, where a method drops patches; what colors are, where one merges."""
    dropping = [record for record in records.values() if not record.merges]
    entries = []
    if dropping:
        steps = max((record.steps for record in dropping), key=len)
        for block, color in zip(steps, block_colors(len(steps)) / 255, strict=True):
            entries.append(Patch(color=color, label=f"left at block {block + 1}"))
    if len(dropping) < len(records):
        text = "clusters: patches of one color are one token"
        entries.append(Patch(facecolor="none", edgecolor="black", label=text))
    columns = min(len(entries), 5)
    figure.legend(handles=entries, loc="outside lower left", ncols=columns, fontsize=_SMALL)


def _enlarged(image: Image) -> Image:
    zoom = max(1, -(-_SHARP // min(image.shape[:2])))
    return image.repeat(zoom, 0).repeat(zoom, 1)


def _bare(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=_SMALL)
    axis.set_xticks([])
    axis.set_yticks([])
