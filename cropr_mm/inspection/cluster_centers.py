"""Patches that stand for others: of which medoid each one is, and which are a cluster's center.

B batch, N live patch tokens, K tokens left, P patches of the whole image.
"""

import torch
from torch import Tensor

from cropr_mm.reducers import DPCKNN, KMedoids
from cropr_mm.structures import Signals, Tokens


def medoid_of_patches(
    reducer: KMedoids, before: Tensor | None, tokens: Tokens, kept: Tokens
) -> Tensor:
    """Medoid that each patch of the image belongs to after a step.

    Args:
        reducer: The step.
        before: The same after the step before, None at the first one.
        tokens: Tokens that entered the step.
        kept: Tokens that it left.

    Returns:
        Raster ids of patches, shape (B, P), int64.
    """
    cells = torch.arange(tokens.grid[0] * tokens.grid[1], device=kept.index.device)
    own = cells.expand(len(kept.index), -1)
    medoid = kept.index.gather(1, reducer.nearest(tokens, kept))  # (B, N)
    table = own.scatter(1, tokens.index, medoid)
    return table if before is None else table.gather(1, before)


def centers_of_clusters(
    reducer: DPCKNN, before: Tensor | None, tokens: Tokens, num_keep: int, signals: Signals
) -> Tensor:
    """Patches at the centers of the clusters after a step, in the order of its slots.

    Args:
        reducer: The step.
        before: The same after the step before, None at the first one; a merged token stands where
            the center of its cluster does.
        tokens: Tokens that entered the step.
        num_keep: K.
        signals: As the step got them.

    Returns:
        Raster ids of patches, shape (B, K), int64.
    """
    ids = tokens.index if before is None else before
    if num_keep >= ids.shape[1]:
        return ids
    with torch.no_grad():
        return ids.gather(1, reducer.cluster(tokens, num_keep, signals)[0])
