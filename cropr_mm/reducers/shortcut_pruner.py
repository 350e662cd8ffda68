"""Keep the tokens that no linear shortcut can bring up to date.

B batch, N live patch tokens, C channels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cropr_mm.ops.precision import without_autocast
from cropr_mm.reducers.base import TokenPruner
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens


@MODELS.register_module()
class ShortcutPruner(TokenPruner):
    """Keep the tokens for which ``ShortcutFusion`` would guess worst.

    The score is linear in the token: it estimates the logarithm of the squared error of the guess.
    ``tools/prune.py`` fits it by least squares to the dense model, without labels. Nothing trains
    it: fine-tuning changes all else, and the choice follows the features alone.

    Args:
        embed_dim: C, given by the backbone.

    Source: ours. Its inference form is that of a deployed Cropr module with the simple scorer.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__(embed_dim)
        self.query = nn.Parameter(torch.empty(embed_dim), requires_grad=False)
        nn.init.normal_(self.query, std=embed_dim**-0.5)
        self.fitted = False

    def forward(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """As the base class.

        Raises:
            RuntimeError: In training mode, if its score is still random.
        """
        if self.training and not self.fitted:
            raise RuntimeError(
                "ShortcutPruner learns nothing in training: expected a checkpoint of "
                "tools/prune.py, which fits its score (--load-from)"
            )
        return super().forward(tokens, num_keep, signals)

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Estimated error of the guess, shape (B, N), float32, up to a constant."""
        with without_autocast(tokens.x.device.type):
            # The whole sequence, then a slice: a slice of x would be copied first.
            return (tokens.x.float() @ self.query.float())[:, tokens.num_prefix :]

    @torch.no_grad()
    def fit(self, query: Tensor) -> None:
        """Take a score, shape (C,)."""
        self.query.copy_(query)
        self.fitted = True

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self.fitted = self.fitted or f"{prefix}query" in state_dict
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
