"""Checkpoints of Token Cropr's released code: classifiers and linear segmenters."""

from collections.abc import Collection
from typing import Any

from torch import Tensor

from cropr_mm.checkpoints.rename import Rule, Source, moved

_W = r"(weight|bias)"
_BLOCK = r"(blocks\.\d+\.)"
_CROPR = r"cropr\.(\d+)\."
_REDUCER = r"backbone.reducers.\1."

# timm's names, which are ours but for parts that are packed afterwards.
_ENCODER: tuple[Rule, ...] = (
    (r"(cls_token|pos_embed|patch_embed\.proj\.(?:weight|bias))", r"\1"),
    (rf"{_BLOCK}(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12]|mlp\.norm)\.{_W}", r"\1\2.\3"),
    (rf"{_BLOCK}attn\.([qkv])_proj\.weight", r"\1attn.\2_proj.weight"),
    (rf"{_BLOCK}attn\.([qv])_proj\.bias", r"\1attn.\2_bias"),
    (rf"{_BLOCK}mlp\.fc1_([gx])\.{_W}", r"\1mlp.fc1_\2.\3"),
    (rf"(?:fc_)?norm\.{_W}", r"norm.\1"),
)
RELEASED = Source(
    files="a checkpoint of Token Cropr's released code",
    mark=rf"{_CROPR}cross_attn\.queries",
    rules=(
        *moved(_ENCODER, "", "backbone."),
        (rf"head\.{_W}", r"head.fc.\1"),
        (rf"{_CROPR}cross_attn\.queries", rf"{_REDUCER}queries"),
        (rf"{_CROPR}cross_attn\.mlp_norm\.{_W}", rf"{_REDUCER}auxiliary.norm.\2"),
        (rf"{_CROPR}cross_attn\.mlp\.(fc[12])\.{_W}", rf"{_REDUCER}auxiliary.\2.\3"),
        (rf"{_CROPR}cross_attn\.attn_norm\.{_W}", rf"{_REDUCER}attention.norm.\2"),
        (rf"{_CROPR}cross_attn\.([qkv]|proj)\.{_W}", rf"{_REDUCER}attention.\2.\3"),
        (rf"{_CROPR}head\.norm\.{_W}", rf"{_REDUCER}auxiliary.head_norm.\2"),
        (rf"{_CROPR}head\.head\.{_W}", rf"{_REDUCER}auxiliary.head.\2"),
        (r"(?:.+\.)?rope\..+", None),
    ),
    detector=False,
)
_SEGMENTER = "decode_head.conv_seg."


def place_head(weights: dict[str, Any], wanted: Collection[str]) -> None:
    """Move a classifier's linear layer, in place, where the model has a segmenter's convolution.

    Args:
        weights: Name -> tensor, as :data:`RELEASED` names them.
        wanted: Names of the model.
    """
    if _SEGMENTER + "weight" not in wanted or "head.fc.weight" not in weights:
        return
    weight: Tensor = weights.pop("head.fc.weight")
    weights[_SEGMENTER + "weight"] = weight[..., None, None]
    weights[_SEGMENTER + "bias"] = weights.pop("head.fc.bias")
