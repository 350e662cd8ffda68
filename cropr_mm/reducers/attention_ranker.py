"""What methods share that rank tokens by the attention that they receive.

B batch, N live patch tokens, C channels.
"""

from typing import Literal

from torch import Tensor

from cropr_mm.reducers.base import TokenRanker
from cropr_mm.structures import Signals, Tokens


class AttentionRanker(TokenRanker):
    """Rank by the attention that tokens receive in the block of the step.

    Args:
        embed_dim: C, given by the backbone.
        signal: 'cls_row', the attention of the class token, or 'column_mean', the mean attention of
            all queries, which passes no gradient; the latter also serves models without a class
            token.

    Raises:
        ValueError: If ``signal`` is none of these, or needs a class token that is not there.
    """

    def __init__(
        self, embed_dim: int, signal: Literal["cls_row", "column_mean"] = "cls_row"
    ) -> None:
        super().__init__(embed_dim)
        if signal not in ("cls_row", "column_mean"):
            raise ValueError(f"expected signal 'cls_row' or 'column_mean', got {signal!r}")
        self.signal = signal
        self.needs = frozenset({signal})

    def check_arguments(self, tokens: Tokens, num_keep: int, signals: Signals) -> None:
        """As the base class; the class token's attention needs a class token."""
        if self.signal == "cls_row" and tokens.num_prefix == 0:
            raise ValueError(
                f"{type(self).__name__} with signal='cls_row' expected a class token, got tokens "
                "without prefix"
            )
        super().check_arguments(tokens, num_keep, signals)

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """The attention that ``signal`` names, shape (B, N)."""
        return getattr(signals, self.signal)
