"""What is compared: the dense model and its pruned twins."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One way to fine-tune the dense model.

    Attributes:
        pruned: Whether it starts from the pruned config of a pack, or from the dense one.
        reducer: Replaces the reducer of the pruned config; None keeps Cropr and its hook.
        grid: Where not 0, Cropr learns the classes in each cell of a square grid of so many rows.
        backbone: Further arguments of the encoder.
    """

    pruned: bool = True
    reducer: dict[str, Any] | None = None
    grid: int = 0
    backbone: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "dense": Variant(pruned=False),
    "cropr": Variant(),
    "attn_topk": Variant(reducer=dict(type="cropr_mm.AttnTopK", signal="column_mean")),
    "variance": Variant(reducer=dict(type="cropr_mm.VariancePruner")),
    "random": Variant(reducer=dict(type="cropr_mm.RandomPruner")),
    "cropr_grid": Variant(grid=8),
    "cropr_window_slot": Variant(backbone=dict(survivor_order="window", window_rope="slot")),
    "cropr_raster_origin": Variant(backbone=dict(survivor_order="raster", window_rope="origin")),
    "cropr_raster_slot": Variant(backbone=dict(survivor_order="raster", window_rope="slot")),
}
"""By name; 'cropr' itself has survivor_order='window' and window_rope='origin'."""

DEFAULT_VARIANTS = ("dense", "cropr", "attn_topk", "variance", "random")


@dataclass(frozen=True)
class Pack:
    """A data set with the models that are trained on it.

    Attributes:
        task: Key of the metrics, such as 'det'.
        dense: Config without pruning.
        pruned: The same with Cropr.
        pretrain_iters: Iterations of the dense model, from random weights.
        finetune_iters: Iterations of each variant, from the dense model.
    """

    task: str
    dense: str
    pruned: str
    pretrain_iters: int
    finetune_iters: int


PACKS = {
    "digits": Pack(
        task="det",
        dense="configs/demo/unpruned_tiny_cascade_digits.py",
        pruned="configs/demo/cropr_tiny_cascade_digits.py",
        pretrain_iters=400,
        finetune_iters=150,
    ),
    "person": Pack(
        task="det",
        dense="configs/unpruned_tiny_cascade_coco_person.py",
        pruned="configs/cropr_tiny_cascade_coco_person.py",
        pretrain_iters=400,
        finetune_iters=100,
    ),
}
FINETUNE_LR = 3e-4
WARMUP_ITERS = 20
