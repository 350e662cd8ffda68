"""What every reduction method must do; a new one is tested as soon as it is registered.

B batch, P prefix tokens, N live patch tokens, K tokens left, C channels.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import cropr_mm.reducers  # noqa: F401 - registers the methods
from cropr_mm.reducers import (
    DToP,
    DynamicViT,
    KeepDecision,
    KMedoids,
    RadialPruner,
    ShortcutPruner,
    TokenMerger,
    TokenPruner,
    TokenRanker,
    TokenReducer,
)
from cropr_mm.registry import MODELS
from cropr_mm.structures import Reduction, Signals, Tokens

B, P, N, C = 3, 2, 13, 8
GRID = (3, 5)  # 15 cells: two tokens left before
COUNTS = [1, 6, 12]
HALF_ON_CPU = not torch.__version__.startswith("2.1.")


class NeighborMerger(TokenMerger):
    """Merge runs of neighbors; exists for these tests only."""

    def match(self, tokens: Tokens, num_keep: int, signals: Signals) -> Tensor:
        num_patches = tokens.index.shape[1]
        position = torch.arange(num_patches, device=tokens.index.device)
        slot = position * num_keep // num_patches
        return slot.expand_as(tokens.index)


class Case(NamedTuple):
    """A reducer with arguments beside the default ones."""

    cls: type[TokenReducer]
    kwargs: dict

    def build(self) -> TokenReducer:
        given: dict = dict(num_slots=6) if self.cls.fixed_slots else {}
        if self.cls is DToP:
            given["num_classes"] = 3
        reducer = self.cls(embed_dim=C, **given, **self.kwargs)
        if isinstance(reducer, ShortcutPruner):
            reducer.fit(torch.randn(C))
        return reducer

    def can_leave(self, num_keep: int) -> bool:
        try:
            self.build().check_count(N, P, num_keep)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        return "-".join([self.cls.__name__, *(f"{k}={v}" for k, v in self.kwargs.items())])


REGISTERED = [c for c in MODELS.module_dict.values() if issubclass(c, TokenReducer)]
# Options worth the whole contract; the default arguments are always tested.
OPTIONS: dict[str, list[dict]] = {
    "ATS": [
        dict(points="paper"),
        dict(heads="joint", points="sorted"),
        dict(points="sorted", num_points=6),
        dict(signal="column_mean"),
    ],
    "AttnTopK": [dict(signal="column_mean", site="between")],
    "DTPS": [dict(temperature=None)],
    "ETPS": [dict(signal="column_mean", temperature=0.5)],
    "EViT": [dict(signal="column_mean")],
    "DToP": [
        dict(confidence=0.4, context=1),
        dict(head="mask", mask_dim=16),
        dict(rank=dict(type="cropr_mm.RandomPruner")),
        dict(rank=dict(type="cropr_mm.KMedoids"), confidence=0.4, context=1),
    ],
    "DPCKNN": [dict(equal_weight=True)],
    "PatchMerger": [dict(scaled=True)],
    "KMedoids": [dict(compat=True), dict(equal_weight=True)],
    "VariancePruner": [dict(std=(58.4, 57.1, 57.4))],
    "RadialPruner": [dict(norm="l1"), dict(norm="linf", compat=True)],
    "Cropr": [
        dict(num_queries=4),
        dict(deploy=True),
        dict(scorer="mha", num_heads=2),
        dict(scorer="mha", num_heads=2, deploy=True),
        dict(selection="sampling"),
    ],
}
CASES = [
    Case(cls, kwargs)
    for cls in [*REGISTERED, NeighborMerger]
    for kwargs in [{}, *OPTIONS.get(cls.__name__, [])]
]
PRUNERS = [case for case in CASES if issubclass(case.cls, TokenPruner)]
MERGERS = [case for case in CASES if issubclass(case.cls, TokenMerger)]
# These rank by more than the value of a token or its signal.
BY_VALUE = [case for case in PRUNERS if case.cls not in (KMedoids, RadialPruner)]
# A token without a value says nothing about the score of the others.
BY_OWN_SCORE = [case for case in PRUNERS if case.cls not in (DynamicViT, RadialPruner)]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_pruner = pytest.mark.parametrize("case", PRUNERS, ids=str)
every_merger = pytest.mark.parametrize("case", MERGERS, ids=str)


def each_count(cases: list[Case]) -> pytest.MarkDecorator:
    """Cases with the counts that they can leave in one step."""
    pairs = [(c, k) for c in cases for k in COUNTS if c.can_leave(k)]
    return pytest.mark.parametrize(("case", "num_keep"), pairs, ids=str)


def make_tokens(dtype: torch.dtype = torch.float32) -> Tokens:
    """Tokens in no particular order, another one in each image."""
    index = torch.rand(B, GRID[0] * GRID[1]).argsort(1)[:, :N]
    return Tokens(torch.randn(B, P + N, C).to(dtype), index, GRID, P)


def make_signals(reducer: TokenReducer, tokens: Tokens, fill: float | None = None) -> Signals:
    """What the method asks for and nothing else: random, or one value."""
    width = dict(variance=3, keys=C // 2, values=C, cls_heads=2, column_heads=2)
    signals = {}
    for name in reducer.needs:
        shape = (*tokens.index.shape, width[name]) if name in width else tokens.index.shape
        signals[name] = torch.rand(shape) if fill is None else torch.full(shape, fill)
    return Signals(**signals)


def attach_listeners(reducer: TokenReducer) -> list[Tensor]:
    """List that receives the auxiliary output of each forward pass."""
    outputs: list[Tensor] = []
    if "auxiliary" in dict(reducer.named_children()):
        reducer.listen(lambda output: outputs.append(_first(output)))
    return outputs


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def positions(tokens: Tokens, part: Tokens) -> Tensor:
    """Position in ``tokens`` of each patch token of ``part``, shape (B, K)."""
    same = part.index.unsqueeze(2) == tokens.index.unsqueeze(1)  # (B, K, N)
    assert bool((same.sum(2) == 1).all())
    return same.int().argmax(2)


def assert_partition(tokens: Tokens, result: Reduction, num_keep: int) -> None:
    """Every token is in one part, once, in token order and with its own features."""
    kept, dropped = result.kept, result.dropped
    assert kept.x.shape == (B, P + num_keep, C)
    assert dropped.x.shape == (B, N - num_keep, C)
    for part in (kept, dropped):
        where = positions(tokens, part)
        assert bool((where.diff(dim=1) > 0).all()), "not in token order"
        expected = tokens.patches[torch.arange(B).unsqueeze(1), where]
        torch.testing.assert_close(part.patches, expected, rtol=0, atol=0, equal_nan=True)
        assert part.grid == GRID
    both = torch.cat([kept.index, dropped.index], dim=1)
    assert torch.equal(both.sort(1).values, tokens.index.sort(1).values)
    assert torch.equal(kept.prefix, tokens.prefix)
    assert (kept.num_prefix, dropped.num_prefix) == (P, 0)
    assert result.assignment is None


def test_the_registry_has_methods() -> None:
    assert {"Cropr", "NonSalient", "RandomPruner", "VariancePruner", "AttnTopK"} <= {
        cls.__name__ for cls in REGISTERED
    }


@every_case
def test_declarations_are_valid(case: Case) -> None:
    reducer = case.build()
    assert reducer.needs <= set(Signals._fields)
    assert reducer.site in ("before", "between", "after")


@each_count(CASES)
def test_leaves_the_exact_count_and_never_the_prefix(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    kept = reducer(tokens, num_keep, make_signals(reducer, tokens)).kept
    assert kept.x.shape == (B, P + num_keep, C)
    assert kept.index.shape == (B, num_keep)
    assert kept.index.dtype == torch.int64
    assert torch.equal(kept.prefix, tokens.prefix)
    assert (kept.grid, kept.num_prefix) == (GRID, P)


@each_count(PRUNERS)
def test_pruner_partitions_the_tokens_in_order(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    assert_partition(tokens, reducer(tokens, num_keep, make_signals(reducer, tokens)), num_keep)


@every_pruner
def test_pruner_works_step_after_step(case: Case) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    parts = []
    left = tokens
    for num_keep in (9, 5, 1):
        left, dropped, _ = reducer(left, num_keep, make_signals(reducer, left))
        parts.append(dropped.index)
    seen = torch.cat([*parts, left.index], dim=1)
    assert torch.equal(seen.sort(1).values, tokens.index.sort(1).values)


@every_case
@pytest.mark.parametrize("num_keep", [N, N + 1])
def test_keeping_everything_changes_nothing(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    if "num_points" in case.kwargs:
        pytest.skip("draws in every step")
    kept, dropped, assignment = reducer(tokens, num_keep, make_signals(reducer, tokens))
    if getattr(reducer, "confidence", None) is None:
        assert kept is tokens
    else:  # tokens are marked, which is all
        assert kept.x is tokens.x
        assert kept.index is tokens.index
    if isinstance(reducer, TokenRanker):
        assert dropped.x.shape == (B, 0, C)
        assert dropped.index.shape == (B, 0)
        assert dropped.num_prefix == 0
    else:
        assert torch.equal(assignment, torch.arange(N).expand(B, -1))


@every_case
@pytest.mark.parametrize("num_keep", [0, -3])
def test_a_count_below_one_is_named(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    with pytest.raises(ValueError, match=f"num_keep >= 1, got {num_keep}"):
        reducer(tokens, num_keep, make_signals(reducer, tokens))


@every_case
def test_a_missing_or_misaligned_signal_is_named(case: Case) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    for name in reducer.needs:
        signals = make_signals(reducer, tokens)
        with pytest.raises(ValueError, match=f"'{name}' .* got None"):
            reducer(tokens, 5, signals._replace(**{name: None}))
        short = signals._replace(**{name: getattr(signals, name)[:, 1:]})
        with pytest.raises(ValueError, match=rf"'{name}' .*\({B}, {N}\).* got \({B}, {N - 1}"):
            reducer(tokens, 5, short)


@each_count(CASES)
def test_an_image_does_not_depend_on_its_batch(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    signals = make_signals(reducer, tokens)
    together = reducer(tokens, num_keep, signals)
    for image in range(B):
        one = slice(image, image + 1)
        alone = reducer(
            tokens._replace(x=tokens.x[one], index=tokens.index[one]),
            num_keep,
            Signals(*(None if signal is None else signal[one] for signal in signals)),
        )
        assert torch.equal(alone.kept.index, together.kept.index[one])
        # Matmuls of another batch may round otherwise.
        torch.testing.assert_close(alone.kept.x, together.kept.x[one])


@every_case
def test_evaluation_is_deterministic(case: Case) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    signals = make_signals(reducer, tokens)
    first, second = (reducer(tokens, 6, signals).kept for _ in range(2))
    assert torch.equal(first.index, second.index)
    assert torch.equal(first.x, second.x)


@each_count(BY_VALUE)
def test_equal_scores_keep_the_first_tokens(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    tokens = tokens._replace(x=torch.zeros_like(tokens.x))
    kept = reducer(tokens, num_keep, make_signals(reducer, tokens, fill=0.5)).kept
    assert torch.equal(kept.index, tokens.index[:, :num_keep])


@each_count(BY_OWN_SCORE)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_without_a_value_break_nothing(case: Case, num_keep: int, value: float) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    signals = make_signals(reducer, tokens)
    bad = torch.tensor([0, 4, 11, 12])
    tokens.patches[:, bad] = value
    for signal in signals:
        if signal is not None:
            signal[:, bad] = value
    result = reducer(tokens, num_keep, signals)
    assert_partition(tokens, result, num_keep)
    if value != value and num_keep <= N - len(bad):
        assert not bool(result.kept.patches.isnan().any()), "a token without a score was kept"


@each_count(PRUNERS)
def test_masked_tokens_go_first(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    policy = torch.rand(B, N) > 0.3
    result = reducer(tokens._replace(policy=policy), num_keep, make_signals(reducer, tokens))
    live = policy.sum(1)
    assert torch.equal(result.kept.policy.sum(1), live.clamp(max=num_keep))
    assert torch.equal(result.kept.policy.sum(1) + result.dropped.policy.sum(1), live)


@each_count(PRUNERS)
def test_padding_goes_first(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    signals = make_signals(reducer, tokens)
    padding = torch.rand(B, N) > 0.6
    padding[0], padding[1] = True, False  # nothing else, and none
    result = reducer(tokens, num_keep, signals._replace(padding=padding))
    assert_partition(tokens, result, num_keep)
    real = (~padding).sum(1)
    kept = (~padding).gather(1, positions(tokens, result.kept)).sum(1)
    assert torch.equal(kept, real.clamp(max=num_keep))
    assert torch.equal(result.kept.index[0], tokens.index[0, :num_keep]), "in order among equals"
    without = reducer(tokens, num_keep, signals)
    assert torch.equal(result.kept.index[1], without.kept.index[1])


@every_case
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype(case: Case, dtype: torch.dtype) -> None:
    reducer, tokens = case.build().eval().to(dtype), make_tokens(dtype)
    if dtype == torch.float16 and not HALF_ON_CPU and len(list(reducer.parameters())):
        pytest.skip("this torch has no layers in float16 on the CPU")
    result = reducer(tokens, 6, make_signals(reducer, tokens))
    assert result.kept.x.dtype == dtype
    if isinstance(reducer, TokenPruner):
        assert_partition(tokens, result, 6)


@every_case
def test_autocast_does_not_change_the_selection(case: Case) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    tokens = tokens._replace(x=1 + 1e-3 * tokens.x)  # all alike at the precision of bfloat16
    signals = make_signals(reducer, tokens)
    plain = reducer(tokens, 6, signals).kept
    with torch.autocast("cpu", torch.bfloat16):
        cast = reducer(tokens, 6, signals).kept
    assert torch.equal(cast.index, plain.index)
    assert cast.x.dtype == plain.x.dtype


@every_pruner
def test_gradient_reaches_each_token_through_its_own_part(case: Case) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    tokens.x.requires_grad_()
    kept, dropped, _ = reducer(tokens, 6, make_signals(reducer, tokens))
    (kept.x.sum() + 2 * dropped.x.sum()).backward()
    expected = torch.ones(B, P + N)
    expected[:, P:].scatter_(1, positions(tokens, dropped), 2.0)
    assert torch.equal(tokens.x.grad, expected.unsqueeze(-1).expand(-1, -1, C))


@every_merger
def test_gradient_reaches_each_merged_token(case: Case) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    tokens.x.requires_grad_()
    reducer(tokens, 6, make_signals(reducer, tokens)).kept.x.sum().backward()
    assert bool((tokens.x.grad != 0).all())


@every_case
def test_training_reaches_every_parameter(case: Case) -> None:
    reducer, tokens = case.build().train(), make_tokens()
    tokens.x.requires_grad_()
    outputs = attach_listeners(reducer)
    kept = reducer(tokens, 6, make_signals(reducer, tokens)).kept
    loss = kept.x.pow(2).sum() + sum(output.pow(2).sum() for output in outputs)
    loss.backward()
    for name, parameter in reducer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"no gradient for {name}"
            assert bool(parameter.grad.abs().sum() > 0), f"zero gradient for {name}"


@pytest.mark.parametrize("case", [c for c in CASES if not issubclass(c.cls, KeepDecision)], ids=str)
def test_training_mode_reduces_as_evaluation_does(case: Case) -> None:
    reducer, tokens = case.build(), make_tokens()
    attach_listeners(reducer)
    signals = make_signals(reducer, tokens)
    train = reducer.train()(tokens, 6, signals).kept
    evaluation = reducer.eval()(tokens, 6, signals).kept
    assert torch.equal(train.index, evaluation.index)


@every_case
def test_deployment_changes_no_result(case: Case) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    signals = make_signals(reducer, tokens)
    expected = reducer(tokens, 6, signals).kept
    reducer.switch_to_deploy()
    kept = reducer(tokens, 6, signals).kept
    assert torch.equal(kept.index, expected.index)
    assert torch.equal(kept.x, expected.x)
    assert not any(name.endswith("auxiliary") for name, _ in reducer.named_modules())


@every_case
def test_reads_no_value_back_to_the_host(case: Case) -> None:
    """Tensors of the meta device have no values: whatever reads one raises."""
    reducer, tokens = case.build().eval().to("meta"), make_tokens()
    signals = make_signals(reducer, tokens)
    kept = reducer(
        tokens._replace(x=tokens.x.to("meta"), index=tokens.index.to("meta")),
        6,
        Signals(*(None if signal is None else signal.to("meta") for signal in signals)),
    ).kept
    assert kept.x.shape == (B, P + 6, C)
    assert kept.x.is_meta


class OverTensors(nn.Module):
    """The reducer as a function of tensors."""

    def __init__(self, reducer: TokenReducer, num_keep: int) -> None:
        super().__init__()
        self.reducer = reducer
        self.num_keep = num_keep
        self.names = sorted(reducer.needs)

    def forward(self, x: Tensor, index: Tensor, *signals: Tensor) -> tuple[Tensor, ...]:
        named = {name: signals[place] for place, name in enumerate(self.names)}
        result = self.reducer(Tokens(x, index, GRID, P), self.num_keep, Signals(**named))
        dropped = () if result.dropped is None else (result.dropped.x, result.dropped.index)
        return (result.kept.x, result.kept.index, *dropped)

    def inputs(self) -> tuple[Tensor, ...]:
        tokens = make_tokens()
        signals = make_signals(self.reducer, tokens)
        return (tokens.x, tokens.index, *(getattr(signals, name) for name in self.names))


def assert_same(function: Callable, model: OverTensors) -> None:
    inputs = model.inputs()
    for out, expected in zip(function(*inputs), model(*inputs), strict=True):
        assert torch.equal(out, expected)


# Training differs from evaluation where there is something to train.
LEARNED = [case for case in CASES if any(p.requires_grad for p in case.build().parameters())]


@pytest.mark.parametrize(
    ("case", "training"),
    [*((case, False) for case in CASES), *((case, True) for case in LEARNED)],
    ids=lambda value: str(value) if isinstance(value, Case) else "train" if value else "eval",
)
def test_compiles_whole_and_once(case: Case, training: bool) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    model = OverTensors(case.build(), 6).train(training)
    outputs = attach_listeners(model.reducer)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(3):
        outputs.clear()  # as a listener does before each step
        assert_same(compiled, model)
    assert counter.frame_count == 1


@every_case
def test_exports(case: Case) -> None:
    model = OverTensors(case.build(), 6).eval()
    program = torch.export.export(model, model.inputs())
    for _ in range(2):
        assert_same(program.module(), model)


@each_count(MERGERS)
def test_merger_accounts_for_every_token(case: Case, num_keep: int) -> None:
    reducer, tokens = case.build().eval(), make_tokens()
    tokens = tokens._replace(size=torch.randint(1, 4, (B, N)).float())
    kept, dropped, assignment = reducer(tokens, num_keep, make_signals(reducer, tokens))
    assert dropped is None
    assert assignment.shape == (B, N)
    assert torch.equal(kept.size.sum(1), tokens.size.sum(1))
    for image in range(B):
        for slot in range(num_keep):
            members = assignment[image] == slot
            assert bool(members.any()), "empty slot"
            weight = tokens.size[image, members]
            if reducer.log_weight(tokens) is not None:  # a method with weights of its own
                weight = reducer.log_weight(tokens)[image, members].exp()
            mean = (tokens.patches[image, members] * weight.unsqueeze(1)).sum(0) / weight.sum()
            torch.testing.assert_close(kept.patches[image, slot], mean)
            ids = tokens.index[image, members]
            assert kept.index[image, slot] == (ids[0] if len(ids) == 1 else -1)
