"""SiT: slim tokens by learned weights.

B batch, N live patch tokens, K slots, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.reducers.soft_merger import SoftMerger
from cropr_mm.registry import MODELS


@MODELS.register_module()
class SiT(SoftMerger):
    """Each slot is a mean of the tokens; its weights come from a small MLP on each token.

    Source: Zong et al., Self-slimmed Vision Transformer, ECCV 2022, equation 4, as used by Haurum
    et al. 2023: without the distillation through a reverse module.
    """

    def __init__(self, embed_dim: int, num_slots: int) -> None:
        super().__init__(embed_dim, num_slots)
        hidden = embed_dim // 2
        self.norm = nn.LayerNorm(embed_dim)
        self.fc1 = nn.Linear(embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, num_slots)
        self.scale = nn.Parameter(torch.ones(()))

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the tokens in each slot by an MLP, and what is mixed."""
        logits = self.fc2(F.gelu(self.fc1(self.norm(x)))) * self.scale  # (B, N, K)
        return logits.softmax(dim=1).transpose(1, 2).to(x.dtype), x
