"""Weights of CvT as its authors publish them, and as Hugging Face transformers stores them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from cropr_mm.checkpoints.grid import stored_query_grid
from cropr_mm.checkpoints.load import as_published, fill_backbone, select_weights
from cropr_mm.checkpoints.queries import fit_queries
from cropr_mm.checkpoints.rename import Source, rename

_W = r"(weight|bias)"
_BN = r"(weight|bias|running_mean|running_var|num_batches_tracked)"

# Source: microsoft/CvT, lib/models/cls_cvt.py.
MICROSOFT = Source(
    files="a CvT of microsoft/CvT",
    mark=r"stage0\.patch_embed\.proj\.weight",
    rules=(
        (r"stage(\d)\.(.+)", r"stages.\1.\2"),
        (rf"norm\.{_W}", r"norm.\1"),
        (r"head\..+", None),
    ),
    detector=False,
)
# Source: transformers, models/cvt/modeling_cvt.py and its conversion script.
_STAGE = r"(?:(?:cvt\.)?encoder\.)?stages\.(\d)\."
_LAYER = rf"{_STAGE}layers\.(\d+)\."
_EMBED = rf"{_STAGE}embedding\.convolution_embeddings\."
_CONV = (
    rf"{_LAYER}attention\.attention\.convolution_projection_(q|k|v)\w+\.convolution_projection\."
)
_BLOCK = r"stages.\1.blocks.\2."
TRANSFORMERS = Source(
    files="a CvT of Hugging Face transformers",
    mark=rf"{_EMBED}projection\.weight",
    rules=(
        (rf"{_STAGE}cls_token", r"stages.\1.cls_token"),
        (rf"{_EMBED}projection\.{_W}", r"stages.\1.patch_embed.proj.\2"),
        (rf"{_EMBED}normalization\.{_W}", r"stages.\1.patch_embed.norm.\2"),
        (rf"{_CONV}convolution\.weight", _BLOCK + r"attn.conv_proj_\3.conv.weight"),
        (rf"{_CONV}normalization\.{_BN}", _BLOCK + r"attn.conv_proj_\3.bn.\4"),
        (
            rf"{_LAYER}attention\.attention\.projection_(q|k|v)\w+\.{_W}",
            _BLOCK + r"attn.proj_\3.\4",
        ),
        (rf"{_LAYER}attention\.output\.dense\.{_W}", _BLOCK + r"attn.proj.\3"),
        (rf"{_LAYER}layernorm_before\.{_W}", _BLOCK + r"norm1.\3"),
        (rf"{_LAYER}layernorm_after\.{_W}", _BLOCK + r"norm2.\3"),
        (rf"{_LAYER}intermediate\.dense\.{_W}", _BLOCK + r"mlp.fc1.\3"),
        (rf"{_LAYER}output\.dense\.{_W}", _BLOCK + r"mlp.fc2.\3"),
        (rf"layernorm\.{_W}", r"norm.\1"),
        (r"classifier\..+", None),
    ),
    detector=False,
)


def load_cvt(backbone: nn.Module, source: str | Path | Mapping[str, Any], prefix: str = "") -> None:
    """Load published weights, those of transformers, or our own into a ``CroprCvT``.

    As :func:`cropr_mm.checkpoints.load_backbone`: nothing may be left over but the source's head,
    and nothing may be missing but ``reducers.*``, ``fusion.*`` and the final norm, which a
    transformers ``CvtModel`` without head does not have.
    """
    label, checkpoint, weights = select_weights(source, prefix)
    weights = as_published(weights, label, (MICROSOFT, TRANSFORMERS), rename)
    weights = fit_queries(weights, backbone, stored_query_grid(checkpoint, prefix))
    target = backbone.state_dict()
    leftovers = sorted(n for n in weights if n not in target and not n.startswith("head."))
    converted = {name: value for name, value in weights.items() if name in target}
    fill_backbone(backbone, converted, leftovers, label)
