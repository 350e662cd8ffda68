"""A trained model made ready for a search: a reducer at every block where a step may stand."""

import copy
from collections.abc import Mapping
from inspect import isclass
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.runner import load_state_dict
from torch import Tensor, nn

from cropr_mm.backbones.base import ReducingBackbone
from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.backbones.find import backbone_entry, only_backbone
from cropr_mm.build import build_model
from cropr_mm.checkpoints import safe_load
from cropr_mm.checkpoints.content import as_checkpoint
from cropr_mm.checkpoints.queries import collapse_queries
from cropr_mm.engine.config import require_entries
from cropr_mm.engine.console import import_quietly
from cropr_mm.engine.errors import building_errors
from cropr_mm.engine.preflight import SetupError, check_model
from cropr_mm.engine.prune_checkpoint import untrained_methods
from cropr_mm.fusion import ShortcutFusion
from cropr_mm.pruning import last_layer_fusion, possible_blocks, untrained_method, with_signal
from cropr_mm.reducers import TokenPruner
from cropr_mm.registry import MODELS, class_of


class SearchedModel(NamedTuple):
    """What is searched.

    Attributes:
        model: The whole model in evaluation mode, with the file's weights.
        backbone: Its encoder, with a reducer at each block where a step may stand.
        entry: What the config's backbone gets: 'reducer' and 'fusion'.
        own: The plan of the config itself, by block; empty where it is dense.
        learned: Whether steps have weights of their own, in the checkpoint.
    """

    model: nn.Module
    backbone: CroprViT
    entry: dict[str, Any]
    own: dict[int, int]
    learned: bool


def load_searched(cfg: Config, checkpoint: str, reducer: str | None = None) -> SearchedModel:
    """Build the model of a config for a search and fill it from a checkpoint.

    Methods without weights may act at any block; those that learn act where the checkpoint has
    them.

    Args:
        cfg: From :func:`cropr_mm.engine.config.load_config`; dense or pruned.
        checkpoint: Of exactly this model, as trained or deployed.
        reducer: Method to search with. Default: the config's own; for a dense one that of
            :func:`cropr_mm.pruning.untrained_method`.

    Raises:
        SetupError: If config, checkpoint and method do not fit, or the method cannot be searched.
        CheckpointError: If the file is damaged.
    """
    require_entries(cfg, "train_dataloader")
    if cfg.get("default_scope"):
        import_quietly(f"{cfg.default_scope}.datasets")
    entry = backbone_entry(cfg, CroprViT)
    with building_errors():
        native = only_backbone(build_model(cfg, "meta"))[1]
    kept = _method(entry, native, reducer)
    own = native.num_keep()
    learned = any(True for _ in native.reducers.parameters())
    if learned and reducer is not None:
        raise SetupError(
            f"the steps of this config have learned which tokens to keep: expected no --reducer, "
            f"or the dense config and its checkpoint, got --reducer {reducer}"
        )
    sites = list(own) if learned else list(possible_blocks(native.depth, kept["fusion"]))
    total = native.grid[0] * native.grid[1]
    changed = copy.deepcopy(cfg)
    schedule = dict(type="cropr_mm.ExplicitTokens", num_keep=dict.fromkeys(sites, total))
    for name, part in dict(**kept, schedule=schedule).items():
        changed.model.backbone[name] = part  # update() would merge it with the old one
    with building_errors():
        model = build_model(changed)
    content = as_checkpoint(safe_load(checkpoint), checkpoint)
    weights = content["state_dict"]
    if reducer is not None:
        _check_taught(model, weights, reducer)
    collapse_queries(weights, model)
    check_model(model, weights, checkpoint, content)
    load_state_dict(model, weights, strict=True, logger="silent")
    backbone = only_backbone(model)[1]
    assert isinstance(backbone, CroprViT)
    backbone.switch_to_deploy()
    return SearchedModel(model.eval().requires_grad_(False), backbone, kept, own, learned)


def _check_taught(model: nn.Module, weights: Mapping[str, Tensor], reducer: str) -> None:
    """Refuse a method that has weights of its own where the file has none."""
    if any(".reducers." in name for name in model.state_dict().keys() - weights.keys()):
        raise SetupError(
            f"{reducer} has weights of its own, which the checkpoint lacks: train a config with it "
            "(ShortcutPruner is fitted by tools/prune.py) and search that, or search with a method "
            "that needs no training, such as AttnTopK"
        )


def _method(entry: Mapping[str, Any], native: ReducingBackbone, name: str | None) -> dict[str, Any]:
    """Reducer and fusion of a searched backbone."""
    own = entry.get("reducer")
    fusion = entry.get("fusion") if own else last_layer_fusion(native)
    if isinstance(native.fusion, ShortcutFusion):
        raise SetupError(
            "ShortcutFusion has a fitted map for each step of its schedule: search the dense "
            "config, give what was found ShortcutFusion, and fit that with tools/prune.py"
        )
    if name and MODELS.get(name := f"cropr_mm.{name.removeprefix('cropr_mm.')}") is None:
        raise SetupError(f"--reducer expects one of {untrained_methods()}, got {name}")
    reducer = dict(type=name) if name else own or untrained_method(native)
    kind = class_of(reducer, MODELS)
    reducer = _by_name(reducer)
    if not issubclass(kind, TokenPruner) or kind.num_exit_classes or kind.fixed_slots:
        raise SetupError(
            "expected a method that keeps any number of tokens as they are, such as AttnTopK, "
            f"VariancePruner or Cropr, got {kind.__name__}"
        )
    return dict(reducer=with_signal(reducer, native), fusion=_by_name(fusion) if fusion else fusion)


def _by_name(part: Mapping[str, Any]) -> dict[str, Any]:
    """Config of a part whose class stands there by name, as it is written into files."""
    kind = part["type"]
    return {**part, "type": f"cropr_mm.{kind.__name__}" if isclass(kind) else kind}
