"""Host libraries in one process of many tests: nothing left of earlier runs, and no time wasted."""

import gc
from contextlib import AbstractContextManager
from unittest.mock import patch

from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin


def forget_runs() -> None:
    """Drop mmengine's loggers, message hubs and visualizers.

    It names them by config and second, so that the second of two quick runs would write to the log
    of the first.
    """
    kinds = ManagerMixin.__subclasses__()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind is not DefaultScope:
            kind._instance_dict.clear()


def unformatted_configs() -> AbstractContextManager:
    """Inside of the block, configs are written as they are; yapf formats each several times."""
    return patch("yapf.yapflib.yapf_api.FormatCode", lambda text, **_: (text, True))


def exempt_from_collection() -> None:
    """Let garbage collection pass over all that is there; every data set of mmengine starts one."""
    gc.collect()
    gc.freeze()
