"""Linear shortcuts: what the fit finds, and what fusion and pruner do with it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.checkpoints import load_backbone
from cropr_mm.engine.shortcuts import fit_shortcuts
from cropr_mm.ops.least_squares import LeastSquares
from cropr_mm.reducers import ShortcutPruner

PRUNER = dict(type="cropr_mm.ShortcutPruner")
FUSION = dict(type="cropr_mm.ShortcutFusion")
STEPS = {0: 24, 2: 8}
WINDOWS = dict(window_size=2, global_block_indexes=[2], with_cls_token=False)


def encoder(**options: Any) -> CroprViT:
    torch.manual_seed(0)
    defaults: dict[str, Any] = dict(
        arch=dict(embed_dim=16, depth=5, num_heads=2, rope="eva", cls_token=True),
        img_size=(48, 64),
        patch_size=8,
        reducer=PRUNER,
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep=STEPS),
        fusion=FUSION,
    )
    model = CroprViT(**defaults | options)
    for parameter in model.blocks.parameters():  # blocks that change tokens visibly
        parameter.data.mul_(4)
    return model.eval()


def images(count: int = 3) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, 3, 48, 64) for _ in range(count)]


@torch.no_grad()
def dense_features(model: CroprViT, batches: list[Tensor]) -> dict[int, Tensor]:
    """Patch features behind each block of the dense model, (tokens, C), float64."""
    found: dict[int, list[Tensor]] = {i: [] for i in range(model.depth)}
    handles = [
        block.register_forward_hook(
            lambda _m, _a, out, i=i: found[i].append(out[0][:, model.num_prefix :].flatten(0, 1))
        )
        for i, block in enumerate(model.blocks)
    ]
    for batch in batches:
        model.unpruned()(batch)
    for handle in handles:
        handle.remove()
    return {i: torch.cat(parts).double() for i, parts in found.items()}


def regress(x: Tensor, y: Tensor) -> Tensor:
    """Guesses of y, from x and a constant, in one solve; ridge as the fit's."""
    mean = x.mean(dim=0)
    centered = x - mean
    penalty = (1e-2 * len(x) * centered.var(dim=0, correction=0).mean()).sqrt()
    rows = torch.cat([centered, penalty * torch.eye(x.shape[1], dtype=x.dtype)])
    wanted = torch.cat([y - y.mean(dim=0), torch.zeros(x.shape[1], y.shape[1], dtype=y.dtype)])
    return centered @ torch.linalg.lstsq(rows, wanted).solution + y.mean(dim=0)


def test_sums_over_parts_give_the_regression_on_all() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 4) * torch.tensor([1.0, 1e3, 1e-1, 1.0]) + 7
    y = x @ torch.randn(4, 3) + torch.randn(50, 3)
    found = LeastSquares(4, 3)
    for part in (slice(0, 13), slice(13, 50)):
        found.add(x[part], y[part])
    weight, bias = found.solve(ridge=1e-12)
    ones = torch.cat([x, torch.ones(50, 1)], dim=1).double()
    expected = ones @ torch.linalg.lstsq(ones, y.double()).solution
    torch.testing.assert_close(x.double() @ weight + bias, expected, rtol=1e-5, atol=1e-5)
    left = (y - expected).square().sum() / (y - y.mean(dim=0)).square().sum()
    assert found.unexplained(weight) == pytest.approx(float(left), rel=1e-4)


