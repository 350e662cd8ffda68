"""Queries among the tokens of the last blocks: what they see, what they predict, when they may."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import EarlyStoppingHook
from torch import Tensor, nn

from cropr_mm import CroprViT, prune
from cropr_mm.checkpoints import load_backbone
from cropr_mm.engine.preflight import SetupError, check_hooks, check_mask_queries, check_matching
from cropr_mm.export.parts import EncoderPart
from cropr_mm.hooks.mask_annealing_hook import MaskAnnealingHook
from cropr_mm.optim.layer_decay import LayerDecayConstructor
from cropr_mm.registry import MODELS

QUERIES = dict(num_queries=5, num_blocks=3, num_classes=4)
PRUNED = dict(
    reducer=dict(type="cropr_mm.VariancePruner"),
    schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 20, 1: 8}),
    fusion=dict(type="cropr_mm.LastLayerFusion", num_blocks=3),
)


def encoder(rope: str | None = None, **options: Any) -> CroprViT:
    torch.manual_seed(0)
    defaults: dict[str, Any] = dict(
        arch=dict(embed_dim=32, depth=6, num_heads=2, num_registers=2, rope=rope),
        img_size=(48, 64),
        patch_size=8,
        mask_queries=QUERIES,
    )
    model = CroprViT(**defaults | options)
    with torch.no_grad():  # masks of either sign and features that attention moves
        for block in model.blocks:
            block.attn.qkv.weight.mul_(10)
    return model


def images() -> Tensor:
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))


def naive(model: CroprViT, x: Tensor, masked: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The last blocks with one mask of all pairs of tokens, after the released code."""
    queries, classes, masks = model.mask_queries, [], []
    x = torch.cat([queries.q.weight.expand(2, -1, -1), x], dim=1)

    def predict() -> Tensor:
        y = model.norm(x)
        grid = y[:, 8:].transpose(1, 2).reshape(2, 32, 6, 8)
        for layer in queries.upscale:
            grid = layer.norm(layer.conv2(F.gelu(layer.conv1(grid))))
        classes.append(queries.class_head(y[:, :5]))
        masks.append(torch.einsum("bqc,bchw->bqhw", queries.mask_head(y[:, :5]), grid))
        return masks[-1]

    for block in model.blocks[3:]:
        allowed = torch.ones(2, 1, 56, 56, dtype=torch.bool)
        if masked:
            allowed[:, 0, :5, 8:] = F.interpolate(predict(), (6, 8), mode="bilinear").flatten(2) > 0
        qkv = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, 16))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        x = x + block.attn.proj(y.transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    predict()
    return classes, masks


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_equals_a_naive_restatement(training: bool) -> None:
    model = encoder(arch=dict(embed_dim=32, depth=6, num_heads=2, num_registers=2)).train(training)
    entering: list[Tensor] = []
    model.blocks[2].register_forward_hook(lambda _m, _args, out: entering.append(out[0]))
    features, predictions = model(images())
    classes, masks = naive(model, entering[0], training)
    assert features.shape == (2, 32, 6, 8)
    assert len(classes) == (4 if training else 1)
    for mine, theirs in zip(predictions, (classes, masks), strict=True):
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)
    assert 0.1 < (masks[0] > 0).float().mean() < 0.9, "else the masks mask nothing"


@torch.no_grad()
def test_training_without_masks_is_inference() -> None:
    model = encoder().train()
    masked = model(images())[1].masks[-1]
    model.mask_queries.set_masked_shares((0.0, 0.0, 0.0))
    free = model(images())[1].masks[-1]
    assert torch.equal(free, model.eval()(images())[1].masks[-1])
    assert not torch.allclose(free, masked)


