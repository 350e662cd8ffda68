"""Token reduction methods against worked examples of their papers and code."""

import math

import pytest
import torch
from torch import Tensor

from cropr_mm import CroprViT
from cropr_mm.reducers import (
    ATS,
    DPCKNN,
    DTPS,
    ETPS,
    EViT,
    KMedoids,
    PatchMerger,
    RadialPruner,
    Sinkhorn,
    SiT,
    ToMe,
    VariancePruner,
)
from cropr_mm.reducers.radial import axis
from cropr_mm.reducers.sinkhorn import transport
from cropr_mm.reducers.tps import squeeze
from cropr_mm.schedules import Discs, ScheduleSettings, ShrinkingDiscs
from cropr_mm.schedules.discs import disc_counts
from cropr_mm.structures import Signals, Tokens
from cropr_mm.tokens.gather import inverse_permutation


def tokens_of(rows: list, num_prefix: int = 0) -> Tokens:
    """One image; prefix rows first, then one row of patches."""
    x = torch.tensor(rows, dtype=torch.float32)[None]
    num_patches = x.shape[1] - num_prefix
    return Tokens(x, torch.arange(num_patches)[None], (1, num_patches), num_prefix)


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def test_evit_keeps_the_best_and_sums_the_rest_by_attention() -> None:
    tokens = tokens_of([(9, 9), (1, 1), (2, 0), (0, 2), (4, 4)], num_prefix=1)
    signals = Signals(cls_row=row(0.4, 0.1, 0.3, 0.2))
    kept, dropped, _ = EViT(2)(tokens, 3, signals)
    assert kept.index.tolist() == [[0, 2, -1]]
    torch.testing.assert_close(kept.x[0], torch.tensor([[9, 9], [1, 1], [0, 2], [1.0, 0.8]]))
    assert dropped.index.tolist() == [[1, 3]]
    assert dropped.x[0].tolist() == [[2, 0], [4, 4]]


def test_evit_learns_through_the_weights_of_the_fused_token() -> None:
    tokens = tokens_of([(9, 9), (1, 1), (2, 0), (0, 2)], num_prefix=1)
    attention = row(0.5, 0.2, 0.3).requires_grad_()
    kept = EViT(2)(tokens, 2, Signals(cls_row=attention)).kept
    kept.x[:, -1].sum().backward()
    assert attention.grad.tolist() == [[0.0, 2.0, 2.0]]  # the sums of the two dropped tokens


def test_a_fused_token_may_be_dropped_and_fused_again() -> None:
    tokens = tokens_of([(9, 9), (1, 1), (2, 0), (0, 2), (4, 4)], num_prefix=1)
    first = EViT(2)(tokens, 3, Signals(cls_row=row(0.4, 0.1, 0.3, 0.2))).kept
    kept, dropped, _ = EViT(2)(first, 2, Signals(cls_row=row(0.5, 0.1, 0.2)))
    assert kept.index.tolist() == [[0, -1]]
    assert dropped.index.tolist() == [[2, -1]]
    torch.testing.assert_close(kept.x[0, 2], 0.1 * torch.tensor([0, 2]) + 0.2 * first.x[0, 3])


def test_squeezed_tokens_move_towards_their_guests() -> None:
    kept = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    pruned = torch.tensor([[[1.0, 0.5], [2.0, 0.0], [0.5, 1.0]]])
    expected = torch.tensor([[[1.344850, 0.155150], [0.236815, 1.0]]])
    torch.testing.assert_close(squeeze(kept, pruned), expected, atol=2e-6, rtol=0)


def test_a_host_without_guests_stays_as_it_is() -> None:
    kept = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    assert torch.equal(squeeze(kept, torch.tensor([[[2.0, 0.1]]]))[:, 1], kept[:, 1])


@pytest.mark.parametrize(
    ("temperature", "weights"),
    [
        # e for itself, exp(cosine / temperature) for the guests of cosine .894426 and 1
        (0.5, [2.718282, math.exp(0.894426 / 0.5), math.exp(1 / 0.5)]),
        (None, [1.0, 1.0, 1.0]),
    ],
)
def test_temperature_sharpens_the_guests_and_none_takes_the_mean(
    temperature: float | None, weights: list[float]
) -> None:
    x = tokens_of([(9, 9), (1, 0), (1, 0.5), (0, 1), (2, 0)], num_prefix=1)
    signals = Signals(cls_row=row(0.4, 0.1, 0.3, 0.1))
    kept = ETPS(2, temperature=temperature)(x, 2, signals).kept
    own, first, second = weights
    expected = torch.tensor([own + first + 2 * second, 0.5 * first]) / sum(weights)
    torch.testing.assert_close(kept.x[0, 1], expected, atol=2e-6, rtol=0)
    assert torch.equal(kept.x[0, 2], x.x[0, 3]), "no guests"


