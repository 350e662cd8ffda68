"""Last Layer Fusion: pruned tokens come back for the last block."""

from collections.abc import Sequence

from torch import Tensor, nn

from cropr_mm.ops.restore import restore_tokens
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens


@MODELS.register_module()
class LastLayerFusion(nn.Module):
    """Give the last block every token of the image, pruned ones with the features they left with.

    No parameters: the last block itself updates the pruned tokens from the live ones. It must not
    drop its residual branch at random, or they would sometimes miss the update.

    Source: the Cropr paper, Last Layer Fusion.
    """

    def forward(self, kept: Tokens, parked: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Bring all tokens into the order of the whole grid.

        Args:
            kept: Tokens leaving the block before the last, prefix first.
            parked: Tokens dropped at each step, without prefix.
            order: Raster ids in token order, shape (N,), int64; None for ascending.

        Returns:
            All tokens, input of the last block.
        """
        return restore_tokens(kept, parked, order)
