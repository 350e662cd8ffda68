"""Bootstrap intervals against closed forms, and what pairing is for."""

import numpy as np
import pytest

from cropr_mm.analysis.bootstrap import draw_images, paired_interval


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


def test_spread_between_seeds_widens_the_interval() -> None:
    images = np.random.default_rng(2).normal(50.0, 1.0, size=400)
    same = np.stack([images] * 3)
    different = same + np.array([[-5.0], [0.0], [5.0]])
    narrow = paired_interval(same.mean(axis=1), resample(same))
    wide = paired_interval(different.mean(axis=1), resample(different))
    assert narrow.value == pytest.approx(wide.value)
    assert wide.high - wide.low > 10 * (narrow.high - narrow.low)
    assert wide.low == pytest.approx(wide.value - 5.0, abs=0.5), "three times the lowest seed"


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
