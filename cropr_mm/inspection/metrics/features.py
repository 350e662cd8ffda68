"""Similarity of the features that two models have of the same images.

D features (they may differ between models), n images; matrices are (D, n).
"""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_TOLERANCE = 1e-10
"""Eigenvalues below this share of the largest one count as zero."""


def centered(x: Matrix) -> Matrix:
    """Subtract each feature's mean over images and divide by the Frobenius norm.

    Raises:
        ValueError: If this is no matrix, or all images are alike.
    """
    if x.ndim != 2:
        raise ValueError(f"expected features of shape (D, n), got {x.shape}")
    x = np.asarray(x, dtype=np.float64)
    x = x - x.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(x)
    if norm == 0:
        raise ValueError("expected features that differ between images, got the same for all")
    return x / norm


def procrustes(x: Matrix, y: Matrix) -> float:
    """Squared distance after the best rotation, in [0, 2]; both matrices are normalized first."""
    x, y = _pair(x, y)
    return float(2.0 - 2.0 * np.linalg.norm(x @ y.T, "nuc"))


def cka(x: Matrix, y: Matrix) -> float:
    """Linear centered kernel alignment, a similarity in [0, 1]."""
    x, y = _pair(x, y)
    both = np.linalg.norm(y @ x.T) ** 2
    return float(both / (np.linalg.norm(x @ x.T) * np.linalg.norm(y @ y.T)))


def mean_cca(x: Matrix, y: Matrix) -> tuple[float, float]:
    """Mean of the canonical correlations and of their squares."""
    x, y = _pair(x, y)
    rho = _canonical(x, y)[0]
    return float(rho.mean()), float((rho**2).mean())


def pwcca(x: Matrix, y: Matrix) -> float:
    """Distance by canonical correlations, weighted by how much of ``x`` each one explains.

    Not symmetric. With fewer images than features correlations say nothing.

    Source: Morcos et al., NeurIPS 2018, arXiv 1806.05759.
    """
    x, y = _pair(x, y)
    rho, directions = _canonical(x, y)
    weight = np.abs(directions @ _whitening(x) @ x @ x.T).sum(axis=1)
    return float(1.0 - (weight / weight.sum() * rho).sum())


def _canonical(x: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
    """Canonical correlations, and directions (rows) in the whitened space of ``x``."""
    u, rho, _ = np.linalg.svd(_whitening(x) @ x @ y.T @ _whitening(y), full_matrices=False)
    return rho, u.T


def _whitening(x: Matrix) -> Matrix:
    """Inverse square root of the covariance (D, D); directions without variance become zero."""
    values, vectors = np.linalg.eigh(x @ x.T)
    found = values > _TOLERANCE * values.max()
    scale = np.zeros_like(values)
    scale[found] = values[found] ** -0.5
    return (vectors * scale) @ vectors.T


def _pair(x: Matrix, y: Matrix) -> tuple[Matrix, Matrix]:
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"expected features of the same images, got {x.shape} and {y.shape}")
    return centered(x), centered(y)
