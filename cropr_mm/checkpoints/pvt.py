"""Weights of timm's PVT v2 models, and of the files that timm reads, for our adapter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import pvt_v2
from torch import nn

from cropr_mm.checkpoints.grid import stored_query_grid
from cropr_mm.checkpoints.load import fill_backbone, select_weights
from cropr_mm.checkpoints.queries import fit_queries


def load_pvt(backbone: nn.Module, source: str | Path | Mapping[str, Any], prefix: str = "") -> None:
    """Load timm's weights, the released ones, or our own into a ``CroprPVT``.

    As :func:`cropr_mm.checkpoints.load_backbone`, but what may be left over are the source's
    ``head*`` and stages behind the last one that is asked for, and missing only ``reducers.*``.
    """
    label, checkpoint, weights = select_weights(source, prefix)
    weights = pvt_v2.checkpoint_filter_fn(weights, backbone)
    weights = fit_queries(weights, backbone, stored_query_grid(checkpoint, prefix))
    target = backbone.state_dict()
    unused = ("head", *(f"stages.{i}." for i in range(len(backbone.stages), 4)))
    leftovers = sorted(n for n in weights if n not in target and not n.startswith(unused))
    converted = {name: value for name, value in weights.items() if name in target}
    fill_backbone(backbone, converted, leftovers, label)
