"""Compiled and captured encoders compute what the eager one does, as closely as their dtype can.

Rounding may turn the order of two tokens of nearly the same score. So the tokens here form groups,
a step's query points from one group to the others, and that the groups are far apart is checked.
"""

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo.testing
import torch._inductor.config as inductor
from torch import Tensor, nn

from cropr_mm import CroprViT
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.structures import Tokens
from cropr_mm.targets import ClassTarget

SIDE, PATCH = 8, 4
ARCH = dict(embed_dim=32, depth=3, num_heads=2, patch_size=PATCH)
PLAIN: dict[str, Any] = dict(arch=ARCH)
EVA = dict(
    arch=dict(**ARCH, hidden_dim=48, mlp="swiglu", attn_bias="qv", rope="eva", cls_token=False),
    window_size=4,
    global_block_indexes=[1],
)
CASES = pytest.mark.parametrize("settings", [PLAIN, EVA], ids=["plain", "eva_windows"])
KEEP = {0: 16}
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    with inductor.patch(freezing=False):
        yield


def grouped(settings: dict[str, Any]) -> tuple[CroprViT, Tensor]:
    """A deployed encoder with weights of bfloat16 in float32, and images whose choice is clear.

    Returns:
        The encoder, whose queries choose the brightest patches, and images (2, 3, 32, 32).
    """
    model = CroprViT(
        **settings,
        img_size=SIDE * PATCH,
        reducer=dict(type="cropr_mm.Cropr", num_classes=5, deploy=True),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep=KEEP),
        fusion=dict(type="cropr_mm.LastLayerFusion"),
    ).eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        drawn = 0.2 * noise if parameter.ndim > 1 else parameter.data + 0.1 * noise
        parameter.data = drawn.bfloat16().float()
    ranks = torch.stack([torch.randperm(SIDE**2) for _ in range(2)])
    level = 4.0 * (ranks < KEEP[0]) - 1.0
    images = level.view(2, 1, SIDE, SIDE).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    images = (images + 0.2 * torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)).bfloat16().float()

    def point(reducer: nn.Module, args: tuple[Tokens, int, Any]) -> None:
        tokens, num_keep, _ = args
        best = ranks.gather(1, tokens.index) < num_keep
        x = tokens.x[:, tokens.num_prefix :]
        reducer.query.data = (x[best].mean(dim=0) - x[~best].mean(dim=0)).bfloat16().float()

    handles = [r.register_forward_pre_hook(point) for r in model.reducers.values()]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    check_choice(model, images, ranks)
    return model, images


def check_choice(model: CroprViT, images: Tensor, ranks: Tensor) -> None:
    """Scores of those that stay and go are ten times as far apart as bfloat16 moves any."""
    exact, rounded = (scores_by_rank(model, images, ranks, dtype) for dtype in DTYPES)
    for a, b, count in zip(exact, rounded, KEEP.values(), strict=True):
        margin = a[:, :count].amin(dim=1) - a[:, count:].amax(dim=1)
        assert margin.min() > 10 * (a - b).abs().max()


def scores_by_rank(
    model: CroprViT, images: Tensor, ranks: Tensor, dtype: torch.dtype
) -> list[Tensor]:
    """Of the live tokens at each step, the brightest first."""
    scores = []

    def capture(reducer: nn.Module, args: tuple[Tokens, int, Any], _: object) -> None:
        tokens, _, signals = args
        order = ranks.gather(1, tokens.index).argsort(dim=1)
        scores.append(reducer.score(tokens, signals).gather(1, order))

    model = copy.deepcopy(model).to(dtype)
    for reducer in model.reducers.values():
        reducer.register_forward_hook(capture)
    with torch.no_grad():
        model(images.to(dtype))
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [False, True], ids=["weights", "frozen"])
@CASES
def test_compiled_bfloat16_is_as_near_to_float32_as_eager(
    settings: dict[str, Any], freeze: bool
) -> None:
    model, images = grouped(settings)
    half, few = copy.deepcopy(model).bfloat16(), images.bfloat16()
    with torch.no_grad(), inductor.patch(freezing=freeze):
        reference = model(images)[0]
        eager = half(few)[0].float()
        compiled = torch.compile(half, fullgraph=True, dynamic=False)(few)[0].float()
    bound = (eager - reference).abs()
    error = (compiled - reference).abs()
    assert 0 < bound.max() < 0.1 * reference.abs().max()
    assert error.max() <= 2 * bound.max()
    assert error.mean() <= 2 * bound.mean()


class Trained(nn.Module):
    """An encoder with a loss, as mmengine's models are called."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = CroprViT(
            **settings,
            img_size=SIDE * PATCH,
            with_cp=True,
            reducer=dict(type="cropr_mm.Cropr", num_classes=5),
            schedule=dict(type="cropr_mm.ExplicitTokens", num_keep=KEEP),
            fusion=dict(type="cropr_mm.LastLayerFusion"),
        )

    def forward(self, inputs: Tensor, data_samples: list, mode: str = "loss") -> dict[str, Tensor]:
        return dict(loss=self.backbone(inputs)[0].square().mean())


@pytest.mark.skipif(not hasattr(nn.Module, "compile"), reason="needs torch with Module.compile")
def test_an_encoder_of_compiled_blocks_trains_with_its_auxiliary_losses() -> None:
    eager = Trained(EVA).train()
    compiled = copy.deepcopy(eager)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    for block in compiled.backbone.blocks:
        block.compile(backend=counter)
    images = torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    samples = [SimpleNamespace(gt_label=torch.tensor([label])) for label in (1, 3)]
    for model in (eager, compiled):
        AuxiliaryListener(model, ClassTarget(num_classes=5))
    expected, got = (model(images, data_samples=samples) for model in (eager, compiled))
    assert len(got) == 1 + len(KEEP)
    assert counter.frame_count > 0
    torch.testing.assert_close(got, expected)
    for losses in (expected, got):
        sum(losses.values()).backward()
    for a, b in zip(compiled.parameters(), eager.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@CASES
def test_a_captured_graph_replays_what_eager_computes(settings: dict[str, Any]) -> None:
    model, images = grouped(settings)
    model, images = model.cuda().bfloat16(), images.cuda().bfloat16()
    static = torch.zeros_like(images)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        for _ in range(2):  # libraries set themselves up outside of a capture
            model(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = model(static)[0]
    for batch in (images, images.flip(0)):
        static.copy_(batch)
        graph.replay()
        with torch.no_grad():
            torch.testing.assert_close(captured, model(batch)[0])