@pytest.mark.parametrize("options", [{}, WINDOWS], ids=["global", "windows"])
def test_shortcuts_and_scores_are_regressions_on_the_dense_models_features(options: dict) -> None:
    model, batches = encoder(**options), images()
    fits = fit_shortcuts(model, batches)
    features = dense_features(model, batches)
    last = features[model.depth - 2]
    assert [fit.block for fit in fits] == list(STEPS)
    for fit in fits:
        x = features[fit.block]
        expected = x + regress(x, last - x)
        guessed = model.fusion.shortcuts[str(fit.block)](x.float()).double()
        torch.testing.assert_close(guessed, expected, rtol=1e-3, atol=1e-3)
        error = (last - expected).square().sum(dim=1).log()
        score = (x.float() @ model.reducers[str(fit.block)].query).double()
        wanted = regress(x, error.unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(
            score - score.mean(), wanted - wanted.mean(), rtol=2e-3, atol=2e-3
        )
        change = last - x
        left = (last - expected).square().sum() / (change - change.mean(0)).square().sum()
        assert fit.missed == pytest.approx(float(left), rel=1e-3)
        assert 0 < fit.missed < 1
        assert 0 < fit.unranked < 1


def test_pruned_tokens_come_nearer_to_the_dense_ones() -> None:
    model, batches = encoder(), images()

    def distance() -> float:
        seen: list[Tensor] = []
        handle = model.blocks[-1].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        with torch.no_grad():
            model(batches[0])
            model.unpruned()(batches[0])
        handle.remove()
        return float((seen[0] - seen[1]).square().mean())

    before = distance()
    fit_shortcuts(model, batches)
    assert distance() < 0.5 * before


def test_new_shortcuts_change_nothing() -> None:
    plain = encoder(fusion=dict(type="cropr_mm.LastLayerFusion"))
    model = encoder()
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all(name.startswith("fusion.shortcuts.") for name in missing)
    (batch,) = images(1)
    assert torch.equal(model(batch)[0], plain(batch)[0])


def test_the_fit_leaves_the_model_as_it_was() -> None:
    model, batches = encoder().train(), images(1)
    schedule = model.schedule
    fit_shortcuts(model, batches)
    assert model.schedule is schedule
    assert model.training
    assert not any(r._forward_hooks for r in model.reducers.values())
    assert not model.fusion._forward_pre_hooks
    assert list(model.num_keep().values()) == list(STEPS.values())


def test_the_fit_is_to_what_the_first_fused_block_sees() -> None:
    steps = dict(type="cropr_mm.ExplicitTokens", num_keep={0: 8})
    model = encoder(fusion=dict(FUSION, num_blocks=2), schedule=steps)
    fit_shortcuts(model, images())
    features = dense_features(model, images())
    x, last = features[0], features[model.depth - 3]
    guessed = model.fusion.shortcuts["0"](x.float()).double()
    torch.testing.assert_close(guessed, x + regress(x, last - x), rtol=1e-3, atol=1e-3)


def test_padding_does_not_count_in_the_fit() -> None:
    model, batches = encoder(), images()
    for batch in batches:
        batch[0, :, 32:] = 0
    fit_shortcuts(model, batches)
    features = dense_features(model, batches)
    patches = torch.ones(len(batches), 2, 6, 8, dtype=torch.bool)
    patches[:, 0, 4:] = False
    x, last = features[0][patches.flatten()], features[model.depth - 2][patches.flatten()]
    guessed = model.fusion.shortcuts["0"](x.float()).double()
    torch.testing.assert_close(guessed, x + regress(x, last - x), rtol=1e-3, atol=1e-3)


def test_the_passes_are_dense_where_the_method_draws_how_many_stay() -> None:
    drawing, all_points = (
        encoder(reducer=dict(type="cropr_mm.ATS", num_points=points)) for points in (5, None)
    )
    fit_shortcuts(drawing, images())
    fit_shortcuts(all_points, images())
    for name, found in drawing.fusion.state_dict().items():
        torch.testing.assert_close(found, all_points.fusion.state_dict()[name])


def test_another_choice_is_left_alone() -> None:
    model = encoder(reducer=dict(type="cropr_mm.VariancePruner"))
    assert [fit.unranked for fit in fit_shortcuts(model, images(1))] == [None, None]


def test_training_moves_shortcuts_and_needs_a_fitted_score() -> None:
    model, batches = encoder().train(), images()
    with pytest.raises(RuntimeError, match=r"learns nothing in training: expected a checkpoint of"):
        model(batches[0])
    fit_shortcuts(model, batches)
    model(batches[0])[0].square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.fusion.parameters())
    assert all(r.query.grad is None for r in model.reducers.values())
    twin = encoder().train()
    twin.load_state_dict(model.state_dict())
    assert all(r.fitted for r in twin.reducers.values())
    assert torch.equal(twin(batches[0])[0], model(batches[0])[0])


def test_weights_of_a_dense_encoder_leave_the_score_unfitted(tmp_path: Path) -> None:
    dense = encoder(reducer=None, schedule=None, fusion=None)
    torch.save(dense.state_dict(), tmp_path / "dense.pth")
    model = encoder().train()
    load_backbone(model, str(tmp_path / "dense.pth"))
    with pytest.raises(RuntimeError, match="learns nothing in training"):
        model(images(1)[0])


def test_the_pruner_keeps_what_its_score_is_highest_for() -> None:
    model, batches = encoder(), images(1)
    fit_shortcuts(model, batches)
    pruner = model.reducers["0"]
    assert isinstance(pruner, ShortcutPruner)
    seen: list = []
    pruner.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    model(batches[0])
    tokens, result = seen[0]
    scores = tokens.patches @ pruner.query
    kept = scores.gather(1, result.kept.index)  # the first step: places are raster ids
    gone = scores.gather(1, result.dropped.index)
    assert (kept.amin(dim=1) >= gone.amax(dim=1)).all()
