"""Sinkhorn: share tokens out to learned centers by optimal transport.

B batch, N live patch tokens, K centers, C channels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.ops.precision import without_autocast
from cropr_mm.reducers.soft_merger import SoftMerger
from cropr_mm.registry import MODELS


def transport(scores: Tensor, epsilon: float = 1.0, iterations: int = 3) -> Tensor:
    """Transport plan after some Sinkhorn iterations in the logarithmic domain.

    Args:
        scores: Similarity of centers and tokens, shape (B, K, N), float32.
        epsilon: Strength of the entropy term.
        iterations: Updates of both potentials; that of the tokens comes last, so that each token
            gives away exactly one.

    Returns:
        Plan, shape (B, K, N).
    """
    scores = scores / epsilon
    # Log of the equal mass of every row and column, with the scaling by K + N of the result.
    mass = -math.log(scores.shape[1] + scores.shape[2])
    v = torch.zeros_like(scores[:, :1])
    u = torch.zeros_like(scores[:, :, :1])
    for _ in range(iterations):
        u = mass - torch.logsumexp(scores + v, dim=2, keepdim=True)
        v = mass - torch.logsumexp(scores + u, dim=1, keepdim=True)
    return (scores + u + v - mass).exp()


@MODELS.register_module()
class Sinkhorn(SoftMerger):
    """Each slot is the sum of unit-length tokens that a transport plan gives to its center.

    Args:
        embed_dim: C, given by the backbone.
        num_slots: K, given by the backbone.
        epsilon: Strength of the entropy term.
        iterations: Of Sinkhorn's algorithm.

    Source: Ren et al. (MSHViT) after Cuturi 2013, as used by Haurum et al. 2023. Centers begin
    with unit length. There each forward pass brings them back to it in place; here they may grow
    or shrink, so that nothing is written in a forward pass, and the product sees them at unit
    length: the gradient has no part along a center and is divided by its length.
    """

    def __init__(
        self, embed_dim: int, num_slots: int, epsilon: float = 1.0, iterations: int = 3
    ) -> None:
        super().__init__(embed_dim, num_slots)
        if epsilon <= 0 or iterations < 1:
            raise ValueError(
                f"expected epsilon > 0 and iterations >= 1, got {epsilon} and {iterations}"
            )
        # Spelled as in checkpoints of 0.1.
        self.centres = nn.Parameter(F.normalize(torch.randn(num_slots, embed_dim), dim=-1))
        self.epsilon = epsilon
        self.iterations = iterations

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the tokens in each slot by optimal transport, and what is mixed."""
        with without_autocast(x.device.type):
            z = F.normalize(x.float(), dim=-1)
            scores = F.normalize(self.centres.float(), dim=-1) @ z.transpose(1, 2)  # (B, K, N)
            return transport(scores, self.epsilon, self.iterations), z
