"""Bootstrap over images and seeds, paired between models."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A mean and the middle 95 % of its bootstrap samples, in the unit of the values."""

    value: float
    low: float
    high: float


def draw_images(num_images: int, samples: int, seed: int = 0) -> NDArray[np.int64]:
    """Images of each bootstrap sample, drawn with replacement.

    Args:
        num_images: Images in the test set.
        samples: Bootstrap samples.
        seed: Seed of the random numbers.

    Returns:
        Indices, shape (samples, num_images). The same for every model and seed: what a picture is
        worth to one model it is worth to all.
    """
    return np.random.default_rng(seed).integers(num_images, size=(samples, num_images))


def paired_interval(
    values: NDArray[np.float64], resampled: NDArray[np.float64], seed: int = 0
) -> Interval:
    """Mean over seeds, with the spread over seeds and images together.

    Args:
        values: Metric of each seed on all images, or the difference of two models with the same
            seed, shape (seeds,).
        resampled: The same on each sample of images, shape (seeds, samples).
        seed: Seed of the random numbers.

    Returns:
        The interval holds the middle 95 % of means when both seeds and images are drawn with
        replacement. With few seeds it covers the truth far less often than that.

    Raises:
        ValueError: If the shapes do not fit.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13
    (percentile interval).
    """
    if values.ndim != 1 or resampled.ndim != 2 or len(values) != len(resampled):
        raise ValueError(
            "expected values of shape (seeds,) and resampled of shape (seeds, samples), got "
            f"{values.shape} and {resampled.shape}"
        )
    num_seeds, samples = resampled.shape
    drawn = np.random.default_rng(seed).integers(num_seeds, size=(num_seeds, samples))
    means = np.take_along_axis(resampled, drawn, axis=0).mean(axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))
