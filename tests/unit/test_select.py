"""Selection against a stable sort; gathering and merging by hand."""

import pytest
import torch
from torch import Tensor

from cropr_mm.ops.select import select_topk
from cropr_mm.structures import Tokens
from cropr_mm.tokens.gather import gather_tokens, inverse_permutation, take_tokens
from cropr_mm.tokens.merge import merge_tokens

NAN, INF = float("nan"), float("inf")
TINY = torch.finfo(torch.float32).tiny
SPECIAL = [0.0, -0.0, NAN, INF, -INF, TINY, -TINY, 1.0, -1.0, 3.4e38, -3.4e38]


def stable_sort(scores: Tensor) -> Tensor:
    """Positions by descending score, lower position first among equals, NaN last; shape (B, N)."""
    rows = []
    for row in scores.tolist():
        numbers = [j for j, s in enumerate(row) if s == s]
        rest = [j for j, s in enumerate(row) if s != s]
        rows.append(sorted(numbers, key=lambda j: -row[j]) + rest)
    return torch.tensor(rows)


def assert_equals_sort(scores: Tensor, num_keep: int) -> None:
    order = stable_sort(scores.float())
    kept, dropped = select_topk(scores, num_keep)
    assert kept.dtype == dropped.dtype == torch.int64
    assert torch.equal(kept, order[:, :num_keep].sort(1).values)
    assert torch.equal(dropped, order[:, num_keep:].sort(1).values)


@pytest.mark.parametrize("num_keep", [1, 10, 31, 32, 33, 62, 63])
@pytest.mark.parametrize("kind", ["distinct", "ties", "constant", "special", "all_nan"])
def test_selection_equals_a_stable_sort(kind: str, num_keep: int) -> None:
    scores = {
        "distinct": torch.randn(4, 63),
        "ties": torch.randint(-2, 3, (4, 63)).float(),
        "constant": torch.full((4, 63), -1.5),
        "special": torch.tensor(SPECIAL)[torch.randint(0, len(SPECIAL), (4, 63))],
        "all_nan": torch.full((4, 63), NAN),
    }[kind]
    assert_equals_sort(scores, num_keep)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_selection_takes_every_floating_dtype(dtype: torch.dtype) -> None:
    assert_equals_sort(torch.randn(3, 40).to(dtype), 17)


def test_nan_ranks_below_minus_infinity_whatever_its_sign_and_payload() -> None:
    bits = torch.tensor([[0x7FC00000, -0x400000, 0x7F800001, -0x1, -0x800000]], dtype=torch.int32)
    scores = bits.view(torch.float32)  # four NaNs, then -inf
    assert scores.isnan().tolist() == [[True, True, True, True, False]]
    assert select_topk(scores, 1)[0].tolist() == [[4]]
    assert select_topk(scores, 3)[0].tolist() == [[0, 1, 4]]


def test_zeros_of_both_signs_tie() -> None:
    assert select_topk(torch.tensor([[-0.0, 0.0, -0.0, 0.0]]), 2)[0].tolist() == [[0, 1]]


def test_selection_works_on_a_slice() -> None:
    scores = torch.randn(3, 50)
    for part in (scores[:, 1:], scores[:, ::2], scores.t()):
        expected = select_topk(part.contiguous(), 2)
        assert all(torch.equal(a, b) for a, b in zip(select_topk(part, 2), expected, strict=True))


def test_selection_of_everything_is_the_identity() -> None:
    kept, dropped = select_topk(torch.randn(2, 5), 5)
    assert kept.tolist() == [list(range(5))] * 2
    assert dropped.shape == (2, 0)


def test_selection_does_not_touch_gradients() -> None:
    kept, _ = select_topk(torch.randn(2, 5, requires_grad=True), 2)
    assert not kept.requires_grad


def test_nothing_may_be_kept() -> None:
    kept, dropped = select_topk(torch.randn(2, 5), 0)
    assert kept.shape == (2, 0)
    assert torch.equal(dropped, torch.arange(5).expand(2, -1))


@pytest.mark.parametrize("num_keep", [-1, 6])
def test_selection_names_a_count_out_of_range(num_keep: int) -> None:
    with pytest.raises(ValueError, match=rf"\[0, 5\], got {num_keep}"):
        select_topk(torch.randn(2, 5), num_keep)


