"""Last Layer Fusion: pruned tokens come back for the last block or blocks."""

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

    Args:
        num_blocks: How many of the last blocks see all tokens. More than one is for what works on
            the whole grid inside the encoder, such as :class:`cropr_mm.backbones.MaskQueries`.

    Raises:
        ValueError: If ``num_blocks`` is below 1.

    Source: the Cropr paper, Last Layer Fusion, which is that of one block.
    """

    def __init__(self, num_blocks: int = 1) -> None:
        super().__init__()
        if num_blocks < 1:
            raise ValueError(f"expected num_blocks of at least 1, got {num_blocks}")
        self.num_blocks = num_blocks

    def forward(self, kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Put dropped tokens back into their cells."""
        return restore_tokens(kept, dropped, order)
