"""The number of classes is said in the heads; the reducer and the loss hook follow."""

import copy
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cropr_mm.classes import share_classes

CROPR = dict(type="cropr_mm.Cropr")


@pytest.mark.parametrize(
    ("reducer", "heads", "expected"),
    [
        (CROPR, dict(head=dict(num_classes=7)), 7),
        (CROPR, dict(decode_head=dict(num_classes=7), auxiliary_head=[dict(num_classes=7)]), 7),
        (
            CROPR,
            dict(roi_head=dict(bbox_head=[dict(num_classes=7)] * 3, mask_head=dict(num_classes=7))),
            7,
        ),
        (CROPR, dict(rpn_head=dict(num_classes=1), bbox_head=dict(num_classes=7)), 7),
        (dict(type="cropr_mm.DToP"), dict(decode_head=dict(num_classes=7)), 7),
        (dict(CROPR, num_classes=5), dict(head=dict(num_classes=7)), 5),
        (CROPR, dict(head=dict(type="HeadWithoutClasses")), None),
        (CROPR, {}, None),
        (dict(type="cropr_mm.RandomPruner"), dict(head=dict(num_classes=7)), None),
        (None, dict(head=dict(num_classes=7)), None),
    ],
)
def test_the_reducer_has_the_classes_of_the_heads(
    reducer: dict | None, heads: dict[str, Any], expected: int | None
) -> None:
    init_default_scope("mmengine")
    model = Config(dict(backbone=copy.deepcopy(dict(reducer=reducer)), **heads))
    share_classes(model)
    assert (model.backbone.reducer or {}).get("num_classes") == expected


def test_heads_that_differ_and_unknown_reducers_are_named() -> None:
    init_default_scope("mmengine")
    heads = dict(decode_head=dict(num_classes=7), auxiliary_head=dict(num_classes=8))
    with pytest.raises(ValueError, match=r"got \[7, 8\]: set backbone.reducer.num_classes"):
        share_classes(dict(backbone=dict(reducer=dict(CROPR)), **heads))
    with pytest.raises(ValueError, match=r"cropr_mm.Absent is not in the"):
        share_classes(dict(backbone=dict(reducer=dict(type="cropr_mm.Absent")), **heads))
    share_classes(dict(type="ModelWithoutBackbone"))
