"""DToP: tokens that are classified with confidence leave the model with their logits.

B batch, P prefix tokens, N live patch tokens, K classes, C channels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.ops.gather import gather_tokens, take_tokens
from cropr_mm.ops.select import select_topk
from cropr_mm.reducers.base import TokenRanker, exclude
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens


class TokenLogits(nn.Module):
    """Shows the logits of live tokens and their cells to the loss hook."""

    task = "exit"

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(
        self, logits: Tensor, places: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Logits (B, N, K), raster ids (B, N), -1 where nothing is learned, and their grid."""
        return logits, places, grid


@MODELS.register_module()
class DToP(TokenRanker):
    """Classify every token at each step and let the most confident ones exit.

    Exits are final: the segmentation head (``cropr_mm.EarlyExitHead``) takes their logits and
    computes those of the other cells. The backbone returns them as one more map. Nothing stops the
    gradient: losses reach the backbone at every step. In training ``CroprAuxLossHook`` gives each
    step the labels of the tokens alive there; without it the first pass raises RuntimeError.

    Args:
        embed_dim: C, given by the backbone.
        num_classes: K.
        confidence: None lets as many tokens exit as the schedule says. A number lets those exit
            whose largest probability is above it; they stay in place, unseen by the others, until
            the schedule drops them, for which it takes confident ones first.
        context: Most confident exiting tokens per class that stay, where ``confidence`` is given;
            at least 1, so that there is always something to attend to.
        deploy: Build the form for inference.

    Raises:
        ValueError: If a number is out of range.

    Source: Tang et al., Dynamic token pruning (arXiv 2308.01045), for ``confidence`` (0.9 for
    ViT-B, 0.95 for ViT-L) and ``context``, with one linear layer in place of the published
    attention-to-mask heads; the Cropr paper, table 5, for exits by schedule.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        confidence: float | None = None,
        context: int = 5,
        deploy: bool = False,
    ) -> None:
        super().__init__(embed_dim)
        if num_classes < 1:
            raise ValueError(f"expected num_classes >= 1, got {num_classes}")
        if confidence is not None and not 0 < confidence < 1:
            raise ValueError(f"expected confidence in (0, 1), got {confidence}")
        if context < 1:
            raise ValueError(f"expected context >= 1, got {context}")
        self.num_exit_classes = num_classes
        self.confidence = confidence
        self.context = context
        self.masking = confidence is not None
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        if not deploy:
            self.auxiliary = TokenLogits(num_classes)

    def keep_all(self, tokens: Tokens) -> Reduction:
        if self.teaching:
            self.show(self.logits(tokens), tokens)
        return super().keep_all(tokens)

    def logits(self, tokens: Tokens) -> Tensor:
        """Of each patch token, shape (B, N, K)."""
        return self.head(self.norm(tokens.x[:, tokens.num_prefix :]))

    def show(self, logits: Tensor, tokens: Tokens) -> None:
        """Give logits (B, N, K) to the loss hook; those of tokens that exited learn nothing.

        Raises:
            RuntimeError: If nothing listens to ``auxiliary``.
        """
        self.check_listener("PatchLabelTarget")
        places = tokens.index
        if tokens.policy is not None:
            places = places.masked_fill(~tokens.policy, -1)
        self.auxiliary(logits, places, tokens.grid)

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        logits = self.logits(tokens)
        if self.teaching:
            self.show(logits, tokens)
        exits = F.pad(logits, (0, 1), value=1.0)  # (B, N, K + 1)
        if tokens.exit is not None:  # who exited before keeps the logits of then
            exits = torch.where(tokens.exit[..., -1:] > 0, tokens.exit, exits)
        with torch.no_grad():
            sure, label = logits.float().softmax(dim=-1).max(dim=-1)  # (B, N)
            done = torch.zeros_like(sure, dtype=torch.bool)
            if self.confidence is not None:
                alive = torch.ones_like(done) if tokens.policy is None else tokens.policy
                done = self.exiting(sure, label, alive)
            rank = exclude(-sure - 2 * done.float(), tokens, signals)
            places, rest = select_topk(rank, num_keep)
        kept = take_tokens(tokens, places, with_prefix=True)
        dropped = take_tokens(tokens, rest, with_prefix=False)
        policy = left = None
        if self.confidence is not None:
            policy = (alive & ~done).gather(1, places)
            left = gather_tokens(exits, places) * ~policy.unsqueeze(-1)
        kept = Tokens(kept.x, kept.index, kept.grid, kept.num_prefix, policy=policy, exit=left)
        gone = gather_tokens(exits, rest)
        return Reduction(kept, Tokens(dropped.x, dropped.index, dropped.grid, exit=gone))

    def exiting(self, sure: Tensor, label: Tensor, alive: Tensor) -> Tensor:
        """Tokens that are confident enough and not needed as context.

        Args:
            sure: Largest probability of each token, shape (B, N), float32.
            label: Its class, shape (B, N), int64.
            alive: Tokens that did not exit before, shape (B, N), bool.

        Returns:
            Shape (B, N), bool.
        """
        assert self.confidence is not None, "asked only where it is given"
        above = alive & (sure > self.confidence)
        mine, other = sure.unsqueeze(2), sure.unsqueeze(1)
        place = torch.arange(sure.shape[1], device=sure.device)
        before = (other > mine) | ((other == mine) & (place < place.unsqueeze(1)))
        rivals = before & above.unsqueeze(1) & (label.unsqueeze(1) == label.unsqueeze(2))
        return above & (rivals.sum(dim=2) >= self.context)
