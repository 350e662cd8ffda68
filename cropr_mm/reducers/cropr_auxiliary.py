"""The training-only half of Cropr: aggregate tokens by cross-attention, then classify.

B batch, S sequence length (prefix and patches), M queries, C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class CroprAuxiliary(nn.Module):
    """Aggregator and head that teach the queries which tokens matter.

    Attention has one head and no projections: the tokens themselves are keys and values.

    Args:
        embed_dim: C.
        num_classes: Outputs of the head.
        mlp_ratio: Hidden width of the MLP in multiples of C.

    Source: the Cropr paper and its released code; layer norms and initial values as in the code.
    """

    def __init__(self, embed_dim: int, num_classes: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(embed_dim * mlp_ratio)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.fc1 = nn.Linear(embed_dim, hidden)
        self.fc2 = nn.Linear(hidden, embed_dim)
        self.head_norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def aggregate(self, queries: Tensor, x: Tensor) -> Tensor:
        """Softmax-weighted mean of the tokens for each query.

        Args:
            queries: Shape (1, M, C).
            x: Tokens, prefix included, shape (B, S, C).

        Returns:
            Shape (B, M, C).
        """
        # Queries are scaled, not the product, which half precision may not hold.
        logits = queries * x.shape[2] ** -0.5 @ x.transpose(1, 2)  # (B, M, S)
        return logits.softmax(dim=-1) @ x

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """Class logits, for the auxiliary loss.

        Args:
            queries: Shape (1, M, C).
            x: Tokens cut off from the backbone's gradient, prefix included, shape (B, S, C).

        Returns:
            Shape (B, num_classes) with one query, else (B, M, num_classes).
        """
        y = self.aggregate(queries, x)
        y = y + self.fc2(F.gelu(self.fc1(self.norm(y))))
        logits = self.head(self.head_norm(y))
        return logits.squeeze(1) if queries.shape[1] == 1 else logits
