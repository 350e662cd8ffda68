"""The training-only half of Cropr: classify what the queries gathered.

B batch, M queries, C channels.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.layers.initial import reset_linear


class CroprAuxiliary(nn.Module):
    """Residual MLP and head whose loss trains the queries.

    Args:
        embed_dim: C.
        num_classes: Outputs of the head.
        mlp_ratio: Hidden width of the MLP in multiples of C; 0 leaves it out (an ablation).

    Attributes:
        task: Task that the head is trained for; a target must be of the same task.

    Source: the Cropr paper and its released code; layer norms and initial values of the head as in
    the code. The MLP starts with torch's default, as in its segmentation; ``Cropr`` gives it those
    of its classification where there is one query.
    """

    task = "cropr"

    def __init__(self, embed_dim: int, num_classes: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.num_classes = num_classes
        hidden = int(embed_dim * mlp_ratio)
        self.with_mlp = hidden > 0
        if self.with_mlp:
            self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
            self.fc1 = nn.Linear(embed_dim, hidden)
            self.fc2 = nn.Linear(hidden, embed_dim)
        self.head_norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        reset_linear(self.head)

    def forward(self, y: Tensor) -> Tensor:
        """Class logits, for the auxiliary loss.

        Args:
            y: What each query gathered from the tokens, shape (B, M, C).

        Returns:
            Shape (B, num_classes) with one query, else (B, M, num_classes).
        """
        if self.with_mlp:
            y = y + self.fc2(F.gelu(self.fc1(self.norm(y))))
        logits = self.head(self.head_norm(y))
        return logits.squeeze(1) if logits.shape[1] == 1 else logits
