"""Tokens that leave the encoder with their logits."""

from typing import Any

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.reducers import DToP
from cropr_mm.structures import Reduction, Signals, Tokens
from cropr_mm.tokens.gather import take_tokens

STEPS = {0: 30, 2: 12}
MASKS = dict(head="mask", mask_dim=16)
CONFIDENCE = torch.tensor([[0.9, 0.8, 0.95, 0.7, 0.85, 0.99]])
LABEL = torch.tensor([[0, 0, 0, 0, 1, 0]])


def encoder(schedule: dict | None = None, reducer: dict | None = None, **options: Any) -> CroprViT:
    torch.manual_seed(0)
    return CroprViT(
        arch=dict(embed_dim=32, depth=5, num_heads=2, rope="eva"),
        img_size=(48, 64),
        patch_size=8,
        schedule=schedule or dict(type="cropr_mm.ExplicitTokens", num_keep=STEPS),
        reducer=reducer or dict(type="cropr_mm.DToP", num_classes=4, **options),
    ).eval()


def spread(reducer: DToP) -> None:
    """Make probabilities of tokens differ more."""
    if reducer.by_masks:
        reducer.masks.presence.bias.data.fill_(2.0)
        reducer.masks.layers[-1].q.weight.data.mul_(30)
    else:
        reducer.head.weight.data.mul_(6)


def record(model: CroprViT) -> list[Reduction]:
    steps: list[Reduction] = []
    for reducer in model.reducers.values():
        reducer.register_forward_hook(lambda _m, _a, result: steps.append(result))
    return steps


@torch.no_grad()
def test_the_most_confident_tokens_leave_with_the_logits_of_their_step() -> None:
    model = encoder()
    steps, seen = record(model), []
    for reducer in model.reducers.values():
        reducer.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    features, exits = model(torch.randn(2, 3, 48, 64))
    assert features.shape == (2, 32, 6, 8)
    assert exits.shape == (2, 5, 6, 8)
    assert exits[:, -1].sum((1, 2)).tolist() == [36, 36]
    for reducer, tokens, step in zip(model.reducers.values(), seen, steps, strict=True):
        logits = reducer.logits(tokens)
        confidence = logits.softmax(2).amax(2)
        left = (tokens.index.unsqueeze(2) == step.dropped.index.unsqueeze(1)).any(2)
        for image in range(2):
            assert confidence[image, left[image]].min() > confidence[image, ~left[image]].max()
            cells = tokens.index[image, left[image]]
            where = exits[image].flatten(1)[:, cells]
            assert torch.equal(where[:4].t(), logits[image, left[image]])
            assert bool((where[4] == 1).all())
    survivors = steps[-1].kept.index
    assert exits.flatten(2).gather(2, survivors.unsqueeze(1).expand(-1, 5, -1)).abs().sum() == 0


def test_exits_pass_the_gradient_to_encoder_and_classifier() -> None:
    model = encoder()
    exits = model(torch.randn(1, 3, 48, 64))[1]
    exits[:, :-1].pow(2).sum().backward()
    assert model.blocks[2].mlp.fc1.weight.grad.abs().sum() > 0
    for reducer in model.reducers.values():
        assert reducer.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("context", "expected"),
    [(1, [0, 2]), (2, [0]), (3, []), (5, [])],
)
def test_the_surest_of_each_class_stay_as_context(context: int, expected: list[int]) -> None:
    reducer = DToP(8, num_classes=2, confidence=0.84, context=context)
    alive = torch.ones_like(CONFIDENCE, dtype=torch.bool)
    exiting = reducer.exiting(CONFIDENCE, LABEL, alive)
    assert exiting[0].nonzero().flatten().tolist() == expected


def test_equally_sure_tokens_stay_by_place_and_the_gone_do_not_count() -> None:
    reducer = DToP(8, num_classes=2, confidence=0.5, context=1)
    confidence, label = torch.full((1, 4), 0.9), torch.zeros(1, 4, dtype=torch.int64)
    alive = torch.tensor([[False, True, True, True]])
    assert reducer.exiting(confidence, label, alive)[0].tolist() == [False, False, True, True]


@torch.no_grad()
def test_confident_tokens_are_dead_at_once_and_keep_their_logits() -> None:
    model = encoder(confidence=0.27, context=2)
    for reducer in model.reducers.values():
        reducer.head.weight.mul_(6)  # some tokens above, some below
    steps = record(model)
    _, exits = model(torch.randn(2, 3, 48, 64))
    first, second = steps
    dead = ~first.kept.policy
    assert 0 < dead.sum() < dead.numel()
    assert torch.equal(first.kept.exit[..., -1] > 0, dead)
    for image in range(2):
        cells = first.kept.index[image, dead[image]]
        expected = first.kept.exit[image, dead[image]].t()
        assert torch.equal(exits[image].flatten(1)[:, cells], expected), "final where it exited"
    alive = second.kept.policy.sum(1)
    assert torch.equal(exits[:, -1].sum((1, 2)), 48 - alive)


