"""What each way to bring tokens back costs, in the place of a config's own."""

from typing import Any, NamedTuple

from mmengine.config import Config

from cropr_mm.backbones.find import backbone_entry
from cropr_mm.build import build_model
from cropr_mm.profiling.model_cost import model_cost

FUSIONS: dict[str, dict[str, Any]] = {
    "`LastLayerFusion`": dict(type="cropr_mm.LastLayerFusion"),
    "`ShortcutFusion`": dict(type="cropr_mm.ShortcutFusion"),
    "`TokenConcat`": dict(type="cropr_mm.TokenConcat"),
    "`SelfAttentionConcat`": dict(type="cropr_mm.SelfAttentionConcat"),
    "`CrossAttentionFusion`": dict(type="cropr_mm.CrossAttentionFusion"),
    "`CrossAttentionFusion(concat=True)`": dict(type="cropr_mm.CrossAttentionFusion", concat=True),
}


class FusionCost(NamedTuple):
    """Multiply-adds of matmuls with weights on one image, and parameters of the deployed model."""

    macs_linear: int
    parameters: int


def fusion_costs(cfg: Config) -> dict[str, FusionCost]:
    """Count a pruned config's model with each fusion, all with its own steps.

    Args:
        cfg: Config whose backbone, such as ``CroprViT``, has a fusion.

    Returns:
        By title: without pruning, with each fusion, and for a segmenter with a linear head with
        tokens that exit (``DToP``).

    Raises:
        ValueError: If there is no such config.
    """
    if not backbone_entry(cfg).get("fusion"):
        raise ValueError("expected a backbone with a fusion to replace, got fusion=None")
    # Without fusion a schedule may have one step more, so all take those of the config.
    plan = build_model(cfg, "meta").backbone.num_keep()
    schedule = dict(type="cropr_mm.ExplicitTokens", num_keep=plan)
    dense = dict(reducer=None, schedule=None, fusion=None)
    variants: dict[str, dict[str, Any]] = {
        "no pruning": dense,
        **{title: dict(schedule=schedule, fusion=fusion) for title, fusion in FUSIONS.items()},
    }
    found = {title: _count(cfg, options) for title, options in variants.items()}
    head = cfg.model.get("decode_head") or {}
    if head.get("type") == "FCNHead" and head.get("num_convs") == 0:
        reducer = dict(type="cropr_mm.DToP", num_classes=head["num_classes"])
        options = dict(reducer=reducer, schedule=schedule, fusion=None)
        found["`DToP`, no fusion"] = _count(cfg, options, exits=True)
    return found


def fusion_table(cfg: Config) -> str:
    """Markdown: a row for each fusion."""
    rows = [["fusion", "GMAC linear", "M parameters deployed"], ["---", "---:", "---:"]]
    for title, cost in fusion_costs(cfg).items():
        rows.append([title, f"{cost.macs_linear / 1e9:.1f}", f"{cost.parameters / 1e6:.1f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _count(cfg: Config, options: dict[str, Any], exits: bool = False) -> FusionCost:
    cfg = Config(cfg.to_dict())
    for name, option in options.items():  # an update would merge them into the config's
        cfg.model.backbone[name] = option
    if exits:
        cfg.model.decode_head.update(type="cropr_mm.EarlyExitHead", in_index=0)
    cost = model_cost(build_model(cfg, "meta").eval())
    return FusionCost(cost.macs.linear, cost.as_dict()["params_deployed"])
