"""Checks of mask queries: who reads them, and whether training takes their masks away."""

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import EarlyStoppingHook, Hook
from torch import nn

from cropr_mm.backbones.cropr_vit import CroprViT
from cropr_mm.engine.preflight.errors import SetupError
from cropr_mm.hooks.mask_annealing_hook import MaskAnnealingHook, masked_queries

_HEADS = ("decode_head", "panoptic_head")
_NUMBERS = ("num_queries", "num_classes")


def check_mask_queries(model: nn.Module) -> None:
    """An encoder has mask queries where the head reads them, of the numbers that it expects.

    Args:
        model: Built model; heads of mmseg and of mmdet's ``Mask2Former`` are looked at.

    Raises:
        SetupError: If the encoder has queries that no head reads or a neck stands between, the head
            reads queries and the encoder has none, its tokens lie in no cells, or numbers differ.
    """
    backbone = getattr(model, "backbone", None)
    queries = backbone.mask_queries if isinstance(backbone, CroprViT) else None
    readers = _readers(model)
    if queries is None and readers:
        raise SetupError(
            f"{', '.join(readers)} reads mask queries: expected a CroprViT with "
            "mask_queries=dict(num_queries=..., num_blocks=..., num_classes=...), got none"
        )
    if queries is None:
        return
    assert isinstance(backbone, CroprViT), "only it has queries"
    if backbone.arch.sampling_steps:
        raise SetupError(
            "mask_queries predict masks in the cells of tokens, which progressive sampling moved "
            "elsewhere: expected an arch without sampling_steps, got "
            f"sampling_steps={backbone.arch.sampling_steps}"
        )
    if not readers or getattr(model, "neck", None) is not None:
        got = "a neck between" if readers else "none"
        raise SetupError(
            "the encoder has mask_queries: expected SegMaskQueryHead as decode_head, or "
            f"MaskQueryHead as panoptic_head, that reads them without a neck, got {got}"
        )
    for name, head in readers.items():
        wrong = [n for n in _NUMBERS if getattr(head, n) != getattr(queries, n)]
        if wrong:
            told = ", ".join(f"{n}={getattr(head, n)}" for n in wrong)
            expected = ", ".join(f"{n}={getattr(queries, n)}" for n in wrong)
            raise SetupError(f"{name} expects {expected}, as mask_queries has, got {told}")


def check_matching(model: nn.Module) -> None:
    """Heads of mask queries know how masks are matched with objects.

    Args:
        model: Built model that is to be trained.

    Raises:
        SetupError: If one has no ``train_cfg``.
    """
    for name, head in _readers(model).items():
        if not head.train_cfg:
            raise SetupError(
                f"{name} matches masks with objects in training: expected train_cfg=dict(assigner="
                f"..., sampler=..., num_points=..., ...), got {head.train_cfg}"
            )


def check_annealing(model: nn.Module, hooks: Sequence[Hook]) -> None:
    """Queries that are masked in training lose their masks before it ends.

    Args:
        model: Unwrapped model.
        hooks: All hooks of the runner.

    Raises:
        SetupError: If no hook takes the masks away, or another one may end the training before.
    """
    if not masked_queries(model):
        return
    if not any(isinstance(hook, MaskAnnealingHook) for hook in hooks):
        raise SetupError(
            "mask_queries attend inside their masks in training, and inference has none: expected "
            "dict(type='cropr_mm.MaskAnnealingHook') in custom_hooks, or masked_attention=False in "
            "mask_queries, got neither"
        )
    if any(isinstance(hook, EarlyStoppingHook) for hook in hooks):
        raise SetupError(
            "MaskAnnealingHook takes masks away over the whole training, whose length has to be "
            "known: expected no EarlyStoppingHook beside it, got one"
        )


def _readers(model: nn.Module) -> dict[str, Any]:
    """Heads that read mask queries, by name."""
    heads = {name: getattr(model, name, None) for name in _HEADS}
    return {name: h for name, h in heads.items() if getattr(h, "reads_queries", False)}