@pytest.mark.parametrize("kind", [ETPS, DTPS])
@pytest.mark.parametrize("temperature", [0.0, -1.0, 0.001, float("nan")])
def test_a_temperature_that_overflows_is_refused(kind: type, temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature >= 0.02 or None, got"):
        kind(4, temperature=temperature)


def test_etps_squeezes_what_the_class_token_looks_at_least() -> None:
    tokens = tokens_of([(9, 9), (1, 0), (1, 0.5), (0, 1), (2, 0), (0.5, 1)], num_prefix=1)
    signals = Signals(cls_row=row(0.4, 0.1, 0.3, 0.1, 0.1))
    kept, dropped, _ = ETPS(2)(tokens, 2, signals)
    expected = torch.tensor([[9, 9], [1.344850, 0.155150], [0.236815, 1.0]])
    torch.testing.assert_close(kept.x[0], expected, atol=2e-6, rtol=0)
    assert (kept.index.tolist(), dropped.index.tolist()) == ([[0, 2]], [[1, 3, 4]])
    assert torch.equal(dropped.x[0], tokens.x[0, [2, 4, 5]])


@torch.no_grad()
@pytest.mark.parametrize("name", ["AttnTopK", "EViT", "ETPS", "ATS"])
def test_without_class_token_the_mean_over_all_queries_decides(name: str) -> None:
    """Softmax of each query in a loop, and the choice of its columns in plain Python."""
    torch.manual_seed(0)
    model = CroprViT(
        dict(embed_dim=8, depth=3, num_heads=2, cls_token=False),
        img_size=(24, 32),
        patch_size=8,
        reducer=dict(type=f"cropr_mm.{name}", signal="column_mean"),
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 5}),
    ).eval()
    block, steps, inputs = model.blocks[0], [], []
    block.attn.qkv.weight.mul_(40)  # else attention is too even to tell tokens apart
    block.norm1.register_forward_hook(lambda _m, _a, out: inputs.append(out))
    model.reducers["0"].register_forward_hook(lambda _m, args, out: steps.append((*args, out)))
    model(torch.randn(2, 3, 24, 32))
    ((tokens, _, signals, result),) = steps
    q, k, v = block.attn.qkv(inputs[0]).view(2, 12, 3, 2, 4).unbind(2)  # (B, N, H, d)
    for image in range(2):
        received = torch.zeros(12, 2)  # (N, H)
        for head in range(2):
            for query in range(12):
                logits = torch.stack([q[image, query, head] @ key for key in k[image, :, head]])
                received[:, head] += (logits / 2).softmax(dim=0) / 12
        if name == "ATS":
            score = (received * v[image].norm(dim=2)).sum(dim=1)
            reached = (score / score.sum()).cumsum(dim=0)
            points = [(2 * i + 1) / 12 for i in range(5)]
            best = {int((reached - point).abs().argmin()) for point in points}
            kept = result.kept.index[image][result.kept.policy[image]].tolist()
            assert kept == sorted(best)
            continue
        mean = received.mean(dim=1)
        torch.testing.assert_close(signals.column_mean[image], mean)
        best = mean.argsort(descending=True)[: 4 if name == "EViT" else 5]
        assert result.kept.index[image, : len(best)].tolist() == sorted(best.tolist())
        if name == "EViT":
            rest = [i for i in range(12) if i not in best]
            fused = sum(mean[i] * tokens.x[image, i] for i in rest)
            torch.testing.assert_close(result.kept.x[image, -1], fused)


@pytest.mark.parametrize("kind", [EViT, ETPS, ATS])
def test_the_class_tokens_attention_needs_a_class_token(kind: type) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} with signal='cls_row' expected a class"):
        kind(2)(tokens_of([(1, 1), (2, 0)]), 1, Signals())
    with pytest.raises(ValueError, match="signal 'cls_row' or 'column_mean', got 'rows'"):
        kind(2, signal="rows")


