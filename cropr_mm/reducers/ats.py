"""ATS: draw the tokens to keep from the distribution that the class token's attention gives.

B batch, P prefix tokens, N live patch tokens, K tokens left, H heads, C channels.
"""

from typing import Literal

import torch
from torch import Tensor

from cropr_mm.ops.select import select_topk
from cropr_mm.reducers.attention_ranker import AttentionRanker
from cropr_mm.reducers.base import exclude
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens
from cropr_mm.tokens.gather import take_tokens

_TINY = torch.finfo(torch.float32).tiny  # older versions of torch.compile do not read finfo


@MODELS.register_module()
class ATS(AttentionRanker):
    """Keep the tokens in which regular points of the cumulated score fall, at most K.

    The score of a token is the class token's attention to it times the length of its value, as a
    share of the sum. Tokens of a large share hold several points, so that images where few tokens
    matter keep few. Shapes stay static: the places left over are filled by tokens of high score
    that ``policy`` marks dead, to which no token attends. They come back in fusion as they left.

    Args:
        embed_dim: C, given by the backbone.
        heads: 'each' adds up attention times length of value over heads, 'joint' multiplies their
            sums: attention over heads, length of the whole value.
        points: 'inner', K of the K + 1 points (2 i - 1) / (2 K + 2); 'paper', (2 i - 1) / (2 K); or
            'sorted', regular points over the scores in ascending order, cumulated and
            stretched to [0, 1], from the smallest positive value to 1.
        signal: Whose attention, see :class:`AttentionRanker`, here by head; 'column_mean', of all
            live queries, is not published.
        num_points: Points in every step, whatever K is; None for K. Of more than K drawn tokens
            those of highest score stay, and a step that could keep all tokens draws too.

    Raises:
        ValueError: If an argument is none of the above, or needs a class token that is not there.

    Source: Fayyaz et al., ATS (arXiv 2111.15667). Defaults are those of the code of Haurum et al.,
    Which Tokens to Use. The official code is ``heads='joint', points='sorted', num_points=196`` (of
    197 tokens in the first step), with a schedule that keeps 196 at blocks 3 to 10 (it also draws
    in block 11 of 12, which the class token does not see); it leaves no step fewer than 8 places,
    which here the schedule sees to. Queries that leave are dropped behind their block's attention
    instead of before it, which gives the same result.
    """

    site = "between"
    masking = True

    def __init__(
        self,
        embed_dim: int,
        heads: str = "each",
        points: str = "inner",
        signal: Literal["cls_row", "column_mean"] = "cls_row",
        num_points: int | None = None,
    ) -> None:
        super().__init__(embed_dim, signal)
        for name, value, known in (
            ("heads", heads, ("each", "joint")),
            ("points", points, ("inner", "paper", "sorted")),
        ):
            if value not in known:
                raise ValueError(f"expected {name} {' or '.join(map(repr, known))}, got {value!r}")
        if num_points is not None and num_points < 1:
            raise ValueError(f"expected num_points >= 1 or None, got {num_points}")
        self.num_points = num_points
        self.heads = heads
        self.points = points
        self.by_head = "cls_heads" if signal == "cls_row" else "column_heads"
        self.needs = frozenset({self.by_head, "values"})

    def forward(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Reduce the patch tokens; see :class:`TokenReducer`."""
        if self.num_points is None:
            return super().forward(tokens, num_keep, signals)
        num_keep = min(num_keep, tokens.index.shape[1])
        self.check_arguments(tokens, num_keep, signals)
        return self.reduce(tokens, num_keep, signals)

    def score(self, tokens: Tokens, signals: Signals) -> Tensor:
        """Significance of each token, shape (B, N): attention by the norm of its value."""
        assert signals.values is not None, "needs names it"
        attention = getattr(signals, self.by_head)  # (B, N, H)
        values = signals.values.float()
        if self.heads == "each":
            lengths = values.unflatten(2, (attention.shape[2], -1)).norm(dim=3)
            score = (attention * lengths).sum(dim=2)
        else:
            score = attention.sum(dim=2) * values.norm(dim=2)
        live = exclude(score, tokens, signals).nan_to_num(nan=0.0)
        return live / live.sum(dim=1, keepdim=True)

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Keep the tokens that are drawn from the scores."""
        with torch.no_grad():
            score = self.score(tokens, signals)
            drawn = draw(score, self.num_points or num_keep, self.points)
            rank = exclude(score + 2 * drawn.float(), tokens, signals)
            places, rest = select_topk(rank, num_keep)
        kept = take_tokens(tokens, places, with_prefix=True)
        policy = drawn.gather(1, places)
        return Reduction(kept.replace(policy=policy), take_tokens(tokens, rest, with_prefix=False))


def draw(score: Tensor, num_points: int, points: str = "inner") -> Tensor:
    """Tokens whose cumulated score comes nearest to one of the points.

    Args:
        score: Shares of tokens, shape (B, N), float32, each row adding up to 1; tokens of share 0
            are never drawn.
        num_points: K.
        points: See :class:`ATS`.

    Returns:
        Shape (B, N), bool, True in 1 to K places of each row. Of equally near tokens the first.
    """
    order = score.argsort(dim=1, stable=True) if points == "sorted" else None
    sequence = score if order is None else score.gather(1, order)
    reached = sequence.cumsum(dim=1).masked_fill(sequence == 0, float("inf"))
    count = torch.arange(num_points, device=score.device, dtype=torch.float32)
    if order is None:
        parts = num_points + 1 if points == "inner" else num_points
        target = ((2 * count + 1) / (2 * parts)).expand(score.shape[0], -1)
    else:
        lowest = reached.amin(dim=1, keepdim=True)
        reached = (reached - lowest) / (1 - lowest).clamp(min=_TINY)
        first = reached.masked_fill(reached == 0, float("inf")).amin(dim=1, keepdim=True)
        first = first.clamp(max=1)  # infinite with a single token, which is the nearest then
        target = first + (1 - first) * count / max(num_points - 1, 1)
    distance = (target.unsqueeze(2) - reached.unsqueeze(1)).abs()  # (B, K, N)
    nearest = distance.argmin(dim=2)
    if order is not None:
        nearest = order.gather(1, nearest)
    return torch.zeros_like(score, dtype=torch.bool).scatter(1, nearest, True)
