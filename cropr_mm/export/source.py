"""A trained model made ready for export: deployed, for one image size, with a file's weights."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import load_state_dict
from timm.layers import resample_abs_pos_embed
from torch import nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.find import only_backbone
from cropr_mm.build import build_model
from cropr_mm.checkpoints import safe_load
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.checkpoints.queries import collapse_queries
from cropr_mm.engine.console import import_quietly
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.force_share import check_shares
from cropr_mm.engine.preflight import SetupError, check_model, check_plans_of
from cropr_mm.engine.preflight.data import leaves
from cropr_mm.layers.positions import Positions
from cropr_mm.reducers import KeepDecision, KMedoids, TokenPruner, TokenReducer


class Source(NamedTuple):
    """What is exported.

    Attributes:
        scope: Host library.
        model: The whole model, in evaluation mode.
        backbone: Its encoder, part of the model.
        pipeline: Transforms of the test pipeline.
        meta: Of the data set: 'classes' and 'palette', where known.
    """

    scope: str
    model: nn.Module
    backbone: CroprViT
    pipeline: Sequence[Mapping[str, Any]]
    meta: Mapping[str, Any]


def load_source(
    cfg: Config, checkpoint: str, progress: float | None = None, dense: bool = False
) -> Source:
    """Build the model of a config, fill it from a checkpoint of it, and switch it to deploy.

    Args:
        cfg: From :func:`cropr_mm.engine.config.load_config`.
        checkpoint: File, of the training or the deployed form.
        progress: Share of the full reduction, in [0, 1]; None for all of it.
        dense: Export the encoder without reduction.

    Raises:
        SetupError: If config and checkpoint do not fit, or the model cannot be exported.
        CheckpointError: If the file is damaged.
        FileNotFoundError: If there is none.
    """
    missing = [key for key in ("model", "test_dataloader") if cfg.get(key) is None]
    if missing:
        raise SetupError(f"{cfg.filename}: expected entries {', '.join(missing)}, got none")
    scope = cfg.get("default_scope") or "mmengine"
    with building_errors():
        model = build_model(cfg)
        path, backbone = only_backbone(model)
    if not isinstance(backbone, CroprViT):
        raise SetupError(f"expected a cropr_mm.CroprViT, got {type(backbone).__name__}")
    content = as_checkpoint(safe_load(checkpoint), checkpoint)
    weights = content["state_dict"]
    collapse_queries(weights, model)
    check_model(model, weights, checkpoint, content)
    if progress is not None:
        check_shares(model, [progress])
        backbone.progress = progress
    if not dense:
        check_plans_of(model, content["meta"], checkpoint)
    load_state_dict(model, weights, strict=True, logger="silent")
    if dense:
        backbone = backbone.unpruned()
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, backbone)
    for reducer in backbone.reducers.values():
        check_exportable(reducer)
        if isinstance(reducer, KeepDecision):
            reducer.needs = frozenset()  # its noise is for training
    backbone.switch_to_deploy()
    if scope != "mmengine":
        import_quietly(f"{scope}.datasets")
    dataset = next(leaves(cfg.test_dataloader.dataset))
    stored = content["meta"].get("dataset_meta")
    return Source(
        scope=scope,
        model=model.eval().requires_grad_(False),
        backbone=backbone,
        pipeline=dataset.get("pipeline") or [],
        meta=dict(stored or dataset.get("metainfo") or {}),
    )


def check_exportable(reducer: TokenReducer) -> None:
    """Raise SetupError, with the reason, for a method whose steps other runtimes cannot repeat."""
    reason = ""
    if reducer.num_exit_classes:
        reason = "leaves numbers of tokens that differ between images"
    elif not isinstance(reducer, TokenPruner):
        reason = "makes tokens that belong to no cell, or leaves a number that differs"
    elif isinstance(reducer, KMedoids):
        reason = "measures distances of all pairs (torch.cdist), which ONNX has no form for"
    elif "noise" in reducer.needs and not isinstance(reducer, KeepDecision):
        reason = "draws random numbers"
    if reason:
        raise SetupError(
            f"{type(reducer).__name__} {reason}: expected a method that keeps a fixed number of "
            "tokens as they are, such as Cropr"
        )


@torch.no_grad()
def fix_size(backbone: CroprViT, size: tuple[int, int]) -> None:
    """Make an encoder's tables for one image size, in place.

    The graph of another size would resample positions in every call.

    Args:
        backbone: The encoder.
        size: Height and width of the images, in pixels.

    Raises:
        ValueError: If patches or schedule do not fit the size.
    """
    grid = backbone.patch_grid(size)
    backbone.plan(grid)
    if grid == backbone.grid:
        return
    if backbone.pos_embed is not None:
        resampled = resample_abs_pos_embed(
            backbone.pos_embed,
            new_size=grid,
            old_size=backbone.grid,
            num_prefix_tokens=backbone._num_embedded_prefix(),
        )
        backbone.pos_embed = nn.Parameter(resampled, requires_grad=False)
    old = backbone.positions
    backbone.positions = Positions(
        backbone.arch, grid, old.num_prefix, old.window_size, old.window_rope, old.rel_pos
    )
    backbone.grid, backbone.img_size = grid, size
