"""What soft merging methods share: every new token is a weighted sum of all old ones.

B batch, P prefix tokens, N live patch tokens, K slots, C channels.
"""

import torch
from torch import Tensor

from cropr_mm.reducers.base import MergingReducer
from cropr_mm.structures import Reduction, Signals, Tokens
from cropr_mm.tokens.merge import NO_PATCH_FIELDS, check_mergeable, merged_source


class SoftMerger(MergingReducer):
    """Mix all patch tokens into a fixed number of slots; a method gives weights and values.

    Slots belong to no cell (index -1). A map gets, in each cell, a copy of the slot that the cell's
    token has the largest weight in.

    Args:
        embed_dim: C, given by the backbone.
        num_slots: K, given by the backbone: the tokens that the schedule leaves here at the native
            image size. Parameters depend on it, so no other number will do.
    """

    fixed_slots = True

    def __init__(self, embed_dim: int, num_slots: int) -> None:
        super().__init__(embed_dim)
        if num_slots < 1:
            raise ValueError(f"expected num_slots >= 1, got {num_slots}")
        self.num_slots = num_slots

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, K, N) and values (B, N, C) of patch tokens (B, N, C)."""
        raise NotImplementedError

    def check_count(self, num_patches: int, num_prefix: int, num_keep: int) -> None:
        """The number of slots is fixed when the reducer is built."""
        if num_keep != self.num_slots:
            raise ValueError(
                f"{type(self).__name__} has {self.num_slots} slots, made for the native image size "
                f"and the whole schedule; expected num_keep={self.num_slots}, got {num_keep}"
            )

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Mix the tokens into the slots by the weights of :meth:`mix`."""
        check_mergeable(tokens)
        prefix = tokens.x[:, : tokens.num_prefix]
        weights, values = self.mix(tokens.x[:, tokens.num_prefix :])
        slots = (weights @ values).to(tokens.x.dtype)
        with torch.no_grad():
            assignment = weights.argmax(dim=1)  # (B, N)
            index = torch.full_like(assignment[:, :1], -1).expand(-1, num_keep)
            position = None
            if tokens.position is not None:
                share = weights.float() / weights.float().sum(dim=2, keepdim=True)
                position = share @ tokens.position
        merged = dict(  # a slot is part of all tokens and stands for no number of cells: no size
            x=torch.cat([prefix, slots], dim=1),
            index=index,
            source=merged_source(tokens, assignment),
            position=position,
        )
        return Reduction(tokens.replace(**{**NO_PATCH_FIELDS, **merged}), assignment=assignment)