def test_tome_merges_the_most_similar_pairs_of_both_halves() -> None:
    keys = torch.tensor([[(1, 0), (1, 0.2), (0, 1), (0.1, 1), (1, 1), (-1, 0.5)]])
    tokens = tokens_of([(9, 9), *keys[0].tolist()], num_prefix=1)
    kept, dropped, assignment = ToMe(2)(tokens, 4, Signals(keys=keys))
    # Places in the sequence: 0, 6, {1, 2}, {3, 4}, 5; patches count from place 1.
    assert assignment.tolist() == [[1, 1, 2, 2, 3, 0]]
    assert kept.size.tolist() == [[1, 2, 2, 1]]
    assert kept.index.tolist() == [[5, -1, -1, 4]]
    torch.testing.assert_close(kept.x[0, 2], torch.tensor([1, 0.1]))
    assert dropped is None


@pytest.mark.parametrize("num_prefix", [0, 1, 2, 5])
def test_tome_pairs_by_places_in_the_whole_sequence(num_prefix: int) -> None:
    """A naive loop over the published description, over several steps."""
    torch.manual_seed(num_prefix)
    x = torch.randn(1, num_prefix + 11, 6)
    tokens = Tokens(x, torch.arange(11)[None], (1, 11), num_prefix)
    for num_keep in (7, 5):
        keys = tokens.x[:, num_prefix:] @ torch.randn(6, 4)
        places = range(num_prefix, tokens.x.shape[1])
        even, odd = ([p for p in places if p % 2 == parity] for parity in (0, 1))
        unit = {p: keys[0, p - num_prefix] / keys[0, p - num_prefix].norm() for p in places}
        best = {a: max(odd, key=lambda b: float(unit[a] @ unit[b])) for a in even}
        ranked = sorted(even, key=lambda a: -float(unit[a] @ unit[best[a]]))
        gone = ranked[: len(unit) - num_keep]
        groups = [[a] for a in even if a not in gone]
        groups += [[b, *(a for a in gone if best[a] == b)] for b in odd]
        size = torch.ones(tokens.x.shape[1])
        if tokens.size is not None:
            size[num_prefix:] = tokens.size[0]
        expected = torch.stack(
            [(tokens.x[0, g] * size[g, None]).sum(0) / size[g].sum() for g in groups]
        )
        prefix = tokens.x[:, :num_prefix]
        tokens = ToMe(6)(tokens, num_keep, Signals(keys=keys)).kept
        torch.testing.assert_close(tokens.x[0, num_prefix:], expected)
        assert torch.equal(tokens.x[:, :num_prefix], prefix)
        assert tokens.size.sum() == 11


def test_tome_cannot_merge_more_than_one_half() -> None:
    tokens = tokens_of([(9, 9), *[(1, i) for i in range(7)]], num_prefix=1)
    with pytest.raises(ValueError, match=r"ToMe expected num_keep >= 4 of 7 patch tokens .* got 3"):
        ToMe(2)(tokens, 3, Signals(keys=torch.rand(1, 7, 2)))


def test_dpc_knn_finds_dense_tokens_far_from_denser_ones() -> None:
    tokens = tokens_of([[0.0], [0.1], [0.25], [2.0], [2.2], [5.0]])
    method = DPCKNN(1, num_neighbors=3, equal_weight=True)
    kept, _, assignment = method(tokens, 3, Signals(noise=torch.zeros(1, 6)))
    # Centers 1, 3 and 2: density times distance is 4.95, 0.62 and 0.15 there.
    assert assignment.tolist() == [[0, 0, 1, 2, 2, 2]]
    torch.testing.assert_close(kept.x[0, :, 0], torch.tensor([0.05, 0.25, 9.2 / 3]))


def test_distances_are_those_of_one_channel_in_the_mean() -> None:
    line = [0.0, 0.1, 0.25, 2.0, 2.2, 5.0]
    # With distances twice as large the second center would be token 2, not 3.
    for num_channels in (1, 4):
        method = DPCKNN(num_channels, num_neighbors=3, equal_weight=True)
        tokens = tokens_of([[x] * num_channels for x in line])
        found = method(tokens, 2, Signals(noise=torch.zeros(1, 6))).assignment
        assert found.tolist() == [[0, 0, 0, 1, 1, 1]]