@torch.no_grad()
def test_nobody_sees_a_token_that_exited() -> None:
    model = encoder(confidence=0.27, context=2)
    model.reducers["0"].head.weight.mul_(6)
    steps = record(model)
    image = torch.randn(1, 3, 48, 64)
    features, _ = model(image)
    kept = steps[0].kept
    gone = kept.index[0][~kept.policy[0]]
    assert len(gone)

    def disturb(_module: Any, _args: Any, result: Reduction) -> Reduction:
        kept = result.kept
        noise = 9 * (~kept.policy).unsqueeze(2)
        x = torch.cat([kept.x[:, :1], kept.x[:, 1:] + noise], dim=1)
        return result._replace(kept=kept._replace(x=x))

    model.reducers["0"].register_forward_hook(disturb)
    again, _ = model(image)
    same = (again == features).all(1).flatten()
    alive = torch.ones(48, dtype=torch.bool)
    alive[gone] = False
    assert bool(same[alive].all())
    assert not bool(same[gone].any())


STAGES = dict(type="cropr_mm.KeepRatios", ratio=1.0, blocks=[0, 2])


def most_confident(logits: Tensor, by_masks: bool) -> tuple[float, int]:
    """Largest probability of one token's logits (K,) and its class."""
    value, label = (logits.exp() if by_masks else logits.softmax(0)).max(0)
    return value.item(), label.item()


def leaving(logits: Tensor, confidence: float, context: int, by_masks: bool) -> list[int]:
    """Positions of (N, K) that exit, class by class."""
    known = [most_confident(token, by_masks) for token in logits]
    gone = []
    for label in range(logits.shape[1]):
        mine = [i for i, (value, c) in enumerate(known) if c == label and value > confidence]
        gone += sorted(mine, key=lambda i: -known[i][0])[context:]
    return gone


