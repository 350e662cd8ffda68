"""DPC-KNN: cluster by density peaks and merge each cluster.

B batch, N live patch tokens, K clusters, C channels.
"""

import torch
from torch import Tensor, nn

from cropr_mm.ops.select import select_topk
from cropr_mm.reducers.base import TokenMerger
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens

JITTER = 1e-6


@MODELS.register_module()
class DPCKNN(TokenMerger):
    """Centers are dense and far from anything denser; every token joins its nearest center.

    Args:
        embed_dim: C, given by the backbone.
        num_neighbors: Neighbors that a density is the mean of, the token itself included.
        equal_weight: Plain means; otherwise each token's weight is learned.

    Source: Zeng et al., Not All Tokens Are Equal (TCFormer), CVPR 2022, after Du et al. 2016, as
    used by Haurum et al. 2023. Noise of 1e-6 breaks ties of density. Clusters are numbered in
    token order of their centers.
    """

    needs = frozenset({"noise"})

    def __init__(self, embed_dim: int, num_neighbors: int = 5, equal_weight: bool = False) -> None:
        super().__init__(embed_dim)
        if num_neighbors < 1:
            raise ValueError(f"expected num_neighbors >= 1, got {num_neighbors}")
        self.num_neighbors = num_neighbors
        self.importance = None if equal_weight else nn.Linear(embed_dim, 1)

    def log_weight(self, tokens: Tokens) -> Tensor:
        """Log of each token's weight in its cluster, shape (B, N)."""
        if self.importance is None:
            return torch.zeros_like(tokens.index, dtype=torch.float32)
        return self.importance(tokens.x[:, tokens.num_prefix :]).squeeze(-1).float()

    def match(self, tokens: Tokens, num_keep: int, signals: Signals) -> Tensor:
        """Cluster of each token, shape (B, N)."""
        return self.cluster(tokens, num_keep, signals)[1]

    def cluster(self, tokens: Tokens, num_keep: int, signals: Signals) -> tuple[Tensor, Tensor]:
        """Positions of the centers, (B, K), ascending, and cluster of each token, (B, N)."""
        assert signals.noise is not None, "needs names it"
        x = tokens.x[:, tokens.num_prefix :].float()
        distance = torch.cdist(x, x) / x.shape[2] ** 0.5  # (B, N, N)
        nearest = distance.topk(min(self.num_neighbors, x.shape[1]), dim=2, largest=False).values
        density = (-nearest.square().mean(dim=2)).exp() + JITTER * signals.noise
        denser = density[:, None, :] > density[:, :, None]
        furthest = distance.flatten(1).amax(dim=1)[:, None, None]
        peak = torch.where(denser, distance, furthest).amin(dim=2)
        centers, _ = select_topk(density * peak, num_keep)  # (B, K)
        to_centers = distance.gather(2, centers[:, None].expand(-1, x.shape[1], -1))
        assignment = to_centers.argmin(dim=2)
        own = torch.arange(num_keep, device=x.device).expand_as(centers)
        return centers, assignment.scatter(1, centers, own)