def test_a_center_stays_in_its_cluster_when_another_is_as_near() -> None:
    tokens = tokens_of([[1.0], [1.0], [1.0], [1.0]])
    method = DPCKNN(1, equal_weight=True)
    found = method(tokens, 3, Signals(noise=row(0.1, 0.2, 0.3, 0.4))).assignment
    assert sorted(set(found[0].tolist())) == [0, 1, 2], "no slot is empty"


def test_equal_weights_are_equal_for_merged_tokens_too() -> None:
    tokens = tokens_of([[0.0], [0.1], [1.0]])._replace(size=row(3.0, 1.0, 1.0))
    method = DPCKNN(1, num_neighbors=2, equal_weight=True)
    kept = method(tokens, 2, Signals(noise=row(0.0, 0.5, 0.0))).kept
    torch.testing.assert_close(kept.x[0, :, 0], torch.tensor([0.05, 1.0]))
    assert kept.size.tolist() == [[4.0, 1.0]]


def test_dpc_knn_weighs_by_what_it_learns() -> None:
    tokens = tokens_of([[0.0], [0.1], [0.25], [2.0], [2.2], [500.0]])
    method = DPCKNN(1, num_neighbors=3)
    torch.nn.init.constant_(method.importance.weight, 3.0)
    kept, _, assignment = method(tokens, 3, Signals(noise=torch.zeros(1, 6)))
    for slot in range(3):
        members = tokens.x[0, assignment[0] == slot, 0]
        weight = (3.0 * (members - members.max())).exp()
        expected = (members * weight).sum() / weight.sum()
        torch.testing.assert_close(kept.x[0, slot, 0], expected)
    kept.x.sum().backward()
    assert method.importance.weight.grad.abs() > 0


@torch.no_grad()
def test_raw_variance_is_that_of_the_image_before_it_was_normalized() -> None:
    torch.manual_seed(0)
    std = (58.0, 20.0, 3.0)
    raw = torch.randn(2, 3, 16, 24) * 40
    seen = []
    reducer = dict(type="cropr_mm.VariancePruner", std=std)
    model = CroprViT(
        dict(embed_dim=8, depth=4, num_heads=2),
        img_size=(16, 24),
        patch_size=4,
        reducer=reducer,
        schedule=dict(type="cropr_mm.ExplicitTokens", num_keep={0: 9, 1: 4}),
    )
    for module in model.reducers.values():
        module.register_forward_hook(lambda *args: seen.append((args[1], args[2])))
    model(raw / torch.tensor(std)[:, None, None])
    for (tokens, num_keep, _), result in seen:
        for image in range(2):
            cells = raw[image].unfold(1, 4, 4).unfold(2, 4, 4).flatten(1, 2).flatten(2)
            mean = cells.var(dim=2, correction=0).mean(dim=0)[tokens.index[image]]
            best = mean.argsort(descending=True)[:num_keep].sort().values
            assert torch.equal(result.kept.index[image], tokens.index[image, best])
    with pytest.raises(ValueError, match=r"std of 3 channels, got \(1.0,\)"):
        VariancePruner(8, std=[1.0])(tokens, 2, Signals(variance=torch.ones(2, 9, 3)))
    with pytest.raises(ValueError, match="positive standard deviations"):
        VariancePruner(8, std=[1.0, 0.0, 1.0])


@pytest.mark.parametrize(
    ("norm", "counts"),
    [
        ("l1", [4, 12, 24, 40, 60, 84, 112, 136, 156, 172, 184, 192, 196]),
        (
            "l2",
            [
                *(4, 12, 16, 24, 32, 44, 52, 60, 68, 76, 80, 88, 96, 112, 120, 124, 140, 148),
                *(156, 164, 172, 176, 184, 192, 196),
            ],
        ),
        ("linf", [4, 16, 36, 64, 100, 144, 196]),
    ],
)
def test_discs_of_a_grid_of_14_rows(norm: str, counts: list[int]) -> None:
    assert disc_counts(14, norm) == counts


@pytest.mark.parametrize(("compat", "expected"), [(False, [1, 5]), (True, [0, 3])])
def test_k_medoids_and_the_released_rule(compat: bool, expected: list[int]) -> None:
    tokens = tokens_of([[0.0], [1.0], [2.0], [10.0], [11.0], [14.0]])
    weight = row(0.1, 0.3, 0.2, 0.1, 0.2, 0.4)
    kept = KMedoids(1, compat=compat)(tokens, 2, Signals(column_mean=weight)).kept
    assert kept.index.tolist() == [expected]


