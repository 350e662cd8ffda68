"""The whole model of a config, dense or with its auxiliary losses."""

import copy

from mmengine.config import Config
from torch import nn

from cropr_mm.build import build_model
from cropr_mm.hooks.aux_loss_hook import CroprAuxLossHook
from cropr_mm.hooks.auxiliary_listener import AuxiliaryListener
from experiments.step import DENSE


def whole_model(cfg: Config, variant: str) -> nn.Module:
    """Model with weights that are not initialized.

    Args:
        cfg: Config of a pruned model; not changed.
        variant: 'dense' for one that prunes nothing; any other name for the config's own, whose
            auxiliary losses are among those of the model.

    Raises:
        ValueError: If the config does not have one CroprAuxLossHook.
    """
    cfg = copy.deepcopy(cfg)
    if variant == DENSE:
        cfg.model.backbone.update(reducer=None, schedule=None, fusion=None, pad_first=False)
        return build_model(cfg)
    model = build_model(cfg)
    hooks = [dict(h) for h in cfg.get("custom_hooks", []) if "CroprAuxLossHook" in str(h["type"])]
    if len(hooks) != 1:
        raise ValueError(f"expected a config with one CroprAuxLossHook, got {len(hooks)}")
    del hooks[0]["type"]
    hook = CroprAuxLossHook(**hooks[0])
    AuxiliaryListener(model, hook.make_target(model), hook.loss_weight, hook.num_cells)
    return model
