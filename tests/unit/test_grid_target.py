"""Grid target on boxes small enough to work out by hand."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.structures import BaseDataElement, InstanceData

from cropr_mm.registry import TASK_UTILS
from cropr_mm.targets import GridMultiLabelTarget

CPU = torch.device("cpu")


def sample(boxes: list, labels: list, size: tuple[int, int] = (40, 60)) -> BaseDataElement:
    out = BaseDataElement(metainfo=dict(batch_input_shape=size))
    out.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
    )
    return out


def maps(encoded: torch.Tensor, rows: int, columns: int) -> list:
    """First image's cells by class, as nested lists."""
    return encoded[0].T.unflatten(1, (rows, columns)).int().tolist()


def test_box_covers_the_cells_whose_middle_it_spans() -> None:
    # Cells of 10 x 10 pixels; x from 12 to 36 spans the middles 15, 25 and 35; y from 6 to 20: 15.
    target = TASK_UTILS.build(
        dict(type="cropr_mm.GridMultiLabelTarget", num_classes=1, grid=(4, 6))
    )
    encoded = target.encode([sample([[12, 6, 36, 20]], [0])], CPU)
    assert encoded.dtype == torch.float32
    assert maps(encoded, 4, 6) == [
        [[0, 0, 0, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    ]


def test_small_box_has_the_cell_of_its_center_and_classes_keep_apart() -> None:
    target = GridMultiLabelTarget(2, 2)  # cells of 20 x 30 pixels
    encoded = target.encode([sample([[1, 1, 3, 3], [58, 38, 60, 40]], [1, 0])], CPU)
    assert maps(encoded, 2, 2) == [[[0, 0], [0, 1]], [[1, 0], [0, 0]]]


def test_images_of_a_batch_keep_apart_and_empty_ones_are_zero() -> None:
    target = GridMultiLabelTarget(1, 2)
    encoded = target.encode([sample([], []), sample([[0, 0, 60, 40]], [0])], CPU)
    assert encoded.sum(dim=(1, 2)).tolist() == [0, 4]


def test_box_that_touches_the_far_border_stays_inside() -> None:
    encoded = GridMultiLabelTarget(1, 2).encode([sample([[60, 40, 60, 40]], [0])], CPU)
    assert maps(encoded, 2, 2) == [[[0, 0], [0, 1]]]


def test_loss_is_the_mean_sigmoid_cross_entropy_over_cells() -> None:
    target = GridMultiLabelTarget(2, 2)
    encoded = target.encode([sample([[0, 0, 30, 20]], [1])], CPU)
    logits = torch.randn(1, 4, 2, dtype=torch.bfloat16)
    expected = F.binary_cross_entropy_with_logits(logits.float(), encoded)
    assert torch.equal(target.loss(logits, encoded), expected)
    assert encoded.sum() == 1


def test_one_cell_takes_the_logits_of_one_query() -> None:
    target = GridMultiLabelTarget(3, 1)
    encoded = target.encode([sample([[0, 0, 9, 9]], [2])], CPU)
    assert target.loss(torch.zeros(1, 3), encoded).item() == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("grid", [0, (2, -1), (2, 2, 2)])
def test_bad_grids_are_refused(grid: object) -> None:
    with pytest.raises(ValueError, match="grid of positive rows and columns"):
        GridMultiLabelTarget(1, grid)  # type: ignore[arg-type]


def test_what_does_not_fit_is_named() -> None:
    target = GridMultiLabelTarget(1, 2)
    with pytest.raises(ValueError, match=r"labels in \[0, 0\], got \[3\]"):
        target.encode([sample([[0, 0, 9, 9]], [3])], CPU)
    with pytest.raises(ValueError, match=r"\(1, 4, 1\).*one query per cell of 2x2\), got \(1, 9"):
        target.loss(torch.zeros(1, 9, 1), torch.zeros(1, 4, 1))
    with pytest.raises(ValueError, match="batch_input_shape, as mmdet's"):
        target.encode([BaseDataElement()], CPU)
