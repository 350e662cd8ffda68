"""Data that the package makes itself."""

from cropr_mm.datasets.demo_data import CLASSES, DemoSettings, make_demo_data

__all__ = ["CLASSES", "DemoSettings", "make_demo_data"]
