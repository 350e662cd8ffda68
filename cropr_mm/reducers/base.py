"""What every token reduction method shares: the contract and the bookkeeping.

B batch, P prefix tokens, N live patch tokens, K tokens left, C channels.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cropr_mm.ops.select import select_topk
from cropr_mm.structures import Reduction, Signals, Tokens
from cropr_mm.tokens.gather import take_tokens
from cropr_mm.tokens.merge import merge_tokens

Site = Literal["before", "between", "after"]

# Class attributes of release 0.1 -> their names now.
_RENAMED = {
    "absorbing": "fuses_dropped",
    "isolated": "stop_gradient",
    "sized": "fixed_slots",
    "teaching": "needs_aux_loss",
}


@dataclass(frozen=True)
class AuxiliaryTap:
    """Forward hook of an auxiliary module; its type tells it from the hooks of other programs.

    Attributes:
        take: Called with what the module returned.
    """

    take: Callable[[Any], None]

    def __call__(self, auxiliary: nn.Module, args: tuple, output: Any) -> None:
        """Hand the module's output on."""
        self.take(output)


class TokenReducer(nn.Module):
    """One reduction step: N patch tokens in, ``num_keep`` out; prefix tokens are never touched.

    Attributes:
        needs: Fields of :class:`Signals` that the method reads; the backbone fills only these.
        site: Where in its block the method acts: ``before`` it, ``between`` attention and MLP, or
            ``after`` it.
        synthetic: Whether it makes tokens that belong to no cell (index -1).
        num_fused: Such tokens that each step adds to the real ones that it keeps; they are counted
            in ``num_keep``.
        fixed_slots: Whether its parameters depend on how many tokens it leaves; it is then built
            with ``num_slots``.
        fuses_dropped: Whether kept tokens take in what the others were.
        masking: Whether it marks tokens by ``policy``, always or in training.
        num_exit_classes: Logits that a dropped token leaves with (``Tokens.exit``); 0 for none.
        stop_gradient: Whether its parameters learn from its auxiliary loss alone, which never
            reaches the backbone unless an ablation says so.

    Args:
        embed_dim: C, given by the backbone.
    """

    needs: frozenset[str] = frozenset()
    site: Site = "after"
    synthetic = False
    num_fused = 0
    fixed_slots = False
    fuses_dropped = False
    masking = False
    num_exit_classes = 0
    stop_gradient = False

    def __init_subclass__(cls) -> None:
        """Take class attributes of release 0.1 under their new names, with a warning."""
        super().__init_subclass__()
        for old, new in _RENAMED.items():
            if old in vars(cls):
                warnings.warn(
                    f"{cls.__name__}.{old} is called {new} now; the old name goes in cropr_mm 0.3",
                    DeprecationWarning,
                    stacklevel=2,
                )
                setattr(cls, new, vars(cls)[old])

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        if embed_dim < 1:
            raise ValueError(f"expected embed_dim >= 1, got {embed_dim}")
        self.embed_dim = embed_dim

    def forward(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Reduce the patch tokens.

        Args:
            tokens: Live tokens.
            num_keep: Patch tokens to leave, at least 1; N or more drops nothing.
            signals: Side information, filled where ``needs`` says so.

        Returns:
            The tokens that go on, in token order, and what became of the others.

        Raises:
            ValueError: If ``num_keep`` is too small, or a needed signal is missing or misaligned.
        """
        num_patches = tokens.index.shape[1]
        if num_keep >= num_patches:
            return self.keep_all(tokens)
        self.check_arguments(tokens, num_keep, signals)
        return self.reduce(tokens, num_keep, signals)

    def check_arguments(self, tokens: Tokens, num_keep: int, signals: Signals) -> None:
        """Raise ValueError for what :meth:`forward` cannot work with."""
        if num_keep < 1:
            raise ValueError(f"expected num_keep >= 1, got {num_keep}")
        for name in sorted(self.needs):
            signal = getattr(signals, name)
            if signal is None or signal.shape[:2] != tokens.index.shape:
                got = None if signal is None else tuple(signal.shape)
                raise ValueError(
                    f"{type(self).__name__} expected signal '{name}' for (B, N) = "
                    f"{tuple(tokens.index.shape)} patch tokens, got {got}"
                )
        self.check_count(tokens.index.shape[1], tokens.num_prefix, num_keep)

    def fewest(self, num_patches: int, num_prefix: int) -> int:
        """Fewest patch tokens that one step can leave; at least 1."""
        return 1

    def check_count(self, num_patches: int, num_prefix: int, num_keep: int) -> None:
        """Raise ValueError if one step cannot leave so few tokens."""
        fewest = self.fewest(num_patches, num_prefix)
        if num_keep < fewest:
            raise ValueError(
                f"{type(self).__name__} expected num_keep >= {fewest} of {num_patches} patch "
                f"tokens in one step, got {num_keep}"
            )

    @property
    def needs_aux_loss(self) -> bool:
        """Whether a child ``auxiliary`` has to run: in training, unless stripped."""
        return self.training and "auxiliary" in self._modules

    def listen(self, take: Callable[[Any], None]) -> RemovableHandle:
        """Hand every output of the child ``auxiliary`` to a loss, as training asks for.

        Args:
            take: Called with what ``auxiliary`` returned.

        Returns:
            Handle whose ``remove`` ends it.
        """
        return self.auxiliary.register_forward_hook(AuxiliaryTap(take))

    @property
    def has_listener(self) -> bool:
        """Whether :meth:`listen` was called; other forward hooks do not count."""
        hooks = self.auxiliary._forward_hooks.values()
        return any(isinstance(hook, AuxiliaryTap) for hook in hooks)

    def check_listener(self, target: str) -> None:
        """Raise RuntimeError, naming a target for the hook, if no loss takes ``auxiliary``."""
        if not self.has_listener:
            raise RuntimeError(
                f"{type(self).__name__} in training mode expected a listener for its auxiliary "
                "output: add dict(type='cropr_mm.CroprAuxLossHook', "
                f"target=dict(type='cropr_mm.{target}', ...)) to custom_hooks"
            )

    def switch_to_deploy(self) -> None:
        """Strip what only training needs, by default a child ``auxiliary``."""
        if "auxiliary" in self._modules:
            del self.auxiliary

    def keep_all(self, tokens: Tokens) -> Reduction:
        """Result of a step that changes nothing."""
        raise NotImplementedError

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Reduce to ``num_keep`` < N patch tokens; arguments are checked already."""
        raise NotImplementedError


class TokenRanker(TokenReducer):
    """Split tokens by score; a method gives the scores and says what becomes of both parts.

    Selection has a total order (see :func:`select_topk`), passes no gradient, and leaves kept and
    dropped tokens in token order. Tokens masked out by ``policy`` and padding (``signals``) rank
    lowest, as a score that is NaN does.
    """

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Score of each patch token, shape (B, N), float32; runs without gradient."""
        raise NotImplementedError

    def keep_all(self, tokens: Tokens) -> Reduction:
        """All tokens kept, none dropped."""
        none = tokens.index[:, :0]
        return Reduction(tokens, take_tokens(tokens, none, with_prefix=False))

    @torch.no_grad()
    def split(self, tokens: Tokens, num_keep: int, signals: Signals) -> tuple[Tensor, Tensor]:
        """Positions of kept (B, num_keep) and dropped patch tokens, both ascending."""
        scores = self.score(tokens, signals)
        if scores.shape != tokens.index.shape:
            raise ValueError(
                f"{type(self).__name__}.score expected to return shape "
                f"{tuple(tokens.index.shape)}, got {tuple(scores.shape)}"
            )
        return select_topk(exclude(scores, tokens, signals), num_keep)


def exclude(scores: Tensor, tokens: Tokens, signals: Signals) -> Tensor:
    """Scores (B, N) in which tokens that are masked or padding rank lowest."""
    if tokens.policy is not None:
        scores = scores.masked_fill(~tokens.policy, float("nan"))
    if signals.padding is not None:
        scores = scores.masked_fill(signals.padding, float("nan"))
    return scores


class TokenPruner(TokenRanker):
    """Keep the tokens of highest score as they are and drop the others."""

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Keep the tokens with the highest scores and drop the others."""
        kept, dropped = self.split(tokens, num_keep, signals)
        return Reduction(
            kept=take_tokens(tokens, kept, with_prefix=True),
            dropped=take_tokens(tokens, dropped, with_prefix=False),
        )


class MergingReducer(TokenReducer):
    """Nothing leaves: every token goes on as part of a new one, which stands for no single cell.

    New tokens have ``index`` -1, and ``Tokens.source`` says which of them each cell is part of.
    """

    synthetic = True

    def keep_all(self, tokens: Tokens) -> Reduction:
        """All tokens kept, each in its own slot."""
        slots = torch.arange(tokens.index.shape[1], device=tokens.index.device)
        return Reduction(tokens, assignment=slots.expand_as(tokens.index).contiguous())


class TokenMerger(MergingReducer):
    """Average tokens that belong together; a method gives the matching only (:func:`merge_tokens`).

    Attributes:
        proportional: Whether attention in later blocks counts a merged token as the cells behind
            it.
    """

    proportional = False

    def match(self, tokens: Tokens, num_keep: int, signals: Signals) -> Tensor:
        """Slot of each patch token, (B, N), int64, onto [0, num_keep); runs without gradient."""
        raise NotImplementedError

    def log_weight(self, tokens: Tokens) -> Tensor | None:
        """Logarithm of each patch token's weight, (B, N), float32; None weighs by size."""
        return None

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Merge the tokens into the slots that :meth:`match` gives."""
        with torch.no_grad():
            assignment = self.match(tokens, num_keep, signals)
        merged = merge_tokens(tokens, assignment, num_keep, self.log_weight(tokens))
        return Reduction(merged, assignment=assignment)
