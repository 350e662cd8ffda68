"""Memory of whole detectors: sizes do not depend on the numbers that are left out."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from allocator import allocated_peak
from mmcv.ops import nms, roi_align
from mmengine.config import Config

from cropr_mm.build import build_model
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.profiling.candidates import native_size, random_batch
from cropr_mm.profiling.run_mode import Mode
from cropr_mm.targets import MultiLabelTarget
from experiments import zero_matmuls as zeros
from experiments.encoder_memory import peak_bytes
from experiments.model_memory import ModelMemory, model_memory, training_memory
from experiments.step import DENSE
from experiments.training_batch import random_training_batch
from experiments.whole_model import whole_model
from experiments.zero_matmuls import zero_matmuls

DEMO = Path(__file__).parents[2] / "configs/demo"
CONFIGS = ("unpruned_tiny_cascade_digits", "cropr_tiny_cascade_digits")


def products(dtype: torch.dtype) -> list[torch.Tensor]:
    """Results and gradients of one of each."""
    image = torch.ones(2, 4, 6, 6, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(8, 4, 3, 3, dtype=dtype, requires_grad=True)
    x = torch.ones(2, 5, 8, dtype=dtype, requires_grad=True)
    square = torch.ones(8, 8, dtype=dtype, requires_grad=True)
    y = F.conv2d(image, weight, padding=1)
    z = F.linear(x, square, square[0])
    heads = z.view(2, 5, 2, 4).transpose(1, 2)
    attended = F.scaled_dot_product_attention(heads, heads, heads)
    up = F.conv_transpose2d(y, weight, stride=2)
    loss = up.sum() + attended.sum() + (x @ x.transpose(1, 2)).sum()
    return [y, z, attended, up, *torch.autograd.grad(loss, (weight, x, square))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_zeros_of_the_form_they_would_have(dtype: torch.dtype) -> None:
    expected = products(dtype)
    with zero_matmuls():
        got = products(dtype)
    assert all(tensor.abs().sum() > 0 for tensor in expected)
    assert not any(tensor.any() for tensor in got)
    form = [(t.shape, t.stride(), t.dtype) for t in expected]
    assert [(t.shape, t.stride(), t.dtype) for t in got] == form


def maps(dtype: torch.dtype) -> list[torch.Tensor]:
    """Results and gradients of operators on maps."""
    x = torch.ones(2, 5, 8, dtype=dtype, requires_grad=True)
    scale = torch.ones(8, dtype=dtype, requires_grad=True)
    y = F.gelu(x.transpose(0, 1)) * scale + F.layer_norm(x, (8,), scale, scale).transpose(0, 1)
    z = torch.cat([y, F.silu(y - 1)], dim=1).softmax(-1).float()
    return [y, z, *torch.autograd.grad(z[0].sum() + z.square().sum(), (x, scale))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_maps_are_zeros_of_the_form_they_would_have(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = maps(dtype)
    with zero_matmuls():
        small = maps(dtype)
    for a, b in zip(small, expected, strict=True):
        assert torch.equal(a, b), "too small to be left out"
    monkeypatch.setattr(zeros, "LARGE", 1)
    with zero_matmuls():
        got = maps(dtype)
    assert not any(tensor.any() for tensor in got[:2])
    form = [(t.shape, t.stride(), t.dtype) for t in expected]
    assert [(t.shape, t.stride(), t.dtype) for t in got] == form


def test_whole_numbers_are_computed_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeros, "LARGE", 1)
    with zero_matmuls():
        assert (torch.ones(4, dtype=torch.int64) + 1).tolist() == [2, 2, 2, 2]
        assert (torch.ones(4) * torch.tensor([0, 1, 0, 1])).tolist() == [0, 1, 0, 1]


def test_operators_of_mmcv_run_in_half_precision_and_are_restored() -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]])
    scores = torch.tensor([0.9, 0.8])
    regions = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
    image = torch.ones(1, 2, 8, 8)
    with zero_matmuls():
        detections, kept = nms(boxes.bfloat16(), scores.bfloat16(), 0.5)
        pooled = roi_align(image.bfloat16(), regions.bfloat16(), 2)
    assert (kept.tolist(), detections.dtype) == ([0], torch.bfloat16)
    assert (pooled.shape, pooled.dtype, pooled.any()) == ((1, 2, 2, 2), torch.bfloat16, False)
    assert roi_align(image, regions, 2).all()


@cache
def need(name: str, dtype: str = "fp32", **kwargs: Any) -> ModelMemory:
    cfg = Config.fromfile(DEMO / f"{name}.py")
    torch.manual_seed(0)
    model = build_model(cfg)
    if name.startswith("cropr"):
        AuxiliaryListener(model, MultiLabelTarget(num_classes=10))
    size = native_size(cfg)
    batches = random_training_batch(cfg, 2, size, 8), random_batch(cfg, 2, size)
    return model_memory(model, *batches, Mode(dtype), **kwargs)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_estimate_is_what_a_real_run_needs(name: str) -> None:
    estimate, counted = need(name), need(name, peak=peak_bytes)
    allocated = need(name, peak=allocated_peak)
    assert estimate.training == pytest.approx(counted.training, rel=0.01)
    assert estimate.test == pytest.approx(counted.test, rel=0.01)
    assert estimate.training == pytest.approx(allocated.training, rel=0.01)
    # The CPU's transposed convolutions hold their result twice more.
    assert estimate.test < allocated.test


@pytest.mark.parametrize("variant", [DENSE, "cropr"])
@pytest.mark.parametrize("name", ["cropr_tiny_segmenter_digits", "cropr_tiny_vit_digits_cls"])
def test_an_estimate_of_other_tasks_is_what_their_step_needs(name: str, variant: str) -> None:
    cfg = Config.fromfile(DEMO / f"{name}.py")
    model, mode = whole_model(cfg, variant), Mode()  # its scope packs batches
    batch = random_training_batch(cfg, 2, native_size(cfg), 1)
    estimate = training_memory(model, batch, mode)
    assert estimate.training == training_memory(model, batch, mode, peak_bytes).training
    allocated = training_memory(model, batch, mode, allocated_peak).training
    assert estimate.training == pytest.approx(allocated, rel=0.03)
    assert estimate.optimizer == 2 * sum(4 * p.numel() for p in model.parameters())


def test_a_pruned_detector_trains_in_less_memory_and_both_in_mixed_precision() -> None:
    dense, pruned = map(need, CONFIGS)
    mixed = need(CONFIGS[1], "amp")
    assert mixed.training < pruned.training < dense.training
    assert pruned.weights > pruned.weights_deployed
    assert pruned.optimizer > dense.optimizer > 1.9 * dense.weights
    assert mixed.weights == pruned.weights


def test_bad_input_is_named() -> None:
    make = partial(random_training_batch, Config(), size=(64, 64))
    with pytest.raises(ValueError, match="at least one image and one object, got 0 and 3"):
        make(batch_size=0, num_objects=3)
    with pytest.raises(ValueError, match="at least one image and one object, got 1 and 0"):
        make(batch_size=1, num_objects=0)
