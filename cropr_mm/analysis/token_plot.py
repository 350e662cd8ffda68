"""Pictures of where encoders prune."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from cropr_mm.analysis.token_record import TokenRecord
from cropr_mm.analysis.token_similarity import mean_depth


def draw_depth_maps(records: Mapping[str, TokenRecord], file: Path) -> bool:
    """Draw the mean depth at which each patch leaves, one panel per encoder that prunes.

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
    label = "mean block after which patches leave\n(from 1; never: one more than the last)"
    figure.colorbar(image, ax=axes).set_label(label, fontsize=8)
    figure.savefig(file, dpi=120)
    return True