def test_selection_names_unfit_scores() -> None:
    with pytest.raises(ValueError, match=r"torch.int64 of shape \(2, 5\)"):
        select_topk(torch.ones(2, 5, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        select_topk(torch.ones(5), 2)


def test_selection_reads_nothing_back_to_the_host() -> None:
    """On the meta device any read of a value raises."""
    kept, dropped = select_topk(torch.empty(2, 64, device="meta"), 16)
    assert kept.shape == (2, 16)
    assert dropped.shape == (2, 48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gather_equals_indexing_forward_and_backward(dtype: torch.dtype) -> None:
    index = torch.tensor([[4, 0, 2], [1, 1, 3]])  # any order, repeats allowed
    x = torch.randn(2, 5, 6, dtype=dtype, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    batch = torch.arange(2).unsqueeze(1)
    weight = torch.randn(2, 3, 6, dtype=dtype)
    picked = gather_tokens(x, index)
    assert torch.equal(picked, y[batch, index])
    (picked * weight).sum().backward()
    (y[batch, index] * weight).sum().backward()
    assert torch.equal(x.grad, y.grad)


def test_gather_takes_strided_tokens_and_no_positions() -> None:
    x = torch.randn(2, 6, 5).transpose(1, 2)
    index = torch.tensor([[3, 1], [0, 4]])
    assert torch.equal(gather_tokens(x, index), gather_tokens(x.contiguous(), index))
    assert gather_tokens(x, index[:, :0]).shape == (2, 0, 6)


def test_gather_names_unfit_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5, 6\) and \(3, 2\)"):
        gather_tokens(torch.randn(2, 5, 6), torch.zeros(3, 2, dtype=torch.int64))


def test_take_gathers_everything_that_belongs_to_a_token() -> None:
    tokens = Tokens(
        x=torch.arange(8.0).view(1, 8, 1),
        index=torch.tensor([[5, 4, 3, 2, 1, 0]]),
        grid=(2, 3),
        num_prefix=2,
        size=torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]),
        policy=torch.tensor([[True, False, True, False, True, False]]),
    )
    positions = torch.tensor([[1, 4]])
    taken = take_tokens(tokens, positions, with_prefix=True)
    assert taken.x.flatten().tolist() == [0, 1, 3, 6]
    assert taken.index.tolist() == [[4, 1]]
    assert taken.size.tolist() == [[2, 5]]
    assert taken.policy.tolist() == [[False, True]]
    assert (taken.grid, taken.num_prefix) == ((2, 3), 2)
    bare = take_tokens(tokens, positions, with_prefix=False)
    assert bare.x.flatten().tolist() == [3, 6]
    assert bare.num_prefix == 0


def test_inverse_permutation_undoes_a_permutation() -> None:
    permutation = torch.rand(3, 20).argsort(1)
    inverse = inverse_permutation(permutation)
    identity = torch.arange(20).expand(3, -1)
    assert torch.equal(permutation.gather(1, inverse), identity)
    assert torch.equal(inverse.gather(1, permutation), identity)


def test_merge_is_a_size_weighted_mean() -> None:
    tokens = Tokens(
        x=torch.tensor([[[9.0], [1.0], [4.0], [7.0]]]),  # one prefix token
        index=torch.tensor([[6, 7, 8]]),
        grid=(3, 3),
        num_prefix=1,
        size=torch.tensor([[1.0, 3.0, 2.0]]),
    )
    merged = merge_tokens(tokens, torch.tensor([[1, 0, 1]]), 2)
    assert merged.x.flatten().tolist() == [9, 4, 5]  # (1 * 1 + 2 * 7) / 3
    assert merged.size.tolist() == [[3, 3]]
    assert merged.index.tolist() == [[7, -1]]


def test_merge_gives_zero_for_an_empty_slot() -> None:
    tokens = Tokens(torch.ones(1, 2, 3), torch.tensor([[0, 1]]), (1, 2))
    merged = merge_tokens(tokens, torch.tensor([[0, 0]]), 2)
    assert merged.x.tolist() == [[[1.0] * 3, [0.0] * 3]]
    assert merged.size.tolist() == [[2, 0]]
    assert merged.index.tolist() == [[-1, -1]]


def test_merge_names_unfit_input() -> None:
    tokens = Tokens(torch.ones(1, 2, 3), torch.tensor([[0, 1]]), (1, 2))
    with pytest.raises(ValueError, match=r"\(1, 2\), got \(1, 3\)"):
        merge_tokens(tokens, torch.zeros(1, 3, dtype=torch.int64), 2)
    masked = tokens._replace(policy=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="policy"):
        merge_tokens(masked, torch.zeros(1, 2, dtype=torch.int64), 2)
