"""EViT: keep what the class token looks at and fuse the rest into one token.

B batch, P prefix tokens, N live patch tokens, C channels.
"""

from cropr_mm.reducers.attention_ranker import AttentionRanker
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens
from cropr_mm.tokens.gather import take_tokens
from cropr_mm.tokens.merge import append_token


@MODELS.register_module()
class EViT(AttentionRanker):
    """Rank tokens by the attention of the class token; the others become their weighted sum.

    Without a class token, ``signal='column_mean'`` takes the mean attention of all queries for it,
    which is not published.

    Weights are the attention itself, so they add up to less than one. The fused token belongs to no
    cell (index -1), is counted in ``num_keep``, and is a token as any other in later steps; fusion
    leaves it out.

    Source: Liang et al., arXiv 2202.07800, and its released code. There the rate counts real tokens
    only: a published step that keeps k is ``num_keep = k + 1`` here, which the schedule
    ``KeepRatios`` gives; other schedules count the fused token too. Kept tokens stay in token order
    instead of descending attention, which changes nothing for attention.
    """

    num_fused = 1
    synthetic = True
    site = "between"

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Keep the highest scores and fuse the others into one token."""
        places, rest = self.split(tokens, num_keep - 1, signals)
        kept = take_tokens(tokens, places, with_prefix=True)
        dropped = take_tokens(tokens, rest, with_prefix=False)
        weight = self.score(tokens, signals).gather(1, rest)  # (B, N - num_keep + 1)
        fused = (dropped.x * weight.unsqueeze(-1)).sum(dim=1, keepdim=True)  # (B, 1, C)
        position = None
        if dropped.position is not None:
            share = (weight / weight.sum(dim=1, keepdim=True)).detach().unsqueeze(-1)
            position = (dropped.position * share).sum(dim=1, keepdim=True)  # (B, 1, 2)
        size = None if dropped.size is None else dropped.size.sum(dim=1, keepdim=True)
        return Reduction(append_token(kept, fused, size, position), dropped)
