"""Encoders as other projects store them, brought to the names that their publishers use.

The names on the right are those of the official DINOv2, DINOv3, MAE and EVA-02 files, which timm
reads. Queries, keys and values of separate layers become one packed layer.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.ps_vit import PS_VIT
from cropr_mm.checkpoints.rename import Rule, Source, moved, rename

_W = r"(weight|bias)"
# What a model around the encoder puts before its names.
_MODEL = r"(?:(?:vit|dinov2|dinov2_with_registers|dinov3_vit|model|backbone)\.)?"


def _layers(prefix: str, *parts: tuple[str, str]) -> tuple[Rule, ...]:
    """Rules for the parts of each block: pattern after ``prefix`` and the block's number, name."""
    return tuple((rf"{prefix}(\d+)\.{part}", rf"blocks.\1.{name}") for part, name in parts)


# Source: transformers, models/vit/modeling_vit.py, vit_mae, dinov2, dinov2_with_registers.
_HF_BLOCK = r"encoder\.layer\."
_HF_ATTENTION = (
    (rf"attention\.attention\.(query|key|value)\.{_W}", r"attn.\2.\3"),
    (rf"attention\.output\.dense\.{_W}", r"attn.proj.\2"),
)
_HF_EMBEDDINGS: tuple[Rule, ...] = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (rf"embeddings\.patch_embeddings\.projection\.{_W}", r"patch_embed.proj.\1"),
    (rf"layernorm\.{_W}", r"norm.\1"),
)
HF_VIT = Source(
    files="a ViT or MAE encoder of Hugging Face transformers",
    mark=rf"{_MODEL}encoder\.layer\.0\.layernorm_before\.weight",
    rules=(
        *moved(
            (
                *_HF_EMBEDDINGS,
                *_layers(
                    _HF_BLOCK,
                    *_HF_ATTENTION,
                    (rf"layernorm_before\.{_W}", r"norm1.\2"),
                    (rf"layernorm_after\.{_W}", r"norm2.\2"),
                    (rf"intermediate\.dense\.{_W}", r"mlp.fc1.\2"),
                    (rf"output\.dense\.{_W}", r"mlp.fc2.\2"),
                ),
                (r"(?:embeddings\.mask_token|pooler\..+)", None),
            ),
            _MODEL,
            "",
        ),
        (r"(?:classifier|decoder)\..+", None),
    ),
    detector=False,
)
HF_DINOV2 = Source(
    files="a DINOv2 encoder of Hugging Face transformers",
    mark=rf"{_MODEL}encoder\.layer\.0\.layer_scale1\.lambda1",
    rules=(
        *moved(
            (
                *_HF_EMBEDDINGS,
                *_layers(
                    _HF_BLOCK,
                    *_HF_ATTENTION,
                    (rf"(norm[12]|mlp\.fc[12])\.{_W}", r"\2.\3"),
                    (r"layer_scale([12])\.lambda1", r"ls\2.gamma"),
                    (rf"mlp\.weights_in\.{_W}", r"mlp.w12.\2"),
                    (rf"mlp\.weights_out\.{_W}", r"mlp.w3.\2"),
                ),
                (r"embeddings\.(mask_token|register_tokens)", r"\1"),
            ),
            _MODEL,
            "",
        ),
        (r"classifier\..+", None),
    ),
    detector=False,
)
# Source: transformers, models/dinov3_vit/modeling_dinov3_vit.py.
HF_DINOV3 = Source(
    files="a DINOv3 encoder of Hugging Face transformers",
    mark=rf"{_MODEL}layer\.0\.attention\.o_proj\.weight",
    rules=(
        *moved(
            (
                (r"embeddings\.cls_token", "cls_token"),
                (r"embeddings\.register_tokens", "storage_tokens"),
                (rf"embeddings\.patch_embeddings\.{_W}", r"patch_embed.proj.\1"),
                (rf"norm\.{_W}", r"norm.\1"),
                *_layers(
                    r"layer\.",
                    (rf"(norm[12])\.{_W}", r"\2.\3"),
                    (r"attention\.([qkv])_proj\.weight", r"attn.\2.weight"),
                    (r"attention\.([qv])_proj\.bias", r"attn.\2_bias"),
                    (rf"attention\.o_proj\.{_W}", r"attn.proj.\2"),
                    (r"layer_scale([12])\.lambda1", r"ls\2.gamma"),
                    (rf"mlp\.gate_proj\.{_W}", r"mlp.w1.\2"),
                    (rf"mlp\.up_proj\.{_W}", r"mlp.fc1.\2"),
                    (rf"mlp\.down_proj\.{_W}", r"mlp.fc2.\2"),
                ),
                (r"(?:embeddings\.mask_token|rope_embeddings\..+)", None),
            ),
            _MODEL,
            "",
        ),
    ),
    detector=False,
)
# Source: dinov2, dinov2/train/ssl_meta_arch.py, and dinov3: teachers with heads, blocks in chunks.
META_TRAINING = Source(
    files="the teacher of a training of DINO, DINOv2 or DINOv3 (facebookresearch)",
    mark=r"(?:backbone\.)?blocks\.0\.0\.norm1\.weight|(?:dino|ibot)_head\..+",
    rules=(
        (r"(?:backbone\.)?blocks\.\d+\.(\d+\..+)", r"blocks.\1"),
        (r"(?:backbone\.)?(blocks\.\d+\.[a-z].+)", r"\1"),
        (r"(?:\w+_)?head\..+", None),
        (r"backbone\.(.+)", r"\1"),
        (r"((?:cls|mask)_token|(?:register|storage)_tokens|pos_embed|patch_embed\..+)", r"\1"),
        (rf"(norm)\.{_W}", r"\1.\2"),
        (r"rope_embed\..+|local_cls_norm\..+", None),
    ),
    detector=False,
)
# Source: mmpretrain, models/backbones/vision_transformer.py.
_MM_EMBEDDINGS: tuple[Rule, ...] = (
    (r"(cls_token|pos_embed)", r"\1"),
    (rf"patch_embed\.projection\.{_W}", r"patch_embed.proj.\1"),
    (rf"ln1\.{_W}", r"norm.\1"),
    (rf"ln2\.{_W}", r"fc_norm.\1"),
)
MMPRETRAIN_VIT = Source(
    files="a VisionTransformer of mmpretrain",
    mark=rf"{_MODEL}layers\.0\.ffn\.(?:layers\.0\.0|w12)\.weight",
    rules=(
        *moved(
            (
                *_MM_EMBEDDINGS,
                *_layers(
                    r"layers\.",
                    (rf"ln([12])\.{_W}", r"norm\2.\3"),
                    (rf"attn\.(qkv|proj)\.{_W}", r"attn.\2.\3"),
                    (r"(?:attn|ffn)\.gamma([12])\.weight", r"ls\2.gamma"),
                    (rf"ffn\.layers\.0\.0\.{_W}", r"mlp.fc1.\2"),
                    (rf"ffn\.layers\.1\.{_W}", r"mlp.fc2.\2"),
                    (rf"ffn\.w12\.{_W}", r"mlp.fc1.\2"),
                    (rf"ffn\.w3\.{_W}", r"mlp.fc2.\2"),
                ),
            ),
            _MODEL,
            "",
        ),
        (r"(?:head|neck|target_generator)\..+", None),
    ),
    detector=False,
)
# Source: mmpretrain, models/backbones/vit_eva02.py.
MMPRETRAIN_EVA02 = Source(
    files="a ViTEVA02 of mmpretrain",
    mark=rf"{_MODEL}layers\.0\.mlp\.w12\.weight",
    rules=(
        *moved(
            (
                *_MM_EMBEDDINGS,
                *_layers(
                    r"layers\.",
                    (rf"(norm[12]|mlp\.norm)\.{_W}", r"\2.\3"),
                    (rf"attn\.(qkv|proj)\.{_W}", r"attn.\2.\3"),
                    (r"gamma_([12])", r"ls\2.gamma"),
                    (rf"mlp\.w12\.{_W}", r"mlp.fc1.\2"),
                    (rf"mlp\.w3\.{_W}", r"mlp.fc2.\2"),
                ),
                (r"(?:layers\.\d+\.attn\.)?rope\..+", None),
            ),
            _MODEL,
            "",
        ),
        (r"(?:head|neck)\..+", None),
    ),
    detector=False,
)
LAYOUTS = (HF_VIT, HF_DINOV2, HF_DINOV3, META_TRAINING, MMPRETRAIN_VIT, MMPRETRAIN_EVA02, PS_VIT)
_PARTS = (("query", "key", "value"), ("q", "k", "v"))


