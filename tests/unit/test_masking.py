"""Tokens that are masked: adaptive counts, and learned decisions in training.

B batch, N tokens, H heads, C channels.
"""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.ops.attention import attention_rows, masked_attention
from cropr_mm.reducers import ATS, DTPS, DynamicViT
from cropr_mm.reducers.ats import draw
from cropr_mm.reducers.tps import squeeze, squeeze_masked
from cropr_mm.structures import Reduction, Signals, Tokens

ARCH: dict[str, Any] = dict(embed_dim=32, depth=5, num_heads=2, rope="eva")
STEPS = (0, 2)
LLF = dict(type="cropr_mm.LastLayerFusion")
SHARES = torch.tensor([[0.05, 0.40, 0.05, 0.30, 0.20]])


def encoder(name: str, counts: dict[int, int], **options: Any) -> CroprViT:
    torch.manual_seed(0)
    schedule = dict(type="cropr_mm.ExplicitTokens", num_keep=counts)
    given = dict(arch=ARCH, img_size=(48, 64), patch_size=8, reducer=dict(type=f"cropr_mm.{name}"))
    return CroprViT(**given | dict(schedule=schedule) | options)


def drawn(points: str, count: int, shares: Tensor = SHARES) -> list[int]:
    return draw(shares, count, points)[0].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("points", "count", "expected"),
    [
        ("paper", 3, [0, 2, 3]),
        ("paper", 4, [0, 1, 2, 3]),
        ("paper", 8, [0, 1, 2, 3, 4]),
        # points 1/8, 3/8, 5/8, 7/8 without the last: nearest of .05, .45, .5, .8, 1
        ("inner", 3, [0, 1, 2]),
        # ascending .05, .05, .2, .3, .4 cumulate, stretched, to 0, .0526, .2632, .5789, 1; the
        # points are .0526, .5263 and 1
        ("sorted", 3, [1, 2, 3]),
    ],
)
def test_points_fall_on_the_tokens_of_the_worked_example(
    points: str, count: int, expected: list[int]
) -> None:
    assert drawn(points, count) == expected


@pytest.mark.parametrize("points", ["inner", "paper", "sorted"])
def test_a_token_of_no_share_is_never_drawn(points: str) -> None:
    shares = torch.tensor([[0.0, 0.0, 0.9, 0.0, 0.1, 0.0]])
    assert set(drawn(points, 6, shares)) <= {2, 4}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("points", ["inner", "paper", "sorted"])
def test_the_only_live_token_is_drawn(points: str, count: int) -> None:
    assert drawn(points, count, torch.tensor([[0.0, 0.0, 1.0]])) == [2]


def signals_of(attention: Tensor, values: Tensor) -> Signals:
    """Of one image: attention by head (N, H), values (N, C)."""
    return Signals(cls_heads=attention[None], values=values[None])


def test_scores_are_attention_times_length_of_the_value() -> None:
    tokens = Tokens(torch.zeros(1, 4, 4), torch.arange(3)[None], (1, 3), 1)
    attention = torch.tensor([[0.1, 0.3], [0.2, 0.1], [0.4, 0.1]])
    values = torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 2], [1, 0, 0, 1]])
    signals = signals_of(attention, values)
    each = torch.tensor([0.1 * 5, 0.1 * 2, 0.4 * 1 + 0.1 * 1])
    torch.testing.assert_close(ATS(4).score(tokens, signals)[0], each / each.sum())
    joint = torch.tensor([0.4 * 5, 0.3 * 2, 0.5 * 2**0.5])
    score = ATS(4, heads="joint").score(tokens, signals)[0]
    torch.testing.assert_close(score, joint / joint.sum())