def test_a_share_of_the_queries_is_masked() -> None:
    queries = encoder(mask_queries={**QUERIES, "num_queries": 400}).mask_queries
    tokens = encoder()._embed(images(), (6, 8), encoder().positions.tables((6, 8), "cpu"))
    masks = -torch.ones(2, 400, 12, 16)  # nothing is inside
    for share in (1.0, 0.25):
        queries.set_masked_shares((0.0, share, 1.0))
        visible = queries.visible(masks, queries.join(tokens), step=1)
        assert visible.shape == (2, 400, 400 + 3 + 48)
        assert visible[..., :403].all(), "queries and prefix"
        whole, none = (f(visible[..., 403:], dim=-1) for f in (torch.all, torch.any))
        assert torch.equal(whole, none), "each query sees all patches or those of its mask"
        assert (~whole).float().mean() == pytest.approx(share, abs=0.05)
    assert queries.visible(masks, queries.join(tokens), step=0) is None


def test_annealing_compiles_once_for_all_shares() -> None:
    model = encoder().train()
    graphs: list[object] = []

    def count(graph: torch.fx.GraphModule, example: object) -> object:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=count)
    compiled(images())
    first = len(graphs)
    for share in (0.75, 0.5, 0.25):
        model.mask_queries.set_masked_shares((share, 1.0, 1.0))
        compiled(images())
    assert len(graphs) == first > 0


@pytest.mark.slow
def test_a_training_pass_compiles_to_code_of_the_cpu() -> None:
    model = encoder().train()
    torch._dynamo.reset()
    _, predictions = torch.compile(model)(images())
    sum(mask.square().mean() for mask in predictions.masks).backward()
    assert model.mask_queries.q.weight.grad.isfinite().all()


@torch.no_grad()
def test_queries_have_no_position() -> None:
    model = encoder(rope="eva").eval()
    masks = model(images())[1].masks[0]
    order = torch.tensor([3, 1, 4, 0, 2])
    model.mask_queries.q.weight.copy_(model.mask_queries.q.weight[order])
    torch.testing.assert_close(model(images())[1].masks[0], masks[:, order])
    tables = model.positions.tables((6, 8), torch.device("cpu"))
    joined = model.mask_queries.join(model._embed(images(), (6, 8), tables))
    rope = model.positions.geometry(joined, tables, windowed=False).rope
    assert rope.cos.shape[1] == 5 + 3 + 48
    assert not rope.sin[:, :8].any(), "queries and prefix are not rotated"
    assert rope.sin[:, 8:].any()


@torch.no_grad()
@pytest.mark.parametrize("method", ["VariancePruner", "ATS", "EViT"])
@pytest.mark.parametrize("training", [True, False])
def test_all_tokens_are_back_before_the_queries_enter(method: str, training: bool) -> None:
    model = encoder(**{**PRUNED, "reducer": dict(type=f"cropr_mm.{method}")}).train(training)
    lengths: list[int] = []
    for block in model.blocks:
        block.attn.register_forward_pre_hook(lambda _m, args: lengths.append(args[0].shape[1]))
    joined: list = []
    join = model.mask_queries.join
    model.mask_queries.join = lambda tokens: joined.append(tokens) or join(tokens)  # type: ignore
    _, predictions = model(images())
    (tokens,) = joined
    assert torch.equal(tokens.index, torch.arange(48).expand(2, -1))
    assert lengths[3:] == [56, 56, 56]
    assert predictions.masks[-1].shape == (2, 5, 12, 16)
    if method == "VariancePruner":
        assert lengths == model.tokens_per_block() == [51, 23, 11, 56, 56, 56]


def test_a_schedule_leaves_the_blocks_of_the_queries_alone() -> None:
    options = {**PRUNED, "schedule": dict(type="cropr_mm.ConstantRate", rate=20)}
    assert encoder(**options).num_keep() == {0: 25, 1: 5}
    longer = {**PRUNED, "schedule": dict(type="cropr_mm.ExplicitTokens", num_keep={2: 8})}
    with pytest.raises(ValueError, match=r"expected blocks in \[0, 1\]"):
        encoder(**longer)


