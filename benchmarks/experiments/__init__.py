"""Side-by-side comparison of pruners on small data: train, test, bootstrap, table and plot."""

from experiments.comparison import compare

__all__ = ["compare"]
