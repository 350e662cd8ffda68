"""ToMe: merge the most similar pairs of two halves of the tokens.

B batch, P prefix tokens, N live patch tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cropr_mm.ops.precision import without_autocast
from cropr_mm.ops.select import select_topk
from cropr_mm.reducers.base import TokenMerger
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens
from cropr_mm.tokens.gather import inverse_permutation


@MODELS.register_module()
class ToMe(TokenMerger):
    """Each token at an even place finds its best partner at an odd place; the best pairs merge.

    Places count the whole sequence, prefix included; prefix tokens neither merge nor host. The
    result has the unmerged even tokens first, then all odd ones, so the next step pairs others.

    Args:
        embed_dim: C, given by the backbone.
        proportional: Whether later attention adds the logarithm of a token's size to its logits;
            off for models trained by masked autoencoding, as published.

    Source: Bolya et al., Token Merging, ICLR 2023: appendix D and the description of its method;
    written without its code.
    """

    needs = frozenset({"keys"})
    site = "between"

    def __init__(self, embed_dim: int, proportional: bool = False) -> None:
        super().__init__(embed_dim)
        self.proportional = proportional

    def fewest(self, num_patches: int, num_prefix: int) -> int:
        """Those at odd places of the sequence."""
        return max(1, (num_patches + num_prefix % 2) // 2)

    def match(self, tokens: Tokens, num_keep: int, signals: Signals) -> Tensor:
        """Slot of each token by bipartite matching of keys, shape (B, N)."""
        assert signals.keys is not None, "needs names it"
        num_patches = tokens.index.shape[1]
        keys = F.normalize(signals.keys.float(), dim=-1)
        even = tokens.num_prefix % 2  # first patch at an even place of the sequence
        with without_autocast(keys.device.type):
            best = (keys[:, even::2] @ keys[:, 1 - even :: 2].transpose(1, 2)).max(dim=2)
        num_even = best.values.shape[1]
        num_left = num_even - (num_patches - num_keep)
        merged, left = select_topk(best.values, num_patches - num_keep)
        slots = torch.zeros_like(best.indices)
        slots = slots.scatter(1, merged, num_left + best.indices.gather(1, merged))
        ranks = torch.arange(num_left, device=left.device)
        slots = slots.scatter(1, left, ranks.expand_as(left))
        hosts = torch.arange(num_left, num_keep, device=left.device).expand(slots.shape[0], -1)
        places = torch.arange(num_patches, device=left.device)
        back = inverse_permutation(torch.cat([places[even::2], places[1 - even :: 2]])[None])[0]
        return torch.cat([slots, hosts], dim=1).index_select(1, back)