def test_a_dense_config_is_pruned_before_the_queries_enter() -> None:
    dense = dict(
        type="cropr_mm.CroprViT", arch=dict(embed_dim=32, depth=6, num_heads=2), patch_size=8
    )
    cfg = prune({**dense, "img_size": 64, "mask_queries": QUERIES}, 0.75, num_classes=4)
    assert cfg["fusion"] == dict(type="cropr_mm.LastLayerFusion", num_blocks=3)
    assert list(MODELS.build(cfg).num_keep()) == [0, 1]
    assert prune({**dense, "img_size": 64}, 0.75, num_classes=4)["schedule"]["blocks"] == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**PRUNED, "fusion": None}, "brings them back for 0"),
        ({**PRUNED, "fusion": dict(type="cropr_mm.TokenConcat")}, "brings them back for 0"),
        ({**PRUNED, "fusion": dict(type="cropr_mm.LastLayerFusion")}, "num_blocks=3.*back for 1"),
        (dict(window_size=2), "expected window_size=None .* got windows"),
        (dict(out_type="raw"), "expected out_type='featmap', got 'raw'"),
        (dict(mask_queries={**QUERIES, "num_blocks": 7}), "at most 6, the depth, got 7"),
        (dict(mask_queries={**QUERIES, "num_queries": 0}), "at least 1, got .*'num_queries': 0"),
    ],
)
def test_encoders_that_queries_cannot_work_in_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_a_dense_checkpoint_fills_all_blocks() -> None:
    dense, model = encoder(mask_queries=None), encoder()
    for parameter in dense.parameters():
        nn.init.normal_(parameter)
    before = model.mask_queries.q.weight.clone()
    load_backbone(model, dense.state_dict())
    assert torch.equal(model.mask_queries.q.weight, before)
    for name, value in dense.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_blocks_of_the_queries_keep_their_rate_and_queries_have_the_full_one() -> None:
    model = nn.ModuleDict(dict(backbone=encoder()))
    optimizer = dict(type="AdamW", lr=1.0)
    constructor = LayerDecayConstructor(dict(optimizer=optimizer), dict(decay_rate=0.5))
    groups: list[dict[str, Any]] = []
    constructor.add_params(groups, model)
    rates = {name: group["lr_scale"] for group in groups for name in group["param_names"]}
    assert rates["backbone.blocks.5.mlp.fc1.weight"] == 0.5
    assert rates["backbone.blocks.3.mlp.fc1.weight"] == 0.125
    assert {rate for name, rate in rates.items() if "mask_queries" in name} == {1.0}


@pytest.mark.parametrize(
    ("total", "starts", "ends"),
    [
        # configs/dinov2/coco/panoptic: eomt_small_640, eomt_large_640 and eomt_giant_640
        (88692, [14782, 36955, 59128], [29564, 51737, 73910]),
        (88692, [14782, 29564, 44346, 59128], [29564, 44346, 59128, 73910]),
        (88692, [14782, 25869, 36955, 48042, 59128], [29564, 40651, 51737, 62824, 73910]),
    ],
)
def test_masks_go_at_the_published_steps(total: int, starts: list[int], ends: list[int]) -> None:
    hook, count = MaskAnnealingHook(), len(starts)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        at = {step: hook.shares(step / total, count)[i] for step in (0, start, end, total)}
        assert [at[0], at[start], at[end], at[total]] == pytest.approx([1, 1, 0, 0], abs=2e-4)
        middle = hook.shares((start + end) / 2 / total, count)[i]
        assert middle == pytest.approx(0.5**0.9, abs=1e-3)


@pytest.mark.parametrize("options", [dict(begin=-0.1), dict(end=1.1), dict(begin=0.5, length=0.5)])
def test_shares_that_are_none_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expects 0 <= begin < begin"):
        MaskAnnealingHook(**options)


@pytest.mark.parametrize("power", [0.0, -1.0])
def test_a_power_that_leaves_masks_is_refused(power: float) -> None:
    with pytest.raises(ValueError, match=rf"expects power > 0, .* got {power:g}"):
        MaskAnnealingHook(power=power)


