"""TPS: squeeze each pruned token into the kept one that is most like it.

B batch, P prefix tokens, N live patch tokens, K kept tokens, C channels.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from cropr_mm.ops.precision import without_autocast
from cropr_mm.reducers.attention_ranker import AttentionRanker
from cropr_mm.reducers.base import TokenRanker
from cropr_mm.reducers.keep_decision import KeepDecision
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens
from cropr_mm.tokens.gather import take_tokens

EPS = 1e-6
COLDEST = 0.02  # where exp(1 / temperature) is far from the end of float32
NEVER = -100.0  # a cosine that no host has, finite so that its exponential is 0 and not NaN


def squeeze(kept: Tensor, pruned: Tensor, temperature: float | None = 1.0) -> Tensor:
    """Mix every pruned token into its host, the kept token of largest cosine.

    A host with guests becomes the mean of itself, with weight e at any temperature, and its guests,
    with weight exp(cosine / temperature); without guests it stays as it is.

    Args:
        kept: Shape (B, K, C).
        pruned: Shape (B, M, C).
        temperature: Of the weights; None gives host and guests equal ones.

    Returns:
        Kept tokens, shape (B, K, C), dtype of ``kept``.

    Source: Wei et al., arXiv 2304.10716, equations 5 to 7; equal weights are an ablation of its
    supplement. Of equal cosines the first host is taken; the released code takes all of them.
    """
    everyone = pruned.new_ones(pruned.shape[:2])
    return _mix(kept, pruned, _cosine(pruned, kept), everyone, temperature)


def squeeze_masked(
    x: Tensor, decision: Tensor, leaving: Tensor, temperature: float | None = 1.0
) -> Tensor:
    """:class:`squeeze` of tokens that are masked instead of pruned.

    Args:
        x: Shape (B, N, C).
        decision: 1 for the tokens that are kept, else 0, shape (B, N), float32.
        leaving: 1 for those that this step masks, shape (B, N), float32; the gradient of the
            decision passes through it.
        temperature: See :func:`squeeze`.

    Returns:
        All tokens, shape (B, N, C); only kept ones changed.
    """
    kept = decision.detach() > 0.5
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    cosine = _cosine(x, x).masked_fill(itself | ~kept.unsqueeze(1), NEVER)
    return torch.where(kept.unsqueeze(-1), _mix(x, x, cosine, leaving, temperature), x)


def _mix(
    hosts: Tensor, guests: Tensor, cosine: Tensor, weight: Tensor, temperature: float | None
) -> Tensor:
    """Add guests (B, M, C) of some weight (B, M) to the hosts (B, K, C) of largest cosine."""
    best = cosine.max(dim=2)
    weight = weight.float()  # (B, M)
    own = 1.0
    if temperature is not None:
        own, weight = math.e, weight * (best.values / temperature).exp()
    total = torch.full_like(hosts[..., 0], own, dtype=torch.float32)
    total = total.scatter_add(1, best.indices, weight)
    share = weight / total.gather(1, best.indices)
    rows = best.indices.unsqueeze(-1).expand_as(guests)
    mixed = hosts.float() * (own / total).unsqueeze(-1)
    return mixed.scatter_add(1, rows, guests.float() * share.unsqueeze(-1)).to(hosts.dtype)


def _checked(temperature: float | None) -> float | None:
    if temperature is not None and not temperature >= COLDEST:
        raise ValueError(f"expected temperature >= {COLDEST} or None, got {temperature}")
    return temperature


def _cosine(guests: Tensor, hosts: Tensor) -> Tensor:
    """Cosines of guests (B, M, C) with hosts (B, K, C), shape (B, M, K), float32."""
    with without_autocast(hosts.device.type):
        return _unit(guests.float()) @ _unit(hosts.float()).transpose(1, 2)


def _unit(x: Tensor) -> Tensor:
    return x / (x.norm(dim=-1, keepdim=True) + EPS)


class Squeezer(TokenRanker):
    """Drop tokens whose content stays in the kept ones.

    Dropped tokens leave with their own features, so that with fusion their content comes back
    twice: as themselves and inside their hosts.

    Attributes:
        temperature: Of the weights of guests, see :func:`squeeze`; None weighs all alike.

    Source: Wei et al., arXiv 2304.10716, and its supplement.
    """

    fuses_dropped = True
    temperature: float | None

    def reduce(self, tokens: Tokens, num_keep: int, signals: Signals) -> Reduction:
        """Keep the highest scores and add each other token to the most similar kept one."""
        places, rest = self.split(tokens, num_keep, signals)
        kept = take_tokens(tokens, places, with_prefix=True)
        dropped = take_tokens(tokens, rest, with_prefix=False)
        prefix, hosts = kept.x[:, : kept.num_prefix], kept.x[:, kept.num_prefix :]
        x = torch.cat([prefix, squeeze(hosts, dropped.x, self.temperature)], dim=1)
        return Reduction(kept.replace(x=x), dropped)


@MODELS.register_module()
class ETPS(AttentionRanker, Squeezer):
    """eTPS: rank by the attention of the class token, then squeeze.

    Without a class token, ``signal='column_mean'`` takes the mean attention of all queries for it,
    which is not published.

    Args:
        embed_dim: C, given by the backbone.
        signal: Whose attention, see :class:`AttentionRanker`.
        temperature: Of the weights of squeezed tokens, at least 0.02; None for plain means.

    Raises:
        ValueError: If ``temperature`` is smaller.
    """

    site = "between"

    def __init__(
        self,
        embed_dim: int,
        signal: Literal["cls_row", "column_mean"] = "cls_row",
        temperature: float | None = 1.0,
    ) -> None:
        super().__init__(embed_dim, signal)
        self.temperature = _checked(temperature)


@MODELS.register_module()
class DTPS(KeepDecision, Squeezer):
    """dTPS: rank by a learned decision (see :class:`KeepDecision`), then squeeze.

    In training, tokens that a step masks are squeezed into those that it keeps; tokens that were
    masked before take no part.

    Args:
        embed_dim: C, given by the backbone, a multiple of 4.
        deploy: Build the form for inference, without ``auxiliary``.
        temperature: Of the weights of squeezed tokens, at least 0.02; None for plain means.

    Raises:
        ValueError: If C is no multiple of 4, or ``temperature`` is smaller.
    """

    def __init__(
        self, embed_dim: int, deploy: bool = False, temperature: float | None = 1.0
    ) -> None:
        super().__init__(embed_dim, deploy)
        self.temperature = _checked(temperature)

    def mask(self, x: Tensor, num_prefix: int, decision: Tensor, leaving: Tensor) -> Tensor:
        """Squeeze the tokens that leave into kept ones, by the training mask."""
        patches = squeeze_masked(x[:, num_prefix:], decision, leaving, self.temperature)
        return torch.cat([x[:, :num_prefix], patches], dim=1)
