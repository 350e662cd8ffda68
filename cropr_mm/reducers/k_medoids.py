"""K-Medoids: keep the tokens that stand best for their cluster.

B batch, N live patch tokens, K medoids, C channels.
"""

import torch
from torch import Tensor

from cropr_mm.ops.select import select_topk
from cropr_mm.reducers.base import TokenPruner, exclude
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens


@MODELS.register_module()
class KMedoids(TokenPruner):
    """Weighted K-Medoids on the features; weights are the attention that tokens receive.

    Args:
        embed_dim: C, given by the backbone.
        iterations: Of assignment and update.
        compat: Cost of a candidate as in the released code: its own weight times its distances to
            all tokens, instead of the weighted distances inside its cluster.

    Source: Haurum et al., Which Tokens to Use?, ICCV 2023 workshops, after Marin et al., Token
    Pooling, arXiv 2110.03860. The attention is that of the block before, so a published step before
    block b is one after block b - 1 here. A cluster without tokens keeps its medoid; where medoids
    coincide, tokens of largest weight fill up the number.
    """

    needs = frozenset({"column_mean"})

    def __init__(self, embed_dim: int, iterations: int = 3, compat: bool = False) -> None:
        super().__init__(embed_dim)
        if iterations < 0:
            raise ValueError(f"expected iterations >= 0, got {iterations}")
        self.iterations = iterations
        self.compat = compat

    @torch.no_grad()
    def split(self, tokens: Tokens, num_keep: int, signals: Signals) -> tuple[Tensor, Tensor]:
        assert signals.column_mean is not None, "needs names it"
        weight = signals.column_mean.float()
        x = tokens.x[:, tokens.num_prefix :].float()
        strange = weight.isnan() | ~x.isfinite().all(dim=2)
        weight = weight.masked_fill(strange, float("nan"))  # ranks lowest
        x = x.masked_fill(strange.unsqueeze(2), 0.0)
        medoids = self.cluster(torch.cdist(x, x), weight, num_keep)
        scores = weight.scatter(1, medoids, float("inf")).masked_fill(strange, float("nan"))
        return select_topk(exclude(scores, tokens, signals), num_keep)

    @staticmethod
    @torch.no_grad()
    def nearest(tokens: Tokens, medoids: Tokens) -> Tensor:
        """Place of each patch token's nearest medoid, (B, N), int64: the clusters of a step."""
        x, y = (part.patches.float() for part in (tokens, medoids))
        # By differences: a medoid has to be its own nearest one.
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=2)

    def cluster(self, distance: Tensor, weight: Tensor, num_keep: int) -> Tensor:
        """Medoids of tokens.

        Args:
            distance: Between tokens, shape (B, N, N).
            weight: Of each token, shape (B, N).
            num_keep: K.

        Returns:
            Positions, shape (B, K), int64.
        """
        num_tokens = weight.shape[1]
        medoids, _ = select_topk(weight, num_keep)
        weight = weight.nan_to_num(nan=0.0)
        number = torch.arange(num_keep, device=weight.device)[:, None]
        for _ in range(self.iterations):
            to_medoids = distance.gather(2, medoids[:, None].expand(-1, num_tokens, -1))
            cluster = to_medoids.argmin(dim=2)  # (B, N)
            if self.compat:
                cost = weight * distance.sum(dim=2)
            else:
                together = cluster[:, :, None] == cluster[:, None, :]
                cost = (distance * together * weight[:, None]).sum(dim=2)
            member = cluster[:, None] == number  # (B, K, N)
            costs = torch.where(member, cost[:, None], float("inf"))
            medoids = torch.where(member.any(dim=2), costs.argmin(dim=2), medoids)
        return medoids
