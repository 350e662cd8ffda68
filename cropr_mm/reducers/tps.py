"""TPS: squeeze each pruned token into the kept one that is most like it.

B batch, P prefix tokens, N live patch tokens, K kept tokens, C channels.
"""

import math

import torch
from torch import Tensor

from cropr_mm.ops.gather import take_tokens
from cropr_mm.ops.precision import without_autocast
from cropr_mm.reducers.base import ClassTokenRanker
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens, with_features

EPS = 1e-6


def squeeze(kept: Tensor, pruned: Tensor) -> Tensor:
    """Mix every pruned token into its host, the kept token of largest cosine.

    A host with guests becomes the mean of itself, with weight e, and its guests, with weight
    exp(cosine); without guests it stays as it is.

    Args:
        kept: Shape (B, K, C).
        pruned: Shape (B, M, C).

    Returns:
        Kept tokens, shape (B, K, C), dtype of ``kept``.

    Source: Wei et al., arXiv 2304.10716, equations 5 to 7, at temperature 1. Of equal cosines the
    first host is taken; the released code takes all of them.
    """
    hosts, guests = kept.float(), pruned.float()
    with without_autocast(kept.device.type):
        cosine = _unit(guests) @ _unit(hosts).transpose(1, 2)  # (B, M, K)
    best = cosine.max(dim=2)
    weight = best.values.exp()  # (B, M)
    total = hosts.new_full(hosts.shape[:2], math.e).scatter_add(1, best.indices, weight)
    share = weight / total.gather(1, best.indices)
    rows = best.indices.unsqueeze(-1).expand_as(guests)
    mixed = hosts * (math.e / total).unsqueeze(-1)
    return mixed.scatter_add(1, rows, guests * share.unsqueeze(-1)).to(kept.dtype)


@MODELS.register_module()
class ETPS(ClassTokenRanker):
    """eTPS: rank by the attention of the class token, then squeeze.

    Dropped tokens leave with their own features, so that with fusion their content comes back
    twice: as themselves and inside their hosts.

    Source: Wei et al., arXiv 2304.10716, and its supplement.
    """

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        places, rest = self.split(tokens, num_keep, signals)
        kept = take_tokens(tokens, places, with_prefix=True)
        dropped = take_tokens(tokens, rest, with_prefix=False)
        prefix, hosts = kept.x[:, : kept.num_prefix], kept.x[:, kept.num_prefix :]
        x = torch.cat([prefix, squeeze(hosts, dropped.x)], dim=1)
        return Reduction(with_features(kept, x), dropped)


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + EPS)
