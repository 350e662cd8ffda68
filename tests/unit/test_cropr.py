"""Cropr against the published numbers, hand calculation and the full query matrix."""

from itertools import combinations

import pytest
import torch

from cropr_mm.reducers import (
    AttnTopK,
    Cropr,
    CroprAuxiliary,
    NonSalient,
    RandomPruner,
    TokenPruner,
    TokenReducer,
    VariancePruner,
)
from cropr_mm.reducers.cropr_attention import MultiHeadAttention, SimpleAttention
from cropr_mm.structures import Signals, Tokens

X = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [2.0, 1.0], [-1.0, 1.0]]])
QUERIES = torch.tensor([[[1.0, 0.0], [0.5, -0.5]]])


def example(reducer: Cropr, num_prefix: int = 0) -> tuple[Cropr, Tokens]:
    """The four tokens and two queries above; prefix tokens would win if they were candidates."""
    with torch.no_grad():
        reducer.queries.copy_(QUERIES)
    prefix = torch.full((1, num_prefix, 2), 100.0)
    return reducer.eval(), Tokens(
        torch.cat([prefix, X], 1), torch.arange(4).unsqueeze(0), (2, 2), num_prefix
    )


def random_tokens(num_prefix: int = 1, channels: int = 32, side: int = 16) -> Tokens:
    index = torch.arange(side * side).expand(2, -1)
    return Tokens(torch.randn(2, num_prefix + side**2, channels), index, (side, side), num_prefix)


def listen(reducer: Cropr) -> list[torch.Tensor]:
    outputs: list[torch.Tensor] = []
    reducer.listen(outputs.append)
    return outputs


@pytest.mark.parametrize("num_prefix", [0, 1, 3])
def test_scores_are_those_of_the_worked_example(num_prefix: int) -> None:
    reducer, tokens = example(Cropr(2, num_queries=2), num_prefix)
    assert reducer.score(tokens, Signals()).tolist() == [[1.5, -1.0, 2.5, -2.0]]


@pytest.mark.parametrize("num_prefix", [0, 1, 3])
def test_selection_is_that_of_the_worked_example(num_prefix: int) -> None:
    reducer, tokens = example(Cropr(2, num_queries=2), num_prefix)
    # Order of scores: 2, 0, 1, 3.
    for num_keep, kept, dropped in ((1, [2], [0, 1, 3]), (2, [0, 2], [1, 3]), (3, [0, 1, 2], [3])):
        result = reducer(tokens, num_keep, Signals())
        assert result.kept.index.tolist() == [kept]
        assert result.dropped.index.tolist() == [dropped]
        assert result.kept.x[:, :num_prefix].eq(100).all()


def test_non_salient_keeps_the_lowest_scores() -> None:
    reducer, tokens = example(NonSalient(2, num_queries=2), 1)
    assert reducer(tokens, 1, Signals()).kept.index.tolist() == [[3]]
    assert reducer(tokens, 2, Signals()).kept.index.tolist() == [[1, 3]]


def test_aggregation_is_that_of_the_worked_example() -> None:
    aggregated = SimpleAttention(2)(QUERIES, X)
    expected = torch.tensor([[[1.278621, 0.865332], [0.985633, 0.757183]]])
    torch.testing.assert_close(aggregated, expected, rtol=0, atol=1e-6)
    weights = torch.tensor([[0.265654, 0.130985, 0.538776, 0.064585]])
    torch.testing.assert_close(aggregated[0, :1], weights @ X[0], rtol=0, atol=2e-6)


def test_auxiliary_output_is_a_residual_mlp_and_a_normed_head() -> None:
    auxiliary = CroprAuxiliary(8, num_classes=3)
    given = y = torch.randn(2, 4, 8)
    z = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    hidden = torch.nn.functional.gelu(z @ auxiliary.fc1.weight.T + auxiliary.fc1.bias)
    y = y + hidden @ auxiliary.fc2.weight.T + auxiliary.fc2.bias
    z = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = z @ auxiliary.head.weight.T
    torch.testing.assert_close(auxiliary(given), expected)


@pytest.mark.parametrize(("num_queries", "shape"), [(1, (2, 5)), (6, (2, 6, 5))])
def test_logits_leave_through_the_hook(num_queries: int, shape: tuple[int, ...]) -> None:
    reducer = Cropr(32, num_queries=num_queries, num_classes=5)
    outputs = listen(reducer)
    reducer.train()(random_tokens(), 20, Signals())
    assert [tuple(output.shape) for output in outputs] == [shape]
    reducer.eval()(random_tokens(), 20, Signals())
    assert len(outputs) == 1, "the auxiliary task ran in evaluation"


