"""Names and layouts of timm's ViT and EVA families, and of the files that timm itself reads.

Inside, every model has one packed layout: one product for queries, keys and values, one for the
gate and the up projection. Here timm's split and fused forms are turned into it and back.
"""

import re
from collections.abc import Iterable, Mapping
from types import SimpleNamespace

import torch
from mmengine.logging import print_log
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from cropr_mm.checkpoints.errors import CheckpointError
from cropr_mm.checkpoints.fit import fit_shapes

# timm's name -> ours, in this order.
RENAMES = (
    (r"^fc_norm\.", "norm."),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.attn\.([qv])_proj\.bias$", r".attn.\1_bias"),
)
# Ours -> timm's, used where the timm model has the second name and not the first.
RENAMES_BACK = (
    (r"^norm\.", "fc_norm."),
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
)
# One tensor of ours -> timm's parts, along the first axis.
PACKED = (
    ("attn.qkv.weight", ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight")),
    ("mlp.fc1.weight", ("mlp.fc1_g.weight", "mlp.fc1_x.weight")),
    ("mlp.fc1.bias", ("mlp.fc1_g.bias", "mlp.fc1_x.bias")),
)
# Never part of an encoder.
IGNORED = re.compile(r"^(aux_)?head")  # LV-ViT has one for tokens too
# Left out where they are zero, since the model without them is the same.
ZERO_BIAS = re.compile(r"\.attn\.(q_bias|k_bias|v_bias|k_proj\.bias)$")
# What tells an EVA or DINOv3 file from a ViT or DINOv2 file.
EVA_NAMES = re.compile(
    r"^storage_tokens$|\.attn\.(q_proj|q_bias|inner_attn_ln)|\.mlp\.(w1\.|fc1_g|ffn_ln)|rope"
)


def from_timm(
    state_dict: Mapping[str, Tensor],
    backbone: nn.Module,
    source_grid: tuple[int, int] | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Turn the weights of a timm model, or of a file that timm reads, into those of a backbone.

    Official DINOv2, DINOv3, MAE, DeiT and EVA-02 files are among the latter. Weights that are in
    our layout already come out as they went in. Patch embedding, positions and relative position
    tables are resampled to the sizes of the backbone, which is logged; other shapes stay.

    Args:
        state_dict: Name -> tensor; not changed.
        backbone: A ``CroprViT``; read, not changed.
        source_grid: Patch grid (h, w) of the positions in ``state_dict``. Default: square where the
            number of rows allows it, as in published files, otherwise the backbone's.

    Returns:
        Weights of the backbone by name, and the names (after renaming) that have no place in it;
        classification heads and biases that are zero are not counted.

    Raises:
        CheckpointError: If two tensors claim one name, parts of one product differ in shape, or the
            grid of the positions is unclear.
    """
    target = backbone.state_dict()
    kernel = target.get("patch_embed.proj.weight")
    # PS-ViT has no patches, and timm has no such model.
    raw = state_dict if kernel is None else _read_raw(state_dict, kernel)
    weights = pack(_rename(raw))
    weights = {
        name: value
        for name, value in weights.items()
        if not IGNORED.search(name)
        and not (ZERO_BIAS.search(name) and name not in target and not value.any())
    }
    weights, notes = fit_shapes(
        weights, target, backbone.grid, source_grid, backbone.arch.pos_embed_prefix
    )
    for note in notes:
        print_log(note, logger="current")
    leftovers = sorted(weights.keys() - target.keys())
    return {name: weights[name] for name in target if name in weights}, leftovers


def to_timm(
    state_dict: Mapping[str, Tensor], model: nn.Module
) -> tuple[dict[str, Tensor], list[str]]:
    """Turn the weights of a ``CroprViT`` into those of a timm model of the same architecture.

    Args:
        state_dict: Weights of the backbone; not changed.
        model: The timm model, whose names decide between split and fused forms; it may be on the
            ``meta`` device.

    Returns:
        Weights by timm's names, and the names that have no place in the model (``reducers.*``).
    """
    names = model.state_dict().keys()
    weights: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        for packed, parts in PACKED:
            if name.endswith(packed):
                stem = name[: -len(packed)]
                if all(stem + part in names for part in parts):
                    chunks = value.chunk(len(parts))
                    weights.update({stem + p: c for p, c in zip(parts, chunks, strict=True)})
                    break
        else:
            weights[_rename_back(name, names)] = value
    leftovers = sorted(weights.keys() - names)
    return {name: value for name, value in weights.items() if name in names}, leftovers


def _read_raw(state_dict: Mapping[str, Tensor], kernel: Tensor) -> dict[str, Tensor]:
    """Let timm rename what other projects publish; it leaves its own files as they are."""
    module = eva if any(EVA_NAMES.search(name) for name in state_dict) else vision_transformer
    ours = state_dict.get("patch_embed.proj.weight", kernel)
    stand_in = SimpleNamespace(  # what timm asks of its model; sizes are fitted later, by us
        patch_embed=SimpleNamespace(
            proj=SimpleNamespace(weight=ours if ours.ndim == 4 else kernel), grid_size=None
        ),
        pos_embed=None,
        head=None,
        get_parameter=lambda name: None,  # biases that the backbone lacks are looked at by us too
    )
    return module.checkpoint_filter_fn(dict(state_dict), stand_in)


def _rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, value in weights.items():
        new = name
        for pattern, replacement in RENAMES:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise CheckpointError(f"expected one source of {new}, got {origin[new]} and {name}")
        renamed[new], origin[new] = value, name
    return renamed


def _rename_back(name: str, names: Iterable[str]) -> str:
    for pattern, replacement in RENAMES_BACK:
        new = re.sub(pattern, replacement, name)
        if name not in names and new in names:
            return new
    return name


def pack(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join timm's parts of one product, with any prefix, into our one tensor.

    Args:
        weights: Name -> tensor; not changed. Parts whose partners are missing stay as they are.

    Raises:
        CheckpointError: If a part is there as well as the whole, or parts differ in shape.
    """
    packed = dict(weights)
    for whole, parts in PACKED:
        for name in weights:
            if not name.endswith(parts[0]):
                continue
            stem = name[: -len(parts[0])]
            members = [stem + part for part in parts]
            if stem + whole in weights:
                raise CheckpointError(f"expected one source of {stem + whole}, got it and {name}")
            if all(member in packed for member in members):
                shapes = [tuple(packed[member].shape) for member in members]
                if len(set(shapes)) > 1 or not shapes[0]:
                    raise CheckpointError(
                        f"expected one shape for {', '.join(members)}, got "
                        f"{', '.join(map(str, shapes))}"
                    )
                packed[stem + whole] = torch.cat([packed.pop(member) for member in members])
    return packed
