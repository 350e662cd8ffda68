"""Faults of encoder-only segmentation: queries in the encoder, and the head that reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from row import Row
from tiny import training
from tiny_tasks import BACKBONE

LOSS_CLS: dict[str, Any] = dict(type="mmdet.CrossEntropyLoss", class_weight=[1.0, 1.0, 0.1])
QUERIES = dict(num_queries=6, num_blocks=2, num_classes=2)


def _segmenter(head: dict[str, Any], **backbone: Any) -> Callable[[Path], None]:
    """Train an encoder-only segmenter whose head or encoder has other settings."""
    return training(
        "seg",
        model__backbone={
            "_delete_": True,
            **BACKBONE,
            "mask_queries": QUERIES,
            "reducer": dict(type="cropr_mm.VariancePruner"),
            "fusion": dict(type="cropr_mm.LastLayerFusion", num_blocks=2),
            **backbone,
        },
        model__decode_head={
            "_delete_": True,
            "type": "cropr_mm.SegMaskQueryHead",
            "num_classes": 2,
            "num_queries": 6,
            "loss_cls": LOSS_CLS,
            "loss_mask": dict(type="mmdet.CrossEntropyLoss", use_sigmoid=True),
            "loss_dice": dict(type="mmdet.DiceLoss", naive_dice=True, eps=1.0),
            **head,
        },
        custom_hooks=[dict(type="cropr_mm.MaskAnnealingHook")],
    )


MASKS = "Queries among the tokens"
SAMPLED: dict[str, Any] = dict(
    arch=dict(BACKBONE["arch"], pos_embed=False, conv_stem=8, sampling_steps=2),
    reducer=dict(type="cropr_mm.RandomPruner"),
)
ROWS = [
    Row(f"queries-{name}", MASKS, fault, says, run)
    for name, fault, says, run in (
        (
            "early",
            "queries enter before all tokens are back",
            r"num_blocks=2\), got a fusion that brings them back for 1",
            _segmenter({}, fusion=dict(type="cropr_mm.LastLayerFusion")),
        ),
        (
            "merger",
            "a method that merges tokens",
            "mask_queries enter for the last 2 blocks.* expected a pruner, since merged tokens",
            _segmenter({}, reducer=dict(type="cropr_mm.ToMe"), fusion=None),
        ),
        (
            "sampled",
            "queries among the moved points of PS-ViT",
            "mask_queries predict masks in the cells of tokens.* got sampling_steps=2",
            _segmenter({}, **SAMPLED),
        ),
        (
            "typo",
            "a setting of mask_queries that does not exist",
            "MaskQueries.*unexpected keyword argument 'masked'",
            _segmenter({}, mask_queries=dict(QUERIES, masked=True)),
        ),
        (
            "matching",
            "no train_cfg of the head",
            r"decode_head matches masks with objects in training: expected train_cfg=.* got None",
            _segmenter({}),
        ),
        (
            "weights",
            "one class_weight for all classes",
            r"loss_cls expects class_weight, .* got class_weight=1\.0",
            _segmenter(dict(loss_cls=dict(LOSS_CLS, class_weight=1.0))),
        ),
    )
]
