"""Window geometry on grids that one can check by hand."""

import pytest
import torch

from cropr_mm.ops.variance import patch_variance
from cropr_mm.ops.window import (
    pad_to_windows,
    window_grid,
    window_major_order,
    window_rectangle,
    window_slots,
)


def test_order_goes_window_by_window() -> None:
    order = window_major_order((2, 4), 2)
    assert order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


def test_ragged_windows_leave_slots_free() -> None:
    # 2 x 3 cells in windows of 2: the second window has only its left column.
    assert window_grid((2, 3), 2) == (1, 2)
    assert window_slots((2, 3), 2).tolist() == [0, 1, 4, 2, 3, 6]
    assert window_major_order((2, 3), 2).tolist() == [0, 1, 3, 4, 2, 5]


def test_padding_is_zero_and_tokens_stay() -> None:
    x = torch.arange(1.0, 7.0).view(1, 6, 1)
    padded = pad_to_windows(x, window_slots((2, 3), 2), 8)
    assert padded.flatten().tolist() == [1, 2, 4, 5, 3, 0, 6, 0]


@pytest.mark.parametrize(
    ("num_tokens", "grid", "expected"),
    [
        (24, (8, 6), (6, 4)),
        (24, (6, 8), (4, 6)),
        (16, (8, 8), (4, 4)),
        (32, (8, 8), (4, 8)),
        (28, (14, 4), (14, 2)),
    ],
)
def test_rectangle_is_nearest_the_grids_aspect(
    num_tokens: int, grid: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert window_rectangle(num_tokens, 2, grid) == expected


@pytest.mark.parametrize("num_tokens", [28, 9, 2])
def test_no_rectangle_is_an_error(num_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"inside the 8x8 grid, got {num_tokens} tokens"):
        window_rectangle(num_tokens, 2, (8, 8))


def test_patch_variance_is_the_biased_variance_of_each_channel() -> None:
    img = torch.zeros(1, 2, 2, 4)
    img[0, 0, :, :2] = torch.tensor([[0.0, 2.0], [0.0, 2.0]])  # variance 1
    img[0, 1, :, :2] = torch.tensor([[0.0, 0.0], [0.0, 4.0]])  # variance 3
    img[0, 0, :, 2:] = 5.0
    assert patch_variance(img, 2).tolist() == [[[1.0, 3.0], [0.0, 0.0]]]


def test_patch_variance_follows_raster_order() -> None:
    img = torch.randn(2, 3, 8, 12)
    expected = [
        [
            img[b, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].flatten(1).var(1, correction=0).tolist()
            for y in range(2)
            for x in range(3)
        ]
        for b in range(2)
    ]
    torch.testing.assert_close(patch_variance(img, 4), torch.tensor(expected))
