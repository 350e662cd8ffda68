"""Memory is counted as autograd and the allocator of the CPU see it."""

from typing import Any

import pytest
import torch
from allocator import allocated_peak

from cropr_mm.profiling.run_mode import Mode
from experiments.encoder_memory import (
    EncoderMemory,
    _forms,
    _memory,
    encoder_memory,
    measured_memory,
    peak_bytes,
    saved_bytes,
)

FP32 = Mode()
ARCH = dict(depth=4, embed_dim=64, num_heads=4, mlp="swiglu", rope="eva", pos_embed=False)
DENSE: dict[str, Any] = dict(
    arch=dict(**ARCH, cls_token=False),
    img_size=256,
    window_size=4,
    global_block_indexes=[1, 3],
)
PRUNED = dict(
    DENSE,
    reducer=dict(type="cropr_mm.Cropr", num_classes=5),
    schedule=dict(type="cropr_mm.WindowStages", blocks=[0, 1]),
    fusion=dict(type="cropr_mm.LastLayerFusion"),
)


def test_saved_bytes_counts_each_storage_once_and_leaves_out_what_is_there() -> None:
    x = torch.randn(10, 4, requires_grad=True)
    weight = torch.randn(6, 4, requires_grad=True)

    def forward() -> torch.Tensor:
        y = (x @ weight.T).sin()  # keeps x, weight and the product, 10 x 6 numbers
        return y[:5] * y[5:]  # keeps y, twice the same storage

    assert saved_bytes(forward) == 4 * (40 + 24 + 60 + 60)
    assert saved_bytes(forward, without=[x, weight]) == 4 * (60 + 60)


def test_saved_bytes_is_nothing_without_gradient_and_leaves_backward_as_it_is() -> None:
    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert saved_bytes(x.exp) == 0
    saved_bytes(lambda: x.exp().sum().backward())
    assert torch.equal(x.grad, x.exp())


def test_peak_bytes_is_what_lives_at_one_time() -> None:
    given = torch.zeros(100)

    def function() -> torch.Tensor:
        a = given + 1
        b = a + 1
        a.view(10, 10).add_(given.view(10, 10))  # no new memory
        del a
        return b + 1  # beside b

    assert peak_bytes(function) == 2 * 400


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("settings", [DENSE, PRUNED])
def test_an_estimate_is_what_the_allocator_gives(settings: dict[str, Any], with_cp: bool) -> None:
    settings = dict(settings, with_cp=with_cp, drop_path_rate=0.2)
    estimate = encoder_memory(settings, 2, FP32)
    real = _memory(*_forms(settings, FP32, "cpu"), 2, FP32, allocated_peak)
    assert (estimate.weights, estimate.test) == (real.weights, real.test)
    assert estimate.weights_deployed == real.weights_deployed
    assert estimate.saved == pytest.approx(real.saved, rel=1e-3)
    assert estimate.training == pytest.approx(real.training, rel=5e-3)  # a state of random numbers


def test_checkpointing_keeps_patches_and_the_input_of_each_block() -> None:
    whole = encoder_memory(DENSE, 2, FP32)
    inputs = encoder_memory(dict(DENSE, with_cp=True), 2, FP32)
    patches, block = 4 * (2 * 256 * 3 * 16**2), 4 * (2 * 256 * 64)
    assert inputs.saved == pytest.approx(patches + 4 * block, rel=0.1)
    assert inputs.saved - patches < whole.saved / 10
    assert inputs.training < whole.training


def test_pruning_half_precision_and_the_fused_kernel_save_memory() -> None:
    def need(settings: dict[str, Any], **mode: str) -> EncoderMemory:
        return encoder_memory(settings, 2, Mode(**mode))

    dense, pruned, mixed = need(DENSE), need(PRUNED), need(DENSE, dtype="amp")
    assert pruned.saved < dense.saved
    assert pruned.weights > pruned.weights_deployed
    assert need(DENSE, dtype="bf16").test == dense.test // 2
    assert mixed.saved < dense.saved
    assert mixed.weights == dense.weights
    plain = dict(DENSE, window_size=None, global_block_indexes=())
    if hasattr(torch.nn, "attention") and hasattr(torch.nn.attention, "sdpa_kernel"):
        matrix = 2 * 4 * 256 * 256 * 4  # images, heads, queries, keys, bytes
        # Of four blocks; the fused kernel keeps its results instead, which is less than one.
        assert need(plain, sdpa="math").saved > need(plain).saved + 3 * matrix


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="expected batch_size >= 1, got 0"):
        encoder_memory(DENSE, 0, FP32)
    with pytest.raises(ValueError, match="on CUDA devices only, got cpu"):
        measured_memory(DENSE, 1, FP32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "amp"])
def test_an_estimate_is_near_what_cuda_gives(dtype: str, with_cp: bool) -> None:
    arch = dict(DENSE["arch"], embed_dim=256)
    settings = dict(PRUNED, arch=arch, img_size=512, with_cp=with_cp)
    mode = Mode(dtype, device="cuda")
    estimate, real = (f(settings, 8, mode) for f in (encoder_memory, measured_memory))
    assert estimate.test == pytest.approx(real.test, rel=0.1)
    assert estimate.training == pytest.approx(real.training, rel=0.1)
