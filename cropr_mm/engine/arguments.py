"""Options that several command-line tools take; light to import, so that --help answers at once."""

import os
from argparse import ArgumentParser


def add_traceback_option(parser: ArgumentParser) -> None:
    """Let a program take ``--traceback``, for :func:`cropr_mm.engine.console.short_errors`."""
    parser.add_argument(
        "--traceback", action="store_true", help="show the whole traceback of every error"
    )


def add_device_option(parser: ArgumentParser) -> None:
    """Let a program take ``--device``, for :func:`hide_gpus`."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu"),
        default="auto",
        help="auto uses the GPU, cpu does not although there is one (default: auto)",
    )


def hide_gpus() -> None:
    """Hide all GPUs from this process; call it before torch is imported.

    mmengine chooses its device when it is imported.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
