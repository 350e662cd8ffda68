"""A compiled module of its own."""

from typing import Any

import torch
from torch import nn

_FORMS = 64  # of one function; torch keeps 8 by default, one per shape


class Compiled(nn.Module):
    """A module under ``torch.compile`` that shares no compiled forms with others.

    torch keeps them by code object and looks neither at the kernel of attention nor at what is
    frozen, so models of one class would get each other's.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

        def forward(*args: Any) -> Any:
            return module(*args)

        forward.__code__ = forward.__code__.replace(co_name=f"forward_{id(self)}")
        settings = torch._dynamo.config
        for limit in ("recompile_limit", "cache_size_limit"):  # the second before torch 2.6
            if hasattr(settings, limit):
                setattr(settings, limit, max(_FORMS, getattr(settings, limit)))
        # On a GPU the mode replays CUDA graphs, so that small batches do not wait for launches.
        self.run = torch.compile(forward, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def forward(self, *args: Any) -> Any:
        """What the module returns."""
        return self.run(*args)
