"""Pruning by received attention."""

from typing import Literal

from torch import Tensor

from cropr_mm.reducers.base import TokenPruner
from cropr_mm.registry import MODELS
from cropr_mm.structures import Signals, Tokens


@MODELS.register_module()
class AttnTopK(TokenPruner):
    """Keep the tokens that the block's attention looks at most.

    Args:
        embed_dim: C, given by the backbone.
        signal: ``cls_row``, the attention of the class token, or ``column_mean``, the attention of
            all queries; the latter also serves models without a class token.
        site: ``after`` the block or ``between`` its attention and MLP.

    Source: Liang et al., arXiv 2202.07800, for the class row, without the fused token.
    """

    def __init__(
        self,
        embed_dim: int,
        signal: Literal["cls_row", "column_mean"] = "cls_row",
        site: Literal["after", "between"] = "after",
    ) -> None:
        super().__init__(embed_dim)
        if signal not in ("cls_row", "column_mean"):
            raise ValueError(f"expected signal 'cls_row' or 'column_mean', got {signal!r}")
        if site not in ("after", "between"):
            raise ValueError(f"expected site 'after' or 'between', got {site!r}")
        self.signal = signal
        self.needs = frozenset({signal})
        self.site = site

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        if self.signal == "cls_row" and tokens.num_prefix == 0:
            raise ValueError("signal='cls_row' expected a class token, got tokens without prefix")
        return getattr(signals, self.signal)