def head(**options: Any) -> nn.Module:
    loss = dict(type="mmdet.CrossEntropyLoss", class_weight=[1.0] * 5)
    defaults: dict[str, Any] = dict(num_classes=4, num_queries=5)
    defaults |= dict(loss_cls=loss, loss_mask=loss, loss_dice=dict(type="mmdet.DiceLoss"))
    return MODELS.build(dict(type="cropr_mm.SegMaskQueryHead", **defaults | options))


def model_of(backbone: nn.Module, decode_head: nn.Module | None, **parts: nn.Module) -> nn.Module:
    model = nn.Module()
    model.backbone, model.decode_head = backbone, decode_head
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def test_queries_and_their_reader_go_together() -> None:
    check_mask_queries(model_of(encoder(), head()))
    check_mask_queries(model_of(encoder(mask_queries=None), nn.Identity()))
    refused = {
        "reads mask queries: .* got none": model_of(encoder(mask_queries=None), head()),
        "expected SegMaskQueryHead .* got none": model_of(encoder(), nn.Identity()),
        "got a neck between": model_of(encoder(), head(), neck=nn.Identity()),
        "num_queries=5, .* got num_queries=6": model_of(encoder(), head(num_queries=6)),
        "num_classes=4, .* got num_classes=3": model_of(encoder(), head(num_classes=3)),
    }
    for message, model in refused.items():
        with pytest.raises(SetupError, match=message):
            check_mask_queries(model)


def test_a_head_that_trains_matches_masks_with_objects() -> None:
    check_matching(model_of(encoder(), nn.Identity()))
    with pytest.raises(SetupError, match=r"decode_head matches masks .* got None"):
        check_matching(model_of(encoder(), head()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(loss_cls=dict(type="mmdet.CrossEntropyLoss")), "got class_weight=None"),
        (dict(loss_cls=dict(type="mmdet.CrossEntropyLoss", class_weight=1.0)), "class_weight=1.0"),
        (
            dict(
                loss_cls=dict(
                    type="mmdet.CrossEntropyLoss", class_weight=[1.0] * 5, use_sigmoid=True
                )
            ),
            "got .* use_sigmoid=True",
        ),
        (dict(train_cfg=dict(num_points=9)), "got none of assigner, sampler, oversample_ratio"),
    ],
)
def test_settings_that_the_losses_cannot_read_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(**options)


@torch.no_grad()
def test_a_sliding_window_has_its_own_size() -> None:
    predictions = encoder().eval()(images())
    metas = [dict(img_shape=(48, 64), pad_shape=(96, 96))] * 2
    for mode, size in (("slide", (48, 64)), ("whole", (96, 96))):
        assert head().predict(predictions, metas, dict(mode=mode)).shape == (2, 4, *size)


def test_masks_that_are_never_taken_away_are_refused() -> None:
    model, hook = model_of(encoder(), head()), MaskAnnealingHook()
    check_hooks(model, [hook])
    unmasked = encoder(mask_queries={**QUERIES, "masked_attention": False})
    check_hooks(model_of(unmasked, head()), [])
    with pytest.raises(SetupError, match=r"in custom_hooks, .* got neither"):
        check_hooks(model, [])
    with pytest.raises(SetupError, match="expected no EarlyStoppingHook beside it"):
        check_hooks(model, [hook, EarlyStoppingHook(monitor="mIoU")])
    with pytest.raises(SetupError, match="of masked_attention=True, got Module without"):
        check_hooks(model_of(unmasked, head()), [hook])


@torch.no_grad()
def test_an_exported_encoder_says_classes_and_masks_behind_its_map() -> None:
    outputs = EncoderPart(encoder().eval())(images())
    assert [tuple(x.shape) for x in outputs] == [(2, 32, 6, 8), (2, 5, 5), (2, 5, 12, 16)]


@pytest.mark.parametrize("length", [None, float("inf"), 0])
def test_a_training_of_unknown_length_is_refused(length: Any) -> None:
    class Endless:
        model, hooks, max_iters = encoder(), (), length

    with pytest.raises(ValueError, match="expected a train loop of a number of iterations, got"):
        MaskAnnealingHook().before_train(Endless())  # type: ignore[arg-type]