@pytest.mark.parametrize(
    ("compat", "count", "iterations", "expected"),
    [
        # From token 2 at place 2: the farthest is 5 at 14, then 3 at 10 (4 from the nearest chosen
        # one), in the released code 0 at 0 (14 from the farthest chosen one).
        (False, 3, 0, [2, 3, 5]),
        (True, 3, 0, [0, 2, 5]),
        # Sums of distances inside {0, 1, 2} and {10, 11, 14}: 3, 2, 3 and 5, 4, 7; to all tokens:
        # 38, 34, 32 and 32, 34, 46.
        (False, 2, 3, [1, 4]),
        (True, 2, 3, [2, 3]),
    ],
)
def test_k_medoids_of_equal_weight_begin_far_from_each_other(
    compat: bool, count: int, iterations: int, expected: list[int]
) -> None:
    tokens = tokens_of([[0.0], [1.0], [2.0], [10.0], [11.0], [14.0]])
    method = KMedoids(1, iterations, compat, equal_weight=True)
    assert method.needs == {"noise"}
    kept = method(tokens, count, Signals(noise=row(0.1, 0.3, 0.9, 0.1, 0.2, 0.4))).kept
    assert kept.index.tolist() == [expected]


def test_k_medoids_never_keeps_a_token_that_is_no_number() -> None:
    tokens = tokens_of([[0.0], [1.0], [2.0], [10.0], [11.0], [14.0], [3.0], [9.0]])
    tokens.x[0, 0] = float("nan")
    kept = KMedoids(1)(tokens, 3, Signals(column_mean=torch.full((1, 8), 0.2))).kept
    assert 0 not in kept.index[0].tolist()


def test_k_medoids_of_equal_tokens_are_still_as_many() -> None:
    tokens = tokens_of([[1.0]] * 6)
    kept, dropped, _ = KMedoids(1)(tokens, 4, Signals(column_mean=torch.rand(1, 6)))
    assert sorted(kept.index[0].tolist() + dropped.index[0].tolist()) == list(range(6))
    assert kept.index.shape == (1, 4)


@pytest.mark.parametrize(
    ("norm", "ratio", "counts"),
    [
        ("l1", 0.25, (40, 12, 4)),
        ("l1", 0.5, (84, 40, 24)),
        ("l1", 0.7, (136, 84, 60)),
        ("l1", 0.9, (172, 156, 136)),
        ("l2", 0.25, (52, 12, 4)),
        ("l2", 0.5, (96, 52, 24)),
        ("l2", 0.7, (140, 96, 68)),
        ("l2", 0.9, (176, 156, 140)),
        ("linf", 0.25, (36, 16, 4)),
        ("linf", 0.5, (100, 36, 16)),
        ("linf", 0.7, (144, 100, 64)),
        ("linf", 0.9, (196, 144, 144)),
    ],
)
def test_discs_have_the_published_counts(norm: str, ratio: float, counts: tuple) -> None:
    schedule = Discs(ratio, (3, 6, 9), norm)
    settings = ScheduleSettings(196, num_prefix=1, depth=12, window_size=None, last_site=10)
    assert tuple(schedule(settings).values()) == counts
    with pytest.raises(ValueError, match="expected a square grid, got 195 patches"):
        schedule(settings._replace(num_patches=195))


@pytest.mark.parametrize(
    ("norm", "ratio", "counts"),
    [("l1", 0.5, [92, 40, 24]), ("l1", 0.7, [136, 92, 68]), ("l2", 0.7, [140, 96, 68])],
)
def test_discs_of_the_released_coordinates(norm: str, ratio: float, counts: list[int]) -> None:
    settings = ScheduleSettings(196, num_prefix=1, depth=12, window_size=None, last_site=10)
    plan = Discs(ratio, (3, 6, 9), norm, compat=True)(settings)
    assert list(plan.values()) == counts
    tokens = Tokens(torch.zeros(1, 196, 2), torch.arange(196)[None], (14, 14))
    distance = -RadialPruner(2, norm, compat=True).score(tokens, Signals())[0]
    ordered = distance.sort().values
    for count in counts:
        assert ordered[count - 1] < ordered[count], "whole rings of the pruner"


