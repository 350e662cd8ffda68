"""Tokens come back to their cells; last layer fusion."""

import pytest
import torch

from cropr_mm.fusion import LastLayerFusion
from cropr_mm.ops.select import select_topk
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import take_tokens
from cropr_mm.tokens.restore import restore_tokens

GRID = (3, 5)
# Tokens of a model with windows of 2: pairs of rows, window by window.
WINDOW_ORDER = torch.tensor([0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14])


def make_tokens(order: torch.Tensor, num_prefix: int, dtype: torch.dtype = torch.float32) -> Tokens:
    x = torch.randn(2, num_prefix + 15, 4, dtype=dtype, requires_grad=True)
    return Tokens(x, order.expand(2, -1), GRID, num_prefix)


def prune(tokens: Tokens, *counts: int) -> tuple[Tokens, list[Tokens]]:
    """Random steps that double what they keep, so that features tell when a token left."""
    dropped = []
    for count in counts:
        kept, rest = select_topk(torch.rand(tokens.index.shape), count)
        dropped.append(take_tokens(tokens, rest, with_prefix=False))
        tokens = take_tokens(tokens, kept, with_prefix=True)
        tokens = tokens._replace(x=tokens.x * 2)
    return tokens, dropped


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
@pytest.mark.parametrize("order", [None, WINDOW_ORDER], ids=["raster", "window"])
@pytest.mark.parametrize("fuse", [restore_tokens, LastLayerFusion()], ids=["restore", "llf"])
def test_every_token_returns_with_the_features_it_left_with(fuse, order, num_prefix: int) -> None:
    tokens = make_tokens(torch.arange(15) if order is None else order, num_prefix)
    kept, dropped = prune(tokens, 11, 6, 2)
    full = fuse(kept, dropped, order)

    assert torch.equal(full.index, tokens.index)
    assert (full.grid, full.num_prefix) == (GRID, num_prefix)
    assert torch.equal(full.prefix, tokens.prefix * 8)
    steps = torch.full((2, 15), 8.0)  # a token that stayed was doubled three times
    for step, left in enumerate(dropped):
        steps.scatter_(1, left.index, 2.0**step)  # in raster order
    factor = steps.gather(1, tokens.index).unsqueeze(-1)
    assert torch.equal(full.patches, tokens.patches * factor)


def test_order_may_differ_from_the_order_of_the_tokens() -> None:
    tokens = make_tokens(WINDOW_ORDER, 1)
    full = restore_tokens(*prune(tokens, 4), None)
    assert torch.equal(full.index, torch.arange(15).expand(2, -1))


def test_restore_without_dropped_tokens_reorders_only() -> None:
    tokens = make_tokens(WINDOW_ORDER, 1)
    full = restore_tokens(tokens, [], WINDOW_ORDER)
    assert torch.equal(full.x, tokens.x)


def test_restore_passes_gradient_to_every_token() -> None:
    tokens = make_tokens(torch.arange(15), 1)
    kept, dropped = prune(tokens, 6)
    restore_tokens(kept, dropped, None).x.sum().backward()
    assert tokens.x.grad.abs().min() >= 1


def test_restore_keeps_the_dtype() -> None:
    tokens = make_tokens(torch.arange(15), 1, torch.bfloat16)
    assert restore_tokens(*prune(tokens, 6), None).x.dtype == torch.bfloat16


def test_restore_carries_sizes_and_revives_the_dead() -> None:
    tokens = make_tokens(torch.arange(15), 0)
    kept, dropped = prune(tokens, 6)
    policy = torch.zeros(2, 6, dtype=torch.bool)
    full = restore_tokens(kept._replace(policy=policy, size=torch.full((2, 6), 2.0)), dropped, None)
    assert full.policy is None
    assert (full.size == 2).sum(1).tolist() == [6, 6]
    assert torch.equal(full.x, restore_tokens(kept, dropped, None).x)


def test_restore_names_a_wrong_number_of_tokens() -> None:
    kept, dropped = prune(make_tokens(torch.arange(15), 0), 11, 6)
    with pytest.raises(ValueError, match=r"expected 15 tokens .* got 11: 6 kept, \[5\] dropped"):
        restore_tokens(kept, dropped[1:], None)


def test_restore_names_a_prefix_of_dropped_tokens_or_another_grid() -> None:
    kept, dropped = prune(make_tokens(torch.arange(15), 1), 6)
    with pytest.raises(ValueError, match="with 1 prefix"):
        restore_tokens(kept, [kept], None)
    with pytest.raises(ValueError, match=r"grid \(3, 5\) .* got grid \(5, 3\)"):
        restore_tokens(kept, [dropped[0]._replace(grid=(5, 3))], None)


def test_restore_names_a_wrong_order() -> None:
    kept, dropped = prune(make_tokens(torch.arange(15), 0), 6)
    with pytest.raises(ValueError, match=r"\(15,\), got \(14,\)"):
        restore_tokens(kept, dropped, torch.arange(14))
