"""Analysis metrics against worked examples, all in float64."""

import numpy as np
import pytest

from cropr_mm.inspection import metrics as m

A, B = np.array([[4.0, 3], [2, 1]]), np.array([[3.0, 3], [1, 3]])
X = np.array([[1.0, 2, 3, 4, 6], [2, 0, 1, 3, 1]])
Y = np.array([[1.0, 1, 2, 5, 5], [0, 1, 0, 1, 3]])
close = pytest.approx


def test_overlap_of_kept_patches() -> None:
    one, other = {0, 1, 2, 3, 5, 8}, {1, 2, 3, 9}
    assert m.intersection_over_area(one, other) == 0.75
    assert m.intersection_over_union(one, other) == close(3 / 7)
    assert m.intersection_over_area(one, set()) == m.intersection_over_union(set(), set()) == 0


@pytest.mark.parametrize(
    ("ratios", "area", "union"),
    [
        ((0.9, 0.9), (0.886364, 0.759494, 0.619718), (0.795918, 0.612245, 0.448980)),
        ((0.9, 0.7), (0.854015, 0.604167, 0.194030), (0.596939, 0.295918, 0.066327)),
        ((0.9, 0.5), (0.795918, 0.224490, 0), (0.397959, 0.056122, 0)),
        ((0.9, 0.25), (0.591837, 0, 0), (0.147959, 0, 0)),
        ((0.7, 0.7), (0.569343, 0, 0), (0.397959, 0, 0)),
        ((0.7, 0.5), (0.397959, 0, 0), (0.198980, 0, 0)),
        ((0.7, 0.25), (0, 0, 0), (0, 0, 0)),
        ((0.5, 0.5), (0, 0, 0), (0, 0, 0)),
        ((0.5, 0.25), (0, 0, 0), (0, 0, 0)),
        ((0.25, 0.25), (0, 0, 0), (0, 0, 0)),
    ],
)
def test_least_overlap_is_the_published_bound(ratios: tuple, area: tuple, union: tuple) -> None:
    sizes = {0.9: (176, 158, 142), 0.7: (137, 96, 67), 0.5: (98, 49, 24), 0.25: (49, 12, 3)}
    one, other = (sizes[ratio] for ratio in ratios)
    bounds = [m.least_overlap(196, a, b) for a, b in zip(one, other, strict=True)]
    assert [b.over_area for b in bounds] == close(area, abs=1e-6)
    assert [b.over_union for b in bounds] == close(union, abs=1e-6)


def test_the_least_overlap_is_reached() -> None:
    bound = m.least_overlap(196, 176, 137)
    one, other = set(range(176)), set(range(196 - 137, 196))
    assert m.intersection_over_area(one, other) == bound.over_area
    assert m.intersection_over_union(one, other) == bound.over_union


def test_kept_patches_are_those_of_the_whole_image() -> None:
    assert m.compose_kept([[0, 2, 3, 5], [1, 3]]) == [{0, 2, 3, 5}, {2, 5}]
    assert m.compose_kept([[4, 2, -1], [0, 2]]) == [{4, 2}, {4}]


def test_clusters_are_those_of_the_patches() -> None:
    assert m.compose_assignments([[0, 0, 1, 2, 2, 1], [1, 0, 0]])[1] == [1, 1, 0, 0, 0, 0]


def test_agreement_of_clusters() -> None:
    fine = [0, 0, 1, 1, 2, 2, 3, 3]
    assert m.cluster_agreement([0, 0, 0, 0, 1, 1, 1, 1], fine) == close((1, 0.5, 2 / 3))
    found = m.cluster_agreement([0, 0, 0, 0, 1, 1, 1, 0], fine)
    assert found == close((0.738065, 0.352217, 0.476866), abs=1e-6)


def test_mean_depth_at_which_patches_leave() -> None:
    images = [{3: {0, 1, 2}, 6: {0, 1}}, {3: {1, 2, 3}, 6: {1, 3}}]
    assert m.depth_map(images, (2, 2), 12).tolist() == [[7.5, 12], [6, 7.5]]
    with pytest.raises(ValueError, match="at least one image"):
        m.depth_map([], (2, 2), 12)


