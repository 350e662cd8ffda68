"""Last Layer Fusion: pruned tokens come back for the last block."""

from collections.abc import Sequence

from torch import Tensor

from cropr_mm.fusion.base import Fusion
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens
from cropr_mm.tokens.restore import restore_tokens


@MODELS.register_module()
class LastLayerFusion(Fusion):
    """Give the last block every token of the image, pruned ones with the features they left with.

    No parameters: the last block itself updates the pruned tokens from the live ones. It must not
    drop its residual branch at random, or they would sometimes miss the update.

    Source: the Cropr paper, Last Layer Fusion.
    """

    def forward(self, kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Put dropped tokens back into their cells."""
        return restore_tokens(kept, dropped, order)