def test_ats_keeps_fewer_tokens_where_one_has_all_attention() -> None:
    tokens = Tokens(torch.randn(2, 9, 4), torch.arange(8).expand(2, -1), (2, 4), 1)
    sharp = torch.tensor([0.93] + [0.01] * 7)
    attention = torch.stack([sharp, torch.full((8,), 0.125)]).unsqueeze(2)
    signals = Signals(cls_heads=attention, values=torch.ones(2, 8, 4))
    kept, dropped, _ = ATS(4)(tokens, 4, signals)
    assert kept.policy.sum(1).tolist() == [1, 4]
    assert kept.index[0][kept.policy[0]].tolist() == [0]
    everyone = torch.cat([kept.index, dropped.index], dim=1).sort(1).values
    assert torch.equal(everyone, tokens.index), "dead places hold tokens that fusion brings back"


def test_a_fixed_number_of_points_is_drawn_in_every_step() -> None:
    """The points of the worked example, .0526 and 1 and three between them."""
    tokens = Tokens(torch.randn(1, 6, 4), torch.arange(5)[None], (1, 5), 1)
    signals = Signals(cls_heads=SHARES.unsqueeze(2), values=torch.ones(1, 5, 4))
    method = ATS(4, points="sorted", num_points=5)
    # Ascending: .0526, .2895, .5263, .7632, 1 are nearest to tokens 2, 4, 3, 3 and 1.
    for num_keep in (5, 9):
        kept, dropped, _ = method(tokens, num_keep, signals)
        assert kept.index.tolist() == [[0, 1, 2, 3, 4]]
        assert kept.policy.tolist() == [[False, True, True, True, True]]
        assert dropped.index.shape == (1, 0)
    kept = method(tokens, 3, signals).kept  # four are drawn
    assert kept.index.tolist() == [[1, 3, 4]]
    assert bool(kept.policy.all())
    with pytest.raises(ValueError, match="num_points >= 1 or None, got 0"):
        ATS(4, num_points=0)


@torch.no_grad()
@pytest.mark.parametrize(("signal", "second"), [("cls_row", 9), ("column_mean", 20)])
def test_an_image_is_encoded_as_if_dead_tokens_were_not_there(signal: str, second: int) -> None:
    """The reference drops dead tokens for real, which only one image alone allows."""
    reducer = dict(type="cropr_mm.ATS", signal=signal)
    model = encoder("ATS", {0: 40, 2: second}, out_type="avg_featmap", reducer=reducer).eval()
    for block in (0, 2):  # tell heads apart: random attention is too even to drop a token
        model.blocks[block].attn.qkv.weight.mul_(15)
    images = torch.randn(2, 3, 48, 64)
    steps: list[Reduction] = []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _m, _a, result: steps.append(result))
    (together,) = model(images)
    counts = [step.kept.policy.sum(1).tolist() for step in steps]
    assert max(counts[0]) < 40, "some places are dead"
    assert max(counts[1]) < second < min(counts[0]), "and more later"

    def only_live(_module: Any, _args: Any, result: Reduction) -> Reduction:
        kept = result.kept
        live = kept.policy[0].nonzero().flatten()
        x = torch.cat([kept.x[:, :1], kept.x[:, 1:][:, live]], dim=1)
        return Reduction(Tokens(x, kept.index[:, live], kept.grid, 1), result.dropped)

    for reducer in model.reducers.values():
        reducer.register_forward_hook(only_live)
    for image in range(2):
        (alone,) = model(images[image : image + 1])
        torch.testing.assert_close(alone[0], together[image], atol=2e-5, rtol=0)


def test_masked_attention_of_the_worked_example() -> None:
    logits = torch.tensor([[1.0, 2, 3], [0, 0, 0], [2, 1, 0]])
    policy = torch.tensor([[1.0, 0.0, 1.0]])
    eye = torch.eye(3)[None, None]
    out = masked_attention(eye * 3**0.5, logits.t()[None, None], eye, policy, None)
    expected = torch.tensor([[0.119203, 0, 0.880797], [1 / 3] * 3, [0.880797, 0, 0.119203]])
    torch.testing.assert_close(out[0, 0], expected, atol=1e-6, rtol=0)
    # What the epsilon of 1e-6 leaves to a dead token, a third of it here.
    assert out[0, 0, 0, 1].item() == pytest.approx(1e-6 / 3 / (1 + math.exp(-2)), rel=1e-3)


