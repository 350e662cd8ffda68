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
        compat: Both rules of the released code. Cost of a candidate: its own weight times its
            distances to all tokens, instead of the weighted distances inside its cluster. The
            farthest token, with equal weights: by its largest distance to those chosen before
            instead of its smallest.
        equal_weight: All weigh alike, and no attention is read. The first medoids are then a random
            token and, one after another, the one that is farthest from those chosen before;
            otherwise the tokens of largest weight. The random token is another one in each image;
            in the released code all images of a batch have the same.

    Source: Haurum et al., Which Tokens to Use?, ICCV 2023 workshops, after Marin et al., Token
    Pooling, arXiv 2110.03860. The attention is that of the block before, so a published step before
    block b is one after block b - 1 here. A cluster without tokens keeps its medoid; where medoids
    coincide, tokens of largest weight fill up the number.
    """

    needs = frozenset({"column_mean"})

    def __init__(
        self,
        embed_dim: int,
        iterations: int = 3,
        compat: bool = False,
        equal_weight: bool = False,
    ) -> None:
        super().__init__(embed_dim)
        if iterations < 0:
            raise ValueError(f"expected iterations >= 0, got {iterations}")
        self.iterations = iterations
        self.compat = compat
        self.equal_weight = equal_weight
        if equal_weight:
            self.needs = frozenset({"noise"})

    @torch.no_grad()
    def split(self, tokens: Tokens, num_keep: int, signals: Signals) -> tuple[Tensor, Tensor]:
        """Positions of medoids and of the others."""
        signal = signals.noise if self.equal_weight else signals.column_mean
        assert signal is not None, "needs names it"
        weight = torch.ones_like(signal) if self.equal_weight else signal.float()
        x = tokens.x[:, tokens.num_prefix :].float()
        invalid = weight.isnan() | ~x.isfinite().all(dim=2)
        weight = weight.masked_fill(invalid, float("nan"))  # ranks lowest
        x = x.masked_fill(invalid.unsqueeze(2), 0.0)
        distance = torch.cdist(x, x)
        if self.equal_weight:
            start = exclude(signal.masked_fill(invalid, float("nan")), tokens, signals)
            medoids = self.spread(distance, start, num_keep)
        else:
            medoids, _ = select_topk(weight, num_keep)
        medoids = self.cluster(distance, weight, medoids)
        scores = weight.scatter(1, medoids, float("inf")).masked_fill(invalid, float("nan"))
        return select_topk(exclude(scores, tokens, signals), num_keep)

    @staticmethod
    @torch.no_grad()
    def nearest(tokens: Tokens, medoids: Tokens) -> Tensor:
        """Place of each patch token's nearest medoid, (B, N), int64: the clusters of a step."""
        x, y = (part.patches.float() for part in (tokens, medoids))
        # By differences: a medoid has to be its own nearest one.
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=2)

    def spread(self, distance: Tensor, start: Tensor, num_keep: int) -> Tensor:
        """Tokens far from each other, shape (B, K), int64.

        Args:
            distance: Between tokens, shape (B, N, N).
            start: The token of largest value is the first one; NaN is never chosen before all
                others are. Shape (B, N).
            num_keep: K.
        """
        newest, _ = select_topk(start, 1)  # (B, 1)
        chosen, never, far = [newest], start.isnan(), None
        join = torch.maximum if self.compat else torch.minimum
        for _ in range(num_keep - 1):
            row = distance.gather(1, newest.unsqueeze(2).expand(-1, -1, start.shape[1])).squeeze(1)
            far = row if far is None else join(far, row)  # (B, N)
            never = never.scatter(1, newest, True)
            newest = far.masked_fill(never, -1.0).argmax(dim=1, keepdim=True)
            chosen.append(newest)
        return torch.cat(chosen, dim=1)

    def cluster(self, distance: Tensor, weight: Tensor, medoids: Tensor) -> Tensor:
        """Medoids of tokens.

        Args:
            distance: Between tokens, shape (B, N, N).
            weight: Of each token, shape (B, N).
            medoids: Positions to begin with, shape (B, K), int64.

        Returns:
            Positions, shape (B, K), int64.
        """
        num_tokens = weight.shape[1]
        weight = weight.nan_to_num(nan=0.0)
        number = torch.arange(medoids.shape[1], device=weight.device)[:, None]
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
