"""Intervals over images and seeds, paired between models."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t


class Interval(NamedTuple):
    """A mean and its 95 % interval, in the unit of the values."""

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


def paired_interval(values: NDArray[np.float64], resampled: NDArray[np.float64]) -> Interval:
    """Mean over seeds, with its uncertainty from seeds and images together.

    Args:
        values: Metric of each seed on all images, or the difference of two models with the same
            seed, shape (seeds,).
        resampled: The same on each sample of images, shape (seeds, samples).

    Returns:
        The mean and a symmetric interval of 95 %. One seed says nothing about others: its interval
        is over images alone.

    Raises:
        ValueError: If the shapes do not fit.

    Source: half-widths of independent parts add as squares (Zou and Donner, Construction of
    confidence limits about effect measures, Statistics in Medicine 27, 2008). The seeds' part is
    Student's t over their values, since resampling few seeds is far too narrow; the images' part is
    the standard deviation of the mean over seeds among bootstrap samples (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13). What a picture is worth to one seed only is in
    both parts, so the interval is rather too wide.
    """
    if values.ndim != 1 or resampled.ndim != 2 or len(values) != len(resampled):
        raise ValueError(
            "expected values of shape (seeds,) and resampled of shape (seeds, samples), got "
            f"{values.shape} and {resampled.shape}"
        )
    seeds = len(values)
    half_images = norm.ppf(0.975) * resampled.mean(axis=0).std(ddof=1)
    half_seeds = 0.0
    if seeds > 1:
        half_seeds = t.ppf(0.975, seeds - 1) * values.std(ddof=1) / np.sqrt(seeds)
    mean, half = float(values.mean()), float(np.hypot(half_seeds, half_images))
    return Interval(mean, mean - half, mean + half)
