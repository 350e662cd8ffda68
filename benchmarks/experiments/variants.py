"""What is compared: the dense model and its pruned twins."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mmengine.config import Config
from timm.layers import to_2tuple

from cropr_mm.engine.preflight import SetupError
from cropr_mm.reducers import MergingReducer, TokenReducer
from cropr_mm.registry import MODELS

SHORTCUTS = "cropr_mm.ShortcutFusion"


@dataclass(frozen=True)
class Variant:
    """One way to fine-tune the dense model.

    Where a benchmark has a curriculum, methods with a fixed number of slots train without: it asks
    for other numbers of tokens on the way, so they reduce fully from the first iteration on.

    Attributes:
        pruned: Whether it starts from the pruned config of a benchmark, or from the dense one.
        reducer: Replaces the reducer of the pruned config; None keeps Cropr and its hook.
        options: Replace arguments of Cropr.
        target: Replaces what Cropr learns, of as many classes; None keeps the benchmark's target.
            Where the reducer was replaced: what that one learns by CroprAuxLossHook; None for
            nothing.
        backbone: Further arguments of the encoder.
        percent: Share of the patch tokens that are pruned; 0 takes the benchmark's, and where that
            has none the schedule of the pruned config.
        after: Block, counted from 1, after which they leave at once; 0 spreads them evenly over all
            blocks.
        taught: Whether the dense model that all start from is also their teacher.
        adapt: Changes the config further.
        auxiliary_lr_mult: Learning rate of Cropr's modules, in multiples of the benchmark's.
        untrained: Whether it chooses tokens without anything that was trained.
    """

    pruned: bool = True
    reducer: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    target: dict[str, Any] | None = None
    backbone: dict[str, Any] = field(default_factory=dict)
    percent: int = 0
    after: int = 0
    taught: bool = False
    adapt: Callable[[Config], None] | None = None
    auxiliary_lr_mult: float = 1.0
    untrained: bool = False


def _exit_early(cfg: Config) -> None:
    """Tokens leave with their logits: the head takes these, each step learns its tokens' labels."""
    if "decode_head" not in cfg.model:
        raise SetupError(
            "tokens that exit need a class of their own: expected dtop with a benchmark of "
            "segmentation"
        )
    backbone, head = cfg.model.backbone, cfg.model.decode_head
    head.update(type="cropr_mm.EarlyExitHead", in_index=0)
    backbone.reducer.num_classes = head.num_classes
    height, width = to_2tuple(backbone.img_size)
    grid = (height // backbone.patch_size, width // backbone.patch_size)
    kind = "PatchMaskTarget" if backbone.reducer.get("head") == "mask" else "PatchLabelTarget"
    target = dict(type=f"cropr_mm.{kind}", num_classes=head.num_classes, grid=grid)
    hooks = cfg.get("custom_hooks") or []
    cfg.custom_hooks = [*hooks, dict(type="cropr_mm.CroprAuxLossHook", target=target)]


def _pruned_from(start: float) -> Variant:
    """Cropr whose routers learn for a share of the training before tokens leave."""

    def adapt(cfg: Config) -> None:
        for hook in cfg.custom_hooks:
            if hook["type"] == "cropr_mm.CroprCurriculumHook":
                hook.update(start=start, end=(1 + start) / 2)

    return Variant(adapt=adapt)


def _oracle(name: str) -> Variant:
    """A choice that knows the ground truth; its class is imported where it runs."""

    def adapt(cfg: Config) -> None:
        if "decode_head" not in cfg.model:
            raise SetupError(
                "an oracle reads label maps: expected it with a benchmark of segmentation"
            )
        cfg.custom_imports = dict(imports=["experiments.oracle"])
        cfg.model.type = "InformedSegmenter"
        num_classes = cfg.model.decode_head.num_classes
        cfg.model.backbone.reducer = dict(type=f"cropr_mm.{name}", num_classes=num_classes)
        cfg.custom_hooks = [h for h in cfg.custom_hooks if h["type"] != "cropr_mm.CroprAuxLossHook"]

    return Variant(adapt=adapt, untrained=True)


def _fused(fusion: str, **options: Any) -> Variant:
    """Cropr with another fusion."""
    return Variant(backbone=dict(fusion=dict(type=f"cropr_mm.{fusion}", **options)))


def _guessed(reducer: str | None = None) -> Variant:
    """Dropped tokens come back by shortcuts that are fitted to the dense model first."""
    kind = None if reducer is None else dict(type=f"cropr_mm.{reducer}")
    return Variant(reducer=kind, backbone=dict(fusion=dict(type=SHORTCUTS)))


def _exits(**options: Any) -> Variant:
    """Tokens leave with their logits."""
    return Variant(
        reducer=dict(type="cropr_mm.DToP", **options),
        backbone=dict(fusion=None),
        percent=87,
        adapt=_exit_early,
    )


def _decided(name: str) -> Variant:
    """A method that learns a decision about each token, with a teacher."""
    target = dict(type="cropr_mm.KeepRatioTarget")
    return Variant(reducer=dict(type=f"cropr_mm.{name}"), target=target, taught=True)


def _merger(name: str, percent: int = 87) -> Variant:
    """A method whose tokens come back as copies; without fusion the benchmark's rate may not fit.

    'sit', 'patch_merger' and 'sinkhorn' have as many slots as the schedule leaves tokens, so they
    take no curriculum (see :class:`Variant`).
    """
    reducer = dict(type=f"cropr_mm.{name}")
    return Variant(reducer=reducer, backbone=dict(fusion=None), percent=percent)


VARIANTS = {
    "dense": Variant(pruned=False),
    "cropr": Variant(),
    "attn_topk": Variant(reducer=dict(type="cropr_mm.AttnTopK"), untrained=True),
    "variance": Variant(reducer=dict(type="cropr_mm.VariancePruner"), untrained=True),
    "random": Variant(reducer=dict(type="cropr_mm.RandomPruner"), untrained=True),
    "radial": Variant(reducer=dict(type="cropr_mm.RadialPruner")),
    "k_medoids": Variant(reducer=dict(type="cropr_mm.KMedoids")),
    "evit": Variant(reducer=dict(type="cropr_mm.EViT")),
    "etps": Variant(reducer=dict(type="cropr_mm.ETPS")),
    "ats": Variant(reducer=dict(type="cropr_mm.ATS")),
    "dynamic_vit": _decided("DynamicViT"),
    "dtps": _decided("DTPS"),
    "dtop": _exits(),
    "dtop_mask": _exits(head="mask", mask_dim=192),
    "dtop_random": _exits(rank=dict(type="cropr_mm.RandomPruner")),
    "dtop_variance": _exits(rank=dict(type="cropr_mm.VariancePruner")),
    "cropr_concat": _fused("TokenConcat"),
    "cropr_self_concat": _fused("SelfAttentionConcat"),
    "cropr_cross": _fused("CrossAttentionFusion"),
    "cropr_fused3": _fused("LastLayerFusion", num_blocks=3),
    "cropr_cross_concat": _fused("CrossAttentionFusion", concat=True),
    "shortcut": _guessed("ShortcutPruner"),
    "cropr_shortcut": _guessed(),
    "attn_topk_shortcut": _guessed("AttnTopK"),
    "variance_shortcut": _guessed("VariancePruner"),
    "random_shortcut": _guessed("RandomPruner"),
    "tome": _merger("ToMe", percent=70),  # a step can merge one half at most
    "dpc_knn": _merger("DPCKNN"),
    "sit": _merger("SiT"),
    "patch_merger": _merger("PatchMerger"),
    "sinkhorn": _merger("Sinkhorn"),
    "non_salient": Variant(options=dict(type="cropr_mm.NonSalient")),
    "cropr_grid": Variant(
        options=dict(num_queries=64), target=dict(type="cropr_mm.GridMultiLabelTarget", grid=8)
    ),
    "cropr_image": Variant(
        options=dict(num_queries=1), target=dict(type="cropr_mm.MultiLabelTarget")
    ),
    "cropr_late": _pruned_from(0.4),
    "cropr_rate3": Variant(auxiliary_lr_mult=3.0),
    "cropr_cells": Variant(
        options=dict(num_queries=(16, 16)),
        target=dict(type="cropr_mm.PatchLabelTarget", grid=(16, 16)),
    ),
    "oracle": _oracle("RareFirst"),
    "oracle_borders": _oracle("BordersFirst"),
    "cropr_window_slot": Variant(backbone=dict(survivor_order="window", window_rope="slot")),
    "cropr_raster_origin": Variant(backbone=dict(survivor_order="raster", window_rope="origin")),
    "cropr_raster_slot": Variant(backbone=dict(survivor_order="raster", window_rope="slot")),
}
"""By name; 'attn_topk', 'evit', 'etps' and 'ats' read the class token's attention, without one the
mean over all queries; 'dtop' and its like need a segmenter, and so do oracles, which choose by the
ground truth, in tests too;
'cropr' itself has survivor_order='window' and window_rope='origin'.
"""

DEFAULT_VARIANTS = ("dense", "cropr", "attn_topk", "variance", "random")


_NAME = re.compile(r"(?P<base>[^@]*)(?:@(?P<rate>[^b]*)(?:b(?P<after>.*))?)?")


def find_variant(name: str) -> Variant:
    """Variant of a name, with 'cropr@70' for 70 % of the tokens pruned, 'cropr@70b2' after block 2.

    Names that are not among VARIANTS are those of registered methods, with their default arguments.

    Raises:
        SetupError: If the name is unknown, or what follows '@' is no percentage of a pruned
            variant, or no block.
    """
    match = _NAME.fullmatch(name)
    assert match is not None, "the pattern takes every text"
    base, rate, after = match["base"], match["rate"], match["after"]
    variant = VARIANTS.get(base) or _registered(base)
    if rate is None:
        return variant
    if not (rate.isdigit() and 0 < int(rate) < 100 and variant.pruned):
        raise SetupError(f"expected a pruned variant at 1 to 99 percent, got {name}")
    if after is not None and not (after.isdigit() and int(after) > 0):
        raise SetupError(f"expected a block, counted from 1, behind 'b', got {name}")
    return replace(variant, percent=int(rate), after=int(after or 0))


def _registered(name: str) -> Variant:
    """A method of the user's own."""
    kind = MODELS.module_dict.get(name)
    if kind is None or not issubclass(kind, TokenReducer):
        raise SetupError(
            f"unknown variant {name}; known: {', '.join(VARIANTS)}, and registered reduction "
            "methods by their class name (one of your own: --imports MODULE)"
        )
    reducer = dict(type=f"cropr_mm.{name}")
    copied = issubclass(kind, MergingReducer)  # as in _merger
    return Variant(reducer=reducer, backbone=dict(fusion=None) if copied else {})


def family(name: str) -> str:
    """What the rates of one pruner have in common: its name, and that all tokens leave at once."""
    base, _, rate = name.partition("@")
    return f"{base}, one step" if "b" in rate else base


def same_rate(name: str, base: str) -> str:
    """Name of another pruner at the rate of this one."""
    _, at, rate = name.partition("@")
    percent = find_variant(name).percent
    return base + (at + rate or (f"@{percent}" if percent else ""))
