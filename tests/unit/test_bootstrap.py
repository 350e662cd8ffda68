"""Intervals over images and seeds: closed forms, coverage, and what pairing is for."""

import numpy as np
import pytest

from experiments.bootstrap import BLOCK, draw_images, paired_interval


def resample(scores: np.ndarray, samples: int = 4000) -> np.ndarray:
    """Mean of per-image scores, shape (seeds, images), on each sample of images."""
    return scores[:, draw_images(scores.shape[1], samples)].mean(axis=2)


def test_one_seed_gives_the_interval_of_a_mean() -> None:
    scores = np.random.default_rng(1).normal(50.0, 8.0, size=(1, 400))
    interval = paired_interval(scores.mean(axis=1), resample(scores))
    half = 1.96 * scores.std() / np.sqrt(400)
    assert interval.value == scores.mean()
    assert interval.low == pytest.approx(scores.mean() - half, abs=0.1)
    assert interval.high == pytest.approx(scores.mean() + half, abs=0.1)


def test_seeds_without_spread_among_images_give_students_t() -> None:
    values = np.array([-1.75, -0.02, +0.15])
    interval = paired_interval(values, np.repeat(values[:, None], 50, axis=1))
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)  # tabulated for two degrees of freedom
    assert interval == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_the_truth_is_inside_about_as_often_as_promised(seeds: int, spread: float) -> None:
    """300 experiments; effects of the seed, of the image, and of both; the truth is 0.

    The rate of 300 has a standard error of 1.3 %. Where no seed differs the interval may be wider
    than it need be.
    """
    generator = np.random.default_rng(seeds)
    inside = []
    for _ in range(300):
        scores = (
            spread * generator.normal(size=(seeds, 1))
            + generator.normal(size=(1, 50))
            + 0.5 * generator.normal(size=(seeds, 50))
        )
        interval = paired_interval(scores.mean(axis=1), resample(scores, 200))
        inside.append(interval.low < 0.0 < interval.high)
    assert np.mean(inside) >= 0.915
    if spread:
        assert np.mean(inside) <= 0.985


def test_pairing_resolves_what_two_separate_intervals_cannot() -> None:
    generator = np.random.default_rng(3)
    images = generator.normal(50.0, 20.0, size=(1, 200))
    better = images + 1.0 + generator.normal(0.0, 1.0, size=(1, 200))
    base, other = (paired_interval(s.mean(axis=1), resample(s)) for s in (images, better))
    assert other.low < base.high
    paired = paired_interval((better - images).mean(axis=1), resample(better) - resample(images))
    assert 0.7 < paired.low < paired.value < paired.high < 1.3


def test_every_model_meets_the_same_images() -> None:
    assert np.array_equal(draw_images(40, 10), draw_images(40, 10))
    assert draw_images(40, 10).shape == (10, 40)
    assert len(np.unique(draw_images(40, 1))) < 40, "with replacement"


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3, 5\)"):
        paired_interval(np.zeros(2), np.zeros((3, 5)))


def test_frames_of_a_film_are_drawn_in_blocks_and_films_keep_their_length() -> None:
    films = [np.arange(25)[::-1], 25 + np.arange(40)]
    drawn = draw_images(65, 20, films=films)
    assert drawn.shape == (20, 65)
    assert ((drawn < 25).sum(axis=1) == 25).all()
    steps = np.diff(drawn[:, :25], axis=1) % 25
    inside = np.arange(1, 25) % BLOCK != 0
    assert (steps[:, inside] == 24).all(), "the next frame of this film, which runs backward"
    assert (steps[:, ~inside] != 24).any()
    with pytest.raises(ValueError, match="films of 65 images, each once"):
        draw_images(65, 1, films=films[:1])


def test_alike_neighbors_widen_the_interval_as_much_as_they_should() -> None:
    """Blocks of ten equal frames: there are a tenth as many independent ones."""
    scores = np.random.default_rng(5).normal(size=40).repeat(10)[None]
    film = [np.arange(400)]
    blocks, single = (
        paired_interval(
            scores.mean(axis=1), scores[:, draw_images(400, 2000, films=f)].mean(axis=2)
        )
        for f in (film, ())
    )
    width = (blocks.high - blocks.low) / (single.high - single.low)
    assert width == pytest.approx(np.sqrt(10 * 2 / 3), rel=0.15), "blocks cut through two of ten"