def test_auxiliary_runs_also_where_nothing_is_pruned() -> None:
    """A curriculum starts with empty steps; distributed training needs gradients all the same."""
    reducer = Cropr(32)
    outputs = listen(reducer)
    reducer.train()(random_tokens(), 256, Signals())
    assert len(outputs) == 1


def test_auxiliary_loss_gives_the_backbone_no_gradient() -> None:
    reducer, tokens = Cropr(32), random_tokens()
    tokens.x.requires_grad_()
    outputs = listen(reducer)
    kept = reducer.train()(tokens, 20, Signals()).kept
    outputs[0].pow(2).sum().backward(retain_graph=True)
    assert tokens.x.grad is None
    assert reducer.queries.grad is not None
    reducer.zero_grad()
    kept.x.sum().backward()
    assert tokens.x.grad is not None
    assert all(parameter.grad is None for parameter in reducer.parameters())


def test_training_without_a_listener_raises() -> None:
    reducer = Cropr(32).train()
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        reducer(random_tokens(), 20, Signals())
    reducer.auxiliary.register_forward_hook(lambda *_: None)  # a profiler's, say: no loss takes it
    with pytest.raises(RuntimeError, match="CroprAuxLossHook"):
        reducer(random_tokens(), 20, Signals())
    handle = reducer.listen(lambda _: None)
    reducer(random_tokens(), 20, Signals())
    handle.remove()
    assert not reducer.has_listener
    reducer.eval()(random_tokens(), 20, Signals())


@pytest.mark.parametrize("num_queries", [1, 7, 1024])
@pytest.mark.parametrize("num_prefix", [0, 1])
def test_collapsed_queries_select_as_the_full_matrix(num_queries: int, num_prefix: int) -> None:
    reducer = Cropr(64, num_queries=num_queries).eval()
    tokens = random_tokens(num_prefix, channels=64, side=32)
    matrix = reducer.queries.double() @ tokens.x.double().transpose(1, 2)  # (B, M, P + N)
    scores = matrix.sum(1)[:, num_prefix:]
    for num_keep in (1, 144, 984):
        expected = scores.topk(num_keep, dim=1).indices.sort(1).values
        assert torch.equal(reducer(tokens, num_keep, Signals()).kept.index, expected)


@pytest.mark.parametrize("kind", [Cropr, NonSalient])
@pytest.mark.parametrize("num_queries", [1, 1024])
def test_deployed_form_equals_the_trained_one(kind: type[Cropr], num_queries: int) -> None:
    reducer = kind(32, num_queries=num_queries).eval()
    tokens = random_tokens()
    expected = reducer(tokens, 100, Signals()).kept
    scores = reducer.score(tokens, Signals())

    reducer.switch_to_deploy()
    assert {name: tuple(p.shape) for name, p in reducer.named_parameters()} == {"query": (32,)}
    assert torch.equal(reducer.score(tokens, Signals()), scores)
    stripped = kind(32, num_queries=num_queries, deploy=True).eval()
    stripped.load_state_dict(reducer.state_dict(), strict=True)
    for deployed in (reducer, stripped):
        kept = deployed(tokens, 100, Signals()).kept
        assert torch.equal(kept.index, expected.index)
        assert torch.equal(kept.x, expected.x)
        deployed.switch_to_deploy()  # nothing left to do


@pytest.mark.parametrize("kind", [Cropr, NonSalient])
@pytest.mark.parametrize("num_queries", [1, 40])
def test_projected_scores_collapse_to_one_vector(kind: type[Cropr], num_queries: int) -> None:
    reducer = kind(32, num_queries=num_queries, scorer="mha", num_heads=4).eval()
    with torch.no_grad():
        reducer.attention.norm.weight.uniform_(0.5, 2.0)
        reducer.attention.norm.bias.normal_()
    tokens = random_tokens()
    expected = reducer(tokens, 100, Signals()).kept.index
    scores = reducer.score(tokens, Signals())
    reducer.switch_to_deploy()
    assert {name: tuple(p.shape) for name, p in reducer.named_parameters()} == {"query": (32,)}
    gap = reducer.score(tokens, Signals()) - scores
    assert gap.std() < 1e-5 * scores.std(), "the same but for a constant"
    stripped = kind(32, num_queries=num_queries, scorer="mha", num_heads=4, deploy=True).eval()
    stripped.load_state_dict(reducer.state_dict(), strict=True)
    assert torch.equal(stripped(tokens, 100, Signals()).kept.index, expected)