def removing(model: CroprViT, image: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """One image whose exited tokens are really taken away: canvas (K, N), features, cells left."""
    grid = model.grid
    tables = model.positions.tables(grid, image.device)
    tokens = model._embed(image[None], grid, tables)
    canvas = torch.zeros(4, grid[0] * grid[1])
    for i, block in enumerate(model.blocks):
        tokens = Tokens(
            block(tokens.x, model.positions.geometry(tokens, tables, False))[0],
            tokens.index,
            grid,
            tokens.num_prefix,
        )
        if str(i) not in model.reducers:
            continue
        reducer = model.reducers[str(i)]
        logits = reducer.logits(tokens)[0]
        canvas[:, tokens.index[0]] = logits.t()
        gone = leaving(logits, reducer.confidence, reducer.context, reducer.by_masks)
        stay = torch.tensor([n for n in range(len(logits)) if n not in gone])
        tokens = take_tokens(tokens, stay[None], with_prefix=True)
    return canvas, model.norm(tokens.patches)[0], tokens.index[0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("options", [dict(confidence=0.27), dict(MASKS, confidence=0.3)], ids=str)
def test_stages_without_counts_are_as_if_exited_tokens_were_removed(options: dict) -> None:
    model = encoder(schedule=STAGES, context=2, **options)
    for reducer in model.reducers.values():  # some tokens above, some below
        spread(reducer)
    images = torch.randn(3, 3, 48, 64)
    steps = record(model)
    features, exits = model(images)
    final = torch.nn.Linear(32, 4)
    predicted = torch.where(
        exits[:, -1:] > 0, exits[:, :-1], final(features.movedim(1, -1)).movedim(-1, 1)
    )
    numbers = []
    for i, image in enumerate(images):
        canvas, expected, left = removing(model, image)
        numbers.append(len(left))
        assert 2 <= len(left) < 48
        assert exits[i, -1].flatten().nonzero().flatten().tolist() == sorted({*range(48)} - {*left})
        torch.testing.assert_close(features[i].flatten(1)[:, left].t(), expected)
        canvas[:, left] = final(expected).t()  # the last head completes it
        torch.testing.assert_close(predicted[i].flatten(1), canvas)
    assert len(set(numbers)) > 1, "images differ"
    for step in steps:
        assert step.kept.x.shape[1] == 49, "masked, not removed"
        assert step.dropped.x.shape[1] == 0


def test_stages_train_their_heads_and_the_encoder() -> None:
    model = encoder(schedule=STAGES, confidence=0.27, context=1).train()
    seen: list[tuple] = []
    for reducer in model.reducers.values():
        reducer.head.weight.data.mul_(6)
        reducer.listen(seen.append)
    exits = model(torch.randn(2, 3, 48, 64))[1]
    assert [logits.shape for logits, *_ in seen] == [(2, 48, 4)] * 2
    assert bool((seen[0][1] >= 0).all())
    assert 0 < (seen[1][1] < 0).sum() < 96, "tokens that exited learn nothing more"
    exits[:, :-1].pow(2).sum().backward()
    assert model.blocks[0].mlp.fc1.weight.grad.abs().sum() > 0


NAMES = ["RandomPruner", "VariancePruner", "RadialPruner", "AttnTopK", "KMedoids"]
RANKS = [dict(type=f"cropr_mm.{name}") for name in NAMES]


@torch.no_grad()
@pytest.mark.parametrize("rank", [*RANKS, dict(type="cropr_mm.AttnTopK", site="between")], ids=str)
def test_tokens_that_another_method_drops_exit_with_their_logits(rank: dict) -> None:
    torch.manual_seed(1)
    images = torch.randn(2, 3, 48, 64)
    alone, exiting = encoder(reducer=rank), encoder(rank=rank)
    sites = [[step.site for step in model.reducers.values()] for model in (alone, exiting)]
    assert sites[0] == sites[1]
    dropped = []
    for model in (alone, exiting):
        steps = record(model)
        torch.manual_seed(2)  # of random numbers
        outputs = model(images)
        dropped.append([step.dropped.index for step in steps])
    for one, other in zip(*dropped, strict=True):
        assert torch.equal(one, other)
    exits = outputs[1]
    gone = torch.cat(dropped[1], dim=1)
    assert torch.equal(exits[:, -1].flatten(1).nonzero()[:, 1].view(2, 36), gone.sort(1).values)


@torch.no_grad()
def test_confident_tokens_are_dropped_before_those_of_another_rank() -> None:
    rank = dict(type="cropr_mm.RadialPruner")
    reducer = DToP(8, num_classes=2, confidence=0.84, context=1, rank=rank)
    tokens = Tokens(torch.randn(1, 6, 8), torch.arange(6)[None], (1, 6))
    reducer.examine = lambda _: (torch.zeros(1, 6, 3), CONFIDENCE, LABEL)
    kept = reducer(tokens, 3, Signals()).kept  # 0 and 2 exit; of the rest 5 is the outermost
    assert kept.index.tolist() == [[1, 3, 4]]
    assert kept.policy.all()


@pytest.mark.parametrize("name", ["Cropr", "NonSalient", "DynamicViT", "EViT", "ToMe", "SimpleFPN"])
def test_a_rank_that_learns_or_merges_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"rank to be a pruner that learns nothing .*\.{name}:"):
        DToP(8, num_classes=2, rank=dict(type=f"cropr_mm.{name}"))


def test_training_without_a_listener_is_refused() -> None:
    tokens = Tokens(torch.randn(1, 6, 8), torch.arange(6)[None], (2, 3))
    with pytest.raises(RuntimeError, match="PatchLabelTarget"):
        DToP(8, num_classes=2).train()(tokens, 3, Signals())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_classes=0), "num_classes >= 1, got 0"),
        (dict(num_classes=2, confidence=1.0), r"\(0, 1\), got 1.0"),
        (dict(num_classes=2, context=0), "context >= 1, got 0"),
        (dict(num_classes=2, head="fcn"), "'linear' or 'mask', got 'fcn'"),
        (dict(num_classes=2, head="mask", mask_dim=100), "multiple of it, got 100"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DToP(8, **options)


def test_the_head_takes_exit_logits_where_there_are_any() -> None:
    pytest.importorskip("mmseg")
    init_default_scope("mmseg")
    from cropr_mm.heads.early_exit_head import EarlyExitHead

    options: dict[str, Any] = dict(
        in_channels=8, channels=8, num_classes=3, num_convs=0, kernel_size=1, concat_input=False
    )
    head = EarlyExitHead(**options, in_index=0, dropout_ratio=0.0)
    head.conv_seg.weight.data.normal_()
    features, exits = torch.randn(2, 8, 4, 4), torch.randn(2, 4, 4, 4)
    exits[:, -1] = (torch.rand(2, 4, 4) > 0.5).float()
    logits, plain = head((features, exits)), head.conv_seg(features)
    for image in range(2):
        left = exits[image, -1] > 0
        assert torch.equal(logits[image][:, left], exits[image, :-1][:, left])
        assert torch.equal(logits[image][:, ~left], plain[image][:, ~left])
    with pytest.raises(ValueError, match=r"exit logits of shape \(2, 4, 4, 4\) .* got \(2, 3"):
        head((features, exits[:, 1:]))
    with pytest.raises(ValueError, match=r"in_index to name the features, .* got -1 of 2"):
        EarlyExitHead(**options)((features, exits))
