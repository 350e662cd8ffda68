"""What methods with a learned decision share: a predictor that is trained by masking.

B batch, P prefix tokens, N live patch tokens, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.ops.precision import without_autocast
from cropr_mm.reducers.base import TokenRanker
from cropr_mm.structures import Reduction, Signals, Tokens


class KeepPredictor(nn.Module):
    """Score of keeping a token, from the token itself and the mean of all live ones.

    Args:
        embed_dim: C, a multiple of 4.

    Source: Rao et al., DynamicViT (arXiv 2106.02034), equations 2 to 5, and its released code.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.fc1 = nn.Linear(embed_dim, embed_dim // 2)
        self.fc2 = nn.Linear(embed_dim // 2, embed_dim // 4)
        self.fc3 = nn.Linear(embed_dim // 4, 2)

    def forward(self, x: Tensor, policy: Tensor | None) -> Tensor:
        """Log-odds of keeping patch tokens (B, N, C): (B, N), float32.

        Args:
            x: Patch tokens.
            policy: How much of each is live, (B, N), or None for all.
        """
        own, shared = F.gelu(self.proj(self.norm(x))).chunk(2, dim=-1)
        if policy is None:
            mean = shared.mean(dim=1, keepdim=True)
        else:
            live = policy.to(shared.dtype).unsqueeze(-1)
            # At least one: decisions may leave an image without any token.
            count = live.sum(dim=1, keepdim=True).clamp(min=1)
            mean = (shared * live).sum(dim=1, keepdim=True) / count
        y = torch.cat([own, mean.expand_as(own)], dim=-1)
        keep, drop = self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(y))))).float().unbind(dim=-1)
        return keep - drop


class KeepShare(nn.Module):
    """How far the share of kept tokens is from the wanted one; listened to by the loss hook."""

    task = "keep"

    def forward(self, decision: Tensor, share: float) -> Tensor:
        """Decisions (B, N), float32, against the share to keep: differences, shape (B,)."""
        return decision.mean(dim=1) - share


class KeepDecision(TokenRanker):
    """Rank by a predictor that learns in training from tokens that are masked, not dropped.

    In training every token stays; ``policy`` says which ones would have left. A decision is drawn
    per token (Gumbel-softmax of temperature 1, straight through), so the losses of the model reach
    the predictor through attention, and ``auxiliary`` reports the share of kept tokens to
    ``CroprAuxLossHook`` with the target ``KeepRatioTarget``. In evaluation the tokens of highest
    score stay.

    Args:
        embed_dim: C, given by the backbone, a multiple of 4.
        deploy: Build the form for inference, without ``auxiliary``.

    Raises:
        ValueError: If C is no multiple of 4.

    Source: Rao et al., DynamicViT (arXiv 2106.02034), and its released code. Two Gumbel variables
    differ by a logistic one, which is drawn here.
    """

    needs = frozenset({"noise"})
    masking = True

    def __init__(self, embed_dim: int, deploy: bool = False) -> None:
        super().__init__(embed_dim)
        if embed_dim % 4:
            raise ValueError(f"expected embed_dim to be a multiple of 4, got {embed_dim}")
        self.predictor = KeepPredictor(embed_dim)
        if not deploy:
            self.auxiliary = KeepShare()

    def forward(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """As the base class in evaluation; in training masks tokens and drops none.

        Raises:
            RuntimeError: If nothing listens to ``auxiliary`` in training mode: the share of kept
                tokens would not learn to be what the schedule says.
        """
        if not self.needs_aux_loss:
            return super().forward(tokens, num_keep, signals)
        self.check_listener("KeepRatioTarget")
        self.check_arguments(tokens, num_keep, signals)
        assert signals.noise is not None, "needs names it"
        num_patches = tokens.index.shape[1]
        before = torch.ones_like(signals.noise) if tokens.policy is None else tokens.policy
        decision = self.decide(self.log_odds(tokens), signals.noise)
        if num_keep >= num_patches:  # nothing leaves, but every parameter is part of the pass
            decision = 1 + 0 * decision
        elif signals.padding is not None:
            decision = decision * (~signals.padding).float()
        decision = decision * before
        self.auxiliary(decision, min(num_keep / num_patches, 1.0))
        leaving = (before - decision).detach() > 0.5
        patches = tokens.x[:, tokens.num_prefix :]
        x = self.mask(tokens.x, tokens.num_prefix, decision, before - decision)
        return Reduction(
            kept=tokens.replace(x=x, policy=decision),
            dropped=tokens.replace(x=patches, num_prefix=0, policy=leaving),
        )

    def log_odds(self, tokens: Tokens) -> Tensor:
        """Of keeping each patch token, shape (B, N), float32."""
        with without_autocast(tokens.x.device.type):
            x = tokens.x[:, tokens.num_prefix :].to(self.predictor.proj.weight.dtype)
            return self.predictor(x, tokens.policy)

    @staticmethod
    def decide(log_odds: Tensor, noise: Tensor) -> Tensor:
        """Draw decisions, 0 or 1 with the gradient of their probability, shape (B, N)."""
        soft = (log_odds + noise.log() - (-noise).log1p()).sigmoid()
        return (soft > 0.5).float() + (soft - soft.detach())

    def mask(self, x: Tensor, num_prefix: int, decision: Tensor, leaving: Tensor) -> Tensor:
        """What masking does to the tokens (B, P + N, C) besides; decisions are (B, N)."""
        return x

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Log-odds that each token is kept, shape (B, N)."""
        return self.log_odds(tokens)