@pytest.mark.parametrize("num_heads", [1, 4])
def test_projected_attention_is_that_of_torch(num_heads: int) -> None:
    attention = MultiHeadAttention(32, num_heads)
    oracle = torch.nn.MultiheadAttention(32, num_heads, bias=False, batch_first=True)
    weights = [layer.weight for layer in (attention.q, attention.k, attention.v)]
    out = attention.proj.weight if num_heads > 1 else torch.eye(32)
    oracle.load_state_dict({"in_proj_weight": torch.cat(weights), "out_proj.weight": out})
    queries, x = torch.randn(1, 6, 32), torch.randn(2, 20, 32)
    if num_heads > 1:
        torch.nn.init.zeros_(attention.proj.bias)
    normed = attention.norm(x)
    expected, _ = oracle(queries.expand(2, -1, -1), normed, normed)
    torch.testing.assert_close(attention(queries, x), expected)
    # Per-head logits without a scale, summed over heads and queries.
    q, k = (
        y.unflatten(2, (num_heads, -1)).transpose(1, 2)
        for y in (attention.q(queries), attention.k(normed))
    )
    logits = (q @ k.transpose(2, 3)).sum(dim=(1, 2))
    torch.testing.assert_close(attention.score(queries.sum(dim=(0, 1)), x), logits)


def test_sampling_draws_from_the_scaled_softmax() -> None:
    reducer, tokens = example(Cropr(2, num_queries=2, selection="sampling"))
    assert reducer.needs == {"noise"}
    draws = 20_000
    many = Tokens(tokens.x.expand(draws, -1, -1), tokens.index.expand(draws, -1), (2, 2))
    kept = reducer(many, 2, Signals(noise=torch.rand(draws, 4))).kept.index
    p = (torch.tensor([1.5, -1.0, 2.5, -2.0]) * 2**-0.5).softmax(0)
    # Two draws without repetition: first i then j, or first j then i.
    pair = {
        (i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j]))
        for i, j in combinations(range(4), 2)
    }
    for (i, j), expected in pair.items():
        found = ((kept[:, 0] == i) & (kept[:, 1] == j)).float().mean()
        assert found.item() == pytest.approx(expected.item(), abs=0.012)


def test_non_salient_sampling_draws_from_the_opposite_scores() -> None:
    reducer, tokens = example(NonSalient(2, num_queries=2, selection="sampling"))
    noise = torch.tensor([[0.3, 0.6, 0.2, 0.9]])
    gumbel = -(-noise.log()).log()
    expected = -torch.tensor([[1.5, -1.0, 2.5, -2.0]]) * 2**-0.5 + gumbel
    torch.testing.assert_close(reducer.score(tokens, Signals(noise=noise)), expected)


def test_sampling_from_equal_scores_ignores_ranks_and_from_sharp_ones_is_topk() -> None:
    reducer, tokens = example(Cropr(2, num_queries=2, selection="sampling"))
    with torch.no_grad():
        reducer.queries.mul_(1e4)
    noise = torch.tensor([[0.0, 0.999, 0.5, 0.999]])
    assert reducer(tokens, 2, Signals(noise=noise.clamp(0.01))).kept.index.tolist() == [[0, 2]]
    with torch.no_grad():
        reducer.queries.zero_()
    assert reducer(tokens, 2, Signals(noise=noise)).kept.index.tolist() == [[1, 3]]


def test_without_stop_gradient_the_auxiliary_loss_reaches_the_backbone() -> None:
    reducer, tokens = Cropr(32, stop_gradient=False), random_tokens()
    tokens.x.requires_grad_()
    outputs = listen(reducer)
    reducer.train()(tokens, 20, Signals())
    outputs[0].pow(2).sum().backward()
    assert tokens.x.grad.abs().sum() > 0


def test_without_the_mlp_the_head_reads_the_mean_itself() -> None:
    auxiliary = CroprAuxiliary(8, num_classes=3, mlp_ratio=0)
    assert {name for name, _ in auxiliary.named_parameters()} == {
        *("head_norm.weight", "head_norm.bias", "head.weight", "head.bias")
    }
    y = torch.randn(2, 4, 8)
    torch.testing.assert_close(auxiliary(y), auxiliary.head(auxiliary.head_norm(y)))


def test_deployed_form_runs_in_training_mode_and_asks_for_nothing() -> None:
    reducer = Cropr(32, deploy=True).train()
    reducer(random_tokens(), 20, Signals())
    assert not any(parameter.requires_grad for parameter in reducer.parameters())


@pytest.mark.parametrize(
    ("num_queries", "num_classes", "count"), [(1, 1000, 9_423_848), (1024, 150, 9_600_150)]
)
def test_parameter_counts_are_the_published_ones(
    num_queries: int, num_classes: int, count: int
) -> None:
    with torch.device("meta"):
        reducer = Cropr(1024, num_queries=num_queries, num_classes=num_classes)
        deployed = Cropr(1024, deploy=True)
    assert sum(parameter.numel() for parameter in reducer.parameters()) == count
    assert sum(parameter.numel() for parameter in deployed.parameters()) == 1024


