"""The demo: the whole package on data that it makes itself."""

from cropr_mm.demo.run import run_demo

__all__ = ["run_demo"]