@pytest.mark.skipif(torch.__version__.startswith("2.1."), reason="no float16 on its CPU")
def test_large_products_fit_half_precision() -> None:
    q = torch.full((1, 1, 2, 64), 60.0, dtype=torch.float16)  # 60 * 60 * 64 is above its 65504
    torch.testing.assert_close(attention_rows(q, q, None), torch.full((1, 1, 2, 2), 0.5))
    live = masked_attention(q, q, q, torch.ones(1, 2), None)
    torch.testing.assert_close(live, q, rtol=1e-2, atol=0)


def test_masked_attention_has_a_gradient_where_a_token_is_masked() -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    policy = torch.tensor([[1.0, 0, 1, 0, 1]]).requires_grad_()
    masked_attention(q, k, v, policy, None).pow(2).sum().backward()
    assert bool((policy.grad.abs() > 1e-3).all())


@pytest.mark.parametrize("temperature", [1.0, 0.1, None])
def test_masked_squeezing_is_squeezing(temperature: float | None) -> None:
    x = torch.randn(1, 7, 6)
    kept, leaving, gone = [0, 3, 4], [1, 6], [2, 5]
    decision = torch.zeros(1, 7)
    decision[:, kept] = 1
    masked = torch.zeros(1, 7)
    masked[:, leaving] = 1
    result = squeeze_masked(x, decision, masked, temperature)
    torch.testing.assert_close(result[:, kept], squeeze(x[:, kept], x[:, leaving], temperature))
    assert torch.equal(result[:, leaving + gone], x[:, leaving + gone])


def test_decisions_are_those_of_two_gumbel_variables() -> None:
    """Their share is the probability, and the gradient that of the relaxed decision."""
    odds = torch.tensor([[-1.5, 0.0, 2.0]]).requires_grad_()
    noise = torch.rand(4000, 3)
    decision = DynamicViT.decide(odds.expand(4000, -1), noise)
    assert set(decision.unique().tolist()) == {0.0, 1.0}
    share = decision.mean(0)
    torch.testing.assert_close(share, odds.detach().sigmoid()[0], atol=0.03, rtol=0)
    share.sum().backward()
    soft = (odds.detach() + noise.logit()).sigmoid()
    torch.testing.assert_close(odds.grad[0], (soft * (1 - soft)).mean(0))


@pytest.mark.parametrize(
    ("width", "count"), [(192, 60_722), (384, 241_250), (768, 961_730), (1024, 1_708_290)]
)
def test_predictors_are_as_large_as_published(width: int, count: int) -> None:
    predictor = DynamicViT(width)
    assert sum(parameter.numel() for parameter in predictor.parameters()) == count


def test_the_predictor_sees_the_mean_of_live_tokens_only() -> None:
    predictor = DynamicViT(8).predictor
    x = torch.randn(1, 6, 8)
    policy = torch.tensor([[1.0, 0, 1, 0, 0, 1]])
    live = policy[0] > 0
    torch.testing.assert_close(predictor(x, policy)[:, live], predictor(x[:, live], None))


def test_padding_is_masked_first() -> None:
    reducer = DynamicViT(8).train()
    reducer.listen(lambda _: None)
    tokens = Tokens(torch.randn(2, 6, 8), torch.arange(6).expand(2, -1), (2, 3))
    padding = torch.tensor([[False] * 6, [False, True] * 3])
    signals = Signals(noise=torch.full((2, 6), 0.999999), padding=padding)
    assert torch.equal(reducer(tokens, 4, signals).kept.policy > 0, ~padding)


