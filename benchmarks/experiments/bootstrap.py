"""Intervals over images and seeds, paired between models."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t


class Interval(NamedTuple):
    """A mean and its 95 % interval, in the unit of the values."""

    value: float
    low: float
    high: float


BLOCK = 10
"""Consecutive frames of a film that are drawn together."""


def draw_images(
    num_images: int, samples: int, films: Sequence[NDArray[np.int64]] = ()
) -> NDArray[np.int64]:
    """Images of each bootstrap sample, drawn with replacement.

    Neighboring frames of a film show the same things, so films are drawn in blocks of
    :data:`BLOCK` frames, which may go on at the start of the film; each film keeps its number of
    frames.

    Args:
        num_images: Images in the test set.
        samples: Bootstrap samples.
        films: Places of the frames of each film in order, shape (frames,) each, all images in
            total; none where every image stands alone.

    Returns:
        Indices, shape (samples, num_images). The same for every model and seed: what a picture is
        worth to one model it is worth to all.

    Raises:
        ValueError: If the films do not have every image once.

    Source: the circular block bootstrap of Politis and Romano (1992), film by film.
    """
    generator = np.random.default_rng(0)
    if not films:
        return generator.integers(num_images, size=(samples, num_images))
    if not np.array_equal(np.sort(np.concatenate(films)), np.arange(num_images)):
        raise ValueError(f"expected films of {num_images} images, each once, got {films}")
    drawn = []
    for film in films:
        starts = generator.integers(len(film), size=(samples, -(-len(film) // BLOCK), 1))
        places = (starts + np.arange(BLOCK)).reshape(samples, -1)[:, : len(film)]
        drawn.append(film[places % len(film)])
    return np.concatenate(drawn, axis=1)


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
