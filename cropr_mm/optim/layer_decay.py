"""Layer-wise learning rates for any model that contains one CroprViT.

Parameters near the image keep more of their pre-training: their learning rate is
``lr * decay_rate ** (depth + 1 - layer)``.

- layer 0: prefix tokens, position embedding, patch embedding;
- layer i + 1: block i (0-based);
- layer depth + 1, at the full rate: all else, i.e. final norm, reducers, fusion, queries,
  neck and heads.

Which parameters weight decay spares is a choice of the recipe; Cropr's queries are always decayed.
Published ones differ:

- BEiT and MAE: parameters with at most one dimension, position embedding, prefix tokens (default);
- ViTDet (detectron2, configs/common/optim.py and projects/ViTDet/configs/COCO/
  mask_rcnn_vitdet_b_100ep.py): norms and position embedding, ``('norm', 'embedding')``, but not the
  channel norms of pyramid and heads, whose class (layers/batch_norm.py, ``LayerNorm``) is none of
  those that solver/build.py takes for norms;
- EVA-02-det (EVA, EVA-02/det/projects/ViTDet/configs/eva2_o365_to_coco/
  eva2_o365_to_coco_cascade_mask_rcnn_vitdet_l_8attn_1536_lrd0p8.py): nothing, ``()``.
"""

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from cropr_mm.backbones.find import find_vits
from cropr_mm.layers.channel_norm import ChannelNorm
from cropr_mm.registry import OPTIM_WRAPPER_CONSTRUCTORS

_PREFIX_TOKENS = ("cls_token", "reg_token")
_EMBEDDING = (*_PREFIX_TOKENS, "pos_embed", "patch_embed")
_NORMS = (nn.LayerNorm, nn.GroupNorm, _NormBase)  # the last: batch and instance norms
_KINDS = ("vector", "norm", "embedding")


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Builds an optimizer with one or two parameter groups per layer: decayed and not.

    Each group carries ``group_name``, ``param_names`` and ``lr_scale`` besides ``lr`` and
    ``weight_decay``. Frozen parameters are in no group.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper; ``optimizer`` in it must give ``lr``.
        paramwise_cfg: ``decay_rate`` in (0, 1], and optionally ``no_decay``, what weight decay
            spares: any of 'vector' (parameters with at most one dimension: biases, norms, layer
            scales), 'norm' (parameters of normalization layers but ``ChannelNorm``) and 'embedding'
            (position embedding and prefix tokens). Default: ('vector', 'embedding').

    Raises:
        ValueError: If a key is unknown or missing, a value is out of range, or (when called) the
            model does not contain exactly one CroprViT.

    Source: layer-wise rate decay as in BEiT and MAE fine-tuning and, with the same numbers for
    blocks and the rest, detectron2, modeling/backbone/vit.py (get_vit_lr_decay_rate); reducers in
    the last group as in Token Cropr.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        expected = "LayerDecayConstructor expects paramwise_cfg=dict(decay_rate=..., no_decay=...)"
        unknown = sorted(set(self.paramwise_cfg) - {"decay_rate", "no_decay"})
        if unknown:
            raise ValueError(f"{expected} and no other key, got {unknown}")
        rate = self.paramwise_cfg.get("decay_rate")
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f"{expected} with a rate in (0, 1], got {rate!r}")
        spared = self.paramwise_cfg.get("no_decay", ())
        if isinstance(spared, str) or not set(spared) <= set(_KINDS):
            raise ValueError(f"{expected} with no_decay a list out of {_KINDS}, got {spared!r}")
        if self.base_lr is None:
            raise ValueError(f"{expected} and optimizer=dict(lr=...), got {self.optimizer_cfg}")

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = "",
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Append the groups of a whole model to ``params``, lowest layer first."""
        backbones = find_vits(module)
        if len(backbones) != 1:
            raise ValueError(
                f"LayerDecayConstructor expects one CroprViT in {type(module).__name__}, got "
                f"{len(backbones)}: {sorted(backbones)}"
            )
        path, backbone = next(iter(backbones.items()))
        top = backbone.depth + 1
        spared = self.paramwise_cfg.get("no_decay", ("vector", "embedding"))
        norms = _norm_parameters(module)
        groups: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            local = _local_name(name, path)
            layer = _layer(local, top)
            decayed = not _kinds(local, parameter, parameter in norms) & set(spared)
            group = groups.setdefault((layer, decayed), self._new_group(layer, top, decayed))
            group["params"].append(parameter)
            group["param_names"].append(name)
        params.extend(groups[key] for key in sorted(groups))
        print_log(_table(params), logger="current")

    def _new_group(self, layer: int, top: int, decayed: bool) -> dict[str, Any]:
        scale = self.paramwise_cfg["decay_rate"] ** (top - layer)
        group: dict[str, Any] = dict(
            params=[],
            param_names=[],
            group_name=f"layer_{layer:02d}_{'decay' if decayed else 'no_decay'}",
            lr_scale=scale,
            lr=self.base_lr * scale,
        )
        if not decayed:
            group["weight_decay"] = 0.0
        elif self.base_wd is not None:
            group["weight_decay"] = self.base_wd
        return group


def _local_name(name: str, path: str) -> str:
    """Parameter name inside the backbone at ``path``; empty for parameters outside of it."""
    if not path:
        return name
    return name[len(path) + 1 :] if name.startswith(f"{path}.") else ""


def _layer(local: str, top: int) -> int:
    """Layer of a parameter by its name inside the backbone."""
    child, _, rest = local.partition(".")
    if child in _EMBEDDING:
        return 0
    if child == "blocks":
        return int(rest.partition(".")[0]) + 1
    return top


def _norm_parameters(module: nn.Module) -> set[nn.Parameter]:
    return {
        parameter
        for child in module.modules()
        if isinstance(child, _NORMS) and not isinstance(child, ChannelNorm)
        for parameter in child.parameters(recurse=False)
    }


def _kinds(local: str, parameter: nn.Parameter, in_norm: bool) -> set[str]:
    """Kinds that a parameter belongs to, by its name inside the backbone among others."""
    return {
        kind
        for kind, holds in (
            ("vector", parameter.ndim < 2),
            ("norm", in_norm),
            ("embedding", local in (*_PREFIX_TOKENS, "pos_embed")),
        )
        if holds
    }


def _table(groups: list[dict[str, Any]]) -> str:
    """One line per group: name, learning rate and its scale, weight decay, size."""
    head = ("lr", 12), ("lr_scale", 10), ("weight_decay", 14), ("tensors", 9), ("values", 13)
    lines = [f"{'group':<20}" + "".join(f"{title:>{width}}" for title, width in head)]
    lines += [
        f"{g['group_name']:<20}{g['lr']:>12.4g}{g['lr_scale']:>10.4g}"
        f"{g.get('weight_decay', 'default'):>14}{len(g['params']):>9}"
        f"{sum(p.numel() for p in g['params']):>13,}"
        for g in groups
    ]
    return "Parameter groups by layer:\n" + "\n".join(lines)
