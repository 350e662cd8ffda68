"""Last Layer Fusion whose pruned tokens take a linear shortcut past the blocks that they missed.

B batch, N tokens that one step dropped, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cropr_mm.fusion.llf import LastLayerFusion
from cropr_mm.registry import MODELS
from cropr_mm.structures import Tokens


class Shortcut(nn.Linear):
    """What the missed blocks would have added to a token, as a linear function of it.

    It starts at zero, so that tokens come back as they left.

    Args:
        embed_dim: C.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__(embed_dim, embed_dim)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Bring tokens (B, N, C) up to the last block, same shape."""
        return x + super().forward(x)

    @torch.no_grad()
    def fit(self, weight: Tensor, bias: Tensor) -> None:
        """Take a linear function, of shapes (C, C), inputs first, and (C,)."""
        self.weight.copy_(weight.T)
        self.bias.copy_(bias)


@MODELS.register_module()
class ShortcutFusion(LastLayerFusion):
    """Give the last block every token, pruned ones as a linear map guesses them to be by now.

    Each step has a map of its own. New maps change nothing, so an untrained model is one with Last
    Layer Fusion. ``tools/prune.py`` fits them by least squares to the features of the dense model,
    without labels; training goes on from there. A map costs C * C multiply-adds for each token that
    comes back, a twelfth of the linear layers of one plain block.

    Args:
        num_blocks: As of :class:`LastLayerFusion`.

    Source: linear maps between the blocks of a transformer are from Din et al., Jump to Conclusions
    (arXiv 2303.09435), which reads predictions of language models off early blocks. Bringing pruned
    tokens back by them is ours.
    """

    def __init__(self, num_blocks: int = 1) -> None:
        super().__init__(num_blocks)
        self.shortcuts = nn.ModuleDict()

    def build_steps(self, blocks: Sequence[int], embed_dim: int) -> None:
        """Build one shortcut for each block (0-based) after which tokens leave."""
        self.shortcuts = nn.ModuleDict({str(block): Shortcut(embed_dim) for block in blocks})

    def forward(self, kept: Tokens, dropped: Sequence[Tokens], order: Tensor | None) -> Tokens:
        """Bring dropped tokens up to date and put them back into their cells."""
        steps = zip(self.shortcuts.values(), dropped, strict=True)
        return super().forward(kept, [left.replace(x=f(left.x)) for f, left in steps], order)
