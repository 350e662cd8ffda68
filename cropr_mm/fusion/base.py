"""What every fusion shares."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from cropr_mm.structures import Tokens


class Fusion(nn.Module):
    """Brings pruned tokens back, so that heads see the whole grid.

    Attributes:
        site: Whether it acts ``before`` the last blocks or ``after`` the last one.
        num_blocks: Blocks behind the last possible step: those that see all tokens again, where it
            acts before them. One for those that act behind the last block too, so that one can be
            swapped for another.
        learned: Whether it has attention of its own; it is then built with ``embed_dim``,
            ``num_heads`` and ``grid`` of the backbone.
    """

    site: Literal["before", "after"] = "before"
    num_blocks = 1
    learned = False

    def build_steps(self, blocks: Sequence[int], embed_dim: int) -> None:
        """Build what belongs to single steps; called once, when the steps are known.

        Args:
            blocks: Blocks (0-based) with a step, ascending.
            embed_dim: Channels of the tokens.
        """

    def forward(self, kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Bring all tokens into the order of the whole grid.

        Args:
            kept: Tokens alive at the site, prefix first.
            dropped: Tokens dropped at each step, without prefix.
            order: Raster ids in token order, shape (N,), int64; None for ascending.

        Returns:
            All tokens of the grid, the prefix of ``kept`` first.
        """
        raise NotImplementedError
