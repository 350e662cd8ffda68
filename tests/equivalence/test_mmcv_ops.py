"""The compiled ops of mmcv that detectors use give what torchvision or a plain formula gives."""

import pytest
import torch
import torchvision
from mmcv.ops import batched_nms, deform_conv2d, modulated_deform_conv2d, nms, roi_align
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttention,
    multi_scale_deformable_attn_pytorch,
)


def random_boxes(count: int, size: float, seed: int) -> torch.Tensor:
    """Return boxes (count, 4) as x1, y1, x2, y2 within ``size`` pixels, at least 1 px wide."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * size * 0.7
    sides = 1 + torch.rand(count, 2, generator=generator) * size * 0.29
    return torch.cat([corners, corners + sides], dim=1)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_nms_keeps_the_boxes_that_torchvision_keeps(threshold: float) -> None:
    boxes = random_boxes(300, 100, seed=0)
    scores = torch.rand(300, generator=torch.Generator().manual_seed(1))
    kept, index = nms(boxes, scores, threshold)
    expected = torchvision.ops.nms(boxes, scores, threshold)
    assert 1 < len(expected) < 300
    assert index.tolist() == expected.tolist()
    assert torch.equal(kept, torch.cat([boxes, scores[:, None]], dim=1)[expected])


def test_nms_of_classes_keeps_the_boxes_that_torchvision_keeps() -> None:
    boxes = random_boxes(200, 100, seed=2)
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(200, generator=generator)
    labels = torch.randint(4, (200,), generator=generator)
    _, index = batched_nms(boxes, scores, labels, dict(type="nms", iou_threshold=0.5))
    assert index.tolist() == torchvision.ops.batched_nms(boxes, scores, labels, 0.5).tolist()


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align_and_its_gradient_equal_torchvision(aligned: bool, sampling_ratio: int) -> None:
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(2, 3, 20, 24, generator=generator).requires_grad_()  # (B, C, H, W)
    images = torch.randint(2, (12, 1), generator=generator).float()
    rois = torch.cat([images, random_boxes(12, 90, seed=5)], dim=1)  # (N, 5)
    weight = torch.randn(12, 3, 7, 7, generator=generator)
    found = roi_align(features, rois, (7, 7), 0.25, sampling_ratio, "avg", aligned)
    expected = torchvision.ops.roi_align(
        features, rois, (7, 7), 0.25, sampling_ratio or -1, aligned
    )
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((o * weight).sum(), features)[0] for o in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution_and_its_gradients_equal_torchvision(modulated: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(2, 4, 9, 11, generator=generator).requires_grad_()
    offset = torch.randn(2, 18, 9, 11, generator=generator).requires_grad_()  # y, x of 3 x 3
    weight = torch.randn(5, 4, 3, 3, generator=generator).requires_grad_()
    mask = torch.rand(2, 9, 9, 11, generator=generator) if modulated else None
    if modulated:
        found = modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1)
    else:
        found = deform_conv2d(x, offset, weight, 1, 1, 1, 1, 1)
    expected = torchvision.ops.deform_conv2d(x, offset, weight, padding=1, mask=mask)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    inputs = (x, offset, weight)
    gradients = [torch.autograd.grad(o.square().sum(), inputs) for o in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-2)


def bilinear(values: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Return ``values`` (H, W, D) at pixel coordinates where pixel centers are integers."""
    height, width, dims = values.shape
    x0, y0 = int(x // 1), int(y // 1)
    result = torch.zeros(dims)
    for row, column in ((y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)):
        if 0 <= row < height and 0 <= column < width:  # zeros outside
            result += values[row, column] * (1 - abs(x - column)) * (1 - abs(y - row))
    return result


def test_deformable_attention_equals_its_definition() -> None:
    generator = torch.Generator().manual_seed(7)
    shapes, heads, points, dims, queries = [(5, 6), (3, 3)], 2, 3, 4, 5
    value = torch.randn(1, 39, heads, dims, generator=generator)
    locations = torch.rand(1, queries, heads, 2, points, 2, generator=generator) * 1.4 - 0.2
    weights = torch.randn(1, queries, heads, 2 * points, generator=generator).softmax(-1)
    weights = weights.view(1, queries, heads, 2, points)
    found = multi_scale_deformable_attn_pytorch(value, torch.tensor(shapes), locations, weights)
    levels = [v.view(*s, heads, dims) for v, s in zip(value[0].split([30, 9]), shapes, strict=True)]
    expected = torch.zeros(queries, heads, dims)
    for q in range(queries):
        for h in range(heads):
            for level, (height, width) in enumerate(shapes):
                for p in range(points):
                    u, v = locations[0, q, h, level, p].tolist()  # 0 to 1 over the level
                    sample = bilinear(levels[level][:, :, h], u * width - 0.5, v * height - 0.5)
                    expected[q, h] += weights[0, q, h, level, p] * sample
    torch.testing.assert_close(found[0], expected.flatten(1), rtol=1e-4, atol=1e-5)


def test_deformable_attention_module_runs_and_differentiates_on_a_cpu() -> None:
    torch.manual_seed(8)
    attention = MultiScaleDeformableAttention(embed_dims=16, num_heads=2, num_levels=1)
    value = torch.randn(30, 2, 16, requires_grad=True)  # (H x W, B, C)
    query = torch.randn(4, 2, 16)
    output = attention(
        query,
        value=value,
        reference_points=torch.rand(2, 4, 1, 2),
        spatial_shapes=torch.tensor([[5, 6]]),
        level_start_index=torch.tensor([0]),
    )
    output.sum().backward()
    assert output.shape == query.shape
    assert value.grad is not None
    assert value.grad.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_ops_equal_cpu_ops() -> None:
    boxes = random_boxes(300, 100, seed=9)
    scores = torch.rand(300, generator=torch.Generator().manual_seed(10))
    assert nms(boxes.cuda(), scores.cuda(), 0.5)[1].tolist() == nms(boxes, scores, 0.5)[1].tolist()
    features = torch.randn(1, 3, 20, 24, generator=torch.Generator().manual_seed(11))
    rois = torch.cat([torch.zeros(300, 1), boxes], dim=1)
    on_gpu = roi_align(features.cuda(), rois.cuda(), (7, 7), 0.2, 0, "avg", True)
    torch.testing.assert_close(on_gpu.cpu(), roi_align(features, rois, (7, 7), 0.2, 0, "avg", True))
