"""Pruning by the labels of the very image."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.comparison.oracle import LabelOracleHook
from cropr_mm.preflight import SetupError


class Toy(BaseModel):
    """Encoder that prunes twice."""

    def __init__(self, reducer: str) -> None:
        super().__init__()
        self.backbone = CroprViT(
            dict(embed_dim=8, depth=4, num_heads=2, patch_size=8, img_size=32),
            reducer=dict(type=f"cropr_mm.{reducer}"),
            schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 6, 1: 3}),
        )

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = "tensor"):
        return self.backbone(inputs)


def kept_cells(labels: Tensor, img_shape: tuple[int, int] = (32, 32)) -> list[list[int]]:
    """Cells that are left of one image after each step."""
    model, left = Toy("RandomPruner").eval(), []
    LabelOracleHook(num_classes=3).before_run(SimpleNamespace(model=model))
    for reducer in model.backbone.reducers.values():
        reducer.register_forward_hook(lambda _m, _a, r: left.append(r.kept.index[0].tolist()))
    sample = BaseDataElement(metainfo=dict(img_shape=img_shape))
    sample.gt_sem_seg = PixelData(data=labels[None])
    model(torch.randn(1, 3, 32, 32), [sample], mode="predict")
    return left


def test_patches_of_rare_classes_stay() -> None:
    labels = torch.zeros(32, 32, dtype=torch.int64)
    labels[8:16, 24:32] = 1  # cell 7
    labels[24:32, 0:16] = 2  # cells 12 and 13
    labels[:8, :8] = 255  # cell 0 is worth nothing
    first, second = kept_cells(labels)
    assert first == [1, 2, 3, 7, 12, 13], "the first of equals"
    assert second == [7, 12, 13]


def test_labels_of_another_size_are_those_of_the_same_places() -> None:
    labels = torch.zeros(64, 64, dtype=torch.int64)
    labels[32:48, 16:32] = 2  # cell 9
    assert 9 in kept_cells(labels)[1]


def test_an_image_without_labels_is_pruned_too() -> None:
    assert kept_cells(torch.full((32, 32), 255)) == [[0, 1, 2, 3, 4, 5], [0, 1, 2]]


def test_padding_below_an_image_is_worth_nothing() -> None:
    labels = torch.zeros(24, 32, dtype=torch.int64)
    labels[8:16, 24:32] = 1  # cell 7
    first, second = kept_cells(labels, img_shape=(24, 32))
    assert 7 in second
    assert max(first) < 12


@pytest.mark.parametrize("name", ["VariancePruner", "DPCKNN"])
def test_other_pruners_are_refused(name: str) -> None:
    with pytest.raises(SetupError, match=f"expected RandomPruner, got {name}"):
        LabelOracleHook(3).before_run(SimpleNamespace(model=Toy(name)))
