"""Where each patch of an image is, block by block, as plain data.

P patches on an h x w grid.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.inspection.maps import block_colors
from cropr_mm.inspection.token_record import TokenRecord


def token_data(backbone: ReducingBackbone, record: TokenRecord) -> dict[str, Any]:
    """Everything a page needs to draw the tokens that any block of an encoder sees.

    Args:
        backbone: Encoder.
        record: Its record of one image.

    Returns:
        Plain types for JSON; blocks count from 0.

        - ``grid``: (h, w); ``depth``: number of blocks; ``patch``: side of a patch in pixels.
        - ``steps``: of each reducing block ``block``, ``first`` (the first block whose attention
          sees the result), ``where`` it acts ('before', 'in' or 'after' the block) and ``color``,
          in order.
        - ``back``: first block that sees all patches again, None where there is none.
        - ``left``: of a method that prunes, step at which each patch left, -1 where it stayed, P
          numbers. ``clusters``: of a method that merges, after each step the smallest patch of each
          patch's cluster, -1 where it left, lists of P numbers. The other one is None.
    """
    assert len(record.clusters) <= len(record.steps)
    colors = block_colors(len(record.steps))[: len(record.steps)].tolist()
    sites = [backbone.reducers[str(block)].site for block in record.steps]
    steps = [
        {
            "block": block,
            "first": block if site == "before" else block + 1,
            "where": "in" if site == "between" else site,
            "color": f"rgb({red}, {green}, {blue})",
        }
        for block, site, (red, green, blue) in zip(record.steps, sites, colors, strict=True)
    ]
    left = clusters = None
    if record.merges:
        clusters = [_by_smallest(record.clusters[block][0]).tolist() for block in record.steps]
    else:
        assert record.left_after is not None, "a method that prunes has it"
        number = {block: i for i, block in enumerate(record.steps)}
        left = [number.get(block, -1) for block in record.left_after[0].tolist()]
    return {
        "grid": record.grid,
        "depth": record.num_blocks,
        "patch": backbone.patch_size,
        "steps": steps,
        "back": backbone.depth - backbone.num_restored if backbone.num_restored and steps else None,
        "left": left,
        "clusters": clusters,
    }


def _by_smallest(clusters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Name every cluster, shape (P,), by its smallest patch, so that colors last over blocks."""
    _, first, inverse = np.unique(clusters, return_index=True, return_inverse=True)
    return np.where(clusters < 0, -1, first[inverse.reshape(-1)])
