"""Queries of a grid: they fit another grid on loading, and any image size without."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch import nn

from cropr_mm import CroprViT
from cropr_mm.checkpoints import CheckpointError, load_backbone
from cropr_mm.engine.checkpoint_io import resample_queries
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.targets import PatchLabelTarget

GRID = (4, 6)


def settings(num_queries: Any, **changes: Any) -> dict[str, Any]:
    arguments = dict(
        arch=dict(embed_dim=16, depth=4, num_heads=2, patch_size=4, img_size=16),
        reducer=dict(type="cropr_mm.Cropr", num_queries=num_queries, num_classes=3),
        schedule=dict(type="cropr_mm.ConstantRate", rate=3),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    )
    return arguments | changes


def encoder(num_queries: Any, **changes: Any) -> CroprViT:
    torch.manual_seed(0)
    return CroprViT(**settings(num_queries, **changes)).eval()


def checkpoint(backbone: CroprViT, num_queries: Any = None) -> dict[str, Any]:
    """As mmengine saves it, with the config where ``num_queries`` is given."""
    weights = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    model = dict(backbone=dict(settings(num_queries), type="cropr_mm.CroprViT"))
    cfg = {} if num_queries is None else dict(cfg=Config(dict(model=model)).pretty_text)
    return dict(meta=cfg, state_dict=weights)


def queries(backbone: CroprViT, block: int = 0) -> torch.Tensor:
    return backbone.reducers[str(block)].queries


def bicubic(q: torch.Tensor, old: tuple[int, int], new: tuple[int, int]) -> torch.Tensor:
    maps = q.transpose(1, 2).unflatten(2, old)
    out = F.interpolate(maps, size=new, mode="bicubic", antialias=True)
    return out.flatten(2).transpose(1, 2)


def test_one_query_per_cell() -> None:
    assert queries(encoder(GRID)).shape == (1, 24, 16)
    assert queries(encoder([2, 3])).shape == (1, 6, 16)


@pytest.mark.parametrize("new", [(8, 12), (3, 3)])
def test_queries_of_another_grid_are_resampled(new: tuple[int, int]) -> None:
    source, target = encoder(GRID), encoder(new)
    load_backbone(target, checkpoint(source, GRID), "backbone.")
    for block in (0, 1):
        expected = bicubic(queries(source, block), GRID, new)
        torch.testing.assert_close(queries(target, block), expected)
    assert torch.equal(target.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


def test_as_many_queries_of_another_shape_are_resampled_too() -> None:
    source, target = encoder((4, 6)), encoder((6, 4))
    load_backbone(target, checkpoint(source, (4, 6)), "backbone.")
    torch.testing.assert_close(queries(target), bicubic(queries(source), (4, 6), (6, 4)))


def test_the_same_grid_and_plain_numbers_are_taken_as_they_are() -> None:
    source = encoder(GRID)
    for number, stored in ((GRID, GRID), (24, GRID), (GRID, None), (GRID, 24)):
        target = encoder(number)
        load_backbone(target, checkpoint(source, stored), "backbone.")
        assert torch.equal(queries(target), queries(source))


def test_a_square_is_assumed_where_no_config_says() -> None:
    source, target = encoder((3, 3)), encoder((2, 4))
    load_backbone(target, checkpoint(source), "backbone.")
    torch.testing.assert_close(queries(target), bicubic(queries(source), (3, 3), (2, 4)))


@pytest.mark.parametrize(
    ("source", "stored", "target"),
    [(4, None, 9), (9, 9, 4), (1, 1, (2, 2)), ((2, 3), None, (2, 2))],
)
def test_numbers_that_differ_without_a_grid_are_named(
    source: Any, stored: Any, target: Any
) -> None:
    have, want = (queries(encoder(number)).shape[1] for number in (source, target))
    message = rf"reducers\.0\.queries: expected {want} queries, got {have}; only those of a grid"
    with pytest.raises(CheckpointError, match=message):
        load_backbone(encoder(target), checkpoint(encoder(source), stored), "backbone.")


def test_fine_tuning_from_a_whole_model_resamples_or_starts_anew() -> None:
    source = encoder(GRID)
    file = checkpoint(source, GRID)
    for number, expected in (
        ((2, 3), bicubic(queries(source), GRID, (2, 3))),
        (1, queries(source)),
    ):
        weights = dict(file["state_dict"])
        resample_queries(weights, encoder(number), "backbone", file)
        torch.testing.assert_close(weights["backbone.reducers.0.queries"], expected)
        assert weights.keys() == file["state_dict"].keys()


def test_another_image_size_needs_nothing() -> None:
    """Scores need the sum of the queries only, whatever the grid."""
    backbone = encoder(GRID)
    (out,) = backbone(torch.randn(2, 3, 24, 32))
    assert out.shape == (2, 16, 6, 8)
    backbone.switch_to_deploy()
    assert backbone(torch.randn(1, 3, 12, 16))[0].shape == (1, 16, 3, 4)


class Model(nn.Module):
    """The least that a listener takes."""

    def __init__(self, backbone: CroprViT) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: torch.Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        return dict(loss=self.backbone(inputs)[0].mean())


def sample(height: int, width: int) -> BaseDataElement:
    labels = torch.arange(height * width).reshape(1, height, width) % 3
    return BaseDataElement(gt_sem_seg=BaseDataElement(data=labels))


@pytest.mark.parametrize("size", [(16, 16), (24, 32)])
def test_any_image_size_trains(size: tuple[int, int]) -> None:
    model = Model(encoder(GRID)).train()
    AuxiliaryListener(model, PatchLabelTarget(3, GRID), 1.0)
    losses = model(torch.randn(2, 3, *size), [sample(*size)] * 2, "loss")
    assert {"loss_cropr_b00", "loss_cropr_b01"} <= set(losses)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.backbone.reducers.parameters())


@pytest.mark.parametrize(
    ("num_queries", "grid", "message"),
    [
        ((6, 4), (4, 6), r"num_queries=\(6, 4\), but PatchLabelTarget .* needs \(4, 6\); set"),
        ((4, 4), (4, 6), r"num_queries=\(4, 4\), but PatchLabelTarget .* needs \(4, 6\); set"),
        (1, (4, 6), r"num_queries=1, but PatchLabelTarget .* needs \(4, 6\); set"),
    ],
)
def test_query_grid_that_is_not_the_targets_is_named(
    num_queries: Any, grid: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        AuxiliaryListener(Model(encoder(num_queries)), PatchLabelTarget(3, grid), 1.0)