def sharpened(model: CroprViT, image: Tensor) -> CroprViT:
    """Make each step drop about one half of what is live, for certain: noise no longer matters."""
    for reducer in model.train().reducers.values():
        reducer.predictor.fc3.weight.mul_(1e5)
        reducer.listen(lambda _: None)
    for reducer in model.reducers.values():
        seen: list[Tokens] = []
        handle = reducer.register_forward_pre_hook(lambda _m, args, seen=seen: seen.append(args[0]))
        model(image)
        handle.remove()
        odds = reducer.log_odds(seen[0])
        live = torch.ones_like(odds) if seen[0].policy is None else seen[0].policy
        reducer.predictor.fc3.bias[1] += odds[live > 0].quantile(0.49)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    "fusion",
    [
        None,
        LLF,
        dict(type="cropr_mm.TokenConcat"),
        dict(type="cropr_mm.CrossAttentionFusion"),
        dict(type="cropr_mm.CrossAttentionFusion", concat=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
def test_masking_in_training_is_dropping_in_evaluation(name: str, fusion: dict | None) -> None:
    image = torch.randn(1, 3, 48, 64)
    training = sharpened(encoder(name, {0: 30, 2: 20}, fusion=fusion), image)
    counts: list[int] = []
    for reducer in training.reducers.values():
        reducer.register_forward_hook(
            lambda _m, _a, result: counts.append(int(result.kept.policy.sum()))
        )
    (expected,) = training(image)
    assert 48 > counts[0] > counts[1] > 0
    evaluation = encoder(name, dict(zip(STEPS, counts, strict=True)), fusion=fusion).eval()
    evaluation.load_state_dict(training.state_dict())
    assert evaluation.tokens_per_block()[1] == counts[0] + 1
    (features,) = evaluation(image)
    torch.testing.assert_close(features, expected, atol=2e-5, rtol=0)


@torch.no_grad()
def test_means_of_masked_tokens_are_those_of_kept_ones() -> None:
    image = torch.randn(1, 3, 48, 64)
    options = dict(out_type="avg_featmap", fusion=None)
    training = sharpened(encoder("DynamicViT", {0: 30}, **options), image)
    steps: list[Reduction] = []
    training.reducers["0"].register_forward_hook(lambda _m, _a, result: steps.append(result))
    (expected,) = training(image)
    evaluation = encoder("DynamicViT", {0: int(steps[0].kept.policy.sum())}, **options).eval()
    evaluation.load_state_dict(training.state_dict())
    torch.testing.assert_close(evaluation(image)[0], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["DynamicViT", "DTPS"])
@pytest.mark.parametrize("with_cp", [False, True])
def test_the_loss_of_the_model_reaches_every_predictor(name: str, with_cp: bool) -> None:
    model = encoder(name, {0: 30, 2: 20}, fusion=LLF, with_cp=with_cp).train()
    for reducer in model.reducers.values():
        reducer.listen(lambda _: None)
    model(torch.randn(2, 3, 48, 64))[0].pow(2).sum().backward()
    for parameter in model.reducers.parameters():
        assert bool(parameter.grad.abs().sum() > 0)


def test_predictors_learn_while_the_blocks_are_frozen() -> None:
    model = encoder("DynamicViT", {0: 30, 2: 20}, frozen_stages=5).train()
    for reducer in model.reducers.values():
        reducer.listen(lambda _: None)
    model(torch.randn(2, 3, 48, 64))[0].pow(2).sum().backward()
    assert all(parameter.grad is None for parameter in model.blocks.parameters())
    assert all(bool(p.grad.abs().sum() > 0) for p in model.reducers.parameters())


@pytest.mark.parametrize("kind", [DynamicViT, DTPS])
def test_training_without_a_listener_is_refused(kind: type) -> None:
    tokens = Tokens(torch.randn(1, 6, 8), torch.arange(6)[None], (2, 3))
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        kind(8).train()(tokens, 3, Signals(noise=torch.rand(1, 6)))


def test_a_width_that_the_predictor_cannot_divide_is_named() -> None:
    with pytest.raises(ValueError, match="multiple of 4, got 30"):
        DynamicViT(30)


@pytest.mark.parametrize(
    ("name", "message"), [("ATS", "class token"), ("DynamicViT", "expected window_size=None")]
)
def test_masks_need_global_attention(name: str, message: str) -> None:
    windows = dict(with_cls_token=False, window_size=2, global_block_indexes=(1,))
    with pytest.raises(ValueError, match=message):
        encoder(name, {0: 20}, **windows)