def to_published_names(
    weights: Mapping[str, Tensor], layout: Source
) -> tuple[dict[str, Tensor], list[str]]:
    """Give the weights of an encoder the names that its publisher uses.

    Args:
        weights: Name in the file -> tensor; not changed.
        layout: One of :data:`LAYOUTS`.

    Returns:
        Weights as in the published file, without heads, and notes about what was left out.

    Raises:
        CheckpointError: If the file has names that the layout does not know, or keys have a bias
            that is not 0 in an encoder whose keys have none.
    """
    renamed, notes = rename(weights, layout)
    _join(renamed)
    if layout is HF_DINOV3:
        _name_gate(renamed)
    if layout is MMPRETRAIN_EVA02:
        _drop_key_bias(renamed)
    return renamed, notes


def _join(weights: dict[str, Tensor]) -> None:
    """Pack queries, keys and values of each block, in place."""
    for name in list(weights):
        for first, *others in _PARTS:
            match = re.fullmatch(rf"(blocks\.\d+\.attn\.){first}\.{_W}", name)
            if match is None:
                continue
            members = [f"{match[1]}{part}.{match[2]}" for part in (first, *others)]
            absent = [member for member in members if member not in weights]
            if absent:
                raise CheckpointError(f"expected {', '.join(members)}, got no {', '.join(absent)}")
            packed = torch.cat([weights.pop(member) for member in members])
            weights[f"{match[1]}qkv.{match[2]}"] = packed


def _name_gate(weights: dict[str, Tensor]) -> None:
    """Name the layers of a gated MLP w1 (gate), w2 and w3, in place."""
    for name in list(weights):
        gate = re.fullmatch(rf"(blocks\.\d+\.mlp\.)w1\.{_W}", name)
        if gate is not None:
            for old, new in (("fc1", "w2"), ("fc2", "w3")):
                weights[f"{gate[1]}{new}.{gate[2]}"] = weights.pop(f"{gate[1]}{old}.{gate[2]}")


def _drop_key_bias(weights: dict[str, Tensor]) -> None:
    """Split the bias of queries, keys and values, in place; that of keys must be 0."""
    for name in [name for name in weights if name.endswith(".attn.qkv.bias")]:
        query, key, value = weights.pop(name).chunk(3)
        if key.any():
            raise CheckpointError(f"expected keys without bias, as in EVA-02, got one in {name}")
        stem = name.removesuffix("qkv.bias")
        weights[f"{stem}q_bias"], weights[f"{stem}v_bias"] = query, value
