"""Auxiliary gradients that are computed at once: the same gradients, and nothing kept for them."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cropr_mm import CroprViT
from cropr_mm.hooks import auxiliary_listener
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from cropr_mm.ops.eager_backward import eager_backward, used_at_once
from cropr_mm.targets import ClassTarget, PatchLabelTarget
from cropr_mm.targets.base import AuxiliaryTarget
from experiments.encoder_memory import peak_bytes

CELLS = 8


class Segmenter(nn.Module):
    """An encoder with a linear head per patch, and one query per patch in each Cropr module."""

    def __init__(self, pruned: bool = True, depth: int = 5, channels: int = 32, **cfg) -> None:
        super().__init__()
        arch = dict(embed_dim=channels, depth=depth, num_heads=2, patch_size=4, img_size=4 * CELLS)
        reducer = dict(type="cropr_mm.Cropr", num_queries=(CELLS, CELLS), num_classes=3)
        reduction = dict(
            reducer={**reducer, **cfg},
            schedule=dict(type="cropr_mm.ConstantRate", rate=CELLS**2 // depth),
            fusion=dict(type="cropr_mm.LastLayerFusion"),
        )
        self.backbone = CroprViT(arch, **(reduction if pruned else {}))
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = "loss") -> dict:
        return dict(main=self.head(self.backbone(inputs)[0]).square().mean())


def samples(count: int = 2) -> list[SimpleNamespace]:
    maps = torch.randint(0, 3, (count, 1, 4 * CELLS, 4 * CELLS))
    maps[:, :, :4] = 255
    labels = torch.arange(count) % 3
    return [
        SimpleNamespace(gt_sem_seg=SimpleNamespace(data=m), gt_label=label)
        for m, label in zip(maps, labels, strict=True)
    ]


def target_of(cfg: dict) -> AuxiliaryTarget:
    return ClassTarget(3) if cfg.get("num_queries") == 1 else PatchLabelTarget(3, CELLS)


def gradients(
    model: nn.Module, images: Tensor, given: list, scale: float = 1.0, autocast: bool = False
) -> dict[str, Tensor]:
    """Losses and gradients of one step, by name."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(images, given, mode="loss")
    (scale * sum(losses.values())).backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    return {**{name: loss.detach() for name, loss in losses.items()}, **found}


@pytest.fixture
def kept_graphs(monkeypatch: pytest.MonkeyPatch):
    """A way to switch off what is tested: losses keep their graphs until the backward pass."""

    def switch() -> None:
        monkeypatch.setattr(
            auxiliary_listener, "eager_backward", lambda loss, outputs, _: loss(outputs)
        )

    return switch


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "cfg", [{}, dict(num_queries=1), dict(scorer="mha", num_heads=2), dict(mlp_ratio=0)], ids=str
)
def test_gradients_are_those_of_the_backward_pass(cfg: dict, autocast: bool, kept_graphs) -> None:
    torch.manual_seed(0)
    model, images, given = Segmenter(**cfg).train(), torch.randn(2, 3, 32, 32), samples()
    AuxiliaryListener(model, target_of(cfg), loss_weight=0.5)
    found = gradients(model, images, given, 4.0, autocast)
    kept_graphs()
    expected = gradients(model, images, given, 4.0, autocast)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.abs().max() > 0, name
        assert torch.equal(found[name], value), name


def test_losses_without_stop_gradient_reach_the_encoder(kept_graphs) -> None:
    torch.manual_seed(0)
    model = Segmenter(stop_gradient=False).train()
    images, given = torch.randn(2, 3, 32, 32), samples()
    AuxiliaryListener(model, target_of({}))
    found = gradients(model, images, given)
    kept_graphs()
    for name, value in gradients(model, images, given).items():
        assert torch.equal(found[name], value), name


def test_gradients_accumulate_and_survive_a_second_backward_pass() -> None:
    model, images = Segmenter().train(), torch.randn(2, 3, 32, 32)
    AuxiliaryListener(model, target_of({}))
    loss = model(images, samples(), mode="loss")["loss_cropr_b01"]
    loss.backward(retain_graph=True)
    once = model.backbone.reducers["1"].queries.grad.clone()
    assert model.backbone.reducers["0"].queries.grad is None
    loss.backward()
    torch.testing.assert_close(model.backbone.reducers["1"].queries.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e9])
