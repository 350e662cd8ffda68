"""Pruning by received attention."""

from typing import Literal

from cropr_mm.reducers.attention_ranker import AttentionRanker
from cropr_mm.reducers.base import TokenPruner
from cropr_mm.registry import MODELS


@MODELS.register_module()
class AttnTopK(AttentionRanker, TokenPruner):
    """Keep the tokens that the block's attention looks at most.

    Args:
        embed_dim: C, given by the backbone.
        signal: Whose attention, see :class:`AttentionRanker`.
        site: ``after`` the block or ``between`` its attention and MLP.

    Source: Liang et al., arXiv 2202.07800, for the class row, without the fused token.
    """

    def __init__(
        self,
        embed_dim: int,
        signal: Literal["cls_row", "column_mean"] = "cls_row",
        site: Literal["after", "between"] = "after",
    ) -> None:
        super().__init__(embed_dim, signal)
        if site not in ("after", "between"):
            raise ValueError(f"expected site 'after' or 'between', got {site!r}")
        self.site = site
