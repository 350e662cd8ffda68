"""Linear regression over more samples than fit in memory.

n samples, C inputs, D outputs.
"""

import torch
from torch import Tensor


class LeastSquares:
    """Sums over samples from which the best affine map follows.

    Sums are float64, since features of transformers have channels a thousand times larger than
    others.

    Args:
        inputs: C.
        outputs: D.
        device: Where the samples are.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device | str = "cpu") -> None:
        options = dict(dtype=torch.float64, device=device)
        self.count = 0
        self.sum_x = torch.zeros(inputs, **options)
        self.sum_y = torch.zeros(outputs, **options)
        self.xx = torch.zeros(inputs, inputs, **options)
        self.xy = torch.zeros(inputs, outputs, **options)
        self.yy = torch.zeros(outputs, **options)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add samples, shapes (n, C) and (n, D)."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.sum_x += x.sum(dim=0)
        self.sum_y += y.sum(dim=0)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += y.square().sum(dim=0)

    def solve(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Find the affine map of least squared error.

        Args:
            ridge: Penalty on squared weights, in multiples of the mean variance of the inputs; it
                keeps directions in which inputs hardly vary from getting large weights.

        Returns:
            Weight, shape (C, D), and offset, shape (D,), float64.
        """
        covariance, shared = self._centered()
        penalty = ridge * covariance.diagonal().mean()
        weight = torch.linalg.solve(
            covariance + penalty * torch.eye(len(shared)).to(shared), shared
        )
        return weight, (self.sum_y - self.sum_x @ weight) / self.count

    def unexplained(self, weight: Tensor) -> float:
        """Share of the outputs' variance that a map leaves over, its offset being the best one.

        Args:
            weight: Shape (C, D), float64.
        """
        covariance, shared = self._centered()
        total = (self.yy / self.count - (self.sum_y / self.count).square()).sum()
        explained = 2 * (weight * shared).sum() - (weight * (covariance @ weight)).sum()
        return float(1 - explained / total)

    def _centered(self) -> tuple[Tensor, Tensor]:
        """Covariance of the inputs, (C, C), and of inputs with outputs, (C, D)."""
        mean = self.sum_x / self.count
        covariance = self.xx / self.count - mean.outer(mean)
        return covariance, self.xy / self.count - mean.outer(self.sum_y / self.count)
