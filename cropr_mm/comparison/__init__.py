"""Side-by-side comparison of pruners on small data: train, test, bootstrap, table and plot."""

from cropr_mm.comparison.run import compare

__all__ = ["compare"]
