"""What holds in every backbone that reduces tokens, whatever its blocks are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.reducers import KeepDecision
from cropr_mm.structures import Reduction, Tokens
from cropr_mm.tokens.gather import take_tokens

PRUNERS = ("Cropr", "NonSalient", "RandomPruner", "VariancePruner", "RadialPruner")
CROPR = dict(type="cropr_mm.Cropr", num_queries=2, num_classes=3)
Make = Callable[..., ReducingBackbone]


def randomize(model: nn.Module) -> None:
    """Random parameters, and statistics of batch norms, under which no layer does nothing."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * (0.1 if parameter.dim() > 1 else 0.3)
        parameter.data += float(parameter.dim() == 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)


def explicit(num_keep: dict[int, int]) -> dict[str, Any]:
    return dict(type="cropr_mm.ExplicitTokens", num_keep=num_keep)


def listen(model: ReducingBackbone) -> None:
    for module in model.reducers.values():
        module.listen(lambda _: None)


@torch.no_grad()
def check_masking_is_dropping(
    make: Make, name: str, blocks: list[int], img: Tensor, monkeypatch: Any
) -> None:
    """Masks of training leave what evaluation does that drops the same tokens.

    Args:
        make: Builds the backbone with the same weights for any reducer and schedule.
        name: Reducer with a learned decision.
        blocks: Blocks that have one.
        img: One image.
        monkeypatch: pytest's.
    """

    def certain(odds: Tensor, noise: Tensor) -> Tensor:
        return (odds > odds.quantile(0.3)).float()

    monkeypatch.setattr(KeepDecision, "decide", staticmethod(certain))
    reducer = dict(type=f"cropr_mm.{name}")
    training = make(reducer=reducer).train()
    for module in training.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of a batch are others than those of all
    counts: list[int] = []
    listen(training)
    for module in training.reducers.values():
        module.register_forward_hook(lambda _m, _a, out: counts.append(int(out.kept.policy.sum())))
    expected = training(img)
    assert counts[0] > counts[-1] > 0
    schedule = explicit(dict(zip(blocks, counts, strict=True)))
    evaluation = make(reducer=reducer, schedule=schedule)
    evaluation.load_state_dict(training.state_dict())
    for a, b in zip(evaluation(img), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def check_predictors_learn(model: ReducingBackbone, img: Tensor) -> None:
    """The loss of the model reaches every parameter of decisions."""
    model.train()
    listen(model)
    model(img)[-1].pow(2).sum().backward()
    for parameter in model.reducers.parameters():
        assert bool(parameter.grad.abs().sum() > 0)


def check_masked_have_a_gradient(model: ReducingBackbone, halves: list[Any], prefix: int) -> None:
    """Both halves of a block tell a training mask what each token is worth."""
    grid = model.grid
    for half in halves:
        policy = (torch.arange(grid[0] * grid[1]) % 3 > 0).float()[None].requires_grad_()
        index = torch.arange(policy.shape[1])[None]
        x = torch.randn(1, prefix + policy.shape[1], model.embed_dim)
        result = half(Tokens(x, index, grid, prefix, policy=policy))
        result = result if isinstance(result, Tokens) else result[0]
        result.x.pow(2).sum().backward()
        assert bool((policy.grad.abs() > 1e-4).all())


@torch.no_grad()
def check_dead_places_are_gone(model: ReducingBackbone, img: Tensor) -> list[int]:
    """Outputs with dead places (ATS) are those of a pass in which these leave; how many live."""
    expected, counts = model(img), []

    def without_dead(_module: nn.Module, _args: Any, result: Reduction) -> Reduction:
        live = result.kept.policy[0]
        counts.append(int(live.sum()))
        kept = take_tokens(result.kept, live.nonzero().T, with_prefix=True)
        dead = take_tokens(result.kept, (~live).nonzero().T, with_prefix=False)
        left = [dead, result.dropped]
        dropped = Tokens(
            torch.cat([part.x for part in left], dim=1),
            torch.cat([part.index for part in left], dim=1),
            dead.grid,
        )
        return Reduction(kept._replace(policy=None), dropped)

    for reducer in model.reducers.values():
        reducer.register_forward_hook(without_dead)
    for a, b in zip(model(img), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    return counts


@torch.no_grad()
def check_deployed_keeps_the_same(make: Make, img: Tensor) -> None:
    """``switch_to_deploy`` and ``deploy=True`` change no output, and share a state dict."""
    model = make()
    expected = model(img)
    model.switch_to_deploy()
    got = model(img)
    fresh = make(deploy=True)
    fresh.load_state_dict(model.state_dict(), strict=True)
    for outputs in (got, fresh(img)):
        assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def check_pruners_run_at_any_size(make: Make, name: str, odd_shapes: list[tuple[int, int]]) -> None:
    """Tokens left and shapes of the maps; the third one is that of the pruned stage.

    Args:
        make: Builds the backbone for images of 6 x 8 tokens, which returns all maps.
        name: Pruner.
        odd_shapes: Of the maps of an image that cells do not divide.
    """
    reducer = {**(CROPR if name in ("Cropr", "NonSalient") else {}), "type": f"cropr_mm.{name}"}
    ratios = dict(type="cropr_mm.KeepRatios", ratio=0.5, blocks=[0, 2])
    model = make(reducer=reducer, schedule=ratios)
    assert model.num_keep() == {0: 24, 2: 12}
    assert [m.shape[2:] for m in model(torch.randn(1, 3, 64, 160))][2] == (4, 10)
    odd = torch.randn(1, 3, 90, 75)
    if name == "VariancePruner":
        with pytest.raises(ValueError, match="multiples of 16, got 90x75"):
            model(odd)
    else:
        assert [tuple(m.shape[2:]) for m in model(odd)] == odd_shapes
