"""DToP: tokens that are classified with confidence leave the model with their logits.

B batch, P prefix tokens, N live patch tokens, K classes, C channels.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cropr_mm.layers.initial import reset_linear
from cropr_mm.ops.select import select_topk
from cropr_mm.reducers.base import TokenPruner, TokenRanker, exclude
from cropr_mm.reducers.keep_decision import KeepDecision
from cropr_mm.reducers.mask_classifier import MaskClassifier
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens
from cropr_mm.tokens.gather import gather_tokens, take_tokens

_TARGETS = {"exit": "PatchLabelTarget", "exit_mask": "PatchMaskTarget"}


class TokenLogits(nn.Module):
    """Shows the logits of live tokens and their cells to the loss hook."""

    def __init__(self, num_classes: int, task: str) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.task = task

    def forward(
        self, logits: Tensor, places: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """What a step says of its tokens.

        Args:
            logits: Of classes, shape (B, N, K); of masks, and behind them of the classes' presence,
                (B, N + 1, K).
            places: Raster ids, shape (B, N), -1 where nothing is learned.
            grid: Grid that these belong to.
        """
        return logits, places, grid


@MODELS.register_module()
class DToP(TokenRanker):
    """Classify every token at each step and let the most confident ones exit.

    Exits are final: the segmentation head (``cropr_mm.EarlyExitHead``) takes their logits and
    computes those of the other cells. The backbone returns them as one more map. Nothing stops the
    gradient: losses reach the backbone at every step. In training ``CroprAuxLossHook`` gives each
    step the labels of the tokens alive there; without it the first pass raises RuntimeError.

    Tokens that exit by ``confidence`` are masked, not removed, since their number differs from
    image to image: they stay in place, no token attends to them, and they change no more. So an
    encoder is faster by what its schedule drops, and by confidence alone not at all. The published
    exits, by confidence alone after a few blocks, have a schedule that drops nothing, for ViT-B
    ``dict(type='cropr_mm.KeepRatios', ratio=1.0, blocks=[5, 7])``; a curriculum does not hold
    them back.

    Args:
        embed_dim: C, given by the backbone.
        num_classes: K.
        confidence: None lets as many tokens exit as the schedule says. A number lets those exit
            whose largest probability is above it, also where the schedule drops none; where it
            drops some, it takes these first.
        context: Most confident exiting tokens per class that stay, where ``confidence`` is given;
            at least 1, so that there is always something to attend to.
        head: 'linear', LayerNorm and one linear layer, probabilities by softmax; or 'mask', the
            published attention-to-mask head (:class:`MaskClassifier`), whose probability of a class
            is that of its mask times that of its presence; its logits are the logarithms of these.
            The hook's target is ``PatchLabelTarget`` or ``PatchMaskTarget``.
        mask_dim: Channels of the head 'mask', published as 384 for ViT-B and 512 for ViT-L.
        rank: None drops the most confident tokens. Config of a pruner without parameters, e.g.
            ``dict(type='cropr_mm.VariancePruner')``, drops those that this one would drop; they
            exit with what is said of them so far.
        deploy: Build the form for inference.

    Raises:
        ValueError: If a number is out of range, or ``head`` or ``rank`` is none of these.

    Source: Tang et al., Dynamic token pruning (arXiv 2308.01045), for ``confidence`` (0.9 for
    ViT-B, 0.95 for ViT-L), ``context`` and 'mask'; the Cropr paper, table 5, for exits by schedule
    from linear heads. There the last head multiplies all masks, also those that exited, by its own
    presence of classes; here logits of exits are complete and go with any last head.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        confidence: float | None = None,
        context: int = 5,
        head: Literal["linear", "mask"] = "linear",
        mask_dim: int = 384,
        rank: dict[str, Any] | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__(embed_dim)
        if num_classes < 1:
            raise ValueError(f"expected num_classes >= 1, got {num_classes}")
        if confidence is not None and not 0 < confidence < 1:
            raise ValueError(f"expected confidence in (0, 1), got {confidence}")
        if context < 1:
            raise ValueError(f"expected context >= 1, got {context}")
        if head not in ("linear", "mask"):
            raise ValueError(f"expected head 'linear' or 'mask', got {head!r}")
        self.num_exit_classes = num_classes
        self.confidence = confidence
        self.context = context
        self.masking = confidence is not None
        self.by_masks = head == "mask"
        if self.by_masks:
            self.masks = MaskClassifier(embed_dim, num_classes, mask_dim)
        else:
            self.norm = nn.LayerNorm(embed_dim)
            self.head = nn.Linear(embed_dim, num_classes)
            reset_linear(self.head)
        self.rank: TokenPruner | None = None
        if rank is not None:
            self.rank = _build_rank(rank, embed_dim)
            self.needs = self.rank.needs
            self.site = self.rank.site
        if not deploy:
            self.auxiliary = TokenLogits(num_classes, "exit_mask" if self.by_masks else "exit")

    def check_arguments(self, tokens: Tokens, num_keep: int, signals: Signals) -> None:
        """As the base class; also what the method of ``rank`` asks for."""
        super().check_arguments(tokens, num_keep, signals)
        if self.rank is not None:
            self.rank.check_arguments(tokens, num_keep, signals)

    def keep_all(self, tokens: Tokens) -> Reduction:
        """Drop nothing; who is confident enough exits in its place."""
        if self.confidence is None:
            if self.needs_aux_loss:
                self.logits(tokens)
            return super().keep_all(tokens)
        exits, confidence, label = self.examine(tokens)
        live = self.live(tokens, confidence, label)
        left = exits * ~live.unsqueeze(-1)
        kept = tokens.replace(policy=live, exit=left)
        return Reduction(kept, take_tokens(kept, kept.index[:, :0], with_prefix=False))

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Let the most confident tokens leave with their logits."""
        exits, confidence, label = self.examine(tokens)
        live = tokens.policy
        if self.confidence is not None:
            live = self.live(tokens, confidence, label)
        remaining = tokens.replace(policy=live)
        if self.rank is not None:
            places, rest = self.rank.split(remaining, num_keep, signals)
        else:
            places, rest = select_topk(exclude(-confidence, remaining, signals), num_keep)
        kept = take_tokens(tokens, places, with_prefix=True)
        dropped = take_tokens(tokens, rest, with_prefix=False)
        policy = left = None
        if live is not None:
            policy = live.gather(1, places)
            left = gather_tokens(exits, places) * ~policy.unsqueeze(-1)
        gone = gather_tokens(exits, rest)
        return Reduction(
            kept.replace(policy=policy, exit=left),
            dropped.replace(policy=None, exit=gone),  # each of them exited, so none is masked
        )

    def examine(self, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """What each token would exit with.

        Returns:
            Logits with a 1 behind them, shape (B, N, K + 1), those of their own step for tokens
            that exited before; largest probability, shape (B, N), float32, and its class, int64,
            both without gradient.
        """
        logits = self.logits(tokens)
        exits = F.pad(logits, (0, 1), value=1.0)
        if tokens.exit is not None:  # who exited before keeps the logits of then
            exits = torch.where(tokens.exit[..., -1:] > 0, tokens.exit, exits)
        known = logits.detach().float()
        confidence, label = (known.exp() if self.by_masks else known.softmax(dim=-1)).max(dim=-1)
        return exits, confidence, label

    def logits(self, tokens: Tokens) -> Tensor:
        """Of each patch token, shape (B, N, K); in training the loss hook sees what is learned."""
        x = tokens.x[:, tokens.num_prefix :]
        if self.by_masks:
            masks, presence = self.masks(x, tokens.policy)
            learned = torch.cat([masks, presence.unsqueeze(1)], dim=1)
            there = F.logsigmoid(presence.float()).unsqueeze(1)
            logits = F.logsigmoid(masks.float()) + there
        else:
            logits = learned = self.head(self.norm(x))
        if self.needs_aux_loss:
            self.show(learned, tokens)
        return logits

    def show(self, learned: Tensor, tokens: Tokens) -> None:
        """Give logits to the loss hook; those of tokens that exited learn nothing.

        Raises:
            RuntimeError: If nothing listens to ``auxiliary``.
        """
        self.check_listener(_TARGETS[self.auxiliary.task])
        places = tokens.index
        if tokens.policy is not None:
            places = places.masked_fill(~tokens.policy, -1)
        self.auxiliary(learned, places, tokens.grid)

    def live(self, tokens: Tokens, confidence: Tensor, label: Tensor) -> Tensor:
        """Tokens that did not exit, neither before nor now, shape (B, N), bool.

        Args:
            tokens: Tokens at this step.
            confidence: Largest probability of each, shape (B, N), float32.
            label: Its class, shape (B, N), int64.
        """
        alive = tokens.policy
        if alive is None:
            alive = torch.ones_like(label, dtype=torch.bool)
        return alive & ~self.exiting(confidence, label, alive)

    def exiting(self, confidence: Tensor, label: Tensor, alive: Tensor) -> Tensor:
        """Tokens that are confident enough and not needed as context.

        Args:
            confidence: Largest probability of each token, shape (B, N), float32.
            label: Its class, shape (B, N), int64.
            alive: Tokens that did not exit before, shape (B, N), bool.

        Returns:
            Shape (B, N), bool.
        """
        assert self.confidence is not None, "asked only where it is given"
        above = alive & (confidence > self.confidence)
        mine, other = confidence.unsqueeze(2), confidence.unsqueeze(1)
        place = torch.arange(confidence.shape[1], device=confidence.device)
        before = (other > mine) | ((other == mine) & (place < place.unsqueeze(1)))
        rivals = before & above.unsqueeze(1) & (label.unsqueeze(1) == label.unsqueeze(2))
        return above & (rivals.sum(dim=2) >= self.context)


def _build_rank(cfg: dict[str, Any], embed_dim: int) -> TokenPruner:
    """Pruner that needs no training of its own."""
    kind: Any = MODELS.get(cfg["type"])
    prunes = kind is not None and issubclass(kind, TokenPruner)
    if not prunes or kind.stop_gradient or issubclass(kind, KeepDecision):
        raise ValueError(
            "expected rank to be a pruner that learns nothing (AttnTopK, KMedoids, RadialPruner, "
            f"RandomPruner or VariancePruner), got {cfg['type']}: learned ranks have a loss and a "
            "target of their own, and methods that merge leave no whole tokens to exit"
        )
    return MODELS.build({**cfg, "embed_dim": embed_dim})