def test_float16_gradients_neither_vanish_nor_overflow(scale: float) -> None:
    torch.manual_seed(0)
    weight, x = nn.Parameter(torch.randn(4)), torch.randn(1000, 4).half()
    loss = eager_backward(lambda y: scale * y.square().mean(), x * weight.half(), [weight])
    loss.backward()
    exact = weight.detach().requires_grad_()
    (scale * (x.float() * exact).square().mean()).backward()
    torch.testing.assert_close(weight.grad / scale, exact.grad / scale, rtol=5e-3, atol=5e-3)


def test_what_cannot_learn_is_left_out() -> None:
    frozen, weight = nn.Parameter(torch.ones(3), False), nn.Parameter(torch.ones(3))
    unused, x = nn.Parameter(torch.ones(3)), torch.randn(3)
    loss = eager_backward(torch.sum, weight * frozen * x, [frozen, weight, unused])
    loss.backward()
    assert torch.equal(weight.grad, x)
    assert frozen.grad is unused.grad is None
    assert not eager_backward(torch.sum, frozen * x, [frozen]).requires_grad
    with torch.no_grad():
        assert not eager_backward(torch.sum, weight * x, [weight]).requires_grad


def test_inside_an_activation_checkpoint_the_branch_is_not_recomputed() -> None:
    x, calls = torch.randn(3, requires_grad=True), []
    weight = nn.Parameter(torch.ones(3))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        with used_at_once():
            calls.append(torch.is_grad_enabled())
            loss = eager_backward(torch.sum, weight * x.detach().exp(), [weight])
        return x.exp().sum(), loss

    main, loss = checkpoint(forward, x, use_reentrant=False)
    assert len(calls) == 1
    (main + loss).backward()
    torch.testing.assert_close(weight.grad, x.detach().exp())
    torch.testing.assert_close(x.grad, x.detach().exp())


def test_weights_that_are_used_once_leave_no_copy_in_autocast() -> None:
    weight = nn.Parameter(torch.randn(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        with used_at_once():
            assert not torch.is_autocast_cache_enabled()
            (torch.randn(2, 4) @ weight).sum()
        assert torch.is_autocast_cache_enabled()


def step_bytes(model: nn.Module, listened: bool = True, num_queries: int | None = None) -> int:
    """Peak of one training step, gradients included, parameters not."""
    model.train()
    if listened and len(model.backbone.reducers):
        target = ClassTarget(3) if num_queries == 1 else PatchLabelTarget(3, CELLS)
        AuxiliaryListener(model, target)
    images, given = torch.randn(2, 3, 4 * CELLS, 4 * CELLS), samples()
    return peak_bytes(lambda: gradients(model, images, given))


def test_the_branches_need_less_memory_than_pruning_saves(kept_graphs) -> None:
    torch.manual_seed(0)
    size = dict(depth=8)
    dense, pruned = step_bytes(Segmenter(pruned=False, **size)), step_bytes(Segmenter(**size))
    one_query = step_bytes(Segmenter(num_queries=1, **size), num_queries=1)
    kept_graphs()
    before = step_bytes(Segmenter(**size))
    assert pruned < dense
    assert one_query < 0.9 * dense
    assert before > 1.2 * dense, "with graphs that wait, this test must fail"


def test_peak_counts_each_storage_while_it_lives() -> None:
    x = torch.zeros(1000, requires_grad=True)  # 4000 bytes

    def function() -> None:
        y = x.detach() + 1  # one
        y.view(10, 100).mul_(2)  # the same one
        z = y + 1  # two
        del y
        z = z + 1  # two again
        (x * z).sum().backward()  # the product is gone when the gradient comes: two and the sum

    assert peak_bytes(function) == pytest.approx(2 * 4000, abs=20)
    assert peak_bytes(lambda: x.detach().view(10, 100)) == 0