@pytest.mark.parametrize(
    ("norm", "compat", "counts"),
    [
        # radii 9.19 - step * 8.19 / 8 of patches at half numbers from 0.5 to 6.5
        ("l2", False, [184, 164, 120, 80, 52, 32, 12]),
        ("l2", True, [184, 164, 120, 80, 52, 32, 12]),
        ("linf", False, [144, 100, 64, 64, 36, 16, 16]),
        # radii 11.5, 10, 8.5, 7, 5.5, 4, 2.5 take sums up to 11, 10, 8, 7, 5, 4, 2
        ("l1", False, [184, 172, 136, 112, 60, 40, 12]),
        ("l1", True, [184, 156, 136, 84, 60, 24, 12]),
    ],
)
def test_discs_that_shrink_linearly(norm: str, compat: bool, counts: list[int]) -> None:
    settings = ScheduleSettings(196, num_prefix=1, depth=12, window_size=None, last_site=10)
    schedule = ShrinkingDiscs(range(2, 9), norm, compat=compat)
    assert list(schedule(settings).values()) == counts
    assert set(schedule(settings._replace(progress=0.0)).values()) == {196}
    with pytest.raises(ValueError, match="expected a square grid, got 195 patches"):
        schedule(settings._replace(num_patches=195))


@pytest.mark.parametrize("side", [7, 14, 24, 32])
def test_released_coordinates_are_steps_in_single_precision(side: int) -> None:
    coordinates = torch.tensor(axis(side, compat=True))
    expected = torch.linspace(-side // 2, side // 2, side)
    torch.testing.assert_close(coordinates, expected, rtol=3e-7, atol=1e-7)
    assert coordinates.tolist() == axis(side, compat=True), "numbers of single precision"


@pytest.mark.parametrize("norm", ["l1", "l2", "linf"])
def test_a_disc_is_kept_around_the_center(norm: str) -> None:
    tokens = Tokens(torch.randn(1, 196, 2), torch.arange(196)[None], (14, 14))
    count = {"l1": 84, "l2": 96, "linf": 100}[norm]
    index = RadialPruner(2, norm)(tokens, count, Signals()).kept.index[0]
    y, x = (index // 14 - 6.5).abs(), (index % 14 - 6.5).abs()
    distance = {"l1": y + x, "l2": (y**2 + x**2).sqrt(), "linf": torch.maximum(y, x)}[norm]
    mirrored = {(13 - i // 14) * 14 + 13 - i % 14 for i in index.tolist()}
    assert mirrored == set(index.tolist()), "a disc is symmetric"
    assert distance.max() < {"l1": 7, "l2": math.sqrt(31), "linf": 5}[norm]


def test_the_released_coordinates_split_equal_radii() -> None:
    exact, compat = (
        RadialPruner(2, "l1", compat=flag).score(
            Tokens(torch.zeros(1, 196, 2), torch.arange(196)[None], (14, 14)), Signals()
        )
        for flag in (False, True)
    )
    assert len(exact.unique()) == 13
    assert len(compat.unique()) > 13
    discs = {int((compat >= radius).sum()) for radius in compat.unique()}
    assert {92, 136, 68} <= discs  # published counts at rates 0.5 and 0.7


def test_inverse_of_a_permutation() -> None:
    permutation = torch.tensor([[2, 0, 1]])
    assert inverse_permutation(permutation).tolist() == [[1, 2, 0]]


def test_transport_after_three_iterations() -> None:
    plan = transport(torch.tensor([[[0.9, 0.1, -0.2], [0.0, 0.8, 0.5]]]))
    expected = torch.tensor([[[0.748484, 0.375321, 0.375321], [0.251516, 0.624679, 0.624679]]])
    torch.testing.assert_close(plan, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(1), torch.ones(1, 3))
    torch.testing.assert_close(plan.sum(2), torch.tensor([[1.499127, 1.500873]]))


def test_sinkhorn_sums_unit_tokens_whatever_their_length() -> None:
    torch.manual_seed(0)
    method, tokens = Sinkhorn(4, 2), tokens_of(torch.randn(5, 4).tolist())
    kept = method(tokens, 2, Signals()).kept
    longer = method(tokens._replace(x=7 * tokens.x), 2, Signals()).kept
    torch.testing.assert_close(kept.x, longer.x)
    unit = tokens.x / tokens.x.norm(dim=2, keepdim=True)
    torch.testing.assert_close(kept.x.sum(1), unit.sum(1))  # each token gives away exactly one


def test_centers_begin_with_unit_length_and_only_their_direction_counts() -> None:
    torch.manual_seed(0)
    method, tokens = Sinkhorn(8, 3), tokens_of(torch.randn(5, 8).tolist())
    torch.testing.assert_close(method.centres.norm(dim=1), torch.ones(3))
    out = method(tokens, 3, Signals()).kept.x
    out.square().sum().backward()
    along = (method.centres.grad * method.centres).sum(1)
    torch.testing.assert_close(along, torch.zeros(3), atol=1e-6, rtol=0)
    # As with centers that are normalized apart and then free, but for the part along them.
    z = torch.nn.functional.normalize(tokens.x, dim=-1)
    free = method.centres.detach().clone().requires_grad_()
    (transport(free @ z.transpose(1, 2)) @ z).square().sum().backward()
    radial = (free.grad * free.detach()).sum(1, keepdim=True) * free.detach()
    torch.testing.assert_close(method.centres.grad, free.grad - radial)
    with torch.no_grad():
        method.centres.mul_(3)
    torch.testing.assert_close(method(tokens, 3, Signals()).kept.x, out)


def test_patch_merger_mixes_normalized_tokens() -> None:
    torch.manual_seed(0)
    method, tokens = PatchMerger(4, 2), tokens_of(torch.randn(5, 4).tolist())
    z = torch.nn.functional.layer_norm(tokens.x, (4,))
    expected = (method.queries @ z.transpose(1, 2)).softmax(dim=2) @ z
    torch.testing.assert_close(method(tokens, 2, Signals()).kept.x, expected)


def test_products_of_the_patch_merger_may_be_scaled() -> None:
    torch.manual_seed(0)
    tokens = tokens_of(torch.randn(5, 4).tolist())
    plain, scaled = PatchMerger(4, 2), PatchMerger(4, 2, scaled=True)
    scaled.load_state_dict(plain.state_dict())
    with torch.no_grad():
        plain.queries.mul_(0.5)  # the square root of 4 channels
    torch.testing.assert_close(
        scaled(tokens, 2, Signals()).kept.x, plain(tokens, 2, Signals()).kept.x
    )


def test_sit_weighs_each_token_by_itself() -> None:
    torch.manual_seed(0)
    method, tokens = SiT(4, 3), tokens_of(torch.randn(5, 4).tolist())
    logits = torch.stack(
        [method.fc2(torch.nn.functional.gelu(method.fc1(method.norm(t)))) for t in tokens.x[0]]
    )
    expected = logits.softmax(dim=0).t() @ tokens.x[0]
    torch.testing.assert_close(method(tokens, 3, Signals()).kept.x[0], expected)
    with torch.no_grad():
        method.scale.zero_()
    mean = tokens.x.mean(dim=1, keepdim=True).expand(-1, 3, -1)
    torch.testing.assert_close(method(tokens, 3, Signals()).kept.x, mean)


@pytest.mark.parametrize(
    ("method", "count"),
    [
        (SiT(384, 137), 101_130),
        (PatchMerger(384, 137), 137 * 384 + 2 * 384),
        (Sinkhorn(384, 137), 137 * 384),
        (DPCKNN(384), 385),
        (EViT(384), 0),
        (ToMe(384), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_parameters_are_as_many_as_published(method: torch.nn.Module, count: int) -> None:
    assert sum(p.numel() for p in method.parameters()) == count


def test_defaults_are_those_of_the_published_comparison() -> None:
    assert DPCKNN(4).num_neighbors == 5
    assert KMedoids(4).iterations == 3
    sinkhorn = Sinkhorn(4, 2)
    assert (sinkhorn.iterations, sinkhorn.epsilon) == (3, 1.0)


def test_slots_are_as_many_as_the_schedule_left_at_the_native_size() -> None:
    method, tokens = PatchMerger(2, 3), tokens_of([(1, i) for i in range(6)])
    with pytest.raises(ValueError, match=r"PatchMerger has 3 slots.* num_keep=3, got 4"):
        method(tokens, 4, Signals())
    with pytest.raises(ValueError, match="num_slots >= 1, got 0"):
        PatchMerger(2, 0)