def test_initial_values_are_the_published_ones() -> None:
    reducer = Cropr(256, num_queries=200)
    assert reducer.queries.shape == (1, 200, 256)
    queries = reducer.queries * 256**0.5
    assert queries.abs().max() <= 2, "cut at two standard deviations of the whole distribution"
    assert queries.std().item() == pytest.approx(0.8796, rel=0.02)
    assert reducer.auxiliary.head.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert reducer.auxiliary.head.bias.abs().max() == 0
    assert reducer.auxiliary.norm.eps == 1e-6
    assert reducer.auxiliary.head_norm.eps == 1e-5


@pytest.mark.parametrize(("num_queries", "std"), [(1, 0.02), (4, (3 * 256) ** -0.5)])
def test_projections_start_as_in_classification_or_segmentation(
    num_queries: int, std: float
) -> None:
    reducer = Cropr(256, num_queries=num_queries, scorer="mha", num_heads=4)
    for layer in (reducer.auxiliary.fc1, reducer.attention.q, reducer.attention.proj):
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03)
        assert layer.bias is None or layer.bias.any() == (num_queries > 1)


def test_variance_drops_flat_patches_first() -> None:
    variance = torch.tensor([[[3.0], [0.0], [2.0], [1.0]]])
    tokens = Tokens(X, torch.arange(4).unsqueeze(0), (2, 2))
    result = VariancePruner(2)(tokens, 2, Signals(variance=variance))
    assert result.kept.index.tolist() == [[0, 2]]


def test_random_pruning_follows_the_noise() -> None:
    noise = torch.tensor([[0.3, 0.9, 0.1, 0.5]])
    tokens = Tokens(X, torch.arange(4).unsqueeze(0), (2, 2))
    assert RandomPruner(2)(tokens, 2, Signals(noise=noise)).kept.index.tolist() == [[1, 3]]


@pytest.mark.parametrize("signal", ["cls_row", "column_mean"])
def test_attention_pruning_reads_the_signal_it_names(signal: str) -> None:
    reducer = AttnTopK(2, signal=signal, site="between")
    assert (reducer.needs, reducer.site) == ({signal}, "between")
    tokens = Tokens(torch.cat([X[:, :1], X], 1), torch.arange(4).unsqueeze(0), (2, 2), 1)
    signals = Signals(**{signal: torch.tensor([[0.1, 0.4, 0.3, 0.2]])})
    assert reducer(tokens, 2, signals).kept.index.tolist() == [[1, 2]]


def test_class_row_needs_a_class_token() -> None:
    tokens = Tokens(X, torch.arange(4).unsqueeze(0), (2, 2))
    with pytest.raises(ValueError, match="class token"):
        AttnTopK(2)(tokens, 2, Signals(cls_row=torch.rand(1, 4)))
    AttnTopK(2, signal="column_mean")(tokens, 2, Signals(column_mean=torch.rand(1, 4)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Cropr(0), "embed_dim >= 1, got 0"),
        (lambda: Cropr(8, num_queries=0), r"num_queries >= 1 or \(rows, columns\), got 0"),
        (lambda: Cropr(8, num_queries=(4, 0)), r"\(rows, columns\), got \(4, 0\)"),
        (lambda: Cropr(8, num_queries=(4, 4, 4)), r"\(rows, columns\), got \(4, 4, 4\)"),
        (lambda: Cropr(8, num_classes=0), "num_classes >= 1, got 0"),
        (lambda: Cropr(8, scorer="cosine"), "scorer 'simple' or 'mha', got 'cosine'"),
        (lambda: Cropr(8, selection="best"), "selection 'topk' or 'sampling', got 'best'"),
        (lambda: Cropr(8, scorer="mha", num_heads=3), "divide 8 channels, got 3"),
        (lambda: AttnTopK(8, signal="rows"), "'cls_row' or 'column_mean', got 'rows'"),
        (lambda: AttnTopK(8, site="before"), "'after' or 'between', got 'before'"),
    ],
)
def test_bad_arguments_fail_at_once(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("kind", [Cropr, NonSalient, RandomPruner, VariancePruner, AttnTopK])
def test_unknown_arguments_fail(kind: type[TokenReducer]) -> None:
    with pytest.raises(TypeError, match="unknown"):
        kind(8, unknown=1)


def test_a_score_of_the_wrong_shape_is_named() -> None:
    class Wrong(TokenPruner):
        def score(self, tokens: Tokens, signals: Signals) -> torch.Tensor:
            return tokens.x.sum(-1)  # prefix included

    with pytest.raises(ValueError, match=r"Wrong.score .*\(2, 256\), got \(2, 257\)"):
        Wrong(32)(random_tokens(), 20, Signals())