def test_similarity_of_maps() -> None:
    assert m.spearman(A, B) == close(0.258199, abs=1e-6)
    assert m.pearson(A, B) == close(0.258199, abs=1e-6)
    assert m.kendall(A, B) == close(0.235702, abs=1e-6)
    assert m.jensen_shannon(A, B) == close(0.055170, abs=1e-6)
    assert m.jensen_shannon(A, B) * np.log(2) == close(0.038241, abs=1e-6)
    assert m.jensen_shannon(A, B, compat=True) == close(0.059454, abs=1e-6)
    assert m.earth_movers_distance(A, B) == close(0.1 + 0.1 * np.sqrt(2))
    assert m.histogram_similarity(A, B, stretch=False) == close(0.8)
    assert m.histogram_similarity(A, B) == close(2 / 3)
    ones = np.array([[1.0, 2, 3, 4, 5]]), np.array([[2.0, 1, 4, 3, 5]])
    assert (m.spearman(*ones), m.kendall(*ones)) == close((0.8, 0.6))


def test_similarity_goes_with_what_models_lose() -> None:
    """Losses 1, 2, 3, 4, 5 against an anchor of 80, as the worked example ranks them."""
    scores = [79.0, 78, 77, 76, 75]
    found = m.proxy_correlation([2, 1, 4, 3, 5], scores, 80)
    assert (found.spearman, found.kendall) == close((0.8, 0.6))
    assert m.proxy_correlation([0.9, 0.8, 0.4, 0.3, 0.1], scores, 80) == close((-1, -1))
    ties = m.proxy_correlation([3, 3, 1, 3], [-4, -3, -2, -1], 0)
    assert ties == close((0.258199, 0.235702), abs=1e-6)


def test_mass_moves_by_the_shortest_way() -> None:
    a, b = np.zeros((3, 3)), np.zeros((3, 3))
    a[0, 0] = a[1, 1] = b[1, 1] = b[2, 2] = 0.5
    assert m.earth_movers_distance(a, b) == close(np.sqrt(2))
    assert m.earth_movers_distance(a, a) == 0
    wide = np.zeros((2, 5))
    wide[0, 0], other = 1, np.zeros((2, 5))
    other[0, 4] = 1
    assert m.earth_movers_distance(wide, other) == close(4), "rows and columns are not swapped"


def test_all_mass_of_large_maps_is_moved() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random((14, 14)), rng.random((14, 14))
    distance = m.earth_movers_distance(a, b)
    assert distance == close(m.earth_movers_distance(b, a))
    assert 0 < distance < 2


def test_similarity_of_features() -> None:
    assert m.procrustes(X, Y) == close(0.162763, abs=1e-6)
    assert m.cka(X, Y) == close(0.892322, abs=1e-6)
    assert m.mean_cca(X, Y) == close((0.891101, 0.803885), abs=1e-6)
    assert m.pwcca(X, Y) == close(0.098349, abs=1e-6)
    assert m.pwcca(Y, X) == close(0.063467, abs=1e-6)


def test_rotated_and_scaled_features_are_the_same() -> None:
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    assert m.procrustes(X, 3 * turn @ X + 1) == close(0, abs=1e-12)
    assert m.cka(X, 3 * turn @ X + 1) == close(1)
    assert m.pwcca(X, turn @ X) == close(0, abs=1e-9)


def test_features_that_repeat_each_other_break_nothing() -> None:
    often = np.concatenate([X] * 5)
    assert m.mean_cca(often, Y) == close(m.mean_cca(X, Y)), "the same space of features"
    assert m.pwcca(Y, often) == close(m.pwcca(Y, X))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: m.spearman(A, A[:1]), r"one shape .* \(2, 2\) and \(1, 2\)"),
        (lambda: m.jensen_shannon(A, -B), "not negative"),
        (lambda: m.histogram_similarity(A, np.ones((2, 2))), "stretch=False"),
        (lambda: m.procrustes(X, Y[:, :3]), r"the same images, got \(2, 5\) and \(2, 3\)"),
        (lambda: m.cka(X[0], Y[0]), r"shape \(D, n\), got \(5,\)"),
        (lambda: m.cka(np.ones((2, 5)), Y), "differ between images"),
        (lambda: m.proxy_correlation([1, 2], [1], 1), "two models or more, got 2 and 1"),
        (lambda: m.proxy_correlation([1], [1], 1), "two models or more, got 1 and 1"),
        (lambda: m.proxy_correlation([1, 1], [1, 2], 3), "similarities that differ, got 1 of all"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
